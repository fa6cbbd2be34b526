"""What a running turn has said and the room has not been sent; how far frames are done with.

Rules:
- a frame is acknowledged only when nothing that it brought lives in this memory alone. After a
  crash the runner replays the rest, and the same rows with the same transaction ids come of it;
- text waits for the window in memory (`pending`), is kept with the turn then (its draft), and
  leaves with the turn's last message; where the room wants parts, it leaves as soon as the account
  can spare a message. What is kept is never in `pending`;
- the answer takes the place of the message that showed how the turn went on, unless something was
  said in the room since: then it stands below, where people look for it.
"""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from loguru import logger

from orchestrator.core.going_on import GoOn
from orchestrator.core.lifecycle import TurnEvent
from orchestrator.core.naming import live_txn_id
from orchestrator.core.sanitise import sanitise
from orchestrator.errors import RunnerError
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.model import Epoch, Seq, SessionId, TurnOutcome, TurnState
from orchestrator.rooms.connection import Connection
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.line import Line
from orchestrator.rooms.outgoing import (
    MESSAGE,
    Final,
    build_end_mark_row,
    build_pointer_row,
    build_turn_notice_rows,
    build_turn_text_rows,
)
from orchestrator.runners.wire import SPOOL_BYTES
from orchestrator.store.api import NewOutboxRow, TurnRow
from orchestrator.store.message_place import Place
from orchestrator.store.turn_table import Acked

# An acknowledgement costs a commit. Partial text comes at up to a hundred frames a second, so they
# are taken together: the runner's spool (8 MiB) is far from full after either of these.
_ACK_FRAMES = 256
_ACK_EVERY_S = 1.0
_ACK_BYTES = SPOOL_BYTES // 4
# Text that waits for the window is in memory: more than this is kept on disk at once.
_MAX_PENDING_CHARS = 256 * 1024
# Each addition to a draft writes it anew, once in a window: 1 MiB is what a disk takes in its
# stride. A longer one leaves as a file, whatever the account can spare.
MAX_DRAFT_CHARS = 1 << 20
# Rendering and cutting takes about 3 ms per 1,000 characters, cleaning 0.2: longer than 50 ms is
# not done in the event loop.
_LONG_TEXT_CHARS = 16_384


class TurnOutput:
    """Invariant: text in `pending` came from frames at or after `held_from`."""

    def __init__(
        self, turn: TurnRow, *, kit: Kit, epoch: Epoch, acked: Seq, shows_parts: bool = False
    ) -> None:
        self.turn = turn
        self._kit = kit
        self._epoch = epoch
        self._pending: list[str] = []
        self._shows_parts = shows_parts
        self._keep_at: float | None = None
        self._show_at: float | None = 0.0 if turn.draft_chars and shows_parts else None
        self._held_from: Seq | None = None
        self._pending_chars = 0
        # What it took in before a crash is replayed where another turn needs it.
        is_same = turn.epoch == epoch
        self._seen = Seq(max(acked, turn.taken)) if is_same else acked
        self._received = acked
        self._acked = self._seen
        self._acked_at = 0.0
        self._line: tuple[Connection, Line] | None = None

    def __repr__(self) -> str:
        return f"<TurnOutput {self.turn.turn_id} pending={len(self._pending)} acked={self._acked}>"

    @property
    def has_shown_text(self) -> bool:
        """Whether any text of the answer was sent or waits to be."""
        return bool(self._pending) or self.turn.draft_chars > 0 or self.turn.parts > 0

    @property
    def seen(self) -> Seq:
        """The last frame that was taken in."""
        return self._seen

    @property
    def received(self) -> Seq:
        """The last frame that came over the present link, taken in now or before."""
        return self._received

    def use_line(self, connection: Connection, line: Line) -> None:
        """Go on over a new attach: it has yet to replay what was not acknowledged."""
        self._line = (connection, line)
        self._received = line.acked
        if self.turn.state is TurnState.QUEUED:
            self._seen = self._acked = Seq(max(self._seen, line.acked))

    def receive(self, seq: Seq) -> bool:
        """A frame came; False when it was taken in over an earlier link."""
        self._received = seq
        is_new = seq > self._seen
        self._seen = max(self._seen, seq)
        return is_new

    def add_text(self, text: str, seq: Seq, now: float) -> None:
        """Text for the room; at the end of the outbound window it is shown or kept."""
        self._pending.append(text)
        self._pending_chars += len(text)
        if self._held_from is None:
            self._held_from = seq
        window_ends = now + self._kit.config.gateway.outbound_window_s
        self._keep_at = self._keep_at or window_ends
        if self._shows_parts:
            self._show_at = self._show_at or window_ends
        if self._pending_chars > _MAX_PENDING_CHARS:
            self._keep_at = now

    def due_at(self) -> float | None:
        """When text is to be shown or kept, if there is any (loop time)."""
        times = (self._keep_at, self._show_at)
        return min((t for t in times if t is not None), default=None)

    async def flush(self, now: float, *, needed_from: Seq | None) -> None:
        """Store the text, as messages or as it is; then acknowledge the frames it came from."""
        is_show_due = self._show_at is not None and self._show_at <= now
        if self.turn.draft_chars + self._pending_chars > MAX_DRAFT_CHARS or (
            is_show_due and await self._kit.may_show_progress(self.turn.room_id)
        ):
            await self._show(now, needed_from)
            return
        if is_show_due:
            self._show_at = now + self._kit.config.gateway.outbound_window_s
        if self._pending:
            await self._keep(now, needed_from)

    async def _show(self, now: float, needed_from: Seq | None) -> None:
        done = _before(needed_from, self._seen)
        rows = await self._text_rows(final=None)
        reach(FaultPoint.OUTPUT_FLUSHING)
        self.turn = await self._kit.store.turns.advance(
            self.turn.turn_id,
            None,
            rows=rows,
            acked=self._acked_row(done),
            drop_draft=True,
            now=self._kit.wall_clock(),
        )
        reach(FaultPoint.OUTPUT_FLUSHED)
        self._clear()
        self._show_at = None
        self._kit.notify_outbox()
        await self._acknowledged(done, now)
        reach(FaultPoint.OUTPUT_ACKED)

    async def _keep(self, now: float, needed_from: Seq | None) -> None:
        done = _before(needed_from, self._seen)
        self.turn = await self._kit.store.turns.advance(
            self.turn.turn_id,
            None,
            keep=await self._clean_pending(),
            acked=self._acked_row(done),
            now=self._kit.wall_clock(),
        )
        self._clear()
        await self._acknowledged(done, now)

    async def _clean_pending(self) -> str:
        """As it will be shown: a lone surrogate can't be stored. Doing it twice changes nothing."""
        text = "\n\n".join(self._pending)
        return sanitise(text) if len(text) < _LONG_TEXT_CHARS else await to_thread(sanitise, text)

    async def notice(self, topic: str, text: str) -> None:
        """Tell the room something about the turn, at once. Once per topic and turn."""
        await self._kit.tell(self.turn, topic, text)

    async def applied(self, session: SessionId) -> None:
        """The runner has the turn; the CLI keeps a session from its first message on.

        What came before the turn is of no use to it, and is not replayed into it.
        """
        self.turn = await self._kit.store.turns.advance(
            self.turn.turn_id,
            TurnEvent.APPLIED,
            seen_by=session,
            acked=self._acked_row(self._done_with()),
            now=self._kit.wall_clock(),
        )

    async def acknowledge(self, now: float, *, needed_from: Seq | None) -> None:
        """Acknowledge what needs no replay, when enough of it has come together.

        `needed_from` is the first frame that whoever reads the frames would need again.
        """
        done = _before(needed_from, self._done_with())
        is_due = (
            done - self._acked >= _ACK_FRAMES
            or now - self._acked_at >= _ACK_EVERY_S
            # Long lines fill the spool before either; once it is full no frame comes to act on.
            or self._unacked_bytes > _ACK_BYTES
        )
        if done > self._acked and is_due:
            await self._kit.store.turns.store_acked(self._acked_row(done))
            await self._acknowledged(done, now)
            reach(FaultPoint.OUTPUT_ACKED)

    async def end(
        self,
        outcome: TurnOutcome,
        *,
        reason: str | None,
        sentence: str | None,
        store_acked: bool,
        go_on: GoOn | None = None,
        footer: str = "",
    ) -> TurnRow:
        """End the turn: last text or `sentence`, outcome and acknowledgement at once.

        Without `store_acked` the frames are another reader's: their runner is gone. With `go_on`
        another turn takes the message up: it bears the final mark, and `sentence` is just told.
        `footer` stands below the text, where there is any.
        """
        self._kit.lives.close(self.turn.turn_id)
        if footer and self.has_shown_text:
            self._pending.append(footer)
        # Messages may have gone into it since it was read: its end is theirs, too.
        self.turn = await self._kit.store.turns.get(self.turn.turn_id) or self.turn
        rows = await self._last_rows(None if go_on else Final(outcome=outcome), sentence)
        rows = await self._put_in_place(rows, is_answer=sentence is None)
        reach(FaultPoint.END_STORING)
        self.turn = await self._kit.store.turns.advance(
            self.turn.turn_id,
            TurnEvent.ENDED,
            rows=rows,
            acked=self._acked_row(self._seen) if store_acked else None,
            drop_draft=True,
            outcome=outcome,
            reason=reason,
            go_on=go_on,
            now=self._kit.wall_clock(),
        )
        reach(FaultPoint.END_STORED)
        self._clear()
        self._show_at = None
        self._kit.notify_outbox()
        return self.turn

    async def acknowledge_all(self, now: float) -> None:
        """After the end, which is stored: the runner may forget all of it, now or later."""
        try:
            await self._acknowledged(self._seen, now)
            reach(FaultPoint.END_ACKED)
        except RunnerError as e:
            # The next hello says it.
            logger.bind(action="turn.ack", turn=self.turn.turn_id, error=type(e).__name__).debug(
                "not told"
            )

    async def _last_rows(self, final: Final | None, sentence: str | None) -> Sequence[NewOutboxRow]:
        rows: list[NewOutboxRow] = []
        if self._pending or self.turn.draft_chars:
            rows += await self._text_rows(final=final if sentence is None else None)
        if sentence is not None:
            rows += build_turn_notice_rows(
                self.turn,
                "end",
                sentence,
                max_event_bytes=self._kit.config.gateway.max_event_bytes,
                final=final,
            )
        return rows or ([build_end_mark_row(self.turn, final)] if final else [])

    async def _put_in_place(
        self, rows: Sequence[NewOutboxRow], *, is_answer: bool
    ) -> list[NewOutboxRow]:
        """The first row as what takes the place of the turn's live message, or a pointer to it."""
        live = live_txn_id(self.turn.turn_id)
        place = await self._kit.store.outbox.place_of(live, self.turn.room_id)
        is_shown = bool(rows) and rows[0].event_type == MESSAGE
        # What it said before it failed stays where it was read; that it failed stands below.
        is_old = not is_answer and len(rows) > 1
        if is_shown and (place is not Place.ABOVE or is_old):
            # Whether there is such a message is looked up when the row is sent.
            return [replace(rows[0], edits=live), *rows[1:]]
        if place is None:
            return list(rows)
        return [*rows, build_pointer_row(self.turn, live)]

    async def _text_rows(self, *, final: Final | None) -> list[NewOutboxRow]:
        """What is kept and pending as messages; cutting a long text takes its time in a thread."""
        limit = await self._kit.event_limit(self.turn.room_id)
        draft = await self._kit.store.turns.draft(self.turn.turn_id)
        text = "\n\n".join([draft, *self._pending] if draft else self._pending)
        build = partial(
            build_turn_text_rows,
            self.turn,
            text,
            max_event_bytes=limit,
            max_messages=self._kit.config.gateway.max_answer_messages,
            final=final,
        )
        if len(text) < _LONG_TEXT_CHARS:
            return build()
        return await to_thread(build)

    async def _acknowledged(self, seq: Seq, now: float) -> None:
        self._acked, self._acked_at = seq, now
        if self._line is None:
            return
        connection, line = self._line
        # A new link has yet to replay what an earlier one brought; what it has not said yet can't
        # be acknowledged on it. The next hello does it.
        await connection.acknowledge(line, min(seq, self._received))

    @property
    def _unacked_bytes(self) -> int:
        return self._line[0].unacked_bytes if self._line is not None else 0

    def _acked_row(self, seq: Seq) -> Acked:
        turn = self.turn
        return Acked(room_id=turn.room_id, epoch=self._epoch, seq=seq, turn_id=turn.turn_id)

    def _done_with(self) -> Seq:
        return self._seen if self._held_from is None else Seq(self._held_from - 1)

    def _clear(self) -> None:
        self._pending.clear()
        self._pending_chars = 0
        self._keep_at = None
        self._held_from = None


def _before(needed_from: Seq | None, done: Seq) -> Seq:
    """The last frame that may be acknowledged, where `needed_from` is needed again."""
    return done if needed_from is None else Seq(min(done, needed_from - 1))
