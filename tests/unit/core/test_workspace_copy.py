"""The way back leads to what was there, whatever is there now, and never out of the workspace."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.workspace_copy import (
    DIRECTORY,
    FILE,
    LINK,
    OTHER,
    CopyEntry,
    Manifest,
    RestorePlan,
    build_manifest,
    compare,
    decode_manifest,
    encode_manifest,
    is_inside,
    name_of,
    note_read,
    parse_listed,
    plan_capture,
    plan_restore,
)

NAMES = st.sampled_from(["a", "b", "c.txt", ".git", "-x", "ü", "\udc80"])
MODES = st.sampled_from([0o644, 0o600, 0o755])
FOLDER_MODES = st.sampled_from([0o755, 0o700, 0o555, 0o500])


def entry(path: str, kind: str = FILE, **more: object) -> CopyEntry:
    values = {"size_bytes": 1, "modified_ns": 5, "mode": 0o644, "sha256": None, "target": None}
    return CopyEntry(path=path, kind=kind, **{**values, **more})  # type: ignore[arg-type]


@st.composite
def trees(draw: st.DrawFn) -> Manifest:
    entries: dict[str, CopyEntry] = {}

    def fill(prefix: str, depth: int) -> None:
        for name in draw(st.lists(NAMES, unique=True, max_size=3)):
            path = f"{prefix}{name}"
            kind = draw(st.sampled_from([FILE, FILE, LINK, DIRECTORY]))
            if kind == DIRECTORY:
                entries[path] = entry(path, DIRECTORY, mode=draw(FOLDER_MODES))
                if depth < 3:
                    fill(f"{path}/", depth + 1)
            elif kind == LINK:
                target = draw(st.sampled_from(["a", "/etc/passwd", ".."]))
                entries[path] = entry(path, LINK, mode=0o777, target=target)
            else:
                sha = draw(st.sampled_from(["1" * 64, "2" * 64]))
                entries[path] = entry(path, FILE, mode=draw(MODES), sha256=sha)

    fill("", 0)
    return build_manifest(entries.values())


@dataclass
class Disk:
    """A file system that refuses what a real one would refuse to the files' owner."""

    entries: dict[str, CopyEntry] = field(default_factory=dict)

    def _parent_takes(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if parent:
            assert self.entries[parent].kind == DIRECTORY, path
            assert self.entries[parent].mode & stat.S_IRWXU == stat.S_IRWXU, path

    def apply(self, plan: RestorePlan) -> None:
        for path, mode in plan.opened:
            self.entries[path] = replace(self.entries[path], mode=mode)
        for path in plan.removed:
            self._parent_takes(path)
            for gone in [p for p in self.entries if p == path or p.startswith(f"{path}/")]:
                self._parent_takes(gone)
            for gone in [p for p in self.entries if p == path or p.startswith(f"{path}/")]:
                del self.entries[gone]
        for path, mode in plan.directories:
            if path not in self.entries:
                self._parent_takes(path)
            self.entries[path] = entry(path, DIRECTORY, mode=mode)
        for made in (*plan.files, *plan.links):
            self._parent_takes(made.path)
            assert self.entries.get(made.path, made).kind == made.kind
            self.entries[made.path] = made
        for path, mode in plan.modes:
            self.entries[path] = replace(self.entries[path], mode=mode)


@given(target=trees(), current=trees())
def test_the_steps_lead_from_any_tree_to_any_other(target: Manifest, current: Manifest) -> None:
    disk = Disk(dict(current.entries))
    disk.apply(plan_restore(target, current))
    assert compare(target, build_manifest(disk.entries.values())) == []


@given(tree=trees())
def test_where_nothing_differs_nothing_is_done(tree: Manifest) -> None:
    plan = plan_restore(tree, tree)
    assert (plan.removed, plan.files, plan.links, plan.directories) == ([], [], [], [])
    assert plan.opened == []
    assert plan.modes == []


@given(tree=trees())
def test_a_manifest_reads_as_it_was_written(tree: Manifest) -> None:
    assert decode_manifest(encode_manifest(tree)) == tree


@given(tree=trees(), data=st.binary(max_size=200))
def test_a_damaged_manifest_is_refused_and_never_half_read(tree: Manifest, data: bytes) -> None:
    for damaged in (data, encode_manifest(tree)[:-5]):
        with pytest.raises(ValueError, match="damaged"):
            decode_manifest(damaged)


@pytest.mark.parametrize(
    "path", ["", "/etc", "..", "a/../b", "a//b", "./a", "a/", "a\0b", "\ud800", "x" * 5000]
)
def test_a_path_that_leads_out_is_no_path(path: str) -> None:
    assert not is_inside(path)
    with pytest.raises(ValueError, match="no entry"):
        parse_listed([path, FILE, 1, 1, 0o644, None])


@given(st.binary(min_size=1, max_size=40))
def test_every_name_that_a_file_can_have_can_be_shown(raw: bytes) -> None:
    name = raw.decode("utf-8", "surrogateescape")
    name_of(name).encode()


@given(st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=5), st.booleans())))
def test_what_a_runner_lists_is_an_entry_or_refused(row: list[object]) -> None:
    try:
        listed = parse_listed(row)
    except ValueError:
        return
    assert is_inside(listed.path)


def test_a_file_that_looks_as_before_is_not_read_again() -> None:
    old = entry("a", sha256="1" * 64)
    plan = plan_capture([replace(old, sha256=None), entry("b")], build_manifest([old]))
    assert plan.known == [old]
    assert [wanted.path for wanted in plan.wanted] == ["b"]


@pytest.mark.parametrize(
    ("size_bytes", "modified_ns"), [(2, 5), (1, 999_999_999)], ids=["other size", "just changed"]
)
def test_a_file_that_may_have_changed_while_it_was_read_is_read_again_next_time(
    size_bytes: int, modified_ns: int
) -> None:
    listed = entry("a", modified_ns=modified_ns)
    read = note_read(listed, "1" * 64, size_bytes, now_ns=1_000_000_000)
    plan = plan_capture([listed], build_manifest([read]))
    assert [wanted.path for wanted in plan.wanted] == ["a"]


def test_sockets_are_neither_a_change_nor_removed() -> None:
    socket = entry("s", OTHER)
    assert compare(build_manifest([]), build_manifest([socket])) == []
    assert plan_restore(build_manifest([]), build_manifest([socket])).removed == []
