"""The CA's file is whole or refused; its certificates are for the configured hosts alone."""

from __future__ import annotations

import datetime as dt
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from orchestrator.core.egress_rules import HostRule, parse_rule
from orchestrator.egress import authority as module
from orchestrator.egress.authority import FILE_NAME, LEAF_LIFE, Authority, load_or_make_authority
from orchestrator.errors import PreconditionError

RULES = [parse_rule(text) for text in ("api.example.org", "*.x.test", "192.0.2.1")]


def make(
    directory: Path,
    rules: list[HostRule] | None = None,
    now: Callable[[], dt.datetime] | None = None,
) -> Authority:
    kwargs = {} if now is None else {"now": now}
    return load_or_make_authority(directory, RULES if rules is None else rules, **kwargs)


def shake(
    authority: Authority,
    host: str,
    *,
    name: str | None = None,
    trust: bytes | None = None,
    alpn: list[str] | None = None,
    newest: ssl.TLSVersion | None = None,
    believes_all: bool = False,
) -> tuple[ssl.SSLObject, bytes]:
    """A whole handshake in memory; the client's end and the certificate it saw."""
    context = ssl.create_default_context(cadata=(trust or authority.certificate_pem).decode())
    if believes_all:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    if newest:
        context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, newest
        # Otherwise our own client would not speak it.
        context.set_ciphers("ALL:@SECLEVEL=0")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name or host)
    server = authority.context_for(host).wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
    return client, client.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize("host", ["api.example.org", "y.x.test", "192.0.2.1"])
def test_a_client_that_trusts_the_ca_takes_a_hosts_certificate(tmp_path: Path, host: str) -> None:
    client, raw = shake(make(tmp_path), host, alpn=["h2", "http/1.1"])
    assert client.version() == "TLSv1.3"
    assert client.selected_alpn_protocol() == "http/1.1"
    leaf = x509.load_der_x509_certificate(raw)
    assert leaf.not_valid_after_utc - dt.datetime.now(dt.UTC) <= LEAF_LIFE


def test_http_2_alone_is_not_agreed_on(tmp_path: Path) -> None:
    client, _ = shake(make(tmp_path), "api.example.org", alpn=["h2"])
    assert client.selected_alpn_protocol() is None


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_of_tls_are_not_spoken(tmp_path: Path, newest: ssl.TLSVersion) -> None:
    with pytest.raises(ssl.SSLError):
        shake(make(tmp_path), "api.example.org", newest=newest)


def test_another_server_name_ends_the_handshake(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLError):
        shake(make(tmp_path), "api.example.org", name="y.x.test", believes_all=True)


@pytest.mark.parametrize("host", ["evil.test", "example.org", "x.test.evil.test", "192.0.2.2"])
def test_a_certificate_for_a_host_that_is_not_configured_would_not_be_believed(
    tmp_path: Path, host: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shake(make(tmp_path), host)


@pytest.mark.parametrize("host", ["evil.test", "192.0.2.1"])
def test_no_host_at_all_is_permitted_where_none_is_configured(tmp_path: Path, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shake(make(tmp_path, []), host)


def test_it_is_the_same_after_a_restart_and_only_its_owner_can_read_the_key(tmp_path: Path) -> None:
    first = make(tmp_path)
    path = tmp_path / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert make(tmp_path).certificate_pem == first.certificate_pem
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE_NAME]
    assert b"PRIVATE" not in first.certificate_pem


def test_other_hosts_make_another_certificate_for_the_same_key(tmp_path: Path) -> None:
    first = make(tmp_path)
    second = make(tmp_path, [parse_rule("other.test")])
    assert first.certificate_pem != second.certificate_pem
    one, other = (
        x509.load_pem_x509_certificate(pem).public_key()
        for pem in (first.certificate_pem, second.certificate_pem)
    )
    assert one == other


def test_key_and_certificate_are_made_anew_a_year_before_the_end(tmp_path: Path) -> None:
    first = make(tmp_path)
    certificate = x509.load_pem_x509_certificate(first.certificate_pem)
    end = certificate.not_valid_after_utc
    assert make(tmp_path, now=lambda: end - dt.timedelta(days=366)).certificate_pem == (
        first.certificate_pem
    )
    late = end - dt.timedelta(days=364)
    renewed = x509.load_pem_x509_certificate(make(tmp_path, now=lambda: late).certificate_pem)
    assert renewed.public_key() != certificate.public_key()


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "swapped", "text"])
def test_a_damaged_file_is_refused_with_words_and_left_alone(tmp_path: Path, damage: str) -> None:
    make(tmp_path)
    path = tmp_path / FILE_NAME
    pem = path.read_bytes()
    (tmp_path / "other").mkdir()
    make(tmp_path / "other")
    foreign = (tmp_path / "other" / FILE_NAME).read_bytes()
    key = pem[: pem.index(b"-----BEGIN CERTIFICATE")]
    broken = {
        "cut": pem[: len(pem) // 2],
        "empty": b"",
        "foreign": key + foreign[foreign.index(b"-----BEGIN CERTIFICATE") :],
        "swapped": key + key,
        "text": b"hello",
    }[damage]
    path.write_bytes(broken)
    with pytest.raises(PreconditionError, match="is damaged") as caught:
        make(tmp_path)
    assert "Remove it; a new one is made." in str(caught.value)
    assert path.read_bytes() == broken


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / FILE_NAME).chmod(0o640)
    with pytest.raises(PreconditionError, match="can be read by others"):
        make(tmp_path)


def test_a_symlink_and_a_missing_directory_are_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PreconditionError, match="can't be used"):
        make(tmp_path)
    with pytest.raises(PreconditionError, match="can't be used"):
        make(tmp_path / "nothing")


def test_a_hosts_certificate_is_kept_and_made_anew_before_its_end(tmp_path: Path) -> None:
    now = [dt.datetime.now(dt.UTC)]
    authority = make(tmp_path, now=lambda: now[0])
    first = authority.context_for("api.example.org")
    assert authority.context_for("api.example.org") is first
    now[0] += LEAF_LIFE - dt.timedelta(hours=23)
    assert authority.context_for("api.example.org") is not first


def test_a_room_that_tries_names_does_not_fill_the_memory(tmp_path: Path) -> None:
    authority = make(tmp_path)
    kept = authority.context_for("0.x.test")
    for n in range(1, module._MAX_CONTEXTS + 1):
        authority.context_for(f"{n}.x.test")
    assert len(authority._contexts) == module._MAX_CONTEXTS
    assert authority.context_for("0.x.test") is not kept
