"""An outbox in memory, and homeservers named by their fault. All on the running loop's clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.core.thread import loosen
from orchestrator.errors import (
    AiAgentChatError,
    HomeserverUnreachableError,
    RateLimitedError,
    RequestRefusedError,
)
from orchestrator.model import EventId, JsonObject, JsonValue, Priority, RoomId, TxnId
from orchestrator.store.api import OutboxRow
from tests.support.rate_limit import LeakyBucket
from tests.support.virtual_time import loop_clock

_RANK = {priority: rank for rank, priority in enumerate(Priority)}


@dataclass(slots=True)
class MemoryOutbox:
    """The table, with what was done to it. On a full disk every write waits."""

    rows: dict[int, OutboxRow] = field(default_factory=dict)
    sent: dict[int, EventId] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    files: dict[int, bytes] = field(default_factory=dict)
    is_full: bool = False
    delay_s: float = 0.0
    look_delay_s: float = 0.0
    looks: int = 0

    def add(
        self,
        room: str,
        text: str,
        *,
        priority: Priority = Priority.TEXT,
        attempts: int = 0,
        file: bytes | None = None,
    ) -> OutboxRow:
        """Add a row with a transaction id of its own."""
        now = loop_clock()
        seq = max([0, *self.rows, *self.sent, *self.refused]) + 1
        row = OutboxRow(
            seq=seq,
            room_id=RoomId(room),
            txn_id=TxnId(f"txn-{seq}"),
            event_type="m.room.message",
            content={"body": text},
            priority=priority,
            attempts=attempts,
            not_before=now,
            created_at=now,
            has_file=file is not None,
        )
        self.rows[seq] = row
        if file is not None:
            self.files[seq] = file
        return row

    def heads(self) -> list[OutboxRow]:
        """Each room's first unsent row."""
        first: dict[RoomId, OutboxRow] = {}
        for seq in sorted(self.rows):
            first.setdefault(self.rows[seq].room_id, self.rows[seq])
        return list(first.values())

    async def outbox_heads(self, *, now: float, limit: int) -> Sequence[OutboxRow]:
        """As the table orders them; the rows are read before the delay, as a thread would."""
        self.looks += 1
        due = [row for row in self.heads() if row.not_before <= now]
        ordered = sorted(due, key=lambda r: (self._urgency(r.room_id, now), r.seq))[:limit]
        await asyncio.sleep(self.delay_s + self.look_delay_s)
        return ordered

    def _urgency(self, room_id: RoomId, now: float) -> tuple[int, float]:
        rows = [row for row in self.rows.values() if row.room_id == room_id]
        aged = now - 60
        return min((0 if r.created_at < aged else _RANK[r.priority], r.created_at) for r in rows)

    async def waiting_now(self, room_id: RoomId, *, now: float) -> int:
        """As the table counts them."""
        due = {row.room_id for row in self.heads() if row.not_before <= now} | {room_id}
        return sum(row.room_id in due for row in self.rows.values())

    async def file(self, seq: int) -> bytes | None:
        """What was added with the row."""
        return self.files.get(seq)

    async def store_uploaded(
        self, seq: int, content: JsonObject, *, rest: bytes | None = None
    ) -> None:
        """The payload names what was uploaded now."""
        await self._write()
        del self.files[seq]
        if rest is not None:
            self.files[seq] = rest
        self.rows[seq] = replace(self.rows[seq], content=content, has_file=rest is not None)

    async def next_outbox_at(self) -> float | None:
        """The earliest of the heads' times."""
        earliest = min((row.not_before for row in self.heads()), default=None)
        await asyncio.sleep(self.delay_s + self.look_delay_s)
        return earliest

    async def mark_attempt(self, seq: int, room_id: RoomId, *, now: float) -> bool:
        """Count it, unless the row was moved to another room meanwhile."""
        await self._write()
        row = self.rows[seq]
        if row.room_id == room_id:
            self.rows[seq] = replace(row, attempts=row.attempts + 1)
        await asyncio.sleep(self.delay_s)
        return row.room_id == room_id

    async def loosen(self, seq: int) -> bool:
        """As the table does."""
        await self._write()
        content = loosen(dict(self.rows[seq].content))
        if content is not None:
            self.rows[seq] = replace(self.rows[seq], content=content)
        return content is not None

    async def mark_sent(self, seq: int, event_id: EventId, *, now: float) -> None:
        """Move it to the sent ones."""
        await self._write()
        self.sent[seq] = event_id
        del self.rows[seq]
        await asyncio.sleep(self.delay_s)

    async def mark_retry(self, seq: int, *, not_before: float) -> None:
        """Put it off."""
        await self._write()
        self.rows[seq] = replace(self.rows[seq], not_before=not_before)

    async def mark_refused(self, seq: int, *, reason: str, now: float) -> None:
        """Move it to the refused ones."""
        await self._write()
        self.refused[seq] = reason
        del self.rows[seq]

    async def _write(self) -> None:
        while self.is_full:  # noqa: ASYNC110 - as the database does
            await asyncio.sleep(1)


@dataclass(slots=True)
class MemoryHomeserver:
    """Accepts everything; idempotent by transaction id; `requests` has (time, room, txn)."""

    latency_s: float = 0.05
    requests: list[tuple[float, RoomId, TxnId]] = field(default_factory=list)
    timeline: list[tuple[RoomId, JsonValue]] = field(default_factory=list)
    known: dict[TxnId, EventId] = field(default_factory=dict)
    uploads: list[tuple[float, RoomId, bytes]] = field(default_factory=list)
    contents: list[Mapping[str, JsonValue]] = field(default_factory=list)
    open_requests: int = 0
    most_open: int = 0

    async def send_event(
        self, room_id: RoomId, event_type: str, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        """One request."""
        self.requests.append((loop_clock(), room_id, txn_id))
        self.open_requests += 1
        self.most_open = max(self.most_open, self.open_requests)
        try:
            await asyncio.sleep(self.latency_s)
            return await self.answer(room_id, content, txn_id)
        finally:
            self.open_requests -= 1

    async def answer(
        self, room_id: RoomId, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        """What faulty ones override."""
        return self.accept(room_id, content, txn_id)

    async def upload_file(self, room_id: RoomId, data: bytes, *, mimetype: str) -> JsonObject:
        """Each upload makes a file of its own."""
        self.uploads.append((loop_clock(), room_id, data))
        await asyncio.sleep(self.latency_s)
        return {"url": f"mxc://memory/{len(self.uploads)}"}

    def accept(self, room_id: RoomId, content: Mapping[str, JsonValue], txn_id: TxnId) -> EventId:
        """Put the event into the timeline, unless the id is known."""
        if txn_id not in self.known:
            self.known[txn_id] = EventId(f"${len(self.timeline)}")
            self.timeline.append((room_id, content.get("body")))
            self.contents.append(content)
        return self.known[txn_id]

    def bodies(self, room: str) -> list[JsonValue]:
        """What a room shows."""
        return [body for room_id, body in self.timeline if room_id == room]


@dataclass(slots=True)
class RateLimitedHomeserver(MemoryHomeserver):
    """Meters as Synapse does, and holds a refusal back for half a second as Synapse does."""

    limiter: LeakyBucket = field(default_factory=lambda: LeakyBucket(rate_per_s=0.2, burst=10))

    async def answer(
        self, room_id: RoomId, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        if txn_id not in self.known:
            wait_s = self.limiter.offer(loop_clock())
            if wait_s is not None:
                await asyncio.sleep(0.5)
                raise RateLimitedError(wait_s)
        return self.accept(room_id, content, txn_id)


@dataclass(slots=True)
class FlakyHomeserver(MemoryHomeserver):
    """Loses answers after it accepted, or requests before, while `is_away` for that room."""

    is_away: Callable[[RoomId], bool] = lambda _: True
    accepts: bool = False

    async def answer(
        self, room_id: RoomId, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        if not self.is_away(room_id):
            return self.accept(room_id, content, txn_id)
        if self.accepts:
            self.accept(room_id, content, txn_id)
        raise HomeserverUnreachableError


@dataclass(slots=True)
class RefusingHomeserver(MemoryHomeserver):
    """Refuses what has `poison` in it."""

    error: Callable[[], AiAgentChatError] = lambda: RequestRefusedError(
        errcode="M_TOO_LARGE", status=413, what="sending"
    )

    async def answer(
        self, room_id: RoomId, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        if "poison" in str(content.get("body")):
            raise self.error()
        return self.accept(room_id, content, txn_id)


@dataclass(slots=True)
class HangingHomeserver(MemoryHomeserver):
    """Never answers for the rooms in `stuck`."""

    stuck: frozenset[str] = frozenset()

    async def answer(
        self, room_id: RoomId, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        if room_id in self.stuck:
            await asyncio.Event().wait()
        return self.accept(room_id, content, txn_id)


@dataclass(slots=True)
class ChaoticHomeserver(MemoryHomeserver):
    """Each request meets a fault drawn at random: a 429, a loss before or after, a hang, none."""

    rng: random.Random = field(default_factory=lambda: random.Random(0))
    faults_left: int = 50

    async def answer(
        self, room_id: RoomId, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        fault = self.rng.choice(["none", "429", "before", "after", "hang", "slow"])
        if self.faults_left <= 0 or fault == "none":
            return self.accept(room_id, content, txn_id)
        self.faults_left -= 1
        if fault == "429":
            raise RateLimitedError(self.rng.choice([None, 0.5, 3.0]))
        if fault == "before":
            raise HomeserverUnreachableError
        event_id = self.accept(room_id, content, txn_id)
        if fault == "after":
            raise HomeserverUnreachableError
        await asyncio.sleep(1e6 if fault == "hang" else self.rng.uniform(0, 5))
        return event_id
