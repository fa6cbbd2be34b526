"""Names on the host: valid for any input, and different for different rooms."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.naming import (
    MAX_SLUG_CHARS,
    ROOMS_PER_INSTALLATION,
    room_slug,
    room_uid,
    runner_name,
    turn_id,
    txn_id,
)
from orchestrator.model import EventId, InstallationId, RoomId

INSTALLATION = InstallationId("0123456789abcdef")


@given(st.text())
def test_any_text_gives_a_valid_slug_and_container_name(text: str) -> None:
    slug = room_slug(RoomId(text))
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*[a-z0-9]", slug)
    assert len(slug) <= MAX_SLUG_CHARS
    # Docker's own rule for names.
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", runner_name(INSTALLATION, slug))


@given(st.text(), st.text())
def test_different_rooms_have_different_slugs(one: str, other: str) -> None:
    assert (room_slug(RoomId(one)) == room_slug(RoomId(other))) is (one == other)


@pytest.mark.parametrize("text", ["!../../etc:x", "!a/b:c", "!\0:x", "!\ud800:x", "!ROOM:x", ""])
def test_hostile_room_ids_never_reach_a_path(text: str) -> None:
    assert "/" not in room_slug(RoomId(text))
    assert ".." not in room_slug(RoomId(text))


def test_every_room_has_a_uid_of_its_own_far_from_those_of_people() -> None:
    uids = [room_uid(INSTALLATION, index) for index in range(ROOMS_PER_INSTALLATION)]
    assert len(set(uids)) == ROOMS_PER_INSTALLATION
    assert min(uids) > 600_100_000
    assert max(uids) < 2**31
    with pytest.raises(ValueError, match="at most"):
        room_uid(INSTALLATION, ROOMS_PER_INSTALLATION)


def test_a_batch_and_its_messages_always_have_the_same_ids() -> None:
    room, event = RoomId("!r:x"), EventId("$e")
    assert turn_id(room, event) == turn_id(room, event)
    assert turn_id(room, event) != turn_id(RoomId("!s:x"), event)
    assert txn_id("t1", 0) != txn_id("t1", 1)
