"""The command line, as far as it goes without an engine and a homeserver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import main
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

    async def run(plan: Plan, say: Callable[[str], None]) -> None:
        pass

    monkeypatch.setattr(main, "configure_logging", configure)
    monkeypatch.setattr(main, "run_daemon", run)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-0123456789")
    if text is not None:
        file = tmp_path / "c.yaml"
        file.write_text(text)
        options = [*options, "--config", str(file)]
    result = CliRunner().invoke(main.app, ["up", "--state-dir", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    assert logs == [expected]


def test_a_file_for_the_embedded_homeserver_can_be_checked(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(PARTIAL)
    check = ["config", "check", str(file)]
    assert CliRunner().invoke(main.app, check).exit_code != 0
    result = CliRunner().invoke(main.app, [*check, "--embedded"])
    assert (result.exit_code, "fine" in result.output) == (0, True)
