"""The installation's own CA: made at first use, kept in one file, signs for intercepted hosts.

Rules: the key never leaves STATE_DIR and this process; a room gets the certificate, which is
public. That names the hosts which the configuration intercepts (name constraints): whoever trusts
it trusts it for these and no others. A host's certificate lives for days, and in memory alone.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.core.egress_rules import HostRule, is_address
from orchestrator.errors import PreconditionError
from orchestrator.private_file import write_private

FILE_NAME: Final = "authority.pem"
# Long, because runners that are up hold a copy; the constraints and the key's place protect it.
_CA_LIFE: Final = dt.timedelta(days=3650)
_CA_RENEW: Final = dt.timedelta(days=365)
# Nobody can revoke one, so none lives long.
LEAF_LIFE: Final = dt.timedelta(days=7)
_LEAF_RENEW: Final = dt.timedelta(days=1)
# A guest's clock that is a little slow.
_BACKDATE: Final = dt.timedelta(hours=1)
# One context has some 30 KB; more hosts than this at once is a room that tries names.
_MAX_CONTEXTS: Final = 256
# Constraints name one kind of name only: what is not named of the other kind would be free.
_NO_NAME: Final = "invalid"
_NO_NETWORKS: Final = ("0.0.0.0/32", "::/128")
_Key = ec.EllipticCurvePrivateKey


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Authority:
    """Signs. Invariant: every certificate that it gives out names a host that its own permits."""

    def __init__(
        self, key: _Key, certificate: x509.Certificate, *, now: Callable[[], dt.datetime] = _now
    ) -> None:
        self._key = key
        self._certificate = certificate
        self._now = now
        # One for all hosts: it is in memory only, and gone with the process.
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._contexts: OrderedDict[str, _Leaf] = OrderedDict()

    def __repr__(self) -> str:
        return f"Authority(serial={self._certificate.serial_number:x}, hosts={len(self._contexts)})"

    @property
    def certificate_pem(self) -> bytes:
        """What a runner has to trust; public."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def context_for(self, host: str) -> ssl.SSLContext:
        """The server's side of TLS as this host: TLS 1.2 or later, HTTP/1.1 and nothing else.

        `host` has gone through `parse_host`. A client that asks for another name is refused.
        """
        held = self._contexts.pop(host, None)
        if held is None or held.renew_at <= self._now():
            held = self._make(host)
        self._contexts[host] = held
        while len(self._contexts) > _MAX_CONTEXTS:
            self._contexts.popitem(last=False)
        return held.context

    def _make(self, host: str) -> _Leaf:
        until = min(self._now() + LEAF_LIFE, self._certificate.not_valid_after_utc)
        chain = self._sign(host, until).public_bytes(serialization.Encoding.PEM)
        return _Leaf(
            context=_server_context(host, _private_pem(self._leaf_key) + chain),
            renew_at=until - _LEAF_RENEW,
        )

    def _sign(self, host: str, until: dt.datetime) -> x509.Certificate:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        return (
            x509.CertificateBuilder()
            # Empty: a common name has 64 characters, and nobody reads one where there is a SAN.
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now() - _BACKDATE)
            .not_valid_after(until)
            .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(for_tls=True), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(_key_id(self._leaf_key), critical=False)
            .add_extension(_authority_id(self._key), critical=False)
            .sign(self._key, hashes.SHA256())
        )


@dataclass(frozen=True, slots=True)
class _Leaf:
    context: ssl.SSLContext
    renew_at: dt.datetime


def load_or_make_authority(
    state_dir: Path, rules: Iterable[HostRule], *, now: Callable[[], dt.datetime] = _now
) -> Authority:
    """The authority in STATE_DIR/authority.pem (0600) for what the rules name; blocks.

    Other rules than last time: a new certificate for the same key. Less than a year left: both new.

    Raises:
        PreconditionError: the file can't be read or made, is damaged, or others can read it.
    """
    path = state_dir / FILE_NAME
    constraints = _constraints(rules)
    try:
        held = _read(path)
        if held is None or held[1].not_valid_after_utc - now() < _CA_RENEW:
            key = ec.generate_private_key(ec.SECP256R1())
        else:
            key, certificate = held
            if _constraints_of(certificate) == constraints:
                return Authority(key, certificate, now=now)
        certificate = _self_sign(key, constraints, now())
        write_private(
            path, _private_pem(key) + certificate.public_bytes(serialization.Encoding.PEM)
        )
    except OSError as e:
        msg = f"{path} can't be used: {e.strerror}"
        raise PreconditionError(msg) from e
    return Authority(key, certificate, now=now)


def _read(path: Path) -> tuple[_Key, x509.Certificate] | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        pem = file.read()
    if mode & 0o077:
        msg = f"{path} can be read by others than its owner. Remove it; a new one is made."
        raise PreconditionError(msg)
    try:
        key = serialization.load_pem_private_key(pem, None)
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        raise PreconditionError(_damaged(path)) from None
    if not isinstance(key, _Key) or key.public_key() != certificate.public_key():
        raise PreconditionError(_damaged(path))
    return key, certificate


def _damaged(path: Path) -> str:
    return f"{path} is damaged: expected a key and its certificate. Remove it; a new one is made."


def _self_sign(key: _Key, constraints: x509.NameConstraints, now: dt.datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aiagentchat egress gateway")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(for_tls=False), critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(_key_id(key), critical=False)
        .sign(key, hashes.SHA256())
    )


def _constraints(rules: Iterable[HostRule]) -> x509.NameConstraints:
    """What the rules name, and nothing else of either kind."""
    hosts = sorted({rule.host for rule in rules})
    names = [host for host in hosts if not is_address(host)]
    networks = [str(ipaddress.ip_network(host)) for host in hosts if is_address(host)]
    permitted: list[x509.GeneralName] = [x509.DNSName(name) for name in names or [_NO_NAME]]
    permitted += [
        x509.IPAddress(ipaddress.ip_network(network)) for network in networks or _NO_NETWORKS
    ]
    return x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None)


def _constraints_of(certificate: x509.Certificate) -> x509.NameConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def _general_name(host: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(host)) if is_address(host) else x509.DNSName(host)


def _usage(*, for_tls: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=for_tls,
        key_cert_sign=not for_tls,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_id(key: _Key) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _authority_id(key: _Key) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _private_pem(key: _Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _server_context(host: str, pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # What a session was agreed for is agreed anew each time.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    # A call-back's return value: None goes on, a number is the alert that ends the handshake.
    context.sni_callback = lambda _, name, __: (
        None if name is None or name.lower() == host else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    )
    # Only a file can be loaded; this one is in memory alone.
    descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context
