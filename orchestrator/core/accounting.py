"""Whether each message has come to its one end: what was received, done and shown, joined. Pure.

Rule: every message of somebody else's gets exactly one verdict. Everything is looked up in an
index, so that it takes as long as there are rows and events.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from orchestrator.core.evidence import (
    MESSAGE_TYPES,
    Delivery,
    Evidence,
    InboxEntry,
    OutboxEntry,
    Progress,
    SeenEvent,
    TurnEntry,
)
from orchestrator.core.naming import stand_in_txn_ids
from orchestrator.core.reason import (
    COMMAND,
    EDIT,
    LEFT_ROOM,
    REDACTION,
    TAKEN_BACK,
    UNDECRYPTABLE,
    UNREADABLE,
)
from orchestrator.core.twice import find_twice
from orchestrator.core.verdict import (
    STATE_BY_OUTCOME,
    FinalState,
    Finding,
    Note,
    Patience,
    Problem,
    Remark,
    Report,
    Verdict,
    in_hand,
    missing,
)
from orchestrator.model import EventId, RoomId, TurnId, TurnOutcome, UserId


def account(evidence: Evidence, *, now: float, patience: Patience | None = None) -> Report:
    """Join it all. `now` is Unix time."""
    accounts = _Accounts(evidence, now, patience or Patience())
    verdicts = {event_id: (room_id, v) for event_id, room_id, v in accounts.verdicts()}
    findings = [
        Finding(problem=v.problem, room_id=room_id, event_id=event_id, detail=v.detail)
        for event_id, (room_id, v) in verdicts.items()
        if v.problem is not None
    ]
    notes = [
        Note(
            remark=Remark.OVERDUE,
            room_id=room_id,
            event_id=event_id,
            detail=f"in hand for {now - v.since:.0f} s",
        )
        for event_id, (room_id, v) in verdicts.items()
        if v.overdue_at < now
    ]
    doubled, unknown = find_twice(evidence)
    return Report(
        states={event_id: v.state for event_id, (_, v) in verdicts.items()},
        outcomes=accounts.outcomes(verdicts),
        findings=(*findings, *doubled),
        notes=(*notes, *unknown, *accounts.notes()),
    )


def unseen_sent(evidence: Evidence) -> Iterator[OutboxEntry]:
    """Rows that were sent into what was read of their room, and whose event was not there."""
    seen = {event.event_id for event in evidence.events} | evidence.confirmed
    live_from = {room.room_id: room.live_from for room in evidence.rooms}
    for row in evidence.outbox:
        is_read = row.created_at >= live_from.get(row.room_id, float("inf"))
        if row.delivery is Delivery.SENT and is_read and row.event_id not in seen:
            yield row


class _Accounts:
    """One audit. Invariant: a turn is judged once."""

    def __init__(self, evidence: Evidence, now: float, patience: Patience) -> None:
        self._evidence = evidence
        self._now = now
        self._patience = patience
        self._seen = {event.event_id: event for event in evidence.events}
        self._known = {entry.event_id for entry in evidence.inbox}
        self._turns = {turn.turn_id: turn for turn in evidence.turns}
        self._goes_on_in = {t.continues: t.turn_id for t in evidence.turns if t.continues}
        self._live_txns = {
            row.txn_id for row in evidence.outbox if row.delivery is not Delivery.REFUSED
        }
        self._live_from = {
            room.room_id: room.live_from for room in evidence.rooms if not room.is_cut
        }
        self._gone = {row.txn_id for row in unseen_sent(evidence)}
        self._of_turn: dict[TurnId, list[OutboxEntry]] = defaultdict(list)
        self._replies: dict[EventId, list[OutboxEntry]] = defaultdict(list)
        for row in evidence.outbox:
            if row.mark is not None:
                self._of_turn[row.mark.turn_id].append(row)
            if row.reply_to is not None:
                self._replies[row.reply_to].append(row)
        self._told_of_keys = {
            entry.room_id
            for entry in evidence.inbox
            if entry.reason == UNDECRYPTABLE and entry.event_id in self._replies
        }
        self._judged: dict[TurnId, Verdict] = {}

    # The messages...

    def verdicts(self) -> Iterator[tuple[EventId, RoomId, Verdict]]:
        """Each message once; what is no message for the agent is left out."""
        for event in self._seen.values():
            if event.is_message and event.event_id not in self._known:
                yield event.event_id, event.room_id, self._not_in_inbox(event)
        for entry in self._evidence.inbox:
            verdict = self._of_entry(entry)
            if verdict is not None:
                yield entry.event_id, entry.room_id, verdict

    def _not_in_inbox(self, event: SeenEvent) -> Verdict:
        if event.is_new:
            return in_hand(self._now, self._patience.received_s)
        return missing(Problem.NOT_RECEIVED)

    def _of_entry(self, entry: InboxEntry) -> Verdict | None:
        if entry.turn_id is not None:
            return self._of_turn_part(entry, entry.turn_id)
        match entry.progress:
            case Progress.USED:
                return self._of_used(entry)
            case Progress.NEW | Progress.PENDING_KEYS if self._may_be_message(entry):
                return in_hand(entry.received_at, self._patience.received_s)
            case Progress.FAILED if self._may_be_message(entry):
                return self._of_failed(entry)
            case _:
                return None

    def _may_be_message(self, entry: InboxEntry) -> bool:
        seen = self._seen.get(entry.event_id)
        if seen is not None:
            return seen.is_message
        return entry.event_type is None or entry.event_type in MESSAGE_TYPES

    def _sender(self, entry: InboxEntry) -> UserId | None:
        seen = self._seen.get(entry.event_id)
        return entry.sender if seen is None else seen.sender

    def _of_used(self, entry: InboxEntry) -> Verdict | None:
        """Used without a turn: a command, or something that its sender was told about."""
        if entry.reason in (EDIT, REDACTION):
            return None
        if entry.reason == TAKEN_BACK:
            return Verdict(state=FinalState.CANCELLED)
        if entry.event_id in self._evidence.errands:
            # It may wait behind turns; what it said so far is how it stands.
            return Verdict(state=FinalState.IN_HAND, since=entry.received_at)
        state = _told_state(entry.reason)
        if entry.event_id in self._replies:
            return self._of_rows(self._replies[entry.event_id], state)
        sender = self._sender(entry)
        told_before = any(
            (room_id, sender, entry.reason) in self._evidence.told
            for room_id in (entry.room_id, self._evidence.replaced_by.get(entry.room_id))
        )
        if entry.reason == UNDECRYPTABLE:
            if sender in self._evidence.strangers:
                return None
            told_before = entry.room_id in self._told_of_keys
        # Of whom nothing is known (a room that was left), nothing is said.
        if told_before or sender is None:
            return Verdict(state=state)
        return missing(Problem.NOT_TOLD, entry.reason or "")

    def _of_failed(self, entry: InboxEntry) -> Verdict | None:
        if entry.event_id in self._replies:
            return self._of_rows(self._replies[entry.event_id], FinalState.FAILED)
        is_nobodys = _is_unreadable(entry) or self._sender(entry) in self._evidence.strangers
        if is_nobodys or entry.room_id not in self._evidence.joined:
            return None
        return missing(Problem.NOT_TOLD, entry.reason or "")

    # The turns...

    def _of_turn_part(self, entry: InboxEntry, turn_id: TurnId) -> Verdict:
        verdict = self._of_turn_chain(turn_id)
        turn = self._turns.get(turn_id)
        if turn is None or verdict.problem is not None or entry.event_id in turn.asked:
            return verdict
        if not turn.has_ended:
            # It has not gone into the turn yet, which may end before it does.
            return in_hand(entry.received_at, self._patience.turn_s)
        return missing(Problem.NO_END, f"turn {turn_id} does not name it")

    def _of_turn_chain(self, turn_id: TurnId) -> Verdict:
        """How the turn ended, or the last of those that go on with it."""
        last = self._last(turn_id)
        if last not in self._judged:
            turn = self._turns.get(last)
            self._judged[last] = (
                missing(Problem.NO_TURN, f"turn {last}") if turn is None else self._judge(turn)
            )
        return self._judged[last]

    def _last(self, turn_id: TurnId) -> TurnId:
        passed = {turn_id}
        while (after := self._goes_on_in.get(turn_id)) is not None and after not in passed:
            passed.add(after)
            turn_id = after
        return turn_id

    def _judge(self, turn: TurnEntry) -> Verdict:
        if not turn.has_ended:
            # One that waits in its queue is not late itself: what runs before it may be.
            patience_s = self._patience.turn_s if turn.started_at else float("inf")
            return in_hand(turn.started_at or turn.created_at, patience_s)
        if turn.outcome is None:
            return missing(Problem.NO_OUTCOME, f"turn {turn.turn_id}")
        rows = self._of_turn[turn.turn_id]
        ends = [row for row in rows if _is_end_of(turn, row)]
        if not ends and turn.outcome is TurnOutcome.REFUSED and not turn.parts:
            # One of a flood, of which the room was told: one event will mark all of them.
            return in_hand(turn.created_at, self._patience.unsent_s)
        if not ends:
            return missing(Problem.NO_END, f"turn {turn.turn_id}")
        return self._of_rows(rows, STATE_BY_OUTCOME[turn.outcome])

    def _of_rows(self, rows: Sequence[OutboxEntry], state: FinalState) -> Verdict:
        """What a message's end came to on its way into the room."""
        untold = [row for row in rows if self._is_untold(row)]
        if untold:
            return missing(Problem.NOT_SHOWN, f"refused: {untold[0].reason or '?'}")
        waiting = [row.created_at for row in rows if row.delivery is Delivery.QUEUED]
        if waiting:
            return in_hand(min(waiting), self._patience.unsent_s)
        gone = [row for row in rows if row.txn_id in self._gone]
        if gone:
            return missing(Problem.GONE, str(gone[0].event_id))
        return Verdict(state=state)

    def _is_untold(self, row: OutboxEntry) -> bool:
        """Refused for good, and nothing took its place in a room that the agent is still in."""
        is_of_now = row.created_at >= self._live_from.get(row.room_id, 0.0)
        return (
            row.delivery is Delivery.REFUSED
            and row.reason != LEFT_ROOM
            and row.room_id in self._evidence.joined
            and is_of_now
            and self._live_txns.isdisjoint(stand_in_txn_ids(row.txn_id))
        )

    # And beside them...

    def outcomes(self, verdicts: Iterable[EventId]) -> Mapping[str, int]:
        """How many of the messages were part of a turn that ended so."""
        found: Counter[str] = Counter()
        counted = set(verdicts)
        for entry in self._evidence.inbox:
            if entry.turn_id is not None and entry.event_id in counted:
                turn = self._turns.get(self._last(entry.turn_id))
                if turn is not None and turn.outcome is not None:
                    found[turn.outcome.value] += 1
        return dict(sorted(found.items()))

    def notes(self) -> Iterator[Note]:
        """What is no message's end, and still worth a look."""
        for room in self._evidence.rooms:
            if room.is_cut:
                yield Note(remark=Remark.BOUND_MET, room_id=room.room_id)
        for entry in self._evidence.inbox:
            if entry.progress is Progress.FAILED and _is_unreadable(entry):
                yield Note(remark=Remark.UNREADABLE, room_id=entry.room_id, event_id=entry.event_id)
        for row in self._evidence.outbox:
            if row.mark is None and row.reply_to not in self._known and self._is_untold(row):
                detail = f"{row.txn_id}: {row.reason}"
                yield Note(remark=Remark.NOTICE_NOT_SHOWN, room_id=row.room_id, detail=detail)


def _is_end_of(turn: TurnEntry, row: OutboxEntry) -> bool:
    """Whether the row is the turn's last message, for all that it was asked."""
    mark = row.mark
    return (
        mark is not None
        and mark.is_final
        and mark.turn_id == turn.turn_id
        and mark.asked.issuperset(turn.asked)
    )


def _is_unreadable(entry: InboxEntry) -> bool:
    return (entry.reason or "").startswith(UNREADABLE)


def _told_state(reason: str | None) -> FinalState:
    if reason == COMMAND:
        return FinalState.ANSWERED
    return FinalState.FAILED if reason == UNDECRYPTABLE else FinalState.REFUSED
