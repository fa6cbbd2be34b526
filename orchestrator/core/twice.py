"""What was shown or done twice: ends of turns, and what the agent said in its rooms. Pure.

An event is known by its id, then by its transaction id (the homeserver names it to the device that
sent it), then by its content; what a homeserver has encrypted shows its id and transaction alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.evidence import (
    Delivery,
    Evidence,
    OutboxEntry,
    SeenEvent,
    TurnEntry,
    build_digest,
)
from orchestrator.core.verdict import Finding, Note, Problem, Remark
from orchestrator.model import EventId, RoomId, TurnId, TurnOutcome, TxnId

_Key = tuple[RoomId, str, str]
# What was redacted shows nothing, and is alike to each row whose words were dropped.
_REDACTED = build_digest({})


def find_twice(evidence: Evidence) -> tuple[list[Finding], list[Note]]:
    """What is there twice, and what the agent's account said that no row knows of."""
    doubled = [*_turns_with_two_ends(evidence), *_messages_in_two_turns(evidence)]
    unknown: list[Note] = []
    lookup = _Lookup(evidence)
    for event in evidence.events:
        if not event.is_own or event.event_id in lookup.event_ids or event.digest == _REDACTED:
            continue
        first = lookup.first_of(event)
        if first is not None:
            doubled.append(_doubled(event.room_id, event.event_id, f"first: {first}"))
        elif not event.is_new and not event.is_aside and not lookup.is_expected(event):
            unknown.append(
                Note(remark=Remark.UNKNOWN_EVENT, room_id=event.room_id, event_id=event.event_id)
            )
    return doubled, unknown


class _Lookup:
    """The outbox by what an event can be known by."""

    def __init__(self, evidence: Evidence) -> None:
        self.event_ids = {row.event_id for row in evidence.outbox}
        self._txns: dict[TxnId, OutboxEntry] = {row.txn_id: row for row in evidence.outbox}
        self._sent: dict[_Key, EventId | None] = {}
        self._unsent: set[_Key] = set()
        self._ends: dict[TurnId, EventId | None] = {}
        restored = {turn.turn_id for turn in evidence.turns if turn.is_restored}
        for row in evidence.outbox:
            key = (row.room_id, row.event_type, row.digest)
            if row.delivery is not Delivery.SENT:
                self._unsent.add(key)
                continue
            self._sent[key] = row.event_id
            # A restore ends what may have ended since its copy; the room was told so.
            if row.mark is not None and row.mark.is_final and row.mark.turn_id not in restored:
                self._ends[row.mark.turn_id] = row.event_id

    def first_of(self, event: SeenEvent) -> EventId | None:
        """The event that this one repeats."""
        row = self._txns.get(event.txn_id) if event.txn_id is not None else None
        if row is not None:
            return row.event_id if row.delivery is Delivery.SENT else None
        key = (event.room_id, event.event_type, event.digest)
        if key in self._sent:
            return self._sent[key]
        mark = event.mark
        return self._ends.get(mark.turn_id) if mark is not None and mark.is_final else None

    def is_expected(self, event: SeenEvent) -> bool:
        """Whether it is of a row that was sent and could not be marked yet."""
        key = (event.room_id, event.event_type, event.digest)
        return event.txn_id in self._txns or key in self._unsent


def _turns_with_two_ends(evidence: Evidence) -> Iterator[Finding]:
    """A refused end's stand-in has the same mark, and is no second one."""
    ended: set[TurnId] = set()
    for row in evidence.outbox:
        mark = row.mark
        if mark is None or not mark.is_final or row.delivery is Delivery.REFUSED:
            continue
        if mark.turn_id in ended:
            event_id = row.event_id or min(mark.asked, default=EventId("-"))
            yield _doubled(row.room_id, event_id, f"turn {mark.turn_id} has two ends")
        ended.add(mark.turn_id)


def _messages_in_two_turns(evidence: Evidence) -> Iterator[Finding]:
    """A turn may go on with an earlier one's messages, or try again what was interrupted."""
    asked_by: dict[EventId, TurnEntry] = {}
    for turn in evidence.turns:
        for event_id in turn.asked:
            before = asked_by.setdefault(event_id, turn)
            may_repeat = turn.continues is not None or before.outcome is TurnOutcome.INTERRUPTED
            if before is not turn and not may_repeat:
                detail = f"in the turns {before.turn_id} and {turn.turn_id}"
                yield _doubled(turn.room_id, event_id, detail)


def _doubled(room_id: RoomId, event_id: EventId, detail: str) -> Finding:
    return Finding(problem=Problem.DOUBLED, room_id=room_id, event_id=event_id, detail=detail)
