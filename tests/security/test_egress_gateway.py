"""What a fully hostile runner sends through its socket: raw bytes, a real gateway, a real upstream.

Nothing in these tests may reach the upstream, unless the test says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger

from orchestrator.core.egress_http import MAX_BODY_BYTES
from orchestrator.egress import door as door_module
from orchestrator.egress.gateway import EgressGateway, RoomDoor
from orchestrator.model import JsonObject, RoomSlug
from tests.support.egress import (
    PLACEHOLDER,
    REAL_KEY,
    TAG,
    Upstream,
    body_of,
    build_body,
    build_request,
    connect,
    error_of,
    open_room,
    open_upstream,
    room_door,
    send_raw,
    status_of,
)


@dataclass(frozen=True, slots=True)
class Room:
    gateway: EgressGateway
    door: RoomDoor
    upstream: Upstream

    async def send(self, data: bytes, *, half_close: bool = False) -> bytes:
        return await send_raw(self.door.directory, data, half_close=half_close)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with (
        open_upstream() as upstream,
        open_room(tmp_path / "a", upstream.url) as (gateway, door),
    ):
        yield Room(gateway, door, upstream)


def _replaced(old: bytes, new: bytes) -> bytes:
    request = build_request()
    assert old in request
    return request.replace(old, new)


def _line(line: str) -> bytes:
    return build_request(line=line)


def _with(**headers: str) -> bytes:
    return build_request(headers={k.replace("_", "-"): v for k, v in headers.items()})


def _repeated(line: bytes) -> bytes:
    return _replaced(b"anthropic-version: 2023-06-01\r\n", line)


BODY = build_body()
LENGTH = f"Content-Length: {len(BODY)}\r\n".encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"

# Name, bytes, the status that the client must see (0: closed without an answer).
HOSTILE_HEADS: list[tuple[str, bytes, int]] = [
    # Framing and smuggling.
    ("both lengths", _with(Transfer_Encoding="chunked"), 400),
    (
        "both lengths, the other way round",
        _replaced(LENGTH, b"Transfer-Encoding: chunked\r\n" + LENGTH),
        400,
    ),
    ("chunked", _replaced(LENGTH, b"Transfer-Encoding: chunked\r\n").replace(BODY, CHUNKED), 411),
    ("transfer-encoding identity", _replaced(LENGTH, b"Transfer-Encoding: identity\r\n"), 411),
    ("transfer-encoding with a tab", _replaced(LENGTH, b"Transfer-Encoding:\tchunked\r\n"), 411),
    ("transfer-encoding, space before colon", _repeated(b"Transfer-Encoding : chunked\r\n"), 400),
    ("transfer-encoding, vertical tab", _repeated(b"Transfer-Encoding: \x0bchunked\r\n"), 400),
    ("te trailers", _with(TE="trailers"), 400),
    ("no length", _replaced(LENGTH, b""), 411),
    ("length twice, equal", _replaced(LENGTH, LENGTH + LENGTH), 400),
    ("length twice, different", _replaced(LENGTH, LENGTH + b"Content-Length: 0\r\n"), 400),
    ("length as a list", _replaced(LENGTH, LENGTH[:-2] + b", 0\r\n"), 400),
    ("length with a sign", _replaced(b"Content-Length: ", b"Content-Length: +"), 400),
    ("length negative", _replaced(LENGTH, b"Content-Length: -1\r\n"), 400),
    ("length in hexadecimal", _replaced(LENGTH, b"Content-Length: 0x10\r\n"), 400),
    ("length with a leading zero", _replaced(b"Content-Length: ", b"Content-Length: 0"), 400),
    ("length with an underscore", _replaced(LENGTH, b"Content-Length: 1_0\r\n"), 400),
    ("length in other digits", _replaced(LENGTH, "Content-Length: ٣\r\n".encode()), 400),
    ("length empty", _replaced(LENGTH, b"Content-Length:\r\n"), 400),
    ("length of thirty digits", _replaced(LENGTH, b"Content-Length: " + b"9" * 30 + b"\r\n"), 400),
    ("a gigabyte announced", _replaced(LENGTH, b"Content-Length: 1073741824\r\n"), 413),
    (
        "one byte too many announced",
        _replaced(LENGTH, b"Content-Length: %d\r\n" % (MAX_BODY_BYTES + 1)),
        413,
    ),
    ("expect 100-continue", _with(Expect="100-continue"), 417),
    # Lines and headers.
    ("bare LF everywhere", build_request().replace(b"\r\n", b"\n"), 0),
    ("bare LF in one header", _repeated(b"X-A: b\nContent-Length: 0\r\n"), 400),
    ("bare CR in a header", _repeated(b"X-A: b\rContent-Length: 0\r\n"), 400),
    ("folded header", _repeated(b"X-A: b\r\n  c\r\n"), 400),
    ("folded by a tab", _repeated(b"X-A: b\r\n\tc\r\n"), 400),
    ("first header starts with a space", _replaced(b"Host:", b" Host:"), 400),
    ("space before a colon", _replaced(b"x-api-key:", b"x-api-key :"), 400),
    ("header without a colon", _repeated(b"Nothing\r\n"), 400),
    ("header without a name", _repeated(b": b\r\n"), 400),
    ("NUL in a value", _repeated(b"X-A: b\0c\r\n"), 400),
    ("NUL in a name", _repeated(b"X\0A: b\r\n"), 400),
    ("a header name in UTF-8", _repeated("X-Ä: b\r\n".encode()), 400),
    ("a value in UTF-8", _repeated("X-A: ä\r\n".encode()), 400),
    ("underscored length", _repeated(b"Content_Length: 0\r\n"), 400),
    ("any header twice", _repeated(b"X-A: b\r\nx-a: b\r\n"), 400),
    ("host twice", _repeated(b"Host: api.anthropic.com\r\n"), 400),
    ("no host", _replaced(b"Host: 127.0.0.1:8317\r\n", b""), 400),
    ("host with a path", _replaced(b"127.0.0.1:8317", b"a/b"), 400),
    ("host with a user", _replaced(b"127.0.0.1:8317", b"u@h"), 400),
    (
        "a hundred thousand headers",
        _repeated(b"".join(b"a%d: b\r\n" % i for i in range(100_000))),
        431,
    ),
    ("sixty-five headers", _repeated(b"".join(b"a%d: b\r\n" % i for i in range(65))), 431),
    ("a header of a megabyte", _with(X_A="b" * (1 << 20)), 431),
    ("a target of a megabyte", _line("POST /" + "a" * (1 << 20) + " HTTP/1.1"), 431),
    ("connection names a header", _replaced(b"Connection: close", b"Connection: x-api-key"), 400),
    ("upgrade to h2c", build_request(headers={"Connection": "Upgrade", "Upgrade": "h2c"}), 400),
    ("upgrade to websocket", _with(Upgrade="websocket"), 400),
    ("http2-settings", _with(HTTP2_Settings="AAMAAABkAARAAAAAAAIAAAAA"), 400),
    # Request lines and versions.
    ("h2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("HTTP/1.0", _line("POST /v1/messages HTTP/1.0"), 505),
    ("HTTP/1.2", _line("POST /v1/messages HTTP/1.2"), 505),
    ("HTTP/0.9", b"GET /v1/messages\r\n\r\n", 400),
    ("lower-case version", _line("POST /v1/messages http/1.1"), 400),
    ("two spaces", _line("POST  /v1/messages HTTP/1.1"), 400),
    ("a tab for a space", _line("POST\t/v1/messages HTTP/1.1"), 400),
    ("trailing space", _line("POST /v1/messages HTTP/1.1 "), 400),
    ("a leading empty line", b"\r\n" + build_request(), 400),
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ("lower-case method", _line("post /v1/messages HTTP/1.1"), 505),
    # Targets.
    ("absolute form", _line("POST http://api.anthropic.com/v1/messages HTTP/1.1"), 400),
    ("absolute form, other host", _line("POST http://evil.example/v1/messages HTTP/1.1"), 400),
    ("asterisk form", _line("OPTIONS * HTTP/1.1"), 400),
    ("CONNECT", _line("CONNECT evil.example:443 HTTP/1.1"), 403),
    ("CONNECT to the API", _line("CONNECT api.anthropic.com:443 HTTP/1.1"), 403),
    ("CONNECT with early data", b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n" + SMUGGLED, 403),
    ("double slash", _line("POST //v1/messages HTTP/1.1"), 400),
    ("double slash inside", _line("POST /v1//messages HTTP/1.1"), 400),
    ("network path", _line("POST //evil.example/v1/messages HTTP/1.1"), 400),
    ("percent-encoded letter", _line("POST /v1/%6dessages HTTP/1.1"), 400),
    ("percent-encoded slash", _line("POST /v1%2fmessages HTTP/1.1"), 400),
    ("percent-encoded twice", _line("POST /v1/%256dessages HTTP/1.1"), 400),
    ("dot segment", _line("POST /v1/./messages HTTP/1.1"), 400),
    ("dot-dot segment", _line("POST /v1/files/../messages HTTP/1.1"), 400),
    ("dot-dot with a parameter", _line("POST /v1/files/..;/messages HTTP/1.1"), 400),
    ("path parameter", _line("POST /v1/messages;a=b HTTP/1.1"), 400),
    ("backslash", _line("POST /v1\\messages HTTP/1.1"), 400),
    ("fragment", _line("POST /v1/messages#/v1/files HTTP/1.1"), 400),
    ("NUL in the target", _line("POST /v1/messages\0.x HTTP/1.1"), 400),
    ("empty query", _line("POST /v1/messages? HTTP/1.1"), 400),
    # Routes.
    ("files", _line("POST /v1/files HTTP/1.1"), 403),
    ("batches", _line("POST /v1/messages/batches HTTP/1.1"), 403),
    ("organization", _line("POST /v1/organizations/api_keys HTTP/1.1"), 403),
    ("key maker", _line("POST /api/oauth/claude_cli/create_api_key HTTP/1.1"), 403),
    ("cache touch", _line("POST /v1/messages/cache_touch HTTP/1.1"), 403),
    ("trailing slash", _line("POST /v1/messages/ HTTP/1.1"), 403),
    ("upper-case path", _line("POST /V1/messages HTTP/1.1"), 403),
    ("the right path behind another", _line("POST /x/v1/messages HTTP/1.1"), 403),
    ("GET", _line("GET /v1/messages HTTP/1.1"), 403),
    ("PUT", _line("PUT /v1/messages HTTP/1.1"), 403),
    ("TRACE", _line("TRACE /v1/messages HTTP/1.1"), 403),
    ("DELETE", _line("DELETE /v1/messages HTTP/1.1"), 403),
    ("method override by header keeps its route", _line("POST /v1/models HTTP/1.1"), 403),
    ("other query", _line("POST /v1/messages?beta=true&x=1 HTTP/1.1"), 403),
    ("query twice", _line("POST /v1/messages?beta=true&beta=true HTTP/1.1"), 403),
    ("query in other case", _line("POST /v1/messages?Beta=true HTTP/1.1"), 403),
    # Credentials.
    ("no credential", build_request(headers={"x-api-key": None}), 401),
    ("another key", _with(x_api_key="sk-ant-api03-the-attackers-own"), 403),
    ("another bearer", _with(Authorization="Bearer sk-ant-oat01-attacker"), 403),
    (
        "another bearer alone",
        build_request(headers={"x-api-key": None, "Authorization": "Bearer x"}),
        403,
    ),
    (
        "basic",
        build_request(headers={"x-api-key": None, "Authorization": f"Basic {PLACEHOLDER}"}),
        403,
    ),
    ("placeholder in another case", _with(x_api_key=PLACEHOLDER.upper()), 403),
    ("placeholder and more", _with(x_api_key=f"{PLACEHOLDER},x"), 403),
    ("a part of the placeholder", _with(x_api_key=PLACEHOLDER[:-1]), 403),
    ("empty key", _with(x_api_key=""), 403),
    ("key twice", _repeated(b"X-Api-Key: sk-ant-attacker\r\n"), 400),
    # Content.
    ("form content", _with(Content_Type="application/x-www-form-urlencoded"), 415),
    ("no content type", build_request(headers={"Content-Type": None}), 415),
    ("gzip content", _with(Content_Encoding="gzip"), 415),
]


@pytest.mark.parametrize(
    ("data", "status"), [pytest.param(d, s, id=n) for n, d, s in HOSTILE_HEADS]
)
async def test_a_hostile_head_is_refused_and_never_reaches_the_api(
    room: Room, data: bytes, status: int
) -> None:
    answer = await room.send(data, half_close=status == 0)
    assert status_of(answer) == status
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) <= 1
    assert REAL_KEY.encode() not in answer
    assert not room.upstream.seen
    assert room.gateway.stats(room.door.slug).requests_allowed == 0
    if status:
        assert room.gateway.stats(room.door.slug).requests_denied == 1


def _message(*content: object) -> bytes:
    return build_body(messages=[{"role": "user", "content": list(content)}])


def _source(**source: object) -> bytes:
    return _message({"type": "image", "source": source})


def _tool(**tool: object) -> bytes:
    return build_body(tools=[{"name": "t", **tool}])


def _result(content: object) -> JsonObject:
    return {"type": "tool_result", "tool_use_id": "t", "content": content}  # type: ignore[dict-item]


def _document(**source: object) -> JsonObject:
    return {"type": "document", "source": source}  # type: ignore[dict-item]


def _added(*, kind: str = "tool_definition", **tool: object) -> JsonObject:
    return {"type": "tool_addition", "tool": {"type": kind, **tool}}  # type: ignore[dict-item]


URL = "https://evil.example/?secret"
BY_URL = {"type": "image", "source": {"type": "url", "url": URL}}
FETCH = {"type": "web_fetch_20250910", "name": "f"}
MORE = build_body(messages=[{"role": "user", "content": "a", "fetch": URL}])
TWICE = b'{"messages":[],"tools":[],"tools":[{"type":"web_fetch_20250910"}]}'
INNER = _document(type="content", content=[BY_URL])
SCHEMA = {"format": {"schema": {"$ref": URL}}}
HOSTILE_BODIES: list[tuple[str, bytes, int]] = [
    ("remote MCP", build_body(mcp_servers=[{"type": "url", "url": URL, "name": "m"}]), 403),
    ("empty remote MCP", build_body(mcp_servers=[]), 403),
    ("container", build_body(container="c_1"), 403),
    ("container with skills", build_body(container={"skills": [{"skill_id": "x"}]}), 403),
    ("stored thread", build_body(thread={"type": "continue", "id": "t_1"}), 403),
    ("a field that nobody knows", build_body(webhook=URL), 403),
    ("a field in another case", build_body(MCP_servers=[]), 403),
    ("web search", _tool(type="web_search_20250305"), 403),
    ("web search of a later date", _tool(type="web_search_20991231"), 403),
    ("web fetch", _tool(type="web_fetch_20250910"), 403),
    ("code execution", _tool(type="code_execution_20250825"), 403),
    ("remote MCP tools", _tool(type="mcp_toolset", mcp_server_name="m"), 403),
    ("a tool type that nobody knows", _tool(type="http_request_20270101"), 403),
    ("a tool type with a line end", _tool(type="custom\n"), 403),
    ("a tool type that is a list", _tool(type=["web_search_20250305"]), 403),
    ("a custom tool with a server", _tool(mcp_server_name="m"), 403),
    ("a schema by reference", _tool(input_schema={"$ref": URL}), 403),
    ("a schema by dynamic reference", _tool(input_schema={"a": [{"$dynamicRef": URL}]}), 403),
    ("an output format by reference", build_body(output_config=SCHEMA), 403),
    ("a message with a field that nobody knows", MORE, 403),
    ("image by url", _source(type="url", url=URL), 403),
    ("document by url", _message(_document(type="url", url=URL)), 403),
    ("image by file", _source(type="file", file_id="f_1"), 403),
    ("inline image with a url beside", _source(type="base64", data="", url=URL), 403),
    ("image source without a type", _source(url=URL), 403),
    ("image source that is text", _message({"type": "image", "source": URL}), 400),
    ("file beside text", _message({"type": "text", "text": "a", "file_id": "f_1"}), 403),
    ("container upload", _message({"type": "container_upload", "file_id": "f_1"}), 403),
    ("past web search", _message({"type": "web_search_tool_result", "content": []}), 403),
    ("past remote MCP", _message({"type": "mcp_tool_use", "server_name": "m"}), 403),
    ("server-side tool call", _message({"type": "server_tool_use", "name": "web_fetch"}), 403),
    ("a block that nobody knows", _message({"type": "remote_text", "url": URL}), 403),
    ("a block without a type", _message({"url": URL}), 403),
    ("url inside a tool's result", _message(_result([BY_URL])), 403),
    ("url as the one block of a result", _message(_result(BY_URL)), 403),
    ("url inside a document of content", _message(INNER), 403),
    ("url in the system prompt", build_body(system=[BY_URL]), 403),
    ("a server tool added in the middle", _message(_added(definition=FETCH)), 403),
    ("a tool added by url", _message(_added(kind="url", url=URL)), 403),
    ("the same key twice, the bad one last", TWICE, 403),
    ("an escaped key", b'{"messages":[],"mcp\\u005fservers":[]}', 403),
    ("UTF-16", build_body().decode().encode("utf-16"), 400),
    ("UTF-8 with a byte order mark", b"\xef\xbb\xbf" + build_body(), 400),
    ("not UTF-8", build_body(model="x").replace(b"x", b"\xff"), 400),
    ("two values", build_body() + build_body(), 400),
    ("a list", b"[]", 400),
    ("nothing", b"", 400),
    ("NaN", b'{"messages":[],"temperature":NaN}', 400),
    ("infinity by overflow", b'{"messages":[],"temperature":1e999}', 400),
    ("five thousand digits", b'{"messages":[],"max_tokens":' + b"9" * 5000 + b"}", 400),
    ("nested a hundred thousand deep", b'{"messages":' + b"[" * 100_000, 400),
    ("nested two hundred deep", b'{"messages":[],"model":' + b"[" * 200 + b"]" * 200 + b"}", 400),
    ("two million values", b'{"messages":[' + b"[]," * 2_000_000 + b"[]]}", 400),
    ("messages that are text", build_body(messages="hi"), 400),
    ("a message that is text", build_body(messages=["hi"]), 400),
    ("content that is a number", build_body(messages=[{"role": "user", "content": 1}]), 400),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status"), [pytest.param(b, s, id=n) for n, b, s in HOSTILE_BODIES]
)
async def test_a_hostile_body_is_refused_in_the_words_of_the_api(
    room: Room, body: bytes, status: int
) -> None:
    answer = await room.send(build_request(body))
    assert status_of(answer) == status
    kind, message = error_of(answer)
    assert kind == ("permission_error" if status == 403 else "invalid_request_error")
    assert message.endswith(".")
    assert "evil" not in message
    assert not room.upstream.seen


def test_the_corpus_names_more_than_the_agreed_sixty_requests() -> None:
    names = [n for n, _, _ in [*HOSTILE_HEADS, *HOSTILE_BODIES]]
    assert len(set(names)) == len(names) >= 60


_pieces = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"POST /v1/messages HTTP/1.1\r\n",
            b"POST /v1/files HTTP/1.1\r\n",
            b"Host: a\r\n",
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b": ",
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Length: 5\r\n",
            b"Content-Length: 0\r\n",
            b"Content-Type: application/json\r\n",
            b"x-api-key: wrong\r\n",
            b"x-api-key: " + PLACEHOLDER.encode() + b"\r\n",
            b"0\r\n\r\n",
            b"{}",
            b'{"mcp_servers":[]}',
            b"CONNECT a:1 HTTP/1.1\r\n",
        ]
    ),
)


def _mutated() -> st.SearchStrategy[bytes]:
    """A request whose key is wrong, with some of its bytes replaced, cut out or doubled."""
    base = build_request(headers={"x-api-key": "wrong"})
    cut = st.tuples(st.integers(0, len(base)), st.integers(0, 8), st.binary(max_size=8))

    def apply(cuts: list[tuple[int, int, bytes]]) -> bytes:
        data = base
        for at, length, new in cuts:
            data = data[:at] + new + data[at + length :]
        return data

    return st.lists(cut, max_size=6).map(apply)


@pytest.fixture(scope="module")
def served_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Upstream]]:
    """A gateway in a thread of its own, for a client that blocks."""
    directory = tmp_path_factory.mktemp("fuzz") / "a"
    started, stop = threading.Event(), asyncio.Event()
    held: dict[str, object] = {}

    async def serve() -> None:
        async with open_upstream() as upstream, open_room(directory, upstream.url):
            held.update(upstream=upstream, loop=asyncio.get_running_loop())
            started.set()
            await stop.wait()

    with pytest.MonkeyPatch.context() as patch:
        # The pace would make the fuzzer wait, not the gateway stricter.
        patch.setattr(door_module, "_REQUESTS_PER_S", 1e6)
        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        assert started.wait(10)
        upstream, loop = held["upstream"], held["loop"]
        assert isinstance(upstream, Upstream)
        assert isinstance(loop, asyncio.AbstractEventLoop)
        yield directory, upstream
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.one_of(st.lists(_pieces, max_size=20).map(b"".join), _mutated()))
def test_no_bytes_at_all_yield_anything_but_a_refusal_or_a_closed_connection(
    served_room: tuple[Path, Upstream], data: bytes
) -> None:
    directory, upstream = served_room
    answer = _send_blocking(directory, data)
    assert answer == b"" or 400 <= status_of(answer) <= 505
    assert not upstream.seen


def _send_blocking(directory: Path, data: bytes) -> bytes:
    fd = os.open(directory, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(f"/proc/self/fd/{fd}/egress.sock")
            with contextlib.suppress(BrokenPipeError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := sock.recv(1 << 16):
                    answer += piece
            return answer
    finally:
        os.close(fd)


async def test_the_api_gets_the_real_credential_and_none_of_the_clients(room: Room) -> None:
    hostile = build_request(
        headers={
            "Authorization": f"Bearer {PLACEHOLDER}",
            "Proxy-Authorization": "Basic eDp5",
            "Cookie": "session=attacker",
            "X-Forwarded-For": "10.0.0.1",
            "anthropic-workspace-id": "other",
            "anthropic-user-profile-id": "other",
            "X-Http-Method-Override": "DELETE",
            "X-Original-Url": "/v1/files",
            "anthropic-beta": "files-api-2025-04-14,effort-2025-11-24,mcp-client-2025-04-04",
            "X-Stainless-Lang": "js",
        }
    )
    assert status_of(await room.send(hostile)) == 200
    (seen,) = room.upstream.seen
    assert dict(seen.raw_headers).keys() - {"Host", "Content-Length"} == {
        "accept-encoding",
        "anthropic-beta",
        "anthropic-version",
        "content-type",
        "x-api-key",
        "x-stainless-lang",
    }
    assert seen.headers["x-api-key"] == REAL_KEY
    assert seen.headers["anthropic-beta"] == "effort-2025-11-24"
    assert PLACEHOLDER not in str(seen)
    assert seen.path == "/v1/messages?beta=true"


async def test_what_was_checked_is_what_the_api_reads(room: Room) -> None:
    body = (
        b'{"tools":[{"type":"web_fetch_20250910"}],"model":"a","messages":[],"tools":[],'
        b'"metadata":{"user_id":"forged","x":1}}'
    )
    assert status_of(await room.send(build_request(body))) == 200
    expected = f'{{"tools":[],"model":"a","messages":[],"metadata":{{"user_id":"{TAG}"}}}}'
    assert room.upstream.seen[0].body == expected.encode()


async def test_a_smuggled_request_is_one_more_request_with_its_own_check(room: Room) -> None:
    good = build_request(close=False)
    answer = await room.send(good + SMUGGLED + good)
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"403"]
    assert len(room.upstream.seen) == 1


async def test_bytes_of_a_body_that_was_cut_are_never_sent_on(room: Room) -> None:
    assert await room.send(build_request()[:-5], half_close=True) == b""
    assert not room.upstream.seen


async def test_a_peer_of_another_uid_is_closed_at_once_and_counted(tmp_path: Path) -> None:
    async with (
        open_upstream() as upstream,
        open_room(tmp_path / "a", upstream.url) as (gateway, _),
    ):
        foreign = room_door(tmp_path / "b", slug="room-b", uid=os.getuid() + 1)
        await gateway.open_door(foreign)
        assert await send_raw(foreign.directory, build_request()) == b""
        stats = gateway.stats(RoomSlug("room-b"))
        assert (stats.peers_refused, stats.requests_allowed, stats.requests_denied) == (1, 0, 0)
        assert not upstream.seen


async def test_one_rooms_placeholder_does_not_open_another_rooms_door(tmp_path: Path) -> None:
    async with (
        open_upstream() as upstream,
        open_room(tmp_path / "a", upstream.url) as (gateway, door),
    ):
        other = RoomDoor(
            slug=RoomSlug("room-b"),
            directory=tmp_path / "b",
            uid=door.uid,
            gid=door.gid,
            placeholder="sk-ant-api03-placeholder-of-room-b",
            user_tag="tag-of-room-b",
        )
        other.directory.mkdir()
        await gateway.open_door(other)
        assert status_of(await send_raw(other.directory, build_request())) == 403
        assert not upstream.seen


async def test_a_flood_of_idle_connections_leaves_another_room_untouched(
    tmp_path: Path,
) -> None:
    async with (
        open_upstream() as upstream,
        open_room(tmp_path / "a", upstream.url) as (gateway, door),
        contextlib.AsyncExitStack() as stack,
    ):
        other = room_door(tmp_path / "b", slug="room-b")
        await gateway.open_door(other)
        for _ in range(door_module.MAX_CONNECTIONS + 30):
            _, writer = await stack.enter_async_context(connect(door.directory))
            writer.write(b"POST /v1/mess")
        start = time.monotonic()
        assert status_of(await send_raw(other.directory, build_request())) == 200
        assert time.monotonic() - start < 2
        assert gateway.stats(door.slug).connections_open <= door_module.MAX_CONNECTIONS


async def test_a_room_that_sends_bombs_does_not_stop_another_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without its pace, so that the bombs follow each other as fast as they can be checked.
    monkeypatch.setattr(door_module, "_CHECKING_BURST", 1e9)
    bomb = build_request(b'{"messages":[' + b"[]," * 490_000 + b"[]]}")
    async with (
        open_upstream() as upstream,
        open_room(tmp_path / "a", upstream.url) as (gateway, door),
    ):
        other = room_door(tmp_path / "b", slug="room-b")
        await gateway.open_door(other)
        waits: list[float] = []
        async with asyncio.TaskGroup() as group:
            bombs = [group.create_task(send_raw(door.directory, bomb)) for _ in range(3)]
            while not all(task.done() for task in bombs):
                start = time.monotonic()
                assert status_of(await send_raw(other.directory, build_request())) == 200
                waits.append(time.monotonic() - start)
                await asyncio.sleep(0.05)
        assert [status_of(task.result()) for task in bombs] == [400] * 3
        # In the gateway's own process one bomb takes 0.3 s or more; a request takes 0.01 s.
        assert sorted(waits)[len(waits) // 2] < 0.25
        assert not [s for s in upstream.seen if s.body.startswith(b'{"messages"')]


async def test_slow_heads_and_slow_bodies_are_ended(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.egress.connection._HEAD_S", 0.1)
    monkeypatch.setattr("orchestrator.egress.connection._BODY_S", 0.1)
    monkeypatch.setattr("orchestrator.egress.connection._LINGER_S", 0.1)
    assert status_of(await room.send(b"POST /v1/mess")) == 408
    assert status_of(await room.send(build_request()[:-5])) == 408
    assert not room.upstream.seen


async def test_an_idle_connection_is_closed_without_an_answer(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.egress.connection._IDLE_S", 0.1)
    assert await room.send(b"") == b""


async def test_bodies_past_the_rooms_budget_wait_for_each_other(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = build_body(system="x" * 100_000)
    monkeypatch.setattr(door_module, "BODY_BUDGET_BYTES", 150_000)
    running = most = 0

    async def count(_: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        return web.json_response({})

    room.upstream.handler = count
    async with asyncio.TaskGroup() as group:
        sent = [group.create_task(room.send(build_request(body))) for _ in range(4)]
    assert [status_of(task.result()) for task in sent] == [200] * 4
    assert most == 1


async def test_a_body_of_exactly_the_limit_passes(room: Room) -> None:
    empty = build_body(system="")
    body = build_body(system="x" * (MAX_BODY_BYTES - len(empty)))
    assert len(body) == MAX_BODY_BYTES
    assert status_of(await room.send(build_request(body))) == 200
    assert len(room.upstream.seen[0].body) > MAX_BODY_BYTES - 100


async def test_a_failure_of_the_gateway_itself_is_a_403_and_lets_nothing_out(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError(REAL_KEY)

    lines: list[str] = []
    sink = logger.add(lambda m: lines.append(str(m) + str(m.record["extra"])), level="TRACE")
    try:
        monkeypatch.setattr("orchestrator.egress.connection.check_request", fail)
        answer = await room.send(build_request())
    finally:
        logger.remove(sink)
    assert status_of(answer) == 403
    assert error_of(answer)[0] == "permission_error"
    assert not room.upstream.seen
    assert any("egress_failed" in line and "KeyError" in line for line in lines)
    assert REAL_KEY not in "".join(lines)
    monkeypatch.undo()
    assert status_of(await room.send(build_request())) == 200


async def test_no_log_line_stat_or_repr_shows_a_key_or_a_body(room: Room) -> None:
    lines: list[str] = []
    sink = logger.add(lambda m: lines.append(str(m) + str(m.record["extra"])), level="TRACE")
    try:
        for data in (
            build_request(build_body(system="the-secret-text")),
            build_request(headers={"x-api-key": "sk-ant-attackers-own"}),
            build_request(line="POST /v1/the-secret-text HTTP/1.1"),
            build_request(build_body(the_secret_text=1)),
        ):
            await room.send(data)
    finally:
        logger.remove(sink)
    shown = "".join(lines) + repr(room.gateway) + repr(room.gateway.stats(room.door.slug))
    shown += repr(room.door) + repr(room.gateway._doors)
    assert len(lines) >= 4
    for secret in (REAL_KEY, PLACEHOLDER, "the-secret-text", "the_secret_text", "attackers-own"):
        assert secret not in shown


async def test_the_refusals_reason_is_in_the_stats_and_nothing_of_the_request(room: Room) -> None:
    await room.send(build_request(line="POST /v1/files HTTP/1.1"))
    assert room.gateway.stats(room.door.slug).last_denial == "route"
    await room.send(build_request(build_body(mcp_servers=[])))
    assert room.gateway.stats(room.door.slug).last_denial == "body_feature"


async def test_ten_thousand_connections_one_after_another_leave_nothing_behind(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.gateway._doors[room.door.slug].requests, "_rate", 1e9)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(100):
                await stack.enter_async_context(connect(room.door.directory))
    assert status_of(await room.send(build_request())) == 200
    for _ in range(1000):
        if room.gateway.stats(room.door.slug).connections_open == 0:
            break
        await asyncio.sleep(0.01)
    # The upstream's keep-alive connection has two ends in this process.
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4


async def test_a_request_for_its_answer_is_whole_after_a_hostile_neighbour(room: Room) -> None:
    async with connect(room.door.directory) as (reader, writer):
        writer.write(build_request(close=False))
        await reader.readuntil(b"0\r\n\r\n")
        for _, data, _ in HOSTILE_HEADS[:10]:
            await room.send(data)
        writer.write(build_request(close=True))
        answer = await reader.read(-1)
    assert json.loads(body_of(answer)) == {"type": "message", "content": []}
