"""A /sync answer taken apart, and the inbox rows that it becomes. Pure.

Tolerant: whatever is not of the expected shape is counted and left out, alone. Order of the rows:
keys before events; in a room what was missed before what is new; never two rooms mixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.matrix.rawjson import dump_json
from orchestrator.model import EventId, JsonObject, JsonValue, RoomId, UserId
from orchestrator.store.api import InboxKind, NewInboxRow, Restored

# The limit of the specification for ids.
_MAX_ID_BYTES = 255
# How far a homeserver's clock may be ahead of ours, so that nothing that the lost database knew is
# run again. What was sent within these minutes after a restore is told with the rest.
RESTORE_MARGIN_S = 300.0
_MESSAGES = ("m.room.message", "m.room.encrypted")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomUpdate:
    """What an answer has for one joined room."""

    room_id: RoomId
    timeline: Sequence[JsonObject]
    limited: bool
    prev_batch: str | None
    state: Sequence[JsonObject]
    summary: JsonObject | None
    typing: frozenset[UserId] | None
    """Who types now; None when the answer doesn't say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncUpdate:
    """What an answer has for us."""

    rooms: Sequence[RoomUpdate] = ()
    invites: Sequence[tuple[RoomId, JsonObject]] = ()
    leaves: Sequence[tuple[RoomId, JsonObject]] = ()
    to_device: Sequence[JsonObject] = ()
    device_lists: JsonObject | None = None
    malformed: int = 0
    """How many items were left out."""


@dataclass(slots=True)
class _Parser:
    malformed: int = 0

    def objects(self, value: JsonValue) -> list[JsonObject]:
        items = value if isinstance(value, list) else []
        found = [item for item in items if isinstance(item, dict)]
        self.malformed += len(items) - len(found) + (value is not None and value is not items)
        return found

    def object(self, parent: JsonObject, key: str) -> JsonObject:
        value = parent.get(key)
        if isinstance(value, dict):
            return value
        self.malformed += value is not None
        return {}

    def by_room(self, value: JsonObject) -> Iterator[tuple[RoomId, JsonObject]]:
        for room_id, item in value.items():
            if isinstance(item, dict) and is_storable_id(room_id):
                yield RoomId(room_id), item
            else:
                self.malformed += 1

    def room(self, room_id: RoomId, item: JsonObject) -> RoomUpdate:
        timeline = self.object(item, "timeline")
        prev_batch = timeline.get("prev_batch")
        return RoomUpdate(
            room_id=room_id,
            timeline=self.objects(timeline.get("events")),
            limited=timeline.get("limited") is True,
            prev_batch=prev_batch if isinstance(prev_batch, str) else None,
            state=self.objects(self.object(item, "state").get("events")),
            summary=self.object(item, "summary") or None,
            typing=_typing(self.objects(self.object(item, "ephemeral").get("events"))),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """After a restore: events of the first answer that the lost database may have known.

    Of that answer alone: what comes later is new, however old it says it is. Times are the senders'
    homeservers', so that some minutes after the restore count as before it.
    """

    restored: Restored
    me: UserId

    def covers(self, event: JsonObject) -> bool:
        """Whether the event may have been run already."""
        at_ms = event.get("origin_server_ts")
        until_ms = (self.restored.restored_at + RESTORE_MARGIN_S) * 1000
        return not isinstance(at_ms, int) or at_ms < until_ms

    def is_others_message(self, event: JsonObject) -> bool:
        """Whether somebody may wait for an answer to it."""
        return event.get("type") in _MESSAGES and event.get("sender") != self.me


def parse_sync(body: JsonObject) -> SyncUpdate:
    """Take an answer apart; whatever it holds, this returns."""
    parser = _Parser()
    rooms = parser.object(body, "rooms")
    return SyncUpdate(
        rooms=[parser.room(*item) for item in parser.by_room(parser.object(rooms, "join"))],
        invites=[
            (
                room_id,
                {"events": list(parser.objects(parser.object(item, "invite_state").get("events")))},
            )
            for room_id, item in parser.by_room(parser.object(rooms, "invite"))
        ],
        leaves=list(parser.by_room(parser.object(rooms, "leave"))),
        to_device=parser.objects(parser.object(body, "to_device").get("events")),
        device_lists=_device_lists(parser.object(body, "device_lists")),
        malformed=parser.malformed,
    )


def build_rows(
    update: SyncUpdate,
    *,
    missed: Mapping[RoomId, Sequence[JsonObject]],
    live_from: Mapping[RoomId, int],
    unknown: Unknown | None = None,
) -> list[NewInboxRow]:
    """The rows of one answer in the order in which they are to be handled.

    Args:
        update: the answer.
        missed: per room, what a limited timeline left out, oldest first.
        live_from: per room, how many of its events (missed ones first) are history.
        unknown: what is not to be run, for it may have been; its rooms are to be told.
    """
    rows = [_row(InboxKind.TO_DEVICE, None, event) for event in update.to_device]
    if update.device_lists is not None:
        rows.append(_row(InboxKind.DEVICE_LISTS, None, update.device_lists))
    rows += [_row(InboxKind.INVITE, room_id, item) for room_id, item in update.invites]
    for room in update.rooms:
        timeline = [*missed.get(room.room_id, ()), *room.timeline]
        past = {i for i in range(len(timeline)) if i < live_from.get(room.room_id, 0)}
        if unknown is not None:
            since = {i for i, event in enumerate(timeline) if unknown.covers(event)} - past
            if any(unknown.is_others_message(timeline[i]) for i in since):
                rows.append(_row(InboxKind.RESTORED, room.room_id, unknown.restored.payload))
            past |= since
        rows += _room_rows(room, missed.get(room.room_id, ()), past)
    rows += [_row(InboxKind.LEAVE, room_id, item) for room_id, item in update.leaves]
    return [row for row in rows if row is not None]


def find_live_start(events: Sequence[JsonObject], me: UserId) -> int | None:
    """Where a room that we have just joined becomes ours: the index after our own invitation.

    Without an invitation among the events: after our own join. None when neither is there.
    """
    start: int | None = None
    current: JsonValue = None
    for index, event in enumerate(events):
        membership = _own_membership(event, me)
        if membership == "invite" or (
            membership == "join"
            and current not in ("invite", "join")
            and not (current is None and _was_joined(event))
        ):
            start = index + 1
        current = membership or current
    return start


def event_id_of(event: JsonObject) -> EventId | None:
    """The event's id, when it has a usable one."""
    event_id = event.get("event_id")
    return EventId(event_id) if isinstance(event_id, str) and is_storable_id(event_id) else None


def is_storable_id(text: str) -> bool:
    """Whether the text can be an id: not empty, not too long, without lone surrogates."""
    try:
        return 0 < len(text.encode()) <= _MAX_ID_BYTES
    except UnicodeEncodeError:
        return False


def _room_rows(
    room: RoomUpdate, missed: Sequence[JsonObject], history: set[int]
) -> Iterator[NewInboxRow | None]:
    events = [*missed, *room.timeline]
    for index, event in enumerate(events):
        if index == len(missed):
            yield from _background(room)
        past = index in history
        # Past state still says how the room is now (encrypted, its name): it informs.
        kind = InboxKind.STATE if past and "state_key" in event else InboxKind.TIMELINE
        yield _row(kind, room.room_id, event, history=past and kind is InboxKind.TIMELINE)
    if len(missed) == len(events):
        yield from _background(room)


def _background(room: RoomUpdate) -> Iterator[NewInboxRow | None]:
    for event in room.state:
        yield _row(InboxKind.STATE, room.room_id, event)
    if room.summary is not None:
        yield _row(InboxKind.SUMMARY, room.room_id, room.summary)


def _row(
    kind: InboxKind, room_id: RoomId | None, item: JsonObject, *, history: bool = False
) -> NewInboxRow | None:
    try:
        raw = dump_json(item)
    except RecursionError:
        return None
    event_id = event_id_of(item) if kind in (InboxKind.TIMELINE, InboxKind.STATE) else None
    return NewInboxRow(kind=kind, room_id=room_id, event_id=event_id, raw=raw, history=history)


def _typing(ephemeral: Sequence[JsonObject]) -> frozenset[UserId] | None:
    for event in ephemeral:
        content = event.get("content")
        if event.get("type") == "m.typing" and isinstance(content, dict):
            users = content.get("user_ids")
            return frozenset(
                UserId(u) for u in (users if isinstance(users, list) else []) if isinstance(u, str)
            )
    return None


def _device_lists(value: JsonObject) -> JsonObject | None:
    lists: JsonObject = {}
    for key in ("changed", "left"):
        users = value.get(key)
        lists[key] = [u for u in users if isinstance(u, str)] if isinstance(users, list) else []
    return lists if any(lists.values()) else None


def _own_membership(event: JsonObject, me: UserId) -> JsonValue:
    if event.get("type") != "m.room.member" or event.get("state_key") != me:
        return None
    content = event.get("content")
    return content.get("membership") if isinstance(content, dict) else None


def _was_joined(event: JsonObject) -> bool:
    unsigned = event.get("unsigned")
    before = unsigned.get("prev_content") if isinstance(unsigned, dict) else None
    return isinstance(before, dict) and before.get("membership") == "join"
