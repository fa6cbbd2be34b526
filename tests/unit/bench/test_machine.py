"""Memory is read as the kernel writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.support.machine import Memory, children_of, name_program, parse_rollup, vm_rss

ROLLUP = """\
55f0-7ffd ---p 00000000 00:00 0                  [rollup]
Rss:              215040 kB
Pss:              150123 kB
Pss_Dirty:         90000 kB
Private_Dirty:     90000 kB
Anonymous:         80000 kB
AnonHugePages:     20480 kB
"""


def write_process(
    proc: Path, pid: int, *, parent: int, argv: list[str], rss_kb: int | None
) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    memory = "" if rss_kb is None else f"VmRSS:\t{rss_kb:8} kB\n"
    (folder / "status").write_text(f"Name:\tx\nPid:\t{pid}\nPPid:\t{parent}\n{memory}Threads:\t1\n")
    (folder / "cmdline").write_text("".join(f"{part}\0" for part in argv))
    (folder / "smaps_rollup").write_text("" if rss_kb is None else ROLLUP)


def test_the_sizes_of_a_rollup_are_in_bytes() -> None:
    assert parse_rollup(ROLLUP) == Memory(rss=215040 << 10, pss=150123 << 10, own=80000 << 10)


def test_a_rollup_without_a_pss_is_an_error_not_a_zero() -> None:
    with pytest.raises(KeyError):
        parse_rollup("Rss: 1 kB\n")


def test_the_children_are_the_direct_ones_that_have_memory(tmp_path: Path) -> None:
    module = ["/usr/bin/python", "-I", "-m", "synapse.app.homeserver", "-c", "x.yaml"]
    write_process(tmp_path, 10, parent=1, argv=["orchestrator"], rss_kb=1)
    write_process(tmp_path, 11, parent=10, argv=module, rss_kb=1)
    write_process(tmp_path, 12, parent=11, argv=["/bin/grandchild"], rss_kb=1)
    write_process(tmp_path, 13, parent=10, argv=[], rss_kb=None)
    write_process(tmp_path, 14, parent=101, argv=["/bin/other"], rss_kb=1)
    (tmp_path / "self").mkdir()

    assert [child.program for child in children_of(10, proc=tmp_path)] == ["synapse.app.homeserver"]


def test_vm_rss_is_in_bytes(tmp_path: Path) -> None:
    write_process(tmp_path, 7, parent=1, argv=["x"], rss_kb=2048)
    assert vm_rss(7, proc=tmp_path) == 2 << 20


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/python3", "-I", "-m", "some.module", "x", ""], "some.module"),
        (["/usr/local/bin/claude", "-p", ""], "claude"),
        (["claude -p --verbose"], "claude"),
        (["program", "-m"], "program"),
        ([""], "?"),
        ([], "?"),
    ],
)
def test_a_program_is_named_by_its_module_or_its_file(argv: list[str], name: str) -> None:
    assert name_program(argv) == name
