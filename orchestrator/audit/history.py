"""What the homeserver has of the agent's rooms, by GET requests with the kept session's token.

Rules: it never logs in and never writes; a room is read from the place up to which the database has
received, back to the agent's own invitation and on to its end; every walk has a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from orchestrator.core.evidence import SeenEvent, SeenRoom, build_digest
from orchestrator.core.turn_mark import parse_mark
from orchestrator.errors import HomeserverUnreachableError, RateLimitedError, RequestRefusedError
from orchestrator.matrix.http import MatrixHttp, api_path
from orchestrator.matrix.response import event_id_of, find_live_start
from orchestrator.matrix.translate import unreadable
from orchestrator.model import EventId, JsonObject, RoomId, TxnId, UserId

PAGE_EVENTS = 100
MAX_PAGES = 400
"""Of one room, each way: 40,000 events, some ten seconds of a homeserver's time."""
_ROOMS_AT_ONCE = 4
_ATTEMPTS = 5
_MAX_WAIT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What was read."""

    rooms: Sequence[SeenRoom]
    events: Sequence[SeenEvent]
    senders: frozenset[UserId]


@dataclass(slots=True)
class _Walk:
    """One room's events, the newest first; `is_cut` when the bound was met."""

    events: list[JsonObject] = field(default_factory=list)
    is_cut: bool = False


class HistoryReader:
    """Reads as one account. Invariant: every request is a GET."""

    def __init__(
        self,
        http: MatrixHttp,
        me: UserId,
        *,
        sync_token: str | None,
        is_history: Callable[[EventId], bool],
    ) -> None:
        """`is_history`: whether the database holds that the event was there before the agent."""
        self._http = http
        self._me = me
        self._sync_token = sync_token
        self._is_history = is_history
        self._limit = asyncio.Semaphore(_ROOMS_AT_ONCE)

    def __repr__(self) -> str:
        return f"<HistoryReader {self._me}>"

    async def read(self) -> History:
        """Every room that the account is in.

        Raises:
            HomeserverUnreachableError, RateLimitedError: it can't be asked now.
            LoginRefusedError: the token is not valid any more.
        """
        answer = await self._get(api_path("joined_rooms"), {})
        rooms = answer.get("joined_rooms")
        if not isinstance(rooms, list):
            raise unreadable("listing the rooms")
        async with asyncio.TaskGroup() as group:
            reading = [
                group.create_task(self._room(RoomId(room)), name=f"read {room}")
                for room in rooms
                if isinstance(room, str)
            ]
        found = [task.result() for task in reading]
        events = [event for _, seen in found for event in seen]
        return History(
            rooms=[room for room, _ in found],
            events=events,
            senders=frozenset(event.sender for event in events),
        )

    async def has_event(self, room_id: RoomId, event_id: EventId) -> bool:
        """Whether the homeserver still has the event."""
        try:
            await self._get(api_path("rooms", room_id, "event", event_id), {})
        except RequestRefusedError:
            return False
        return True

    async def _room(self, room_id: RoomId) -> tuple[SeenRoom, list[SeenEvent]]:
        try:
            async with self._limit:
                after = _Walk()
                if self._sync_token is not None:
                    after = await self._walk(room_id, "f", self._sync_token)
                before = await self._walk(room_id, "b", self._sync_token)
        except RequestRefusedError:  # just left, say: nothing of it can be judged
            return SeenRoom(room_id=room_id, live_from=float("inf"), is_cut=True), []
        is_live, events = self._live(before.events)
        room = SeenRoom(
            room_id=room_id,
            live_from=min((_sent_at(e) for e in events), default=float("inf")),
            is_cut=(before.is_cut and not is_live) or after.is_cut,
        )
        is_new = self._sync_token is None
        seen = [s for e in events if (s := self._seen(room_id, e, is_new=is_new)) is not None]
        seen += [s for e in after.events if (s := self._seen(room_id, e, is_new=True)) is not None]
        return room, seen

    async def _walk(self, room_id: RoomId, direction: str, start: str | None) -> _Walk:
        walk, token = _Walk(), start
        for _ in range(MAX_PAGES):
            query = {"dir": direction, "limit": str(PAGE_EVENTS)}
            query |= {"from": token} if token is not None else {}
            page = await self._get(api_path("rooms", room_id, "messages"), query)
            chunk = page.get("chunk")
            events = [e for e in chunk if isinstance(e, dict)] if isinstance(chunk, list) else []
            walk.events += events
            end = page.get("end")
            is_over = not isinstance(end, str) or end == token
            if is_over or (direction == "b" and self._live(events)[0]):
                return walk
            token = str(end)
            if direction == "f" and not events:
                return walk
        walk.is_cut = True
        return walk

    def _live(self, newest_first: list[JsonObject]) -> tuple[bool, list[JsonObject]]:
        """Whether the events reach back to where the room became the agent's; those after it."""
        oldest_first = newest_first[::-1]
        start = find_live_start(oldest_first, self._me) or 0
        for index, event in enumerate(oldest_first[start:], start=start):
            event_id = event_id_of(event)
            if event_id is not None and self._is_history(event_id):
                start = index + 1
        return start > 0, oldest_first[start:]

    def _seen(self, room_id: RoomId, event: JsonObject, *, is_new: bool) -> SeenEvent | None:
        event_id, sender, kind = event_id_of(event), event.get("sender"), event.get("type")
        content, unsigned = event.get("content"), event.get("unsigned")
        if event_id is None or "state_key" in event or not isinstance(content, dict):
            return None
        if not isinstance(sender, str) or not isinstance(kind, str):
            return None
        is_own = sender == self._me
        txn = unsigned.get("transaction_id") if isinstance(unsigned, dict) else None
        return SeenEvent(
            room_id=room_id,
            event_id=event_id,
            sender=UserId(sender),
            event_type=kind,
            is_own=is_own,
            is_new=is_new,
            digest=build_digest(content) if is_own else "",
            mark=parse_mark(content) if is_own else None,
            txn_id=TxnId(txn) if is_own and isinstance(txn, str) else None,
            is_aside=is_own and _is_aside(content),
        )

    async def _get(self, path: str, query: dict[str, str]) -> JsonObject:
        """Ask a few times: an audit that fails for one lost answer says nothing."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._http.get(path, what="reading a room's history", query=query)
            except (RateLimitedError, HomeserverUnreachableError) as e:
                if attempt == _ATTEMPTS:
                    raise
                named = e.retry_after_s if isinstance(e, RateLimitedError) else None
                await asyncio.sleep(min(named or float(attempt), _MAX_WAIT_S))
        raise AssertionError


def _is_aside(content: JsonObject) -> bool:
    relation = content.get("m.relates_to")
    return isinstance(relation, dict) and relation.get("rel_type") in {"m.annotation", "m.replace"}


def _sent_at(event: JsonObject) -> float:
    value = event.get("origin_server_ts")
    return value / 1000 if isinstance(value, int | float) else float("inf")


@asynccontextmanager
async def open_history_http(homeserver: str, me: UserId, token: str) -> AsyncIterator[MatrixHttp]:
    """A way to the homeserver that never renews its token; closed at exit."""
    http = MatrixHttp(homeserver, user_id=me)
    http.token = token
    try:
        yield http
    finally:
        await http.close()
