"""Servers for the proxy's tests, on loopback, with certificates of a CA that is made for a test."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA; `directory` holds its certificate (ca.pem) and what it has issued."""

    directory: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def file(self) -> Path:
        return self.directory / "ca.pem"

    def client_context(self) -> ssl.SSLContext:
        """A client that trusts this CA alone."""
        return ssl.create_default_context(cafile=str(self.file))

    def server_context(self, *names: str) -> ssl.SSLContext:
        """A server with a certificate for these names (or addresses)."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(names[0], self.certificate.subject, key)
            .add_extension(x509.SubjectAlternativeName(_general(names)), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        path = self.directory / f"{names[0].replace('*', '_')}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + _private_bytes(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def make_authority(directory: Path) -> Authority:
    """A new CA, its files in `directory`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA of a test")])
    certificate = (
        _builder("CA of a test", name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Authority(directory, key, certificate)
    made.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return made


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 30 * _DAY)
    )


def _general(names: Sequence[str]) -> list[x509.GeneralName]:
    return [x509.DNSName(name) for name in names]


def _private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@dataclass(slots=True)
class Site:
    """A server that notes each connection, and answers each HTTP request with what it was."""

    port: int = 0
    context: ssl.SSLContext | None = None
    closes: bool = False
    """Close after each answer, whatever was asked."""
    server: asyncio.Server = field(init=False)
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    """To give, in order, instead of the usual one."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if self.context is not None:
                await writer.start_tls(self.context)
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head)
                self.bodies.append(await _read_body(reader, head))
                writer.write(self.answers.pop(0) if self.answers else _USUAL)
                await writer.drain()
                if self.closes or b"connection: close" in head.lower():
                    break
        writer.close()


_USUAL = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Type: text/plain\r\n\r\nreach\n"


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return body
    _, found, rest = lower.partition(b"content-length: ")
    return await reader.readexactly(int(rest.partition(b"\r\n")[0])) if found else b""


@contextlib.asynccontextmanager
async def open_site(
    context: ssl.SSLContext | None = None,
    *,
    address: str = "127.0.0.1",
    sock: socket.socket | None = None,
) -> AsyncIterator[Site]:
    """A site on a free port of an address, or on a bound socket; with `context` it speaks TLS.

    A connection counts when it is made, also where no TLS comes of it.
    """
    site = Site()
    if sock is None:
        sock = socket.create_server((address, 0))
    server = site.server = await asyncio.start_server(site.serve, sock=sock)
    site.context = context
    site.port = sock.getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        await server.wait_closed()
