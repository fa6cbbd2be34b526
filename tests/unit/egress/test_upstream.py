"""The secret's filter and the operator's proxy: pure parts of the way to the API."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from orchestrator.egress.credential import ApiKey
from orchestrator.egress.secret_filter import SecretFilter
from orchestrator.egress.upstream import Upstream

SECRET = "sk-ant-sk"


def _filter(pieces: list[bytes], secret: str = SECRET) -> bytes:
    guard = SecretFilter(secret)
    return b"".join([*map(guard.feed, pieces), guard.end()])


@given(
    st.lists(st.sampled_from([b"s", b"sk", b"sk-ant", b"-sk", b"k-ant-sk", b"sk-ant-sk", b"x"])),
    st.integers(1, 4),
)
def test_the_secret_is_taken_out_however_the_pieces_are_cut(pieces: list[bytes], size: int) -> None:
    whole = b"".join(pieces)
    cut = [whole[n : n + size] for n in range(0, len(whole), size)]
    expected = whole.replace(SECRET.encode(), b"[removed]")
    assert _filter(pieces) == _filter(cut) == expected
    assert SECRET.encode() not in expected


@given(st.lists(st.binary(max_size=20)))
def test_other_bytes_pass_unchanged(pieces: list[bytes]) -> None:
    assert _filter(pieces, "a-secret-that-is-not-in-there-at-all") == b"".join(pieces)


def test_an_event_is_held_back_only_where_it_could_begin_the_secret() -> None:
    guard = SecretFilter(SECRET)
    assert guard.feed(b"data: risk\n\n") == b"data: risk\n\n"
    assert guard.feed(b"data: sk-a") == b"data: "
    assert guard.feed(b"sk\n\n") == b"sk-ask\n\n"


@pytest.mark.parametrize(
    ("address", "environment", "is_proxied"),
    [
        ("https://api.example", {"HTTPS_PROXY": "http://p:1"}, True),
        ("https://api.example", {"https_proxy": "http://p:1"}, True),
        ("https://api.example", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example"}, False),
        ("https://api.example", {"HTTP_PROXY": "http://p:1"}, False),
        ("http://127.0.0.1:1", {"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:1"}, False),
        ("https://api.example", {}, False),
    ],
)
def test_a_proxy_is_used_for_https_alone_and_never_for_excepted_hosts(
    monkeypatch: pytest.MonkeyPatch, address: str, environment: dict[str, str], is_proxied: bool
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    upstream = Upstream(address, ApiKey(SecretStr("the-secret")))
    assert f"proxied={is_proxied}" in repr(upstream)
    assert "the-secret" not in repr(upstream)
