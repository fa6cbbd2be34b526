"""The command line, as far as it goes without an engine and a homeserver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from orchestrator import main, reloading
from orchestrator.daemon import Plan

PARTIAL = "defaults: {timeout_s: 9}\n"
LOGS = "observability: {log_format: json, log_level: DEBUG}\n"
MATRIX = "matrix: {homeserver: 'https://m.example', user_id: '@c:m.example'}\n"


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        (None, [], ("text", "WARNING")),
        (PARTIAL, ["--embedded"], ("text", "WARNING")),
        (PARTIAL + LOGS, ["--embedded"], ("json", "DEBUG")),
        (PARTIAL + MATRIX, [], ("json", "INFO")),
    ],
)
def test_who_tries_it_out_is_shown_warnings_until_the_file_says_something_about_logs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    options: list[str],
    expected: tuple[str, str],
) -> None:
    logs: list[tuple[str, str]] = []

    def configure(*, fmt: str, level: str, secrets: list[str]) -> None:
        logs.append((fmt, level))

    async def run(plan: Plan, say: Callable[[str], None], on_opened: object) -> None:
        pass

    monkeypatch.setattr(main, "configure_logging", configure)
    monkeypatch.setattr(reloading, "run_daemon", run)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-0123456789")
    if text is not None:
        file = tmp_path / "c.yaml"
        file.write_text(text)
        options = [*options, "--config", str(file)]
    result = CliRunner().invoke(main.app, ["up", "--state-dir", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    assert logs == [expected]


def test_a_file_for_the_embedded_homeserver_can_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    file = tmp_path / "c.yaml"
    file.write_text(PARTIAL)
    check = ["config", "check", str(file)]
    for command in (check, ["config", "diff", str(file)], ["up", "--config", str(file)]):
        refused = CliRunner().invoke(main.app, command)
        assert refused.exit_code == 2, command
        assert "matrix: is missing; with --embedded" in refused.output, command
    result = CliRunner().invoke(main.app, [*check, "--embedded"])
    assert (result.exit_code, "fine" in result.output) == (0, True)


LOOKING = (
    "backup",
    "gc",
    "status",
    "restore /etc/hostname",
    "status",
    "audit messages",
    "audit isolation",
    "audit log verify",
    "matrix limit",
    "matrix unlimit",
    "config diff FILE --embedded",
    "backup --config FILE",
    "socket-proxy --socket /run/engine/docker.sock",
)


def _state_dir_commands(group: TyperGroup, *before: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _state_dir_commands(command, *before, name)
        elif any("--state-dir" in param.opts for param in command.params):
            yield " ".join((*before, name))


def test_every_command_that_takes_a_state_directory_is_among_these() -> None:
    group = get_command(main.app)
    assert isinstance(group, TyperGroup)
    # A start makes it, and the doctor says so.
    wanted = set(_state_dir_commands(group)) - {"up", "doctor"}
    assert wanted == {
        " ".join(takewhile(lambda word: word[0].isalpha() and word != "FILE", line.split()))
        for line in LOOKING
    }


@pytest.mark.parametrize("line", LOOKING)
@pytest.mark.parametrize("is_file", [False, True])
def test_a_state_directory_that_is_not_there_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, is_file: bool
) -> None:
    monkeypatch.setenv("MATRIX_ADMIN_TOKEN", "token-of-an-admin")
    (tmp_path / "my.yaml").write_text(PARTIAL)
    missing = tmp_path / "state"
    if is_file:
        missing.write_text("")
    command = [str(tmp_path / "my.yaml") if word == "FILE" else word for word in line.split()]
    result = CliRunner().invoke(main.app, [*command, "--state-dir", str(missing)])
    assert result.exit_code == 3, result.output
    what = "is no directory" if is_file else "does not exist"
    assert f"the state directory {missing} {what}. Name" in result.output
    assert "--state-dir" in result.output
    assert missing.exists() == is_file, "nothing was made"
