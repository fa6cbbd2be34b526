"""How a running Synapse is recognised, and what is shown of its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.embedded.synapse_process import find_running, read_tail, synapse_command

CONFIG = Path("/srv/state/embedded/homeserver.yaml")


def process(proc: Path, pid: str, argv: list[str]) -> None:
    (proc / pid).mkdir()
    (proc / pid / "cmdline").write_bytes(b"".join(a.encode() + b"\0" for a in argv))


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["python3"],
        ["sh", "-c", " ".join(synapse_command(CONFIG))],
        synapse_command(Path("/srv/other/embedded/homeserver.yaml")),
        [*synapse_command(CONFIG), "--generate-keys"],
        ["tail", "-f", str(CONFIG)],
    ],
)
def test_another_program_is_never_taken_for_ours(tmp_path: Path, argv: list[str]) -> None:
    process(tmp_path, "12", argv)
    assert find_running(Path("/srv/state/embedded"), CONFIG, proc=tmp_path) == []


def test_a_process_that_ended_meanwhile_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "13").mkdir()
    # Past the kernel's highest process number: as when it ended after its command line was read.
    process(tmp_path, "999999999", synapse_command(CONFIG))
    process(tmp_path, "self", synapse_command(CONFIG))
    assert find_running(Path("/srv/state/embedded"), CONFIG, proc=tmp_path) == []


def test_the_end_of_the_output_is_shown_or_else_that_of_the_log(tmp_path: Path) -> None:
    assert read_tail(tmp_path) == ""
    (tmp_path / "homeserver.log").write_text("one\ntwo\n")
    (tmp_path / "synapse.out").write_text("\n")
    assert read_tail(tmp_path) == "  one\n  two"
    (tmp_path / "synapse.out").write_bytes(b"\xff\n" * 100 + b"Error in configuration")
    assert read_tail(tmp_path).splitlines()[-1] == "  Error in configuration"
    assert len(read_tail(tmp_path).splitlines()) == 5
