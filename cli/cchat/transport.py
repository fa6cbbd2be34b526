"""One HTTP exchange with a homeserver: answered, or not answered. Retries are not its matter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp

from orchestrator.errors import HomeserverUnreachableError

# A name that is not answered for, a host that is off: nobody waits longer for a command to say so.
_CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request. `path` starts with a slash and is percent-encoded already."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, object] | None = None
    token: str | None = field(default=None, repr=False)
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. `retry_after` is the header of that name, as it stands there."""

    status: int
    raw: bytes
    retry_after: str | None = None


class Transport(Protocol):
    """Something that can ask a homeserver."""

    async def exchange(self, request: Exchange) -> Answer:
        """Ask once. Raises HomeserverUnreachableError when there is no whole answer in time."""
        ...


class HttpTransport:
    """The real one."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session = session
        self._base_url = base_url

    async def exchange(self, request: Exchange) -> Answer:
        """Ask once. Redirects are not followed: they would carry the token elsewhere."""
        headers = {"Authorization": f"Bearer {request.token}"} if request.token else {}
        timeout = aiohttp.ClientTimeout(total=request.timeout_s, connect=_CONNECT_TIMEOUT_S)
        try:
            async with self._session.request(
                request.method,
                f"{self._base_url}{request.path}",
                params=dict(request.params),
                json=request.body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                raw = await answer.read()
                return Answer(
                    status=answer.status, raw=raw, retry_after=answer.headers.get("Retry-After")
                )
        except TimeoutError as e:
            raise self._unreachable("no answer in time") from e
        except aiohttp.ClientConnectorError as e:
            why = e.os_error.strerror or type(e.os_error).__name__
            raise self._unreachable(why) from e
        except (aiohttp.ClientError, ValueError) as e:
            raise self._unreachable(type(e).__name__) from e

    def _unreachable(self, why: str) -> HomeserverUnreachableError:
        msg = (
            f"The homeserver {self._base_url} does not answer ({why}). "
            "Check its address and the network, then try again."
        )
        return HomeserverUnreachableError(msg)


@asynccontextmanager
async def open_transport(base_url: str) -> AsyncIterator[HttpTransport]:
    """A transport to one homeserver; its connections are closed at the end."""
    # No trust_env: it would send loopback requests to a proxy, and credentials of ~/.netrc along.
    async with aiohttp.ClientSession() as session:
        yield HttpTransport(session, base_url)
