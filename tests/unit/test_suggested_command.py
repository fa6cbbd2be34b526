"""A command that a text says to type is what a shell understands, whatever the names in it."""

from __future__ import annotations

import shlex
import socket
import sys
from pathlib import Path

import pytest

from cchat import talk
from orchestrator.announcement import cchat_command
from orchestrator.core.diagnosis import Check
from orchestrator.doctor.host import check_socket, check_state_dir
from orchestrator.store.opening import advise
from tests.unit.store.test_checking import COPY, fill


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "#one's own $HOME;"
    path.mkdir(mode=0o700)
    monkeypatch.chdir(path)
    return path


def words(command: str) -> list[str]:
    """As a shell reads it, with its comments."""
    return shlex.split(command, comments=True)


def paths_in(check: Check) -> set[str]:
    return {word for word in words(str(check.mend)) if word.startswith("/")}


@pytest.mark.parametrize("room", ["#demo", "!id:server", "a room's name", "demo"])
def test_a_room_stands_in_a_command_of_cchat_as_it_was_typed(room: str) -> None:
    assert words(talk.suggest("tail", room)) == ["cchat", "tail", room]


def test_the_start_names_cchat_and_its_state_directory(state_dir: Path) -> None:
    program, *options = words(cchat_command(state_dir))
    assert Path(program) == Path(sys.executable).parent / "cchat"
    assert options == ["--state-dir", str(state_dir)]


async def test_the_copy_to_go_on_from_is_named(state_dir: Path) -> None:
    command = advise(state_dir).partition("type: ")[2]
    assert words(command) == ["orchestrator", "restore", "FILE", "--state-dir", str(state_dir)]
    await fill(state_dir, commits=1)
    command = advise(state_dir).partition("type: ")[2]
    copy = str(state_dir / COPY)
    assert words(command) == ["orchestrator", "restore", copy, "--state-dir", str(state_dir)]


def test_the_doctor_names_what_is_to_be_changed(state_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("control.sock")
        (state_dir / "control.sock").chmod(0o666)
    assert paths_in(check_socket(state_dir)) == {str(state_dir / "control.sock")}
    (state_dir / "control.sock").unlink()
    (state_dir / "control.sock").write_text("")
    assert paths_in(check_socket(state_dir)) == {str(state_dir / "control.sock")}
    state_dir.chmod(0o750)
    (check,) = check_state_dir(state_dir)
    assert paths_in(check) == {str(state_dir)}
