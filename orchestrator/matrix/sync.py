"""The sync loop: what the homeserver has for us is on disk before anything interprets it.

Rules: the rows of an answer and its `next_batch` are one transaction; a limited timeline is
completed first, in the same transaction; an error of any kind waits (1 to 60 s) and asks again from
the same place; only a login that is refused for good, or a broken database, ends the loop.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from loguru import logger

from orchestrator.errors import (
    AiAgentChatError,
    LoginRefusedError,
    MatrixError,
    RateLimitedError,
    RequestRefusedError,
)
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.matrix.backoff import Backoff
from orchestrator.matrix.http import TooLargeAnswerError
from orchestrator.matrix.response import (
    RoomUpdate,
    SyncUpdate,
    Unknown,
    build_rows,
    find_live_start,
    parse_sync,
)
from orchestrator.model import JsonObject, RoomId, UserId
from orchestrator.store.api import NewInboxRow, Restored

# Long enough to be cheap, short enough for proxies that cut idle connections after a minute.
POLL_MS = 30_000
# How much longer than asked an answer may take; doubled after each failure, for a slow server.
STALL_MARGIN_S = 30.0
MAX_STALL_MARGIN_S = 300.0
# A homeserver that names a longer wait than an hour is asked again after an hour.
MAX_RETRY_AFTER_S = 3600.0
TIMELINE_LIMIT = 100
# When an answer is too large to read, it is asked for again with this much less in it.
SMALL_TIMELINE_LIMIT = 10
# An answer with nothing new in it that came at once: without a pause a confused server (the same
# answer for ever) would keep us spinning.
_SPIN_PAUSE_S = 1.0
_SPIN_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSync:
    """One answer of /sync, read and nothing else."""

    next_batch: str
    body: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncStatus:
    """How the connection to the homeserver is. `at` is Unix time."""

    connected: bool
    at: float
    failures: int = 0
    reason: str | None = None
    retry_in_s: float | None = None


class SyncStore(Protocol):
    """Where the loop puts what it receives."""

    async def sync_token(self) -> str | None:
        """`next_batch` of the last committed answer."""
        ...

    async def commit_sync(self, rows: Sequence[NewInboxRow], next_batch: str, *, now: float) -> int:
        """Store rows and token in one transaction, skip known event ids; how many rows were new."""
        ...

    async def restored(self) -> Restored | None:
        """Set until the first answer after a restore is committed."""
        ...

    async def known_rooms(self) -> Mapping[RoomId, bool]:
        """Rooms seen so far, and whether the account is joined there."""
        ...


class SyncSource(Protocol):
    """The homeserver, as far as the loop needs it; MatrixClient is one."""

    user_id: UserId

    async def sync(
        self, since: str | None, *, timeout_ms: int, timeline_limit: int, margin_s: float
    ) -> RawSync:
        """One /sync."""
        ...

    async def backfill(
        self, room_id: RoomId, *, start: str, end: str | None
    ) -> Sequence[JsonObject]:
        """The events between two places of a room, oldest first."""
        ...

    async def after_sync(self, body: JsonObject) -> None:
        """Look after the device's keys; swallows its own failures."""
        ...


async def run_sync(
    client: SyncSource,
    store: SyncStore,
    *,
    on_commit: Callable[[], None],
    on_typing: Callable[[RoomId, frozenset[UserId]], None],
    on_status: Callable[[SyncStatus], None],
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    jitter: Callable[[float, float], float] = random.uniform,
) -> NoReturn:
    """Receive until cancelled. Cancel-safe: what was not committed is received again.

    Args:
        client: where from.
        store: where to.
        on_commit: called after each commit that stored something new.
        on_typing: called with a room and who types there, when that changes. Never stored.
        on_status: called after each answer, and after each failure.
        clock: Unix time that does not jump.
        sleep: waits a number of seconds.
        jitter: draws a number between two.

    Raises:
        LoginRefusedError: the session ended for good.
        StoreError: the database failed.
    """
    loop = _SyncLoop(client, store, on_commit, on_typing, on_status, clock)
    backoff = Backoff(jitter)
    await loop.load()
    while True:
        try:
            pause_s = await loop.step(failures=backoff.failures)
            backoff.reset()
        except (LoginRefusedError, asyncio.CancelledError):
            raise
        except MatrixError as e:
            pause_s = backoff.next_wait_s()
            if isinstance(e, RateLimitedError) and e.retry_after_s is not None:
                pause_s = max(pause_s, min(e.retry_after_s, MAX_RETRY_AFTER_S))
            loop.note_failure(e, backoff.failures, pause_s)
        if pause_s > 0:
            await sleep(pause_s)


class _SyncLoop:
    """Invariant: `since` is what the store holds, `joined` is as of that place."""

    def __init__(
        self,
        client: SyncSource,
        store: SyncStore,
        on_commit: Callable[[], None],
        on_typing: Callable[[RoomId, frozenset[UserId]], None],
        on_status: Callable[[SyncStatus], None],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._store = store
        self._on_commit = on_commit
        self._on_typing = on_typing
        self._on_status = on_status
        self._clock = clock
        self._since: str | None = None
        self._unknown: Unknown | None = None
        self._joined: set[RoomId] = set()
        self._timeline_limit = TIMELINE_LIMIT
        self._connected = False

    def __repr__(self) -> str:
        return f"<_SyncLoop connected={self._connected} rooms={len(self._joined)}>"

    async def load(self) -> None:
        """Start from where the store is."""
        self._since = await self._store.sync_token()
        restored = await self._store.restored()
        if restored is not None:
            self._unknown = Unknown(restored=restored, me=self._client.user_id)
        known = await self._store.known_rooms()
        self._joined = {room_id for room_id, joined in known.items() if joined}

    async def step(self, *, failures: int) -> float:
        """One answer: receive, complete, commit. Returns the seconds to pause (0 as a rule)."""
        started = time.monotonic()
        raw = await self._receive(failures)
        reach(FaultPoint.SYNC_RECEIVED)
        update = parse_sync(raw.body)
        rows = await self._build_rows(update)
        new = await self._store.commit_sync(rows, raw.next_batch, now=self._clock())
        reach(FaultPoint.SYNC_COMMITTED)
        stuck = new == 0 and raw.next_batch == self._since
        self._committed(raw, update)
        if new:
            self._on_commit()
        for room in update.rooms:
            if room.typing is not None:
                self._on_typing(room.room_id, room.typing)
        reach(FaultPoint.SYNC_FOLLOWED)
        await self._client.after_sync(raw.body)
        return _SPIN_PAUSE_S if stuck and time.monotonic() - started < _SPIN_S else 0.0

    def note_failure(self, error: AiAgentChatError, failures: int, wait_s: float) -> None:
        """Log it (the first of a row as a warning) and tell the status."""
        log = logger.bind(
            action="matrix.sync_failed",
            error=type(error).__name__,
            reason=str(error),
            failures=failures,
            wait_s=round(wait_s, 1),
        )
        if failures == 1:
            log.warning("the homeserver can't be used; trying again")
        else:
            log.info("the homeserver still can't be used; trying again")
        self._connected = False
        self._on_status(
            SyncStatus(
                connected=False,
                at=self._clock(),
                failures=failures,
                reason=str(error),
                retry_in_s=wait_s,
            )
        )

    async def _receive(self, failures: int) -> RawSync:
        # The first answer comes at once, so that one sees that the connection is there.
        patient = self._connected and self._since is not None
        margin_s = min(STALL_MARGIN_S * 2 ** min(failures, 10), MAX_STALL_MARGIN_S)
        if self._since is None:
            margin_s = MAX_STALL_MARGIN_S
        try:
            return await self._client.sync(
                self._since,
                timeout_ms=POLL_MS if patient else 0,
                timeline_limit=self._timeline_limit,
                margin_s=margin_s,
            )
        except TooLargeAnswerError:
            self._timeline_limit = SMALL_TIMELINE_LIMIT
            raise

    def _committed(self, raw: RawSync, update: SyncUpdate) -> None:
        if update.malformed:
            logger.bind(action="matrix.sync_malformed", count=update.malformed).warning(
                "left out what the homeserver's answer had in an unexpected shape"
            )
        if not self._connected:
            logger.bind(action="matrix.connected").info("in step with the homeserver")
        self._since = raw.next_batch
        self._unknown = None
        self._connected = True
        self._timeline_limit = TIMELINE_LIMIT
        self._joined |= {room.room_id for room in update.rooms}
        self._joined -= {room_id for room_id, _ in update.leaves}
        self._on_status(SyncStatus(connected=True, at=self._clock()))

    async def _build_rows(self, update: SyncUpdate) -> list[NewInboxRow]:
        missed: dict[RoomId, Sequence[JsonObject]] = {}
        history: dict[RoomId, int] = {}
        for room in update.rooms:
            if self._since is None:
                history[room.room_id] = len(room.timeline)
                continue
            if room.limited and room.prev_batch is not None:
                missed[room.room_id] = await self._fetch_missed(room, room.prev_batch)
            if room.room_id not in self._joined:
                events = [*missed.get(room.room_id, ()), *room.timeline]
                history[room.room_id] = find_live_start(events, self._client.user_id) or 0
        return build_rows(update, missed=missed, live_from=history, unknown=self._unknown)

    async def _fetch_missed(self, room: RoomUpdate, prev_batch: str) -> Sequence[JsonObject]:
        log = logger.bind(room=room.room_id)
        try:
            missed = await self._client.backfill(room.room_id, start=prev_batch, end=self._since)
        except RequestRefusedError as e:
            # For good (we were just removed, say): waiting would stop every other room too.
            log.bind(action="matrix.backfill_refused", errcode=e.errcode).error(
                "the homeserver does not give what a limited timeline left out"
            )
            return ()
        log.bind(action="matrix.backfilled", events=len(missed)).info("limited timeline completed")
        return missed
