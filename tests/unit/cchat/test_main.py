"""The command line: what is wrong is a sentence and an exit code, whatever it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cchat import listing, talk
from cchat.error import Exit
from cchat.main import app
from orchestrator.control.models import RunnerView
from orchestrator.model import RoomId, RoomSlug, RunnerState
from tests.unit.control.source import make_room, make_runner


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "CCHAT_HOMESERVER",
        "CCHAT_USER_ID",
        "CCHAT_PASSWORD",
        "CCHAT_ACCESS_TOKEN",
        "AIAGENTCHAT_STATE_DIR",
        "XDG_CONFIG_HOME",
        "CCHAT_DEBUG",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def _run(*args: str, stdin: str | bytes = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(args), input=stdin)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("runners",),
        ("rooms", "--json"),
        ("send", "demo", "hi"),
        ("send", "demo", "hi", "--wait"),
        ("tail", "demo"),
    ],
)
def test_without_an_orchestrator_it_says_so_and_what_to_start(args: tuple[str, ...]) -> None:
    code, out, err = _run(*args)
    assert (code, out) == (3, "")
    assert "No orchestrator is running" in err
    assert "make up" in err


@pytest.mark.parametrize("before", [True, False])
def test_the_state_directory_is_taken_before_and_after_the_command(
    before: bool, tmp_path: Path
) -> None:
    option = ("--state-dir", "other")
    code, _, err = _run(*option, "runners") if before else _run("runners", *option)
    assert code == 3
    assert f"{tmp_path / 'other'}; there is no such directory. Name another with --state-dir" in err


def test_the_state_directory_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIAGENTCHAT_STATE_DIR", "/from/environment")
    assert "/from/environment" in _run("runners")[2]
    assert "/given" in _run("--state-dir", "/given", "runners")[2]


@pytest.mark.parametrize(
    ("stdin", "said"),
    [("", "empty"), (" \n\n", "empty"), (b"\xff\xfe", "not UTF-8")],
)
def test_a_text_that_can_not_be_sent_is_wrong_usage(stdin: str | bytes, said: str) -> None:
    code, _, err = _run("send", "demo", stdin=stdin)
    assert code == 2
    assert said in err


def test_an_argument_that_is_not_utf_8_is_wrong_usage() -> None:
    code, _, err = _run("send", "demo", "\udcff")
    assert code == 2
    assert "not UTF-8" in err


@pytest.mark.parametrize("args", [("send",), ("nonsense",), ("tail", "demo", "-n", "many")])
def test_what_can_not_be_parsed_is_wrong_usage(args: tuple[str, ...]) -> None:
    assert _run(*args)[0] == 2


def test_a_mistake_in_the_environment_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCHAT_PASSWORD", "pass-word")
    code, _, err = _run("send", "demo", "hi")
    assert code == 2
    assert "CCHAT_HOMESERVER: is missing" in err
    assert "pass-word" not in err


def test_a_homeserver_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 1 of loopback: nothing listens there without root's doing.
    monkeypatch.setenv("CCHAT_HOMESERVER", "http://127.0.0.1:1")
    monkeypatch.setenv("CCHAT_ACCESS_TOKEN", "t-o-k-e-n")
    code, _, err = _run("send", "demo", "hi")
    assert code == 9
    assert "http://127.0.0.1:1 does not answer" in err
    assert "t-o-k-e-n" not in err


def test_words_are_joined_and_a_bug_is_a_sentence_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    async def send(request: talk.SendRequest, output: object) -> Exit:
        seen.append(request.text)
        raise KeyError("detail")

    monkeypatch.setattr(talk, "send", send)
    code, _, err = _run("send", "demo", "two", "words")
    assert (code, seen) == (70, ["two words"])
    assert "KeyError" in err
    assert "detail" not in err
    assert "Traceback" not in err


def test_the_version_and_every_exit_code_are_told() -> None:
    assert _run("--version")[1].startswith("cchat ")
    for args in (("--help",), ("send", "--help")):
        shown = _run(*args)[1]
        assert all(f"  {code.value} " in shown for code in Exit if code is not Exit.BROKEN_PIPE)


def test_the_tables_show_what_matters_and_a_dash_where_nothing_is_known() -> None:
    stopped = RunnerView(
        room_id=RoomId("!x:hs"),
        name="evil\x1b[2J\nname",
        slug=RoomSlug("x---0123456789abcdef"),
        container="aiagentchat-01234567-x",
        container_id="abcdef012345",
        state=RunnerState.EXITED,
        generation=1,
        disk_used_bytes=3 << 20,
        disk_limit_bytes=1 << 30,
    )
    head, running, second = listing.render_runners((make_runner(), stopped)).splitlines()
    assert head.split() == [
        *("ROOM", "STATE", "SESSION", "CLI", "TURN", "QUEUE"),
        *("MEMORY", "CPU", "PIDS", "DISK", "UP", "CONTAINER"),
    ]
    assert "135 MB / 2.0 GB" in running
    assert "80 MB / 5.0 GB" in running
    assert "12 s" in running
    assert "1 h 6 min" in running
    assert second.split() == [
        *("evil", "name", "exited", "none", "-", "-", "0", "-", "-", "-"),
        *("3", "MB", "/", "1.0", "GB", "-", "abcdef012345"),
    ]
    spare = stopped.model_copy(update={"is_spare": True, "name": None})
    assert listing.render_runners((spare,)).splitlines()[1].startswith("(spare) ")
    rooms = listing.render_rooms((make_room(), make_room("!y:hs", name=None)))
    assert rooms.splitlines()[1].split() == [
        *("#demo:localhost", "demo", "yes", "no", "2", "0", "-", "!demo:localhost")
    ]
