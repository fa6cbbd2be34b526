"""The file is read again when somebody asks or when it changes, and only a valid one counts."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import config_watch
from orchestrator.config import load_config
from orchestrator.config_watch import ConfigWatch, keep_applied, plain, read_applied
from orchestrator.log import configure_logging

MATRIX = {"homeserver": "https://m.example.org", "user_id": "@claude:example.org"}


class Watched:
    """A file, who watches it, and what came of that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stop: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self.log = io.StringIO()

    def write(self, **sections: Any) -> None:
        self.path.write_text(yaml.safe_dump({"matrix": MATRIX, **sections}))

    def lines(self) -> list[str]:
        return [json.loads(line)["message"] for line in self.log.getvalue().splitlines()]


@asynccontextmanager
async def watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Watched, ConfigWatch]]:
    monkeypatch.setattr(config_watch, "_LOOK_S", 0.02)
    one = Watched(tmp_path / "config.yaml")
    configure_logging(fmt="json", level="INFO", sink=one.log)
    one.write()
    watch = ConfigWatch(one.path, lambda: load_config(one.path), load_config(one.path), one.stop)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        task = group.create_task(watch.run())
        yield one, watch
        task.cancel()


async def until(check: Callable[[], bool]) -> None:
    while not check():  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0.01)


async def test_a_change_of_the_file_asks_for_a_reload_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched(tmp_path, monkeypatch) as (one, _):
        await asyncio.sleep(0.1)
        assert one.stop.empty()
        one.write(defaults={"timeout_s": 9})
        assert await one.stop.get() is signal.SIGHUP
        assert one.lines() == ["defaults.timeout_s: 300.0 → 9.0 (at once)"]


async def test_a_file_that_says_the_same_in_other_words_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched(tmp_path, monkeypatch) as (one, watch):
        one.write(defaults={"timeout_s": 300})
        await asyncio.sleep(0.2)
        assert one.stop.empty()
        watch.ask()
        assert await one.stop.get() is signal.SIGHUP, "a secret's file may be another"


@pytest.mark.parametrize("text", ["matrix: [", "matrix: {homeserver: nowhere}\n", "", None])
async def test_a_file_that_is_not_usable_changes_nothing_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    async with watched(tmp_path, monkeypatch) as (one, _):
        if text is None:
            one.path.unlink()
        else:
            one.path.write_text(text)
        await until(lambda: bool(one.lines()))
        await asyncio.sleep(0.2)
        assert one.stop.empty()
        (line,) = one.lines()
        assert line.startswith("the configuration is not usable, and the old one stays:")
        one.write(defaults={"timeout_s": 9})
        assert await one.stop.get() is signal.SIGHUP, "mended, it counts"


async def test_a_bad_file_that_is_also_asked_for_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched(tmp_path, monkeypatch) as (one, watch):
        monkeypatch.setattr(config_watch, "_LOOK_S", 0.3)
        await asyncio.sleep(0.1)
        one.path.write_text("matrix: [")
        watch.ask()
        await until(lambda: bool(one.lines()))
        await asyncio.sleep(0.8)
        assert len(one.lines()) == 1


async def test_what_a_reload_can_not_do_keeps_all_of_it_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched(tmp_path, monkeypatch) as (one, _):
        one.write(state_dir="/srv/other", defaults={"timeout_s": 9})
        await until(lambda: bool(one.lines()))
        await asyncio.sleep(0.1)
        assert one.stop.empty()
        (line,) = one.lines()
        assert line.startswith("the old configuration stays: state_dir:")


def test_what_is_in_force_is_kept_without_a_secret(tmp_path: Path) -> None:
    one = Watched(tmp_path / "config.yaml")
    one.write(defaults={"timeout_s": 9})
    config = load_config(one.path)
    assert read_applied(tmp_path) is None
    keep_applied(tmp_path, config)
    assert read_applied(tmp_path) == plain(config)
    assert (tmp_path / "config-applied.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "config-applied.json").write_text("{")
    assert read_applied(tmp_path) is None
