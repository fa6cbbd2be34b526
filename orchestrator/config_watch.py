"""The configuration file, read again at SIGHUP and when it changes: all of it or nothing.

SIGHUP counts also where the file is what it was, for the files of secrets may be others.

Rule: what is not valid, or asks for what a reload can't do, changes nothing and is said once in the
log; so is what changes. The daemon then ends as by SIGTERM, with runners and turns going on, and
starts with the new configuration: no part of it can be half old.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from loguru import logger

from orchestrator.config import Config
from orchestrator.core.config_diff import Change, Effect, find_changes
from orchestrator.embedded.homeserver import EmbeddedHomeserver
from orchestrator.errors import AiAgentChatError
from orchestrator.model import JsonObject
from orchestrator.private_file import write_private

APPLIED_NAME = "config-applied.json"
_LOOK_S = 5.0


class ConfigWatch:
    """Invariant: a signal is put into `stop` only for a configuration that is valid."""

    def __init__(
        self,
        path: Path,
        load: Callable[[], Config],
        current: Config,
        stop: asyncio.Queue[signal.Signals],
    ) -> None:
        self._path = path
        self._load = load
        self._current = current
        self._stop = stop
        self._asked = asyncio.Event()
        self._seen = _stamp(path)

    def __repr__(self) -> str:
        return f"<ConfigWatch {self._path}>"

    def ask(self) -> None:
        """Somebody wants it to be read again."""
        self._asked.set()

    async def run(self) -> NoReturn:
        """Look until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._asked.wait()
            except TimeoutError:
                if _stamp(self._path) == self._seen:
                    continue
            was_asked = self._asked.is_set()
            self._asked.clear()
            self._seen = _stamp(self._path)
            if self._is_due(was_asked=was_asked):
                self._stop.put_nowait(signal.SIGHUP)
                await asyncio.Event().wait()

    def _is_due(self, *, was_asked: bool) -> bool:
        log = logger.bind(action="config.reload", file=str(self._path))
        try:
            changes = changes_between(self._current, self._load())
        except AiAgentChatError as e:
            log.bind(error=type(e).__name__).error(
                f"the configuration is not usable, and the old one stays: {e}"
            )
            return False
        stuck = [change for change in changes if change.effect is Effect.RESTART]
        for change in stuck:
            log.error(f"the old configuration stays: {change}")
        for change in () if stuck else changes:
            log.info(str(change))
        # Whoever asks may have changed a secret's file.
        return not stuck and (bool(changes) or was_asked)


@dataclass(frozen=True, slots=True)
class WatchedFile:
    """A configuration file, and how it is read as it is now."""

    path: Path
    load: Callable[[EmbeddedHomeserver | None], Config]


def watch_config(
    file: WatchedFile | None,
    embedded: EmbeddedHomeserver | None,
    current: Config,
    stop: asyncio.Queue[signal.Signals],
) -> ConfigWatch | None:
    """From here on SIGHUP asks for a look at the file, and ends nothing by itself.

    Where there is no file, SIGHUP is left as it is: a closed terminal ends what was started in it.
    """
    if file is None:
        return None
    watch = ConfigWatch(file.path, partial(file.load, embedded), current, stop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, watch.ask)
    return watch


def changes_between(before: Config, after: Config) -> Sequence[Change]:
    """What is different, key by key."""
    return find_changes(plain(before), plain(after))


def keep_applied(state_dir: Path, config: Config) -> None:
    """Remember what is in force, for `orchestrator config diff`; blocks.

    It is for people: where it can't be written, only that is said.
    """
    try:
        write_private(state_dir / APPLIED_NAME, config.model_dump_json(indent=2).encode())
    except OSError as e:
        logger.bind(action="config.keep", error=type(e).__name__).warning(
            "what configuration is in force could not be written"
        )


def read_applied(state_dir: Path) -> JsonObject | None:
    """What was in force last; None where that is not known."""
    try:
        held: JsonObject = json.loads((state_dir / APPLIED_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    return held


def plain(config: Config) -> JsonObject:
    """As JSON has it, defaults included."""
    return config.model_dump(mode="json")


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
