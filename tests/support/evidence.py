"""What an audit may find, built piece by piece: one message of Alice's, answered and shown."""

from __future__ import annotations

from typing import Any

from orchestrator.core.accounting import account
from orchestrator.core.evidence import (
    Delivery,
    Evidence,
    InboxEntry,
    OutboxEntry,
    Progress,
    SeenEvent,
    SeenRoom,
    TurnEntry,
)
from orchestrator.core.turn_mark import TurnMark
from orchestrator.core.verdict import FinalState, Problem, Remark, Report
from orchestrator.model import EventId, RoomId, TurnId, TurnOutcome, TxnId, UserId

ROOM = RoomId("!room:test")
ALICE, MALLORY, ME = UserId("@alice:test"), UserId("@mallory:test"), UserId("@agent:test")
ASKED, ANSWER = EventId("$asked"), EventId("$answer")
TURN = TurnId("t1")
NOW = 1000.0


def seen(event_id: str = ASKED, sender: UserId = ALICE, **more: Any) -> SeenEvent:
    usual = {"room_id": ROOM, "event_type": "m.room.message", "is_new": False}
    return SeenEvent(
        **{**usual, "event_id": EventId(event_id), "sender": sender, "is_own": sender == ME, **more}
    )


def entry(event_id: str = ASKED, progress: Progress = Progress.USED, **more: Any) -> InboxEntry:
    usual = {"room_id": ROOM, "received_at": 900.0}
    return InboxEntry(**{**usual, "event_id": EventId(event_id), "progress": progress, **more})


def turn(
    turn_id: str = TURN, outcome: TurnOutcome | None = TurnOutcome.DONE, **more: Any
) -> TurnEntry:
    usual = {"room_id": ROOM, "has_ended": True, "asked": (ASKED,), "created_at": 900.0}
    return TurnEntry(**{**usual, "turn_id": TurnId(turn_id), "outcome": outcome, **more})


def mark(turn_id: str = TURN, *asked: str, is_final: bool = True) -> TurnMark:
    names = frozenset(EventId(e) for e in asked or (ASKED,))
    return TurnMark(turn_id=TurnId(turn_id), asked=names, is_final=is_final)


def row(event_id: str | None = ANSWER, txn: str = "x1", **more: Any) -> OutboxEntry:
    usual = {
        "room_id": ROOM,
        "txn_id": TxnId(txn),
        "event_type": "m.room.message",
        "delivery": Delivery.SENT,
        "created_at": 950.0,
        "digest": f"digest of {txn}",
        "event_id": event_id and EventId(event_id),
    }
    return OutboxEntry(**{**usual, **more})


def reply(event_id: str = ASKED, txn: str = "r1", **more: Any) -> OutboxEntry:
    return row("$reply", txn, reply_to=EventId(event_id), **more)


def evidence(**more: Any) -> Evidence:
    """One message of Alice's, answered and shown."""
    usual = {
        "joined": frozenset([ROOM]),
        "inbox": (entry(turn_id=TURN),),
        "turns": (turn(),),
        "outbox": (row(mark=mark()),),
        "told": frozenset(),
        "rooms": (SeenRoom(room_id=ROOM, live_from=0.0),),
        "events": (seen(), seen(ANSWER, ME, digest="digest of x1")),
        "strangers": frozenset([MALLORY]),
    }
    return Evidence(**{**usual, **more})


def told(reason: str, *outbox: OutboxEntry, sender: UserId = ALICE, **more: Any) -> Evidence:
    """One message that did not become a turn."""
    progress = more.pop("progress", Progress.USED)
    return evidence(
        inbox=(entry(progress=progress, reason=reason),),
        turns=(),
        outbox=outbox,
        events=(seen(sender=sender), seen("$reply", ME, digest="digest of r1")),
        **more,
    )


def judge(found: Evidence, **options: Any) -> Report:
    return account(found, now=NOW, **options)


def only_state(report: Report) -> FinalState:
    assert list(report.states) == [ASKED]
    return report.states[ASKED]


def problems(report: Report) -> list[Problem]:
    return [finding.problem for finding in report.findings]


def remarks(report: Report) -> list[Remark]:
    return [note.remark for note in report.notes]


def assert_missing(report: Report, problem: Problem) -> None:
    assert only_state(report) is FinalState.MISSING
    assert problems(report) == [problem]
    assert not report.is_clean(settled=False)


def assert_well(report: Report, state: FinalState) -> None:
    assert only_state(report) is state
    assert (report.findings, report.notes) == ((), ())
    assert report.is_clean(settled=True) is (state is not FinalState.IN_HAND)


def refused(**more: Any) -> OutboxEntry:
    usual = {"delivery": Delivery.REFUSED, "reason": "M_FORBIDDEN", "mark": mark()}
    return row(None, **{**usual, **more})
