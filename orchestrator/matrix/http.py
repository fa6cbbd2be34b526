"""One request to the homeserver: sent on nio's HTTP session, bounded, read whole, translated.

nio's own request methods are not used: they retry and sleep inside the call, return errors as
values, and lose what a cut connection or a proxy's page means.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote, urlencode

import aiohttp
from nio import AsyncClient, AsyncClientConfig

from orchestrator.errors import HomeserverUnreachableError
from orchestrator.matrix.translate import Answer, error_from, transport_errors, unreadable
from orchestrator.model import JsonObject, JsonValue

REQUEST_TIMEOUT_S = 30.0
# The largest ordinary answer is a page of 100 events of 64 KiB each, or a big room's members.
MAX_ANSWER_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 16
_JSON = "application/json"

Renew = Callable[[str | None, Answer], Awaitable[bool]]
"""Called with the token that was refused and the answer; True once there is a new one."""


class MatrixHttp:
    """Requests as one device. Invariant: the token leaves only in the Authorization header."""

    def __init__(
        self, homeserver: str, *, user_id: str, clock: Callable[[], float] = time.time
    ) -> None:
        # With these limits not even nio's own request methods would sleep or retry.
        config = AsyncClientConfig(
            max_limit_exceeded=0, max_timeouts=0, store_sync_tokens=False, encryption_enabled=False
        )
        self.homeserver = homeserver.rstrip("/")
        self.token: str | None = None
        self.renew: Renew | None = None
        self._nio = AsyncClient(self.homeserver, user_id, config=config)
        self._clock = clock

    def __repr__(self) -> str:
        return f"<MatrixHttp {self.homeserver}>"

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._nio.close()  # type: ignore[no-untyped-call]

    async def get(
        self,
        path: str,
        *,
        what: str,
        query: Mapping[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> JsonObject:
        """GET a JSON object; errors as `request`."""
        return await self.request("GET", path, what=what, query=query, timeout_s=timeout_s)

    async def request(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, JsonValue] | bytes | None = None,
        content_type: str = _JSON,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> JsonObject:
        """One request, one attempt; an expired token is renewed once. `what` names it in errors.

        A body is sent as JSON; bytes are sent as they are, as `content_type`.

        Raises:
            HomeserverUnreachableError: no answer in time, a cut one, a 5xx, or not a Matrix answer.
            RateLimitedError: with the wait that the homeserver named.
            LoginRefusedError: the access token is not valid any more.
            RequestRefusedError: for good.
        """
        token = self.token
        args = (method, path, what, query, body, timeout_s, content_type)
        answer = await self.exchange(*args)
        if answer.is_token_refused() and self.renew is not None and await self.renew(token, answer):
            answer = await self.exchange(*args)
        if not answer.is_ok:
            raise error_from(answer, what=what, now=self._clock())
        result = answer.json()
        if result is None:
            raise unreadable(what)
        return result

    async def exchange(
        self,
        method: str,
        path: str,
        what: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, JsonValue] | bytes | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        content_type: str = _JSON,
    ) -> Answer:
        """The bare exchange: whatever the status. Raises HomeserverUnreachableError alone."""
        headers = {"Content-Type": content_type}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        target = f"{path}?{urlencode(query)}" if query else path
        data = body if body is None or isinstance(body, bytes) else _encode(body)
        with transport_errors(what):
            response = await self._nio.send(
                method,
                target,
                data,
                headers,
                timeout=timeout_s,
            )
            async with response:
                content = await _read(response, what)
        return Answer(status=response.status, headers=response.headers, body=content)


def api_path(*parts: str, version: str = "v3") -> str:
    """The path of a client-server endpoint, each part quoted (slashes included)."""
    return "/".join(("/_matrix/client", version, *(quote(part, safe="") for part in parts)))


async def _read(response: aiohttp.ClientResponse, what: str) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            response.close()
            raise TooLargeAnswerError(what)
    return bytes(content)


def _encode(body: Mapping[str, JsonValue]) -> bytes:
    # A lone surrogate can't be sent as UTF-8, and escaped it makes Synapse answer 500 for ever.
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class TooLargeAnswerError(HomeserverUnreachableError):
    """The homeserver's answer is larger than 64 MiB; it was not read."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the answer is larger than {MAX_ANSWER_BYTES >> 20} MiB")
