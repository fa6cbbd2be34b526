"""ClientHellos: any cutting reads the same, and whatever is odd is refused and nothing else."""

from __future__ import annotations

import contextlib
import itertools
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.client_hello import (
    MAX_HELLO_BYTES,
    HelloGuard,
    HelloReader,
    HelloRefusedError,
    check_server_name,
)
from orchestrator.core.egress_rules import Scheme, Target
from tests.support.client_hello import (
    SUPPORTED_VERSIONS,
    hello_message,
    plain_hello,
    real_hello,
    records,
    server_name,
    vector,
)
from tests.support.tls_site import make_authority

TARGET = Target(host="a.example", port=443, scheme=Scheme.HTTPS)
REAL = real_hello("a.example")


def _read(data: bytes, cuts: list[int]) -> object:
    reader = HelloReader()
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    whole = False
    try:
        for start, end in itertools.pairwise(places):
            whole = reader.feed(data[start:end])
    except HelloRefusedError:
        return "refused"
    return reader.server_names if whole else "more"


@given(st.lists(st.integers(0, len(REAL)), max_size=40))
def test_a_real_hello_reads_the_same_however_its_bytes_come(cuts: list[int]) -> None:
    assert _read(REAL, cuts) == ("a.example",)


@given(st.lists(st.integers(1, 66), max_size=20, unique=True))
def test_a_hello_reads_the_same_in_any_records(cuts: list[int]) -> None:
    message = hello_message(server_name(b"a.example"))
    assert _read(records(message, *sorted(cuts)), []) == ("a.example",)


@given(st.integers(0, len(REAL) - 1))
def test_a_hello_that_is_cut_short_is_waited_for(size: int) -> None:
    assert _read(REAL[:size], []) == "more"


@given(
    st.integers(0, len(REAL) - 1), st.integers(1, 255), st.lists(st.integers(0, 600), max_size=5)
)
def test_a_damaged_hello_is_read_or_refused_the_same_however_cut(
    at: int, change: int, cuts: list[int]
) -> None:
    damaged = bytearray(REAL)
    damaged[at] ^= change
    outcome = _read(bytes(damaged), cuts)
    assert outcome == _read(bytes(damaged), [])
    assert outcome in {"refused", "more"} or isinstance(outcome, tuple)


@given(st.binary(max_size=400))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    _read(data, [])
    _read(b"\x16\x03\x01" + data, [])
    _read(records(b"\x01" + len(data).to_bytes(3, "big") + data), [])


def test_what_never_ends_is_refused_at_the_limit() -> None:
    reader = HelloReader()
    reader.feed(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc")
    for _ in range(MAX_HELLO_BYTES - 9):
        assert reader.feed(b"a") is False
    with pytest.raises(HelloRefusedError, match="too large"):
        reader.feed(b"a")


def test_a_target_that_is_an_address_needs_no_name_and_takes_its_own() -> None:
    target = Target(host="192.0.2.1", port=443, scheme=Scheme.HTTPS)
    check_server_name((), target)
    check_server_name(("192.0.2.1",), target)
    for names in (("a.example",), ("192.0.2.2",), ("192.0.2.1", "192.0.2.1")):
        with pytest.raises(HelloRefusedError):
            check_server_name(names, target)


def _guard(data: bytes, cuts: list[int]) -> bytes | str:
    guard, passed = HelloGuard(TARGET), b""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    try:
        for start, end in itertools.pairwise(places):
            passed += guard.feed(data[start:end])
    except HelloRefusedError:
        return "refused"
    return passed


_CCS = b"\x14\x03\x03\0\1\1"
_WARNING = b"\x15\x03\x03\0\2\1\x5a"
_BETWEEN = st.sampled_from([b"", _CCS, _CCS + _CCS, _WARNING, _CCS + _WARNING + _CCS])


@given(
    _BETWEEN,
    st.sampled_from([b"\x17\x03\x03\0\1a", b"\x16\x03\x03\0\4\x10\0\0\0"]),
    st.binary(max_size=50),
    st.lists(st.integers(0, 80), max_size=20),
)
def test_the_guard_passes_on_what_is_no_second_hello(
    before: bytes, first: bytes, rest: bytes, cuts: list[int]
) -> None:
    data = before + first + rest
    assert _guard(data, cuts) == data


@given(_BETWEEN, st.lists(st.integers(0, 200), max_size=20), st.data())
def test_the_guard_lets_a_second_hello_pass_by_its_name_however_cut(
    before: bytes, cuts: list[int], data: st.DataObject
) -> None:
    inner = data.draw(st.lists(st.integers(1, 66), max_size=20, unique=True))
    good = before + records(hello_message(server_name(b"a.example")), *sorted(inner))
    evil = before + records(hello_message(server_name(b"b.example")), *sorted(inner))
    assert _guard(good, cuts) == good
    assert _guard(evil, cuts) == "refused"


@pytest.mark.parametrize("record", [_CCS, _WARNING])
def test_the_guard_does_not_read_on_for_ever(record: bytes) -> None:
    assert _guard(record * 32, []) == record * 32
    assert _guard(record * 33, [6, 100]) == "refused"


def test_a_server_goes_by_the_second_name_also_after_a_warning(tmp_path: Path) -> None:
    """Why the guard reads on behind an alert: this is what OpenSSL does."""
    seen: list[str] = []
    context = make_authority(tmp_path).server_context("a.example", "b.example")
    context.sni_callback = lambda _, name, __: seen.append(name)
    incoming = ssl.MemoryBIO()
    server = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    # No key share in the first: the server asks for another hello.
    for name, share, before in ((b"a.example", b"", b""), (b"b.example", _SHARE, _WARNING)):
        extensions = (*_TLS_1_3, (51, vector(2, share)), server_name(name))
        incoming.write(before + records(hello_message(*extensions)))
        with contextlib.suppress(ssl.SSLError):
            server.do_handshake()
    assert seen == ["a.example", "b.example"]


_SHARE = b"\0\x1d" + vector(2, bytes([9]) * 32)
_TLS_1_3 = ((10, b"\0\2\0\x1d"), (13, b"\0\2\4\3"), (SUPPORTED_VERSIONS, b"\2\3\4"))


def test_openssl_hellos_without_and_with_a_name_differ_for_us() -> None:
    assert _read(real_hello(None), []) == ()
    assert _read(plain_hello(b"a.example"), []) == ("a.example",)
