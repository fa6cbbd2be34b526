"""Asks a running orchestrator over its control socket. Imports nothing else of the daemon."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from orchestrator.control.models import (
    ErrorAnswer,
    HealthAnswer,
    RoomsAnswer,
    RoomView,
    RunnersAnswer,
    RunnerView,
    Status,
)
from orchestrator.errors import ControlError, NotRunningError, PreconditionError

M = TypeVar("M", bound=BaseModel)

_SOCKET_NAME = "control.sock"
_OK = 200
# The server gives up on its source after 10 s and says so; this is for a server that is stuck.
_TIMEOUT_S = 15.0


class ControlClient:
    """A client for one installation; each call makes a connection of its own: nothing is held.

    Every call raises NotRunningError when no daemon listens, PreconditionError when the socket is
    somebody else's, and ControlError when the answer is late, refused or not understood. Every call
    may be cancelled and takes at most 15 s.
    """

    def __init__(self, state_dir: Path, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._state_dir = state_dir
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    def __repr__(self) -> str:
        return f"ControlClient({str(self._state_dir)!r})"

    async def status(self) -> Status:
        """The daemon as a whole."""
        return await self._get("status", Status)

    async def runners(self) -> tuple[RunnerView, ...]:
        """All runners of the installation."""
        return (await self._get("runners", RunnersAnswer)).runners

    async def rooms(self) -> tuple[RoomView, ...]:
        """All rooms that the agent is or was in."""
        return (await self._get("rooms", RoomsAnswer)).rooms

    async def health(self) -> HealthAnswer:
        """Whether the daemon is well; a daemon that is not answers, too."""
        return await self._get("health", HealthAnswer, also_status=503)

    async def page(self, *, as_html: bool) -> str:
        """The status page; as lines for a terminal unless it is to be HTML."""
        status, raw = await self._fetch("page" if as_html else "page.txt")
        if status != _OK:
            raise ControlError(_explain(status, raw))
        return raw.decode("utf-8", "replace")

    async def _get(self, name: str, model: type[M], *, also_status: int = 200) -> M:
        status, raw = await self._fetch(name)
        if status not in {_OK, also_status}:
            raise ControlError(_explain(status, raw))
        try:
            return model.model_validate_json(raw)
        except ValidationError as e:
            # 503 is also the status of a daemon that can't find out how it is: the error shape.
            raise ControlError(_explain(status, raw)) from e

    async def _fetch(self, name: str) -> tuple[int, bytes]:
        try:
            async with (
                self._session() as session,
                session.get(f"http://control/v1/{name}") as answer,
            ):
                return answer.status, await answer.read()
        except TimeoutError as e:
            msg = "The orchestrator runs, but did not answer in time. Look at its log."
            raise ControlError(msg) from e
        except aiohttp.ClientConnectorError as e:
            raise self._unreachable(e.os_error) from e
        except aiohttp.ClientError as e:
            msg = f"The connection to the orchestrator failed ({type(e).__name__}). Try again."
            raise ControlError(msg) from e

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """An HTTP session to the socket by its directory's descriptor: any length of path works."""
        try:
            directory = os.open(self._state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            raise self._unreachable(e) from e
        try:
            self._require_socket(directory)
            connector = aiohttp.UnixConnector(f"/proc/self/fd/{directory}/{_SOCKET_NAME}")
            async with aiohttp.ClientSession(connector=connector, timeout=self._timeout) as session:
                yield session
        finally:
            os.close(directory)

    def _require_socket(self, directory: int) -> None:
        try:
            found = os.stat(_SOCKET_NAME, dir_fd=directory, follow_symlinks=False)
        except OSError as e:
            raise self._unreachable(e) from e
        if not stat.S_ISSOCK(found.st_mode):
            raise NotRunningError(self._state_dir)

    def _unreachable(self, error: OSError) -> PreconditionError:
        if isinstance(error, PermissionError):
            msg = (
                f"The orchestrator of {self._state_dir} belongs to another user. "
                "Run this as that user, or as root."
            )
            return PreconditionError(msg)
        return find_nobody(self._state_dir)


def find_nobody(state_dir: Path) -> NotRunningError:
    """That none runs for a state directory; says so where there is not even the directory."""
    return NotRunningError(state_dir, is_missing=not state_dir.is_dir())


def _explain(status: int, raw: bytes) -> str:
    try:
        return ErrorAnswer.model_validate_json(raw).error.message
    except ValidationError:
        return (
            f"The orchestrator's answer ({status}) is not understood: it is of another version. "
            "Restart it, or use the cchat that belongs to it."
        )
