"""What an audit says: how each message ended, what is wrong, what is worth a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.model import EventId, RoomId, TurnOutcome


class FinalState(StrEnum):
    """How a message ended, in the words of the last line."""

    ANSWERED = "answered"
    FAILED = "failed"
    """With the reason shown: also a time-out, the memory limit, an interruption."""
    CANCELLED = "cancelled"
    REFUSED = "refused"
    """With the reason shown."""
    IN_HAND = "in hand"
    MISSING = "without a final state"


STATE_BY_OUTCOME: Mapping[TurnOutcome, FinalState] = {
    TurnOutcome.DONE: FinalState.ANSWERED,
    TurnOutcome.FAILED: FinalState.FAILED,
    TurnOutcome.CANCELLED: FinalState.CANCELLED,
    TurnOutcome.TIMED_OUT: FinalState.FAILED,
    TurnOutcome.OUT_OF_MEMORY: FinalState.FAILED,
    TurnOutcome.INTERRUPTED: FinalState.FAILED,
    TurnOutcome.REFUSED: FinalState.REFUSED,
}


class Problem(StrEnum):
    """What is wrong with a message. All but DOUBLED leave it without a final state."""

    NOT_RECEIVED = "not received"
    NO_TURN = "its turn is not in the database"
    NO_OUTCOME = "its turn ended without an outcome"
    NO_END = "its turn has no last message"
    NOT_TOLD = "nobody was told"
    NOT_SHOWN = "not shown"
    GONE = "marked sent, and the homeserver does not have it"
    DOUBLED = "twice"


ADVICE: Mapping[Problem, str] = {
    Problem.NOT_RECEIVED: "ask for it to be sent again; this is a bug, unless more than 10,000 "
    "events were missed at once",
    Problem.NO_TURN: "ask for it to be sent again; a bug, unless a backup was restored",
    Problem.NO_OUTCOME: "ask for it to be sent again; this is a bug: keep the database",
    Problem.NO_END: "ask for it to be sent again; this is a bug: keep the database",
    Problem.NOT_TOLD: "ask for it to be sent again; this is a bug: keep the database and the log",
    Problem.NOT_SHOWN: "let the agent send in this room, then ask for it to be sent again",
    Problem.GONE: "ask for it to be sent again; was the homeserver restored from a backup?",
    Problem.DOUBLED: "redact the second; this is a bug: keep the log",
}


class Remark(StrEnum):
    """What is worth a look, and no message's end."""

    OVERDUE = "overdue"
    BOUND_MET = "not read further back than this"
    UNREADABLE = "could not be read; nobody could be told"
    NOTICE_NOT_SHOWN = "a notice was refused"
    UNKNOWN_EVENT = "said by the agent's account, and not by this installation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong. `detail` names no text of a message."""

    problem: Problem
    room_id: RoomId
    event_id: EventId
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One thing worth a look."""

    remark: Remark
    room_id: RoomId
    event_id: EventId | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a message may be in hand before it is called overdue, in seconds."""

    received_s: float = 360.0
    """Not used yet: an encrypted message waits 300 s for its key; the rest is for its telling."""
    turn_s: float = 1920.0
    """Running: a turn's ceiling (1,800 s unless the configuration differs), and its stopping."""
    unsent_s: float = 900.0
    """Waiting to be sent: at a stock homeserver's pace (0.2/s) 180 messages are before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How one message ended. `problem` is set exactly where the state is MISSING."""

    state: FinalState
    problem: Problem | None = None
    detail: str = ""
    overdue_at: float = float("inf")
    """Unix time; past it, what is in hand is remarked on."""
    since: float = 0.0


def missing(problem: Problem, detail: str = "") -> Verdict:
    """Without a final state, and why."""
    return Verdict(state=FinalState.MISSING, problem=problem, detail=detail)


def in_hand(since: float, patience_s: float) -> Verdict:
    """Not done yet."""
    return Verdict(state=FinalState.IN_HAND, since=since, overdue_at=since + patience_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found. Invariant: `states` has one entry for each message."""

    states: Mapping[EventId, FinalState]
    outcomes: Mapping[str, int]
    """How many messages were part of a turn that ended so."""
    findings: tuple[Finding, ...]
    notes: tuple[Note, ...]

    @property
    def counts(self) -> Mapping[FinalState, int]:
        """How many messages are in each state, zeros included."""
        counted = Counter(self.states.values())
        return {state: counted[state] for state in FinalState}

    @property
    def doubled(self) -> int:
        """How many things were shown or done twice."""
        return sum(finding.problem is Problem.DOUBLED for finding in self.findings)

    def is_clean(self, *, settled: bool) -> bool:
        """Whether nothing is wrong; with `settled`, also nothing in hand."""
        return not self.findings and not (settled and self.counts[FinalState.IN_HAND])


def render_report(report: Report) -> list[str]:
    """One line for each finding and remark, and the counts as the last."""
    lines = [_finding_line(finding) for finding in report.findings]
    lines += [_note_line(note) for note in report.notes]
    parts = ", ".join(f"{count} {state}" for state, count in report.counts.items())
    return [*lines, f"{len(report.states)} messages: {parts}"]


def _finding_line(finding: Finding) -> str:
    what = f"{finding.problem}{_behind(finding.detail)}"
    return f"{finding.room_id} {finding.event_id}: {what}; {ADVICE[finding.problem]}"


def _note_line(note: Note) -> str:
    return f"{note.room_id} {note.event_id or '-'}: remark: {note.remark}{_behind(note.detail)}"


def _behind(detail: str) -> str:
    return f" ({detail})" if detail else ""
