"""ClientHellos, well-formed or not, for what looks at them."""

from __future__ import annotations

import ssl
import struct

SERVER_NAME, EARLY_DATA, SUPPORTED_VERSIONS = 0, 42, 43
ECH, ESNI = 0xFE0D, 0xFFCE


def real_hello(name: str | None) -> bytes:
    """What this Python's OpenSSL says first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError


def vector(size: int, data: bytes) -> bytes:
    """Data after its length in `size` bytes."""
    return len(data).to_bytes(size, "big") + data


def name_entry(name: bytes, kind: int = 0) -> bytes:
    """One entry of a server name list."""
    return bytes([kind]) + vector(2, name)


def server_name(*names: bytes) -> tuple[int, bytes]:
    """The extension with these names."""
    return SERVER_NAME, vector(2, b"".join(name_entry(name) for name in names))


def extensions_of(*extensions: tuple[int, bytes]) -> bytes:
    """Their block, without its length."""
    return b"".join(struct.pack("!H", kind) + vector(2, data) for kind, data in extensions)


def hello_message(
    *extensions: tuple[int, bytes],
    version: int = 0x0303,
    session: bytes = b"",
    ciphers: bytes = b"\x13\x01\x13\x02",
    compressions: bytes = b"\0",
    block: bytes | None = None,
    after: bytes = b"",
) -> bytes:
    """A handshake message; `block` replaces the extensions with their length."""
    body = struct.pack("!H", version) + bytes(32) + vector(1, session)
    body += vector(2, ciphers) + vector(1, compressions)
    body += vector(2, extensions_of(*extensions)) if block is None else block
    return b"\x01" + vector(3, body + after)


def records(message: bytes, *cuts: int, kind: int = 0x16, version: int = 0x0301) -> bytes:
    """A message in records that end at these places, and at its end."""
    ends = [*cuts, len(message)]
    starts = [0, *cuts]
    return b"".join(
        struct.pack("!BH", kind, version) + vector(2, message[start:end])
        for start, end in zip(starts, ends, strict=True)
    )


def plain_hello(name: bytes) -> bytes:
    """A small TLS 1.3 hello that names one server, in one record."""
    return records(hello_message(server_name(name), (SUPPORTED_VERSIONS, b"\x02\x03\x04")))
