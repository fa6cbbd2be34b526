"""From a /sync answer to inbox rows."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.matrix.rawjson import parse_object
from orchestrator.matrix.response import build_rows, find_live_start, parse_sync
from orchestrator.model import JsonObject, RoomId, UserId
from orchestrator.store.api import InboxKind

ME = UserId("@agent:x")
ROOM = RoomId("!r:x")
KEYS = [
    "rooms",
    "join",
    "invite",
    "leave",
    "timeline",
    "state",
    "events",
    "ephemeral",
    "summary",
    "to_device",
    "type",
    "content",
    "user_ids",
    "event_id",
    "state_key",
    "membership",
    "device_lists",
    "changed",
]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=30,
)


def message(event_id: str) -> JsonObject:
    return {"type": "m.room.message", "event_id": event_id, "content": {}}


def member(event_id: str, membership: str, user: str = ME, before: str | None = None) -> JsonObject:
    unsigned: JsonObject = {"prev_content": {"membership": before}} if before else {}
    return {
        "type": "m.room.member",
        "event_id": event_id,
        "state_key": user,
        "content": {"membership": membership},
        "unsigned": unsigned,
    }


def answer(timeline: list[JsonObject], **more: Any) -> JsonObject:
    room = {"timeline": {"events": timeline}, **more}
    return parse_object(json.dumps({"rooms": {"join": {ROOM: room}}}).encode())


@given(ANYTHING, ANYTHING)
def test_no_answer_of_any_shape_raises(body: Any, rooms: Any) -> None:
    for value in (body, {"rooms": rooms}, {"rooms": {"join": {ROOM: body}, "invite": rooms}}):
        update = parse_sync(value if isinstance(value, dict) else {"rooms": value})
        for row in build_rows(update, missed={}, live_from={}):
            json.loads(row.raw)


def test_keys_come_before_events_and_what_was_missed_before_what_is_new() -> None:
    body = answer(
        [message("$3")],
        state={"events": [{"type": "m.room.name", "state_key": "", "event_id": "$s"}]},
        summary={"m.joined_member_count": 2},
    )
    body |= {
        "to_device": {"events": [{"type": "m.room.encrypted"}]},
        "device_lists": {"changed": ["@a:x"], "left": []},
    }
    rows = build_rows(parse_sync(body), missed={ROOM: [message("$1"), message("$2")]}, live_from={})
    assert [(row.kind, row.event_id) for row in rows] == [
        (InboxKind.TO_DEVICE, None),
        (InboxKind.DEVICE_LISTS, None),
        (InboxKind.TIMELINE, "$1"),
        (InboxKind.TIMELINE, "$2"),
        (InboxKind.STATE, "$s"),
        (InboxKind.SUMMARY, None),
        (InboxKind.TIMELINE, "$3"),
    ]


def test_history_never_triggers_and_its_state_still_informs() -> None:
    encryption: JsonObject = {"type": "m.room.encryption", "state_key": "", "event_id": "$e"}
    body = answer([message("$1"), encryption, message("$2")])
    rows = build_rows(parse_sync(body), missed={}, live_from={ROOM: 2})
    assert [(row.kind, row.history) for row in rows] == [
        (InboxKind.TIMELINE, True),
        (InboxKind.STATE, False),
        (InboxKind.TIMELINE, False),
    ]


def test_a_room_is_ours_from_our_invitation_on_or_else_from_our_join() -> None:
    old, new = message("$old"), message("$new")
    other = member("$o", "invite", user="@other:x")
    invite, join = member("$i", "invite"), member("$j", "join", before="invite")
    rename = member("$n", "join", before="join")
    assert find_live_start([old, other, invite, new, join, new], ME) == 3
    assert find_live_start([old, join, new], ME) == 2
    assert find_live_start([old, invite, join, rename, new], ME) == 2
    assert find_live_start([rename, new], ME) is None
    assert find_live_start([old, new], ME) is None
    assert find_live_start([invite, join, member("$l", "leave"), old, invite, join], ME) == 5


def test_an_id_that_can_not_be_stored_is_left_out_and_its_event_stays() -> None:
    for bad in ("", "$" + "x" * 300, "\ud800", 5, None, ["$a"]):
        rows = build_rows(
            parse_sync(answer([{"event_id": bad}, message("$ok")])),  # type: ignore[dict-item]
            missed={},
            live_from={},
        )
        assert [row.event_id for row in rows] == [None, "$ok"]


def test_who_types_is_told_apart_from_nothing_said() -> None:
    typing = {"events": [{"type": "m.typing", "content": {"user_ids": ["@a:x", 5]}}]}
    assert parse_sync(answer([], ephemeral=typing)).rooms[0].typing == {"@a:x"}
    nobody = {"events": [{"type": "m.typing", "content": {"user_ids": []}}]}
    assert parse_sync(answer([], ephemeral=nobody)).rooms[0].typing == frozenset()
    assert parse_sync(answer([])).rooms[0].typing is None
