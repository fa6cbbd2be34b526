"""`!egress`: what holds in a room, and what people who may decide change of it by command.

Each change takes effect in the transaction that stores its answer; then the room's door is told.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from loguru import logger

from orchestrator.core.approval import ApprovalKind, Deciders
from orchestrator.core.budget import utc_day
from orchestrator.core.denial import Denials, is_worth_asking
from orchestrator.core.egress_command import EgressOrder, EgressVerb, parse_order
from orchestrator.core.egress_rules import DEFAULT_PORTS, HostRule, Scheme, Target, parse_rule
from orchestrator.core.grant import HOUR_S, names_same, parse_subject
from orchestrator.core.reason import COMMAND
from orchestrator.core.texts import egress as egress_texts
from orchestrator.model import EventId, RoomId, TurnOutcome, UserId
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import build_notice_rows
from orchestrator.store.api import NewOutboxRow, RoomRow
from orchestrator.store.approval_table import ASK_AGAIN_S
from orchestrator.store.egress_day_table import EgressDayTable
from orchestrator.store.egress_effect import EgressChange, allow_host, deny_host, revoke_host
from orchestrator.store.grant_table import NewGrant


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A command: its inbox row, its event, who wrote it, and where."""

    room: RoomRow
    seq: int
    event_id: EventId
    sender: UserId


class EgressOrders:
    """Carries out `!egress`. Invariant: only who may decide changes anything."""

    def __init__(
        self,
        kit: Kit,
        deciders: Deciders,
        denials: Denials,
        *,
        never: Collection[str],
        on_changed: Callable[[RoomId], Awaitable[None]],
    ) -> None:
        self._kit = kit
        self._deciders = deciders
        self._denials = denials
        self._never = never
        self._on_changed = on_changed

    async def obey(
        self, room_id: RoomId, seq: int, event_id: EventId, *, sender: UserId, argument: str
    ) -> None:
        """Do it and answer it. Only the store's errors come out."""
        room = await self._kit.store.rooms.get(room_id)
        order = parse_order(argument, never=self._never)
        if room is None:
            msg = "a command of a room that nobody knows"
            raise LookupError(msg)
        asked = _Asked(room=room, seq=seq, event_id=event_id, sender=sender)
        if isinstance(order, str):
            await self._say(asked, order, outcome=TurnOutcome.REFUSED)
        elif order.verb is EgressVerb.LIST or order.rule is None:
            await self._say(asked, await self._overview(room))
        elif not await self._deciders.may_decide(room_id, sender):
            await self._say(asked, egress_texts.NOT_APPROVER, outcome=TurnOutcome.REFUSED)
        elif order.verb is EgressVerb.ALLOW and not self._can_be_granted(room, order.rule):
            await self._say(asked, egress_texts.NOT_PUBLIC, outcome=TurnOutcome.REFUSED)
        else:
            await self._change(asked, order, order.rule)

    def _can_be_granted(self, room: RoomRow, rule: HostRule) -> bool:
        internal = self._profile(room).egress.networks
        target = Target(
            host=rule.host, port=rule.port or DEFAULT_PORTS[Scheme.HTTPS], scheme=Scheme.HTTPS
        )
        return is_worth_asking(target, internal=internal, never=self._never)

    async def _change(self, asked: _Asked, order: EgressOrder, rule: HostRule) -> None:
        now, room_id, by = self._kit.wall_clock(), asked.room.room_id, asked.sender

        def effect(db: sqlite3.Connection) -> EgressChange:
            match order.verb:
                case EgressVerb.ALLOW:
                    expires_at = None if order.always else now + HOUR_S
                    new = NewGrant(rule=rule, granted_by=by, expires_at=expires_at)
                    return allow_host(db, asked.seq, room_id, new, now=now)
                case EgressVerb.DENY:
                    return deny_host(db, asked.seq, room_id, rule, by=by, now=now)
                case _:
                    return revoke_host(db, asked.seq, room_id, rule, by=by, now=now)

        def rows(change: EgressChange) -> Sequence[NewOutboxRow]:
            is_met = bool(change.answered if order.verb is EgressVerb.DENY else change.grants)
            outcome = TurnOutcome.DONE if is_met else TurnOutcome.REFUSED
            return self._rows(asked, self._words(asked, order, rule, change), outcome)

        change = await self._kit.store.change_egress(asked.seq, effect, rows, now=now)
        logger.bind(
            action=f"egress.{_ACTIONS[order.verb]}",
            room=room_id,
            by=by,
            host=str(rule),
            until=next((g.expires_at for g in change.grants), None),
            grants=[g.grant_id for g in change.grants],
            approvals=[a.approval_id for a in change.answered],
            audit=True,
        ).info("a command changed what a room may reach")
        await self._on_changed(room_id)

    def _words(
        self, asked: _Asked, order: EgressOrder, rule: HostRule, change: EgressChange
    ) -> str:
        host, by = str(rule), asked.sender
        if order.verb is EgressVerb.ALLOW and change.grants:
            return egress_texts.granted(host, by, change.grants[0].expires_at)
        if order.verb is EgressVerb.DENY and change.answered:
            return egress_texts.refused(host, by, ASK_AGAIN_S)
        if order.verb is EgressVerb.REVOKE and change.grants:
            return egress_texts.revoked([str(grant.rule) for grant in change.grants], by)
        configured = (parse_rule(text) for text in self._profile(asked.room).egress.allow)
        return egress_texts.unmet(
            host,
            is_configured=any(names_same(rule, other) for other in configured),
            is_granted=any(names_same(rule, grant.rule) for grant in change.held),
        )

    async def _overview(self, room: RoomRow) -> str:
        now, egress = self._kit.wall_clock(), self._profile(room).egress
        day = utc_day(now)
        asked = await self._kit.store.approvals.open_in(room.room_id)
        questions = [one for one in asked if one.kind is ApprovalKind.EGRESS]
        seen = egress_texts.Overview(
            configured=egress.allow,
            grants=await self._kit.store.grants.live(room.room_id, now=now),
            questions=[(parse_subject(q.subject), q.expires_at) for q in questions],
            refused=[(d.target, d.count) for d in self._denials.recent(room.slug)],
            used_bytes=await EgressDayTable(self._kit.store.database).used(room.slug, day),
            bytes_per_day=egress.bytes_per_day,
            asks=egress.ask,
            has_approvers=self._deciders.has_any,
        )
        return egress_texts.overview(seen)

    def _profile(self, room: RoomRow) -> RoomProfile:
        return self._kit.config.profile(room.room_id, room.alias, room.former)

    async def _say(
        self, asked: _Asked, text: str, *, outcome: TurnOutcome = TurnOutcome.DONE
    ) -> None:
        now = self._kit.wall_clock()
        rows = self._rows(asked, text, outcome)
        await self._kit.store.answer(asked.seq, rows, reason=COMMAND, now=now)

    def _rows(self, asked: _Asked, text: str, outcome: TurnOutcome) -> list[NewOutboxRow]:
        return build_notice_rows(
            asked.room.room_id,
            f"{asked.event_id}:command",
            text,
            max_event_bytes=self._kit.config.gateway.max_event_bytes,
            reply_to=asked.event_id,
            outcome=outcome,
        )


_ACTIONS = {
    EgressVerb.ALLOW: "grant",
    EgressVerb.DENY: "refuse",
    EgressVerb.REVOKE: "revoke",
}
