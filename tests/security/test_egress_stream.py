"""What the gateway does with answers, and with a failing API: real sockets."""

from __future__ import annotations

import asyncio
import datetime
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from orchestrator.egress import upstream as upstream_module
from orchestrator.egress.gateway import ApiKey, OAuthToken, open_egress
from tests.support.egress import (
    ANSWER_S,
    REAL_KEY,
    Upstream,
    body_of,
    build_request,
    connect,
    error_of,
    open_room,
    open_upstream,
    room_door,
    send_raw,
    status_of,
)

KEY = ApiKey(SecretStr(REAL_KEY))
EVENT = b'event: ping\ndata: {"type":"ping"}\n\n'


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with open_upstream() as opened:
        yield opened


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    return response


async def test_each_event_of_a_slow_stream_arrives_before_the_next_is_sent(
    tmp_path: Path, upstream: Upstream
) -> None:
    received = asyncio.Semaphore(0)

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await _stream(request)
        for n in range(5):
            await response.write(b"data: %d\n\n" % n)
            await received.acquire()
        return response

    upstream.handler = answer
    async with (
        open_room(tmp_path / "a", upstream.url),
        asyncio.timeout(ANSWER_S),
        connect(tmp_path / "a") as (reader, writer),
    ):
        writer.write(build_request())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-type: text/event-stream\r\n" in head
        for n in range(5):
            assert b"data: %d" % n in await reader.readuntil(b"\n\n\r\n")
            received.release()
        assert await reader.read() == b"0\r\n\r\n"


async def test_a_runner_that_does_not_read_holds_the_api_back(
    tmp_path: Path, upstream: Upstream
) -> None:
    total, written = 64 << 20, 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = await _stream(request)
        while written < total:
            await response.write(b"x" * (1 << 16))
            written += 1 << 16
        return response

    upstream.handler = answer
    async with (
        open_room(tmp_path / "a", upstream.url),
        asyncio.timeout(60),
        connect(tmp_path / "a") as (reader, writer),
    ):
        writer.write(build_request())
        before = -1
        while before < written or not written:
            before = written
            await asyncio.sleep(0.3)
        # The reader's own buffer is 2 MiB; what else is on the way are sockets' buffers.
        assert written < 24 << 20
        answered = await reader.read(-1)
    assert len(body_of(answered)) == written == total


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (529, "overloaded_error"),
    ],
)
async def test_an_error_of_the_api_is_passed_on_as_it_is(
    tmp_path: Path, upstream: Upstream, status: int, kind: str
) -> None:
    body = {"type": "error", "error": {"type": kind, "message": "m"}, "request_id": "r"}

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(
            body,
            status=status,
            headers={
                "retry-after": "17",
                "x-should-retry": "true",
                "request-id": "r",
                "anthropic-ratelimit-unified-reset": "1",
                "anthropic-organization-id": "org",
                "set-cookie": "a=b",
                "server": "s",
                "x-other": "o",
            },
        )

    upstream.handler = answer
    async with open_room(tmp_path / "a", upstream.url) as (gateway, door):
        answered = await send_raw(door.directory, build_request())
        assert gateway.stats(door.slug).requests_allowed == 1
    assert status_of(answered) == status
    assert json.loads(body_of(answered)) == body
    head = answered.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    assert {line.partition(":")[0] for line in head} == {
        "anthropic-ratelimit-unified-reset",
        "connection",
        "content-type",
        "request-id",
        "retry-after",
        "transfer-encoding",
        "x-should-retry",
    }


async def test_an_api_that_repeats_the_key_does_not_show_it_to_the_room(
    tmp_path: Path, upstream: Upstream
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=401, headers={"request-id": f"for {REAL_KEY}"})
        await response.prepare(request)
        text = f"bad key {REAL_KEY}, again {REAL_KEY} sk-ant".encode()
        for n in range(0, len(text), 7):
            await response.write(text[n : n + 7])
            await asyncio.sleep(0.001)
        return response

    upstream.handler = answer
    async with open_room(tmp_path / "a", upstream.url):
        answered = await send_raw(tmp_path / "a", build_request())
    assert body_of(answered) == b"bad key [removed], again [removed] sk-ant"
    assert REAL_KEY.encode() not in answered


async def test_a_stream_that_breaks_off_is_broken_for_the_runner_too(
    tmp_path: Path, upstream: Upstream
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = await _stream(request)
        await response.write(EVENT)
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.abort()
        return response

    upstream.handler = answer
    async with open_room(tmp_path / "a", upstream.url) as (gateway, door):
        answered = await send_raw(door.directory, build_request(close=False))
        assert gateway.stats(door.slug).streams_cut == 1
    assert EVENT in answered
    assert answered.count(b"HTTP/1.1 ") == 1
    with pytest.raises(ValueError, match="cut"):
        body_of(answered)


async def test_an_answer_shorter_than_announced_is_broken_for_the_runner_too(
    tmp_path: Path,
) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with open_room(tmp_path / "a", url):
            answered = await send_raw(tmp_path / "a", build_request())
    with pytest.raises(ValueError, match="cut"):
        body_of(answered)


async def test_an_unreachable_api_is_a_502_that_says_so(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with open_room(tmp_path / "a", url) as (gateway, door):
            answered = await send_raw(door.directory, build_request())
            assert gateway.stats(door.slug).bytes_down == 0
    assert status_of(answered) == 502
    kind, message = error_of(answered)
    assert kind == "api_error"
    assert message.startswith("The Messages API could not be reached")


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 99999,
    ],
    ids=["another protocol", "no status", "nothing", "an endless header"],
)
async def test_an_api_that_talks_nonsense_is_a_502(tmp_path: Path, garbage: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(garbage)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with open_room(tmp_path / "a", url):
            answered = await send_raw(tmp_path / "a", build_request())
    assert status_of(answered) == 502
    assert b"SSH" not in answered


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(tmp_path: Path, upstream: Upstream, status: int) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"location": f"{upstream.url}/elsewhere"})

    upstream.handler = answer
    async with open_room(tmp_path / "a", upstream.url):
        answered = await send_raw(tmp_path / "a", build_request())
    assert status_of(answered) == 502
    assert "redirect" in error_of(answered)[1]
    assert b"elsewhere" not in answered
    assert len(upstream.seen) == 1


async def test_a_compressed_answer_is_refused_because_nobody_could_look_into_it(
    tmp_path: Path, upstream: Upstream
) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"\x1f\x8b", headers={"content-encoding": "gzip"})

    upstream.handler = answer
    async with open_room(tmp_path / "a", upstream.url):
        answered = await send_raw(tmp_path / "a", build_request())
    assert status_of(answered) == 502


async def test_a_silent_api_is_a_504_and_a_stream_that_falls_silent_is_cut(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_module, "SILENCE_S", 0.2)
    starts = [False, True]

    async def answer(request: web.Request) -> web.StreamResponse:
        if starts.pop(0):
            await (await _stream(request)).write(EVENT)
        await asyncio.sleep(60)
        raise AssertionError

    upstream.handler = answer
    async with open_room(tmp_path / "a", upstream.url):
        assert status_of(await send_raw(tmp_path / "a", build_request())) == 504
        answered = await send_raw(tmp_path / "a", build_request())
    assert EVENT in answered
    with pytest.raises(ValueError, match="cut"):
        body_of(answered)


@pytest.mark.parametrize("has_started", [False, True], ids=["before", "within"])
async def test_a_client_that_leaves_ends_the_request_to_the_api(
    tmp_path: Path, upstream: Upstream, has_started: bool
) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if has_started:
            await (await _stream(request)).write(EVENT)
        asked.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        raise AssertionError

    upstream.handler = answer
    async with open_room(tmp_path / "a", upstream.url) as (gateway, door):
        async with connect(door.directory) as (reader, writer), asyncio.timeout(ANSWER_S):
            writer.write(build_request())
            await asked.wait()
            if has_started:
                await reader.readuntil(b"\n\n")
        async with asyncio.timeout(2):
            await ended.wait()
        assert await send_raw(door.directory, build_request(line="GET / HTTP/1.1"))
        assert gateway.stats(door.slug).streams_cut == 1


async def test_bytes_that_come_during_an_answer_are_the_next_request(
    tmp_path: Path, upstream: Upstream
) -> None:
    asked, going_on = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await _stream(request)
        await response.write(EVENT)
        asked.set()
        await going_on.wait()
        return response

    upstream.handler = answer
    async with (
        open_room(tmp_path / "a", upstream.url),
        connect(tmp_path / "a") as (reader, writer),
        asyncio.timeout(ANSWER_S),
    ):
        writer.write(build_request(close=False))
        await asked.wait()
        writer.write(build_request())
        await asyncio.sleep(0.05)
        assert len(upstream.seen) == 1
        going_on.set()
        answers = await reader.read()
    assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"\r\n0\r\n\r\n") == 2


async def test_the_upstream_may_have_a_path_of_its_own(tmp_path: Path, upstream: Upstream) -> None:
    async with open_room(tmp_path / "a", f"{upstream.url}/proxy/x/"):
        request = build_request(line="POST /v1/messages/count_tokens HTTP/1.1")
        assert status_of(await send_raw(tmp_path / "a", request)) == 200
    assert upstream.seen[0].path == "/proxy/x/v1/messages/count_tokens"
    assert "metadata" not in upstream.seen[0].json()


async def test_an_oauth_token_goes_as_a_bearer_with_its_beta(
    tmp_path: Path, upstream: Upstream
) -> None:
    token = OAuthToken(SecretStr("sk-ant-oat01-real"))
    async with open_egress(upstream=upstream.url, credential=token) as gateway:
        await gateway.open_door(room_door(tmp_path / "a"))
        request = build_request(headers={"anthropic-beta": "effort-2025-11-24"})
        assert status_of(await send_raw(tmp_path / "a", request)) == 200
    headers = upstream.seen[0].headers
    assert headers["authorization"] == "Bearer sk-ant-oat01-real"
    assert headers["anthropic-beta"] == "effort-2025-11-24,oauth-2025-04-20"
    assert "x-api-key" not in headers


async def test_https_is_checked_against_the_operators_certificates(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, context = _own_certificate(tmp_path)
    app = web.Application()
    app.router.add_post("/v1/messages", upstream.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        url = f"https://localhost:{runner.addresses[0][1]}"
        async with open_room(tmp_path / "a", url):
            assert status_of(await send_raw(tmp_path / "a", build_request())) == 502
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with open_room(tmp_path / "b", url):
            assert status_of(await send_raw(tmp_path / "b", build_request())) == 200
    finally:
        await runner.cleanup()
    assert len(upstream.seen) == 1


def _own_certificate(directory: Path) -> tuple[Path, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path = directory / "key.pem"
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    return path, context


async def test_an_operators_proxy_is_used_for_https_and_gets_no_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", address)
        monkeypatch.delenv("https_proxy", raising=False)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        async with open_room(tmp_path / "a", "https://api.example"):
            assert status_of(await send_raw(tmp_path / "a", build_request())) == 502
    assert heads[0].startswith(b"CONNECT api.example:443 ")
    assert REAL_KEY.encode() not in heads[0]
