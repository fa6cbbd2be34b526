"""A diff shows what changed, and whatever stands in a file or in its name is only shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.render import build_text_content
from orchestrator.core.workspace_copy import DIRECTORY, FILE, LINK, Change, CopyEntry
from orchestrator.core.workspace_diff import MAX_DIFF_CHARS, Changed, build_diff, fence

SINCE = "since before the last turn"


def entry(path: str, kind: str = FILE, mode: int = 0o644, target: str | None = None) -> CopyEntry:
    return CopyEntry(
        path=path, kind=kind, size_bytes=1, modified_ns=1, mode=mode, target=target, sha256="0" * 64
    )


def changed(path: str, before: bytes | None, after: bytes | None) -> Changed:
    sides = [None if data is None else entry(path) for data in (before, after)]
    return Changed(
        change=Change(path=path, before=sides[0], after=sides[1]), before=before, after=after
    )


def test_a_changed_a_new_and_a_removed_file_are_told_with_their_lines() -> None:
    diff = build_diff(
        [
            changed("a.py", b"one\ntwo\nthree\n", b"one\n2\nthree\n"),
            changed("new.txt", None, b"hello\n"),
            changed("old.txt", b"bye\n", None),
        ],
        since=SINCE,
    )
    assert diff.summary == (
        "**3 files changed since before the last turn: +2 −2**\n\n"
        "- `a.py` +1 −1\n- `new.txt` new, +1 −0\n- `old.txt` removed, +0 −1"
    )
    assert diff.diff == (
        "--- a/a.py\n+++ b/a.py\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"
        "--- /dev/null\n+++ b/new.txt\n@@ -0,0 +1,1 @@\n+hello\n"
        "--- a/old.txt\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-bye"
    )


def test_binary_files_links_modes_folders_and_git_are_named() -> None:
    folder = Change(path="d", before=None, after=entry("d", DIRECTORY))
    link = Change(path="l", before=None, after=entry("l", LINK, target="/etc/passwd"))
    mode = Change(path="run", before=entry("run"), after=entry("run", mode=0o755))
    diff = build_diff(
        [
            changed(".git/index", b"\0", b"\1"),
            changed("x.bin", b"\0\1", b"\0\2"),
            Changed(change=folder),
            Changed(change=link),
            Changed(change=mode, before=b"x\n", after=b"x\n"),
        ],
        since=SINCE,
    )
    for line in (
        "- `x.bin` binary",
        "- `l` new link, +1 −0",
        "- `run` mode 0644 → 0755",
        "- 1 folder",
        "- 1 file of git's own (`.git`)",
    ):
        assert line in diff.summary.splitlines()
    assert "+link to /etc/passwd" in diff.diff


def test_nothing_changed_is_said() -> None:
    assert build_diff([], since=SINCE).summary == "Nothing changed since before the last turn."


def test_a_missing_line_end_and_a_cut_line_are_seen() -> None:
    diff = build_diff([changed("a", b"x\n", b"x")], since=SINCE)
    assert "+x ⟨no line end⟩" in diff.diff.splitlines()
    long = build_diff([changed("a", None, b"y" * 10_000 + b"\n")], since=SINCE)
    assert max(map(len, long.diff.splitlines())) < 500


def test_a_diff_is_bounded_and_says_what_is_left_out() -> None:
    big = b"".join(b"%050d\n" % i for i in range(9_000))
    diff = build_diff([changed(f"f{i}", None, big) for i in range(5)], since=SINCE)
    assert len(diff.diff) <= MAX_DIFF_CHARS
    assert "left out of the diff" in diff.summary


CONTENT = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            [
                "```",
                "   ```",
                "``````",
                "~~~",
                "\u202ertl",
                "a\u2028```",
                "a\r```",
                "\x1b[31m",
                "<b>",
            ]
        ),
    ),
    max_size=6,
).map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))


@given(path=st.text(min_size=1, max_size=30), before=CONTENT, after=CONTENT)
def test_no_name_and_no_content_ends_the_block_or_reorders_the_text(
    path: str, before: bytes, after: bytes
) -> None:
    name = path.encode("utf-8", "replace").decode()
    diff = build_diff([changed(name, before, after)], since=SINCE)
    block = fence(diff.diff)
    html = str(build_text_content(block)["formatted_body"])
    assert html.count("<pre>") == 1
    assert html.rstrip().endswith("</code></pre>")
    assert not set(diff.summary + block) & set("\u202e\u2028\x1b\r")
    assert all(line[:1] in {"-", "+", "@", " "} for line in diff.diff.split("\n") if diff.diff)
