"""The sender: drains the outbox into Matrix, for one account.

Rules:
- within a room strictly in the order of `seq`: a row waits for the one before it, whatever its
  priority; across rooms by priority, then by age, as the store lists them;
- one request at a time in a room, a few rooms at a time: a slow room delays no other;
- an attempt is recorded before it leaves, and each attempt uses the row's transaction id, so that
  an answer that got lost is asked for again and the event isn't doubled. A homeserver forgets those
  ids after a day: an older row that may have been sent is looked for first;
- a row's file is uploaded before its event is sent, as a step of its own: the payload is frozen
  with the file's address first. A file that can't be had there counts as refused;
- a message that may have been refused for what it relates to is sent again without that: an answer
  is worth more than its place;
- a refusal for good takes the row out of the way, after the daemon was told (it tells the room);
- a homeserver that fails for several rooms in a row is left alone by all of them, and asked again
  by one at a time. A homeserver that fails for one room only delays that room.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

from loguru import logger

from orchestrator import meters
from orchestrator.core.outage import Outage, backoff_s
from orchestrator.core.pacing import SendBudget
from orchestrator.core.progress import KEPT_FROM_ASIDES, ProgressShare, count_spare
from orchestrator.errors import (
    AiAgentChatError,
    HomeserverUnreachableError,
    LoginRefusedError,
    RateLimitedError,
    RequestRefusedError,
    StoreError,
)
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.gateway.clock import Clock, SteadyClock, wait_for_event
from orchestrator.gateway.outbox_port import EventSender, OutboxStore
from orchestrator.gateway.upload import leave_thumbnail_out, upload_file, upload_verdict
from orchestrator.model import EventId, JsonObject, Priority, RoomId, TxnId
from orchestrator.store.api import OutboxRow

if TYPE_CHECKING:
    from loguru import Logger

# A homeserver answers a send within a second; eight that hang don't stop the ninth room for longer
# than SEND_TIMEOUT_S, and no more than eight are refused at once when a limit is met unprepared.
MAX_IN_FLIGHT = 8
# Above the Matrix client's own bound for one attempt; only a hang of its own reaches this.
SEND_TIMEOUT_S = 60.0
# What is worth no more than this is not waited for.
ASIDE_TIMEOUT_S = 10.0
# Synapse forgets transaction ids that are older than 24 h; an hour less, for its clock and ours.
TXN_REMEMBERED_S = 23 * 3600.0
# Synapse answers 400 M_UNKNOWN to a relation with an event that it does not have (any more), and to
# a thread that hangs on what is a relation itself; no code tells that from other reasons.
_MAY_BE_RELATION = frozenset({400, 404})
# Looks at the outbox at least this often, whatever was or wasn't announced.
LOOK_AGAIN_S = 60.0
# While a due row can't leave, the store's "next" tells of that row only, not of the ones in the
# future: look again after this, so that a row of another room is at most this late.
_MASKED_LOOK_S = 1.0


T = TypeVar("T")

OnRefused = Callable[[OutboxRow, RequestRefusedError], Awaitable[None]]
FindSent = Callable[[OutboxRow], Awaitable[EventId | None]]


class _MovedError(Exception):
    """The row goes to another room now; the next look finds it there."""


class OutboxSender:
    """Sends one account's outbox.

    Invariant: at most one event of a room is in flight; a row is the room's first unsent one.
    """

    def __init__(
        self,
        store: OutboxStore,
        homeserver: EventSender,
        *,
        on_refused: OnRefused,
        find_sent: FindSent | None = None,
        budget: SendBudget | None = None,
        clock: Clock | None = None,
        txns_since: float = -math.inf,
        jitter: Callable[[], float] | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        """Nothing starts before `run` or `drain`.

        Args:
            store: the outbox.
            homeserver: the account.
            on_refused: called before a refused row is marked, and again should the process die
                between the two: it must be idempotent (a row with a transaction id of its own is).
                It must not answer the refusal of such a row with another one.
            find_sent: looks for the event of a row in the room's history, by its content.
            budget: the account's pace; give the one of an earlier life to keep what it learnt.
            clock: as the store's times are; must not jump.
            txns_since: when the device began whose transaction ids the homeserver knows: a row from
                before that may have been sent by another.
            jitter: 0 to 1, spreads retries.
            max_in_flight: requests at the same time, in as many rooms.
        """
        self._store = store
        self._homeserver = homeserver
        self._on_refused = on_refused
        self._find_sent = find_sent
        self._txns_since = txns_since
        self.budget = budget or SendBudget()
        self.limited = 0
        """429s that were met since the start."""
        self._clock = clock or SteadyClock()
        self._jitter = jitter or random.SystemRandom().random
        self._max_in_flight = max_in_flight
        self._progress = ProgressShare()
        self._outage = Outage(jitter=self._jitter)
        self._failures: dict[RoomId, int] = {}
        self._in_flight: set[RoomId] = set()
        self._wake = asyncio.Event()
        self._starting = asyncio.Lock()
        self._log = logger.bind(component="outbox")

    def notify(self) -> None:
        """Rows were added. Cheap; call it after the commit."""
        self._wake.set()

    async def may_show_progress(self, room_id: RoomId) -> bool:
        """Whether a running turn may send a message now that is not its last one.

        It is to be added within seconds. When it may not, the turn asks again, and in the meantime
        adds nothing: progress is never queued.
        """
        waiting = await self._store.waiting_now(room_id, now=self._clock())
        now = self._clock()
        spare = count_spare(self.budget.tokens(now), self.budget.state)
        spare -= waiting
        if self._outage.is_on:
            spare = 0
        return self._progress.ask(room_id, spare=spare, now=now)

    async def send_aside(
        self,
        room_id: RoomId,
        event_type: str,
        content: JsonObject,
        txn_id: TxnId,
        *,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Send what is no row of the outbox, if the account can spare it now, after all that waits.

        `is_wanted` is asked at the last moment. While it is on its way none of the room's rows
        leaves, so that whatever was stored after that moment arrives after it; past
        ASIDE_TIMEOUT_S that can't be known.
        True: there is nothing more to be done; it was sent, or will not be: this is tried once.

        Raises:
            LoginRefusedError: the account was logged out.
        """
        now = self._clock()
        spare = 0 if self._outage.is_on else count_spare(self.budget.tokens(now), self.budget.state)
        is_known = self.budget.state.interval_s is not None
        spare -= KEPT_FROM_ASIDES if is_known else 0
        # The table is looked at only where that can change anything.
        if spare <= 0 or spare <= await self._store.waiting_now(room_id, now=now):
            return False
        if not is_wanted():
            return True
        if room_id in self._in_flight:
            return False
        self._in_flight.add(room_id)
        try:
            await self._send_aside(room_id, event_type, content, txn_id)
        finally:
            self._in_flight.discard(room_id)
            self._wake.set()
        return True

    async def _send_aside(
        self, room_id: RoomId, event_type: str, content: JsonObject, txn_id: TxnId
    ) -> None:
        left = self._clock()
        self.budget.sent(left)
        log = self._log.bind(room=room_id, txn=txn_id)
        try:
            async with asyncio.timeout(ASIDE_TIMEOUT_S):
                await self._homeserver.send_event(room_id, event_type, content, txn_id)
        except RateLimitedError as error:
            self.limited += 1
            self.budget.limited(self._clock(), error.retry_after_s, sent_at=left)
        except (AiAgentChatError, TimeoutError) as error:
            if isinstance(error, LoginRefusedError):
                raise
            log.bind(action="outbox.aside", error=type(error).__name__).debug("a courtesy failed")

    async def run(self) -> NoReturn:
        """Send until cancelled. A cancelled request's row is sent again, with the same id.

        Raises:
            ExceptionGroup: of the one error that ends the sender: the account was logged out
                (LoginRefusedError), the database failed, or a bug.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                look_at = min(await self._start_due(group), self._clock() + LOOK_AGAIN_S)
                await wait_for_event(self._wake, until=look_at, clock=self._clock)

    async def drain(self, deadline: float) -> int:
        """Send what can leave before the deadline; for the shutdown, beside `run` or after it.

        Ends early when nothing waits, or when nothing more can leave in time. An account that was
        logged out meanwhile is logged, not raised: the shutdown goes on.

        Args:
            deadline: on the sender's clock.

        Returns:
            The number of rooms that still have something to send.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                await self._send_until(deadline)
        except TimeoutError:
            pass
        except ExceptionGroup as group:
            expected, others = group.split(AiAgentChatError)
            if others is not None or expected is None:
                raise
            kinds = sorted({type(e).__name__ for e in expected.exceptions})
            self._log.bind(action="outbox.drain", errors=kinds).error("the drain was cut short")
        finally:
            self._wake.set()  # `run` may have missed one that was taken here
        return len(await self._store.outbox_heads(now=math.inf, limit=10_000))

    def __repr__(self) -> str:
        return f"OutboxSender({len(self._in_flight)} in flight, {self._outage!r}, {self.budget!r})"

    async def _send_until(self, deadline: float) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                look_at = await self._start_due(group)
                if not self._in_flight and look_at > deadline:
                    return
                await wait_for_event(self._wake, until=look_at, clock=self._clock)

    async def _start_due(self, group: asyncio.TaskGroup) -> float:
        """Start what may leave now; returns when to look again (a notify comes sooner)."""
        async with self._starting:
            # In this order, so that a row that becomes due in between is seen by one of the two.
            # And what is in flight before the look may be sent during it: then it is listed still.
            next_at = await self._store.next_outbox_at()
            busy = frozenset(self._in_flight)
            now = self._clock()
            heads = await self._store.outbox_heads(now=now, limit=self._max_in_flight + len(busy))
            look_at = math.inf if next_at is None else next_at
            if look_at <= now:
                look_at = now + _MASKED_LOOK_S
            for row in heads:
                if row.room_id in busy or row.room_id in self._in_flight:
                    continue
                account_at = self._account_may_send_at(now, row)
                if account_at > now:
                    return account_at
                room_at = self._outage.may_ask_at(row.room_id)
                if room_at > now:
                    look_at = min(look_at, room_at)
                else:
                    self._start(group, row, now)
        return look_at

    def _account_may_send_at(self, now: float, row: OutboxRow) -> float:
        """When the row may leave; infinity: when one of those in flight is back."""
        if len(self._in_flight) >= (1 if self._outage.is_on else self._max_in_flight):
            return math.inf
        # Homeservers don't count uploads as messages.
        return now if row.has_file else self.budget.next_send_at(now)

    def _start(self, group: asyncio.TaskGroup, row: OutboxRow, now: float) -> None:
        task = group.create_task(self._send(row, left=now), name=f"outbox {row.seq}")
        if not row.has_file:
            self.budget.sent(now)
            self._progress.left(row.room_id)
        self._in_flight.add(row.room_id)

        def is_back(_: asyncio.Task[None]) -> None:
            self._in_flight.discard(row.room_id)
            self._wake.set()

        # A callback and not a `finally`: a task that is cancelled before its first step has none.
        task.add_done_callback(is_back)

    async def _send(self, row: OutboxRow, *, left: float) -> None:
        log = self._log.bind(room=row.room_id, seq=row.seq, txn=row.txn_id)
        if row.has_file:
            await self._try_upload(row, left=left, log=log)
        else:
            await self._try(row, left=left, log=log)

    async def _try(self, row: OutboxRow, *, left: float, log: Logger) -> None:
        try:
            event_id = await self._deliver(row)
        except RateLimitedError as error:
            self._answered(row)
            self.limited += 1
            self.budget.limited(self._clock(), error.retry_after_s, sent_at=left)
            wait = {"retry_after_s": error.retry_after_s, "rate_per_s": self.budget.rate_per_s()}
            log.bind(action="outbox.limited", **wait).info("the homeserver asked to slow down")
        except _MovedError:
            log.bind(action="outbox.moved").info("its room was replaced; it goes into the new one")
        except RequestRefusedError as error:
            self._answered(row)
            if error.status in _MAY_BE_RELATION and await self._store.loosen(row.seq):
                log.bind(action="outbox.loosen", errcode=error.errcode).warning(
                    "an event was refused; it is sent again without what it relates to"
                )
            else:
                await self._give_up(row, error, log=log)
        except AiAgentChatError as error:
            if not error.retryable:
                raise
            await self._postpone(row, error, left=left, log=log)
        else:
            self._answered(row)
            reach(FaultPoint.OUTBOX_SENT)
            await self._store.mark_sent(row.seq, event_id, now=self._clock())
            reach(FaultPoint.OUTBOX_MARKED)
            if row.priority is Priority.FINAL:
                meters.ACCEPTED.observe(max(0.0, self._clock() - row.created_at))
            log.bind(action="outbox.send", event=event_id).debug("an event was sent")

    async def _give_up(self, row: OutboxRow, error: RequestRefusedError, *, log: Logger) -> None:
        log.bind(action="outbox.refuse", errcode=error.errcode).warning("an event was refused")
        reach(FaultPoint.OUTBOX_REFUSED)
        await self._on_refused(row, error)
        reach(FaultPoint.OUTBOX_TOLD)
        await self._store.mark_refused(row.seq, reason=error.errcode, now=self._clock())

    async def _try_upload(self, row: OutboxRow, *, left: float, log: Logger) -> None:
        """Upload the row's file; its event is sent from the next look on, as any other."""
        try:
            await upload_file(row, self._store, self._homeserver)
        except AiAgentChatError as error:
            if isinstance(error, StoreError) and not error.retryable:
                raise
            await self._upload_failed(row, error, left=left, log=log)
        else:
            self._answered(row)
            log.bind(action="outbox.upload").debug("a file was uploaded")

    async def _upload_failed(
        self, row: OutboxRow, error: AiAgentChatError, *, left: float, log: Logger
    ) -> None:
        failures = self._failures.get(row.room_id, 0) + 1
        match upload_verdict(error, failures, is_outage=self._outage.is_on):
            case RequestRefusedError() as refusal:
                self._answered(row)
                if not await leave_thumbnail_out(row, self._store):
                    await self._give_up(row, refusal, log=log)
            case float() as wait_s:
                self._outage.answered()
                self._failures[row.room_id] = failures
                log.bind(action="outbox.upload_limited", retry_s=wait_s).info("it uploads later")
                await self._store.mark_retry(row.seq, not_before=self._clock() + wait_s)
            case None if error.retryable:
                await self._postpone(row, error, left=left, log=log)
            case None:
                raise error

    async def _deliver(self, row: OutboxRow) -> EventId:
        found = await _bounded(self._find(row))
        if found is not None:
            return found
        reach(FaultPoint.OUTBOX_TAKEN)
        # However long the disk takes: that says nothing of the homeserver.
        if not await self._store.mark_attempt(row.seq, row.room_id, now=self._clock()):
            raise _MovedError
        reach(FaultPoint.OUTBOX_ATTEMPT)
        return await _bounded(
            self._homeserver.send_event(row.room_id, row.event_type, row.content, row.txn_id)
        )

    async def _find(self, row: OutboxRow) -> EventId | None:
        """The row's event, if an attempt may have made it so long ago that its id is forgotten."""
        # A row of the future is from before the clock was set back: nobody knows its age.
        is_old = not 0 <= self._clock() - row.created_at <= TXN_REMEMBERED_S
        is_of_another_device = row.created_at < self._txns_since
        is_known = not is_old and not is_of_another_device
        if self._find_sent is None or row.attempts == 0 or is_known:
            return None
        return await self._find_sent(row)

    def _answered(self, row: OutboxRow) -> None:
        self._outage.answered()
        self._failures.pop(row.room_id, None)

    async def _postpone(
        self, row: OutboxRow, error: AiAgentChatError, *, left: float, log: Logger
    ) -> None:
        now = self._clock()
        failures = self._failures[row.room_id] = self._failures.get(row.room_id, 0) + 1
        self._outage.failed(row.room_id, left=left, now=now)
        # In an outage the homeserver decides when it goes on, for all rooms at the same time.
        not_before = now + backoff_s(failures, jitter=self._jitter)
        if self._outage.is_on:
            not_before = self._outage.until
        log.bind(
            action="outbox.retry", error=type(error).__name__, retry_s=round(not_before - now, 1)
        ).warning("an event could not be sent yet")
        await self._store.mark_retry(row.seq, not_before=not_before)


async def _bounded(work: Awaitable[T]) -> T:
    """Raises HomeserverUnreachableError when it takes longer than SEND_TIMEOUT_S."""
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            return await work
    except TimeoutError as error:
        raise HomeserverUnreachableError from error
