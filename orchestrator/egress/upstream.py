"""The Messages API as one room sees it: requests out with the credential, answers back without it.

Each room has an HTTP session of its own. A connection that an earlier answer left in a bad state
can then only harm the room whose answer it was; nothing of one room can be read by another.

A proxy is taken from HTTPS_PROXY (and NO_PROXY) for an https upstream, never for a plain one: a
stand-in on loopback is not behind a proxy, and the credential would pass the proxy in the clear.
aiohttp's own `trust_env` is off, because it would also read credentials from ~/.netrc.
"""

from __future__ import annotations

import contextlib
import io
import os
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from orchestrator.core.egress_policy import UpstreamRequest, return_headers
from orchestrator.egress.credential import ApiKey, Credential, OAuthToken
from orchestrator.egress.secret_filter import SecretFilter
from orchestrator.errors import EgressError

# Long enough for a handshake across the world with a lost packet.
_CONNECT_S = 15.0
# The client gives up after 600 s (its X-Stainless-Timeout); between two bytes of a stream the API
# sends pings, and a request that is not streamed is silent until its answer.
SILENCE_S = 610.0
# Shorter than the API's own keep-alive, so that a request seldom meets a connection just closed.
_KEEPALIVE_S = 30.0
_OWN_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class UpstreamFailedError(EgressError):
    """The Messages API could not be reached, or its answer could not be used."""


class UpstreamSilentError(UpstreamFailedError):
    """The Messages API did not answer in time."""


class UpstreamCutError(UpstreamFailedError):
    """The Messages API's answer broke off before its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer of the API: its status, the headers that a room may see, the body to come."""

    status: int
    headers: list[tuple[str, str]]
    chunks: AsyncIterator[bytes]
    """The body as it arrives; raises UpstreamFailedError when it breaks off."""


class Upstream:
    """Where the API is, and the credential for it. Opens one session for each room."""

    def __init__(self, address: str, credential: Credential) -> None:
        """Raises EgressError for an address that is not a plain http or https URL."""
        self._base = _parse_address(address)
        self._credential = credential
        self._secret = credential.secret.get_secret_value()
        self._tls = ssl.create_default_context()
        self._proxy = _proxy_for(self._base)
        if not self._secret or not self._secret.isascii() or not self._secret.isprintable():
            msg = "the credential must be printable ASCII; check ANTHROPIC_API_KEY"
            raise EgressError(msg)

    @property
    def is_subscription(self) -> bool:
        """Whether the credential is a subscription's token, and not an API key."""
        return isinstance(self._credential, OAuthToken)

    def __repr__(self) -> str:
        kind = OAuthToken.__name__ if self.is_subscription else ApiKey.__name__
        return f"Upstream({self._base.origin()}, {kind}, proxied={self._proxy is not None})"

    def open_session(self) -> aiohttp.ClientSession:
        """A session for one room; an async context manager."""
        return aiohttp.ClientSession(
            # The room's own limit of connections is the door's.
            connector=aiohttp.TCPConnector(
                ssl=self._tls, limit=0, keepalive_timeout=_KEEPALIVE_S, ttl_dns_cache=60
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_S, sock_read=SILENCE_S),
            auto_decompress=False,
            skip_auto_headers=_OWN_AUTO_HEADERS,
            trust_env=False,
        )

    @contextlib.asynccontextmanager
    async def post(
        self, session: aiohttp.ClientSession, request: UpstreamRequest, body: bytes
    ) -> AsyncIterator[Answer]:
        """Send a checked request; leaving the context ends it, also when the answer still runs.

        Raises:
            UpstreamFailedError: no answer (UpstreamSilentError: in time), or one that a room can't
                be given: a redirect, or a compressed body.
        """
        async with contextlib.AsyncExitStack() as stack:
            with _translated():
                response = await stack.enter_async_context(
                    session.post(
                        self._url(request),
                        # As a file it is written in pieces; bytes would be copied in one go.
                        data=io.BytesIO(body),
                        headers=self._headers(request.headers),
                        allow_redirects=False,
                        proxy=self._proxy,
                    )
                )
            _check_answer(response)
            yield Answer(
                status=response.status,
                headers=return_headers(response.headers.items(), secret=self._secret),
                chunks=self._chunks(response),
            )

    def _url(self, request: UpstreamRequest) -> URL:
        query = f"?{request.query}" if request.query else ""
        prefix = str(self._base).rstrip("/")
        return URL(f"{prefix}{request.route.value}{query}", encoded=True)

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        # Nothing compressed: events would wait for a full block, and the filter could not read
        # them.
        return self._credential.authorize({**headers, "accept-encoding": "identity"})

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        guard = SecretFilter(self._secret)
        with _translated(UpstreamCutError):
            async for data in response.content.iter_any():
                if passed := guard.feed(data):
                    yield passed
        if rest := guard.end():
            yield rest


@contextlib.contextmanager
def _translated(error: type[UpstreamFailedError] = UpstreamFailedError) -> Iterator[None]:
    """What aiohttp raises, in our words; the cause is not kept, it may show headers."""
    try:
        yield
    except TimeoutError:
        raise UpstreamSilentError from None
    except (aiohttp.ClientError, OSError, ValueError) as e:
        msg = f"{(error.__doc__ or '').strip()} ({type(e).__name__})"
        raise error(msg) from None


def _check_answer(response: aiohttp.ClientResponse) -> None:
    if 300 <= response.status < 400:
        msg = "The Messages API answered with a redirect, which is not followed."
        raise UpstreamFailedError(msg)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        msg = "The Messages API answered with a compressed body, which was not asked for."
        raise UpstreamFailedError(msg)


def _parse_address(address: str) -> URL:
    try:
        url = URL(address)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host or url.user or url.query_string:
        msg = "anthropic.upstream must be an http or https URL without a user and a query"
        raise EgressError(msg)
    return url.with_fragment(None)


def _proxy_for(base: URL) -> URL | None:
    if base.scheme != "https" or urllib.request.proxy_bypass(base.host or ""):
        return None
    proxy = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
    return URL(proxy) if proxy else None
