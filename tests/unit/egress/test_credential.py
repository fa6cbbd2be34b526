"""Credentials stay hidden, and placeholders look real and are worth nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from orchestrator.egress.credential import ApiKey, OAuthToken, room_placeholder
from orchestrator.model import InstallationId, RoomSlug

HERE = InstallationId("0123456789abcdef")
SECRET = b"s" * 32


def test_a_placeholder_has_the_shape_of_a_key_and_is_the_same_after_a_restart() -> None:
    first = room_placeholder(HERE, RoomSlug("a"), SECRET)
    assert re.fullmatch(r"sk-ant-api03-[A-Za-z0-9_-]{93}AA", first)
    assert first == room_placeholder(HERE, RoomSlug("a"), SECRET)


@given(st.text(max_size=40), st.text(max_size=40))
def test_rooms_installations_and_secrets_never_share_a_placeholder(a: str, b: str) -> None:
    if a == b:
        return
    made = {
        room_placeholder(HERE, RoomSlug(a), SECRET),
        room_placeholder(HERE, RoomSlug(b), SECRET),
        room_placeholder(InstallationId("f" * 16), RoomSlug(a), SECRET),
        room_placeholder(HERE, RoomSlug(a), b"t" * 32),
    }
    assert len(made) == 4


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        room_placeholder(HERE, RoomSlug("a"), b"short")


@pytest.mark.parametrize("kind", [ApiKey, OAuthToken])
def test_a_credential_never_shows_itself(kind: type[ApiKey] | type[OAuthToken]) -> None:
    held = kind(SecretStr("the-secret"))
    assert "the-secret" not in f"{held!r} {held}"


def test_each_kind_goes_into_its_own_header() -> None:
    headers = {"accept": "a", "anthropic-beta": "b"}
    assert ApiKey(SecretStr("k")).authorize(headers) == {**headers, "x-api-key": "k"}
    assert OAuthToken(SecretStr("k")).authorize(headers) == {
        "accept": "a",
        "anthropic-beta": "b,oauth-2025-04-20",
        "authorization": "Bearer k",
    }
