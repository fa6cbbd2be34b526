"""Running turns in their rooms: for each one message, which grows by edits until the answer is it.

Rules:
- the first sign is a row of the outbox, made when the account can spare a message: a crash neither
  loses nor doubles it, and the answer's row names it (`NewOutboxRow.edits`);
- an edit is a courtesy: it leaves when there is a message to spare and nothing waits, and is no
  row. Once the turn's end is being stored no edit begins, and the sender lets none of the room's
  rows leave while one is on its way: what stands there in the end is the answer;
- a turn that ends within a moment has its answer alone.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from orchestrator import meters
from orchestrator.core.cli_event import CliEvent
from orchestrator.core.edit import build_edit
from orchestrator.core.live_view import LiveView
from orchestrator.core.naming import live_txn_id, txn_id
from orchestrator.core.turn_mark import TURN_KEY, build_live_mark
from orchestrator.model import EventId, JsonObject, Priority, TurnId, TurnState
from orchestrator.room_profile import RoomProfile
from orchestrator.store.api import NewOutboxRow, TurnRow

if TYPE_CHECKING:
    from orchestrator.rooms.kit import Kit

# An answer that is complete by then needs no sign, which would cost one of the account's messages.
SIGN_AFTER_S = 0.6
# The first edits are half a second apart, where the account allows it, the later ones five.
_FIRST_STEP_S = 0.5
_LAST_STEP_S = 5.0
_GROWTH = 1.25
# An edit is an event that stays in the room's history: a turn of hours makes no more of them.
MAX_EDITS = 200
# A tool's running time, where nothing else changes.
_CLOCK_STEP_S = 15.0
_AGAIN_S = 1.0
_LOOK_EVERY_S = 0.2


def step_s(edits: int, streaming: int) -> float:
    """The least time between two edits of a message, after so many, beside so many other turns."""
    grown = _FIRST_STEP_S * _GROWTH ** min(edits, 50)
    return min(_LAST_STEP_S, grown) * max(1, streaming)


@dataclass(slots=True, kw_only=True)
class LiveAnswer:
    """One turn's message. Owned by `Lives`."""

    turn: TurnRow
    view: LiveView
    begun_at: float
    has_read_draft: bool = False
    is_signed: bool = False
    is_closed: bool = False
    event_id: EventId | None = None
    edits: int = 0
    shown_changes: int = 0
    shown_at: float = 0.0
    due_at: float = 0.0
    is_busy: bool = False
    life: str = field(default_factory=lambda: secrets.token_hex(4))

    def feed(self, event: CliEvent, now: float) -> None:
        """Take in a line of the CLI's."""
        before = self.view.changes
        self.view.feed(event, now)
        if before == 0 < self.view.changes and self.turn.state is TurnState.QUEUED:
            meters.FIRST_OUTPUT.observe(max(0.0, now - self.begun_at))

    def waits(self, *, is_waiting: bool) -> None:
        """Whether the turn waits for somebody's decision."""
        if self.view.waits_for_decision is not is_waiting:
            self.view.waits_for_decision = is_waiting
            self.view.changes += 1

    @property
    def content(self) -> JsonObject:
        """What marks each form of the message as not the answer."""
        return {TURN_KEY: build_live_mark(self.turn.turn_id, self.turn.asked)}


class Lives:
    """All of them. Invariant: none is open whose turn's end is being stored."""

    def __init__(self) -> None:
        self._open: dict[TurnId, LiveAnswer] = {}
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Lives open={len(self._open)}>"

    def open(self, turn: TurnRow, profile: RoomProfile, *, now: float) -> LiveAnswer:
        """Show a turn from now on, until `close`; `now` is loop time. One of a kind for a turn."""
        view = LiveView(show_thinking=profile.show_thinking)
        live = LiveAnswer(turn=turn, view=view, begun_at=now, due_at=now + SIGN_AFTER_S)
        if profile.stream == "edit":
            self._open[turn.turn_id] = live
            self._wake.set()
        return live

    def close(self, turn_id: TurnId) -> None:
        """Show nothing more of it. Idempotent."""
        live = self._open.pop(turn_id, None)
        if live is not None:
            live.is_closed = True

    async def run(self, kit: Kit) -> NoReturn:
        """Send signs and edits until cancelled.

        Raises:
            ExceptionGroup: the account was logged out, or the database failed.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                now = asyncio.get_running_loop().time()
                for live in list(self._open.values()):
                    if not live.is_busy and now >= live.due_at:
                        live.is_busy = True
                        name = f"live {live.turn.turn_id}"
                        group.create_task(self._step(live, kit), name=name)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_EVERY_S if self._open else None):
                        await self._wake.wait()

    async def _step(self, live: LiveAnswer, kit: Kit) -> None:
        """One look at one of them. Only the store's errors and a logout come out."""
        try:
            await self._show(live, kit)
        finally:
            live.is_busy = False

    async def _show(self, live: LiveAnswer, kit: Kit) -> None:
        now = asyncio.get_running_loop().time()
        room = await kit.store.rooms.get(live.turn.room_id)
        is_alone = room is None or not room.joined or (room.joined_members or 2) < 2
        if is_alone or live.edits >= MAX_EDITS:
            live.due_at = now + _LAST_STEP_S
        elif not live.is_signed:
            await self._sign(live, kit, now)
        elif live.event_id is None:
            live.event_id = await kit.store.outbox.event_of(
                live_txn_id(live.turn.turn_id), live.turn.room_id
            )
            live.due_at = now + _FIRST_STEP_S / 2
        else:
            await self._edit(live, kit, now, live.event_id)

    async def _sign(self, live: LiveAnswer, kit: Kit, now: float) -> None:
        turn = live.turn
        await self._read_draft(live, kit)
        known = await kit.store.outbox.place_of(live_txn_id(turn.turn_id), turn.room_id)
        if known is None and not await kit.may_show_progress(turn.room_id):
            live.due_at = now + _AGAIN_S
            return
        if live.is_closed:
            return
        live.is_signed = True
        live.due_at = now + _FIRST_STEP_S
        if known is None:
            live.shown_changes, live.shown_at = live.view.changes, now
            row = NewOutboxRow(
                room_id=turn.room_id,
                txn_id=live_txn_id(turn.turn_id),
                event_type="m.room.message",
                content=live.view.render(now) | live.content,
                priority=Priority.TEXT,
            )
            await kit.store.outbox.add_for_open(turn.turn_id, row, now=kit.wall_clock())
            kit.notify_outbox()

    async def _edit(self, live: LiveAnswer, kit: Kit, now: float, event_id: EventId) -> None:
        await self._read_draft(live, kit)
        is_changed = live.view.changes != live.shown_changes
        is_clock_due = live.view.is_running_tool and now >= live.shown_at + _CLOCK_STEP_S
        if not is_changed and not is_clock_due:
            live.due_at = now + _FIRST_STEP_S / 2
            return
        changes = live.view.changes
        edit = build_edit(live.view.render(now) | live.content, event_id)
        is_done = await kit.send_aside(
            live.turn.room_id,
            "m.room.message",
            edit,
            txn_id(f"{live.turn.turn_id}:{live.life}:edit", live.edits),
            is_wanted=lambda: not live.is_closed,
        )
        now = asyncio.get_running_loop().time()
        if not is_done:
            live.due_at = now + _AGAIN_S
            return
        live.edits += 1
        live.shown_changes, live.shown_at = changes, now
        live.due_at = now + step_s(live.edits, len(self._open))

    async def _read_draft(self, live: LiveAnswer, kit: Kit) -> None:
        """What an earlier life had of the answer."""
        if live.turn.draft_chars and not live.has_read_draft:
            live.view.before(await kit.store.turns.draft(live.turn.turn_id))
        live.has_read_draft = True
