"""Hosts that were refused become questions in their room, and decisions become grants.

```
 door ─ refused host ─► Denials ─► question (approvals, outbox) ─► a person ─ reaction, !egress
                        memory        store                                        │
 door ◄─ set_grants ─ GrantKeeper ◄────────────── grants (store) ◄─────────────────┘
```

Rules: a host is asked about once in a room until that is decided or its time is up; a room's flood
of names costs it a bounded memory and a few messages; nothing here holds up or ends a turn. What is
lost in a crash is at most a refusal that nobody was asked about: the next one asks.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn
from urllib.parse import urlsplit

from loguru import logger

from orchestrator.core.approval import Answer, Approval, ApprovalEvent, ApprovalKind
from orchestrator.core.denial import Denial, Denials, Wanted, is_worth_asking
from orchestrator.core.egress_rules import Target, is_covered, parse_rule
from orchestrator.core.grant import build_subject
from orchestrator.core.policy import RoomEvent
from orchestrator.core.texts import egress as egress_texts
from orchestrator.errors import StoreError
from orchestrator.gateway.clock import wait_for_event
from orchestrator.model import EventId, RoomId, RoomSlug, TxnId, UserId
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.egress_order import EgressOrders
from orchestrator.rooms.egress_question import (
    build_end_rows,
    build_more_rows,
    build_nobody_rows,
    build_question_rows,
)
from orchestrator.rooms.grant_keeper import GrantKeeper
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import build_notice_rows
from orchestrator.rooms.reaction import LOOK_EVERY_S, Reactions, Reply
from orchestrator.rooms.tool_question import build_tool_end_rows
from orchestrator.store.api import InboxRow, NewOutboxRow, OutboxRow, Replacement, RoomRow
from orchestrator.store.approval_row import NewApproval
from orchestrator.store.approval_table import Asked

_API_HOST = "api.anthropic.com"
# A host that may not be asked about now is looked at again after so long.
_QUIET_S = 60.0
_DAY_S = 86400.0
# What a turn asks is stored by the turn, and ends at most this much after its time.
_EXPIRY_LOOK_S = 30.0


class EgressAsking:
    """Invariant: `_denials` has only hosts that a door of ours refused."""

    def __init__(
        self,
        kit: Kit,
        find_work: Callable[[RoomSlug], Wanted],
        on_tool_decided: Callable[[RoomId], None],
    ) -> None:
        self._kit = kit
        self._on_tool_decided = on_tool_decided
        self._find_work = find_work
        self._deciders = kit.deciders
        self._never = frozenset(
            {_API_HOST, urlsplit(kit.config.anthropic.upstream).hostname or _API_HOST}
        )
        self._denials = Denials()
        self._wake = asyncio.Event()
        self._max_event_bytes = kit.config.gateway.max_event_bytes
        self.keeper = GrantKeeper(kit)
        self._reactions = Reactions(kit, self._deciders, self._on_decided)
        self._orders = EgressOrders(
            kit, self._deciders, self._denials, never=self._never, on_changed=self._on_changed
        )

    def __repr__(self) -> str:
        return f"<EgressAsking {self._denials!r} {self._reactions!r} {self.keeper!r}>"

    async def run(self) -> NoReturn:
        """Ask, and end what nobody decides, until cancelled. Only the store's errors come out."""
        self._kit.doors.listen_for_denied_hosts(self._note)
        while True:
            self._wake.clear()
            await self._ask_due()
            await self._reactions.look_again()
            until = self._next_deadline(await self._expire())
            await wait_for_event(self._wake, until=until, clock=self._kit.wall_clock)

    # What others tell...

    def _note(self, slug: RoomSlug, target: Target) -> None:
        """A door refused a host. Called in the middle of that: it must not wait."""
        wanted = partial(self._find_work, slug)
        if self._denials.note(slug, target, wanted=wanted, now=self._kit.wall_clock()):
            self._wake.set()

    async def react(self, row: InboxRow, room_id: RoomId, event: RoomEvent) -> None:
        """Act on a reaction, and mark its row, now or soon."""
        await self._reactions.take(row, room_id, event)
        if self._reactions.holds_any:
            self._wake.set()

    async def reply(self, row: InboxRow, room_id: RoomId, reply: Reply) -> bool:
        """Act on a reply to a question, and mark its row; False: it is none."""
        return await self._reactions.take_reply(row, room_id, reply)

    async def decide(
        self, seq: int, approval: Approval, event: ApprovalEvent, *, by: UserId
    ) -> None:
        """Act on a decision that did not come as an event of the room, and mark its row."""
        await self._reactions.decide(approval, Answer(event=event), seq=seq, by=by)

    async def obey(
        self, room_id: RoomId, seq: int, event_id: EventId, *, sender: UserId, argument: str
    ) -> None:
        """Carry out `!egress`, and answer it."""
        await self._orders.obey(room_id, seq, event_id, sender=sender, argument=argument)

    async def note_unsent(self, row: OutboxRow) -> None:
        """A message is refused for good: nobody allows unseen what it asked for. Idempotent."""
        await self._withdraw(row.txn_id)

    async def note_redacted(self, row: InboxRow, target: EventId) -> None:
        """The same of a message that somebody took out of the room, by its event."""
        txn_id = await self._kit.store.approvals.find_txn(RoomId(row.room_id or ""), target)
        if txn_id is not None:
            await self._withdraw(txn_id)

    async def _withdraw(self, txn_id: TxnId) -> None:
        approvals, now = self._kit.store.approvals, self._kit.wall_clock()
        unshown = await approvals.withdraw_unshown(txn_id, now=now)
        if unshown is not None:
            await self._on_decided(unshown)

    async def end_room(self, room: RoomRow) -> None:
        """The agent left the room: what was asked and allowed there is over. Idempotent."""
        await self._kit.store.approvals.end_room(room.room_id, now=self._kit.wall_clock())
        self.keeper.drop(room.room_id)
        self._denials.drop(room.slug)

    async def farewell(self, move: Replacement) -> list[NewOutboxRow]:
        """What the room that replaces another is told of what held in that one."""
        held = await self.keeper.held(move.old)
        if not held:
            return []
        text = egress_texts.not_moved([str(grant.rule) for grant in held])
        return build_notice_rows(
            move.new, f"{move.new}:grants", text, max_event_bytes=self._max_event_bytes
        )

    def moved(self, move: Replacement) -> None:
        """The store has moved the conversation, and ended what the old room had allowed."""
        self.keeper.drop(move.old)
        # The name on this host is the new room's now, in which nothing was asked yet.
        self._denials.wake()

    async def _on_decided(self, approval: Approval) -> None:
        if approval.kind is ApprovalKind.EGRESS:
            await self._on_changed(approval.room_id)
        else:
            self._on_tool_decided(approval.room_id)
            self._wake.set()

    async def _on_changed(self, room_id: RoomId) -> None:
        """Something was decided in the room: its door learns it, and other hosts have a place."""
        slug = await self.keeper.refresh(room_id)
        if slug is not None:
            self._denials.wake(slug)
        self._wake.set()

    # What time brings...

    def _next_deadline(self, next_expiry: float | None) -> float | None:
        now = self._kit.wall_clock()
        times = [self._denials.next_deadline(), next_expiry, now + _EXPIRY_LOOK_S]
        times += [now + LOOK_EVERY_S] if self._reactions.holds_any else []
        return min((at for at in times if at is not None), default=None)

    async def _expire(self) -> float | None:
        """End what nobody decided in time; when the next question is due."""

        def rows(approval: Approval) -> Sequence[NewOutboxRow]:
            is_host = approval.kind is ApprovalKind.EGRESS
            build = build_end_rows if is_host else build_tool_end_rows
            return build(approval, max_event_bytes=self._max_event_bytes)

        now = self._kit.wall_clock()
        expired, next_expiry = await self._kit.store.approvals.expire_due(rows, now=now)
        for approval in expired:
            logger.bind(
                action=f"{approval.kind}.expire",
                room=approval.room_id,
                approval=approval.approval_id,
                subject=approval.subject,
            ).info("nobody decided in time")
            self._kit.notify_outbox()
            if approval.kind is not ApprovalKind.EGRESS:
                self._on_tool_decided(approval.room_id)
        return next_expiry

    async def _ask_due(self) -> None:
        while (denial := self._denials.take_due(self._kit.wall_clock())) is not None:
            try:
                await self._ask(denial)
            except StoreError:
                raise
            except Exception as e:  # noqa: BLE001 - contains one room's bugs in that room
                where = "".join(traceback.format_tb(e.__traceback__))
                logger.bind(
                    action="egress.not_asked", room=denial.slug, error=type(e).__name__, trace=where
                ).error("a refused host could not be asked about")
                self._denials.settle(denial, quiet_until=self._kit.wall_clock() + _QUIET_S)

    async def _ask(self, denial: Denial) -> None:
        """Ask about it, unless that is of no use; and say when it may be looked at again."""
        now = self._kit.wall_clock()
        self._denials.settle(denial, quiet_until=now + _QUIET_S)
        room = await self._kit.store.rooms.by_slug(denial.slug)
        if room is None or not room.joined or room.moved_seq is not None:
            return
        profile = self._kit.config.profile(room.room_id, room.alias, room.former)
        if not await self._is_askable(room, profile, denial.target):
            return
        if not self._deciders.has_any:
            await self._say_nobody(room, denial, now)
            return
        new = NewApproval(
            room_id=room.room_id,
            kind=ApprovalKind.EGRESS,
            subject=build_subject(denial.target),
            wanted_by="\n".join(denial.wanted.tools) or None,
            turn_id=denial.wanted.turn_id,
            expires_at=now + profile.approval_timeout_s,
        )
        asked, again_at = await self._kit.store.approvals.ask(
            new,
            partial(build_question_rows, wanted=denial.wanted),
            partial(build_more_rows, max_event_bytes=self._max_event_bytes),
            now=now,
        )
        is_said = asked in (Asked.NOW, Asked.FULL)
        self._denials.settle(denial, quiet_until=again_at, asked_at=now if is_said else None)
        if is_said:
            self._kit.notify_outbox()
        logger.bind(
            action="egress.ask",
            room=room.room_id,
            subject=new.subject,
            turn=new.turn_id,
            result=asked.value,
        ).info("a host was refused")

    async def _is_askable(self, room: RoomRow, profile: RoomProfile, target: Target) -> bool:
        """Whether a question could change anything."""
        egress = profile.egress
        if not egress.ask or not is_worth_asking(
            target, internal=egress.networks, never=self._never
        ):
            return False
        grants = await self._kit.store.grants.live(room.room_id, now=self._kit.wall_clock())
        rules = [*(parse_rule(rule) for rule in egress.allow), *(grant.rule for grant in grants)]
        # It may have been allowed since it was refused.
        return not is_covered(target, rules)

    async def _say_nobody(self, room: RoomRow, denial: Denial, now: float) -> None:
        rows: Sequence[NewOutboxRow] = build_nobody_rows(
            room.room_id, denial.target, now=now, max_event_bytes=self._max_event_bytes
        )
        await self._kit.store.outbox.add(rows, now=now)
        self._denials.settle(denial, quiet_until=now + _DAY_S, asked_at=now)
        self._kit.notify_outbox()
