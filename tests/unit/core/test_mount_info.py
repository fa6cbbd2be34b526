"""The lines of /proc/PID/mountinfo."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.mount_info import parse_mounts

LINE = (
    "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:3 - ext4 /dev/root ro,errors=continue"
)


def test_a_line_has_the_mount_and_the_file_system() -> None:
    (mount,) = parse_mounts(LINE)
    assert (mount.device, mount.root, mount.target, mount.kind) == (
        "98:0",
        "/mnt1",
        "/mnt 2",
        "ext4",
    )
    assert mount.options == ("rw", "noatime")
    assert mount.tags == ("master:1", "shared:3")
    assert mount.super_options == ("ro", "errors=continue")


def test_an_empty_source_is_a_field() -> None:
    """The kernel writes nothing between the two blanks then."""
    (mount,) = parse_mounts("36 35 0:5 / /dev rw - devtmpfs  rw,size=1k")
    assert mount.super_options == ("rw", "size=1k")


@pytest.mark.parametrize("text", ["", "\n", "36 35 98:0 /", LINE.partition(" - ")[0], "- - -"])
def test_what_is_no_such_line_is_left_out(text: str) -> None:
    assert list(parse_mounts(f"{text}\n{LINE}\n")) == list(parse_mounts(LINE))


def test_a_path_may_have_what_python_takes_for_a_line_end() -> None:
    (mount,) = parse_mounts(LINE.replace("/mnt1", "/a\x0cb\u2028c"))
    assert mount.root == "/a\x0cb\u2028c"


def test_this_machines_own_are_all_read() -> None:
    text = Path("/proc/self/mountinfo").read_text()
    assert len(list(parse_mounts(text))) == text.count("\n")
