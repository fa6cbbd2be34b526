"""The daemon starts anew with each new configuration, and falls back from one that it can't use."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import reloading
from orchestrator.config import Config, Secrets, parse_config
from orchestrator.daemon import Plan
from orchestrator.errors import AiAgentChatError, ConfigError, PreconditionError
from orchestrator.reloading import serve
from orchestrator.runners.image import Base


def plan_of(number: int) -> Plan:
    matrix = {"homeserver": "https://m.example.org", "user_id": "@claude:example.org"}
    config: Config = parse_config({"matrix": matrix, "defaults": {"timeout_s": number}}, source="c")
    return Plan(
        state_dir=Path("/nonexistent"),
        secrets=Secrets(),
        room_secrets={},
        build_config=lambda _: config,
        embedded_port=None,
        base=Base.AUTO,
    )


class Daemon:
    """Stands in for all of it: what each life does, by the number of its configuration."""

    def __init__(self, *lives: signal.Signals | AiAgentChatError | tuple[AiAgentChatError]) -> None:
        self._lives = list(lives)
        self.configurations: list[float] = []

    async def run(
        self, plan: Plan, say: Callable[[str], None], on_opened: Callable[[], None]
    ) -> signal.Signals:
        """An error alone is one before it is open; in a tuple, one later."""
        self.configurations.append(plan.build_config(None).defaults.timeout_s)
        life = self._lives.pop(0)
        if isinstance(life, AiAgentChatError):
            raise life
        on_opened()
        if isinstance(life, tuple):
            raise life[0]
        return life


def run(
    monkeypatch: pytest.MonkeyPatch,
    *lives: signal.Signals | AiAgentChatError | tuple[AiAgentChatError],
    unusable: tuple[int, ...] = (),
) -> list[float]:
    """The configurations that it ran with."""
    daemon, numbers = Daemon(*lives), iter(range(2, 100))
    monkeypatch.setattr(reloading, "run_daemon", daemon.run)

    def make_plan() -> Plan:
        number = next(numbers)
        if number in unusable:
            raise ConfigError(["no"])
        return plan_of(number)

    try:
        serve(plan_of(1), make_plan, lambda _: None)
    except* AiAgentChatError:
        daemon.configurations.append(-1)
    return daemon.configurations


def test_a_reload_starts_with_what_is_said_then(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM) == [1, 2, 3]


def test_one_that_it_does_not_start_with_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    lives = (signal.SIGHUP, PreconditionError("no such runtime"), signal.SIGHUP, signal.SIGINT)
    assert run(monkeypatch, *lives) == [1, 2, 1, 3]


def test_one_that_can_not_be_read_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, signal.SIGHUP, signal.SIGTERM, unusable=(2,)) == [1, 1]


def test_where_the_old_one_does_not_start_either_that_is_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no = PreconditionError("no engine")
    assert run(monkeypatch, signal.SIGHUP, no, no) == [1, 2, 1, -1]


def test_an_error_at_the_first_start_or_later_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    no = PreconditionError("no engine")
    assert run(monkeypatch, no) == [1, -1]
    assert run(monkeypatch, signal.SIGHUP, (no,)) == [1, 2, -1]
