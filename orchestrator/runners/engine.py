"""The Docker Engine as a connection: the one module that imports docker.

Owns the client, the threads in which its blocking calls run, and the translation of its errors.

Rules: no call outlasts its bound; a hung engine fills this module's own threads and nobody else's;
no exception of docker, requests or a socket leaves here untranslated.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Final, ParamSpec, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from orchestrator.call_threads import CallThreads
from orchestrator.errors import (
    EngineRefusedError,
    EngineRequestError,
    EngineUnavailableError,
    ImageMissingError,
    RunnerGoneError,
)
from orchestrator.model import JsonObject
from orchestrator.runners import engine_http
from orchestrator.runners.engine_http import CALL_S, EngineAddress, Exchange, parse_address

P = ParamSpec("P")
T = TypeVar("T")

# A stop holds its thread for the whole grace: enough for a shutdown of many rooms at once.
_THREADS: Final = 16
# Docker 20.10, the first with private cgroup namespaces on request; Debian 12 has it.
_OLDEST_API: Final = (1, 41)
_CONFLICT: Final = 409


class ConflictError(EngineRequestError):
    """The engine says that the request does not fit the container's state."""


class Engine:
    """One engine. Invariant: every request goes to `address`, in an API version that it offers."""

    def __init__(
        self, address: EngineAddress, client: docker.APIClient, threads: CallThreads
    ) -> None:
        self.address = address
        self.api = client
        self._threads = threads

    def __repr__(self) -> str:
        return f"Engine({self.address}, api={self.api.api_version})"

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one blocking call of the client, at most CALL_S.

        A cancel returns at once; the request itself then ends by the client's own time limit.

        Raises:
            RunnerGoneError: the engine answered 404.
            ImageMissingError: the engine answered 404 for an image.
            ConflictError: it answered 409.
            EngineUnavailableError: it can't be reached.
            EngineRequestError: anything else, a time-out included.
        """
        return await self.call_within(CALL_S, function, *args, **kwargs)

    async def call_within(
        self, limit_s: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`call` with a bound of its own, in seconds."""
        work = partial(function, *args, **kwargs)
        with _translated(self.address):
            async with asyncio.timeout(limit_s):
                return await self._threads.run(work)

    def exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: bytes | AsyncIterator[bytes] = b"",
        body_bytes: int = 0,
    ) -> AbstractAsyncContextManager[Exchange]:
        """`engine_http.exchange` with this engine, in its API version."""
        return engine_http.exchange(
            self.address, method, self._versioned(path), query, body=body, body_bytes=body_bytes
        )

    def upgrade(
        self, path: str, query: Mapping[str, str], *, body: JsonObject | None = None
    ) -> AbstractAsyncContextManager[Exchange]:
        """`engine_http.upgrade` with this engine, in its API version."""
        return engine_http.upgrade(self.address, self._versioned(path), query, body=body)

    def _versioned(self, path: str) -> str:
        return f"/v{self.api.api_version}{path}"


def open_engine(docker_host: str | None = None) -> AbstractAsyncContextManager[Engine]:
    """Connect to the engine of `docker_host`, else of DOCKER_HOST, else of the default socket.

    Raises:
        EngineUnavailableError: no engine answers, or it is older than 20.10; says what to do.
    """
    return _open_engine(parse_address(docker_host or os.environ.get("DOCKER_HOST")))


@asynccontextmanager
async def _open_engine(address: EngineAddress) -> AsyncIterator[Engine]:
    # Before the client tries: it leaves a socket open that it could not connect.
    await engine_http.check(address)
    threads = CallThreads(_THREADS)
    version = await _choose_version(Engine(address, _client(address, _OLDEST_API), threads))
    engine = Engine(address, _client(address, version), threads)
    try:
        yield engine
    finally:
        engine.api.close()


def _client(address: EngineAddress, version: tuple[int, ...]) -> docker.APIClient:
    # With a fixed version the constructor does no I/O.
    with _translated(address):
        return docker.APIClient(
            base_url=str(address), version=_render(version), timeout=int(CALL_S)
        )


async def _choose_version(probe: Engine) -> tuple[int, ...]:
    """The oldest version that serves us and that the engine still speaks."""
    try:
        answer = await probe.call(probe.api.version, api_version=False)
    finally:
        probe.api.close()
    newest = _parse(str(answer.get("ApiVersion", "0.0")))
    if newest < _OLDEST_API:
        msg = (
            f"the Docker Engine at {probe.address} is too old (API {_render(newest)});"
            f" expected API {_render(_OLDEST_API)} (Docker 20.10) or newer"
        )
        raise EngineUnavailableError(msg)
    return max(_OLDEST_API, _parse(str(answer.get("MinAPIVersion", "0.0"))))


def _parse(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _render(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


_KINDS: Final = {400: EngineRefusedError, _CONFLICT: ConflictError}


@contextmanager
def _translated(address: EngineAddress) -> Iterator[None]:
    """Whatever docker, requests or the socket raises becomes an error of `orchestrator.errors`."""
    try:
        yield
    except ImageNotFound as e:
        raise ImageMissingError from e
    except NotFound as e:
        raise RunnerGoneError from e
    except APIError as e:
        msg = f"the Docker Engine refused: {e.explanation or e.status_code}"
        if "bind source path does not exist" in msg:
            msg += ". The state directory must have the same path for the engine; see --state-dir"
        raise _KINDS.get(e.status_code or 0, EngineRequestError)(msg) from e
    except (TimeoutError, requests.exceptions.Timeout) as e:
        msg = f"the Docker Engine at {address} did not answer in time"
        raise EngineRequestError(msg) from e
    except (OSError, DockerException) as e:
        # requests' errors are OSErrors too: no connection, or one that broke.
        raise engine_http.explain_unreachable(address, e) from e
