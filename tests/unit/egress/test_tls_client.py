"""TLS inside a tunnel: fed with bytes that were read before, however they are cut."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import pytest

from orchestrator.core.egress_rules import parse_rule
from orchestrator.egress.authority import Authority, load_or_make_authority
from orchestrator.egress.proxy_client import ClientGoneError
from orchestrator.egress.tls_client import TlsClient

HOST = "a.test"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return load_or_make_authority(tmp_path_factory.mktemp("ca"), [parse_rule(HOST)])


class Peer:
    """The client's end in memory, and a `ClientSide` for the server's that gives few bytes."""

    def __init__(self, authority: Authority, *, piece: int = 1 << 16) -> None:
        context = ssl.create_default_context(cadata=authority.certificate_pem.decode())
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)
        self._piece = piece
        self._to_read = bytearray()
        self._more = asyncio.Event()
        self.is_gone = False

    def hello(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self.tls.write(left) :]
        self.flush()

    def flush(self) -> None:
        self._to_read += self._outgoing.read()
        self._more.set()

    def leave(self) -> None:
        self.is_gone = True
        self._more.set()

    def received(self) -> bytes:
        return self.tls.read(1 << 20)

    async def read(self) -> bytes:
        while not self._to_read and not self.is_gone:
            self._more.clear()
            await self._more.wait()
        data = bytes(self._to_read[: self._piece])
        del self._to_read[: self._piece]
        return data

    def push_back(self, data: bytes) -> None:
        raise AssertionError

    async def write(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            if self.tls.version() is None or not self.is_ready:
                self.tls.do_handshake()
                self.is_ready = True
        except ssl.SSLWantReadError:
            pass
        self.flush()

    is_ready = False


async def _free(_size: int) -> None:
    pass


async def connect(
    authority: Authority, peer: Peer, *, charge: Callable[[int], Awaitable[None]] = _free
) -> TlsClient:
    client = TlsClient(peer, authority.context_for(HOST), hello=peer.hello(), charge=charge)
    async with asyncio.timeout(10):
        await client.handshake()
    return client


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
async def test_what_the_client_sends_arrives_whole_however_it_is_cut(
    authority: Authority, piece: int
) -> None:
    peer = Peer(authority, piece=piece)
    client = await connect(authority, peer)
    sent = bytes(range(256)) * 40
    peer.send(sent)
    got = b""
    while len(got) < len(sent):
        got += await client.read()
    assert got == sent
    await client.write(sent * 8)
    assert peer.received() == (sent * 8)[: 1 << 14]


async def test_what_was_pushed_back_is_read_first(authority: Authority) -> None:
    peer = Peer(authority)
    client = await connect(authority, peer)
    peer.send(b"second")
    client.push_back(b"first")
    assert [await client.read(), await client.read()] == [b"first", b"second"]


async def test_the_end_is_one_that_the_client_said(authority: Authority) -> None:
    peer = Peer(authority)
    client = await connect(authority, peer)
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    peer.flush()
    assert await client.read() == b""


async def test_a_cut_is_no_end(authority: Authority) -> None:
    peer = Peer(authority)
    client = await connect(authority, peer)
    peer.leave()
    with pytest.raises(ClientGoneError):
        await client.read()


async def test_bytes_that_are_no_tls_end_the_connection(authority: Authority) -> None:
    peer = Peer(authority)
    client = await connect(authority, peer)
    peer._to_read += b"GET / HTTP/1.1\r\n\r\n"
    peer.flush()
    with pytest.raises(ClientGoneError):
        await client.read()


async def test_a_hello_that_is_cut_by_the_client_leaving_ends_the_connection(
    authority: Authority,
) -> None:
    peer = Peer(authority)
    hello = peer.hello()
    peer.leave()
    client = TlsClient(peer, authority.context_for(HOST), hello=hello[:-3], charge=_free)
    with pytest.raises(ClientGoneError):
        await client.handshake()


async def test_records_without_content_are_paid_for(authority: Authority) -> None:
    paid: list[int] = []

    async def charge(size: int) -> None:
        paid.append(size)

    peer = Peer(authority)
    client = await connect(authority, peer, charge=charge)
    for _ in range(3000):
        peer.send(b"x")
    read = 0
    while read < 3000:
        read += len(await client.read())
    # Some 22 bytes of each record carry nothing.
    assert sum(paid) > 30_000
    paid.clear()
    peer.send(b"y" * 500_000)
    read = 0
    while read < 500_000:
        read += len(await client.read())
    assert not paid, "what is passed on is counted there"


async def test_a_tunnel_can_be_ended(authority: Authority) -> None:
    peer = Peer(authority)
    client = await connect(authority, peer)
    await client.end()
    assert peer.received() == b""
    assert "TLSv1.3" in repr(client)
