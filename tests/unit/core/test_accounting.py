"""Each message in exactly one state; each thing that is amiss found, by its name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.accounting import unseen_sent
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
from orchestrator.core.naming import refused_txn_id, stand_in_txn_ids
from orchestrator.core.turn_mark import TurnMark
from orchestrator.core.verdict import (
    ADVICE,
    STATE_BY_OUTCOME,
    FinalState,
    Patience,
    Problem,
    Remark,
)
from orchestrator.model import EventId, RoomId, TurnId, TurnOutcome, TxnId
from tests.support.evidence import (
    ALICE,
    ANSWER,
    ASKED,
    MALLORY,
    ME,
    ROOM,
    TURN,
    assert_missing,
    assert_well,
    entry,
    evidence,
    judge,
    mark,
    only_state,
    problems,
    refused,
    remarks,
    reply,
    row,
    seen,
    told,
    turn,
)

# Turns...


@pytest.mark.parametrize("outcome", list(TurnOutcome))
def test_a_turn_that_was_shown_to_its_end_settles_its_message(outcome: TurnOutcome) -> None:
    report = judge(evidence(turns=(turn(outcome=outcome),)))
    assert_well(report, STATE_BY_OUTCOME[outcome])
    assert report.outcomes == {outcome.value: 1}


def test_every_outcome_has_a_state_and_every_problem_an_advice() -> None:
    assert set(STATE_BY_OUTCOME) == set(TurnOutcome)
    assert set(ADVICE) == set(Problem)


def test_a_turn_that_has_not_ended_is_in_hand() -> None:
    running = turn(outcome=None, has_ended=False, started_at=990.0)
    found = evidence(turns=(running,), outbox=(), events=(seen(),))
    assert_well(judge(found), FinalState.IN_HAND)


def test_a_turn_past_its_ceiling_is_overdue_and_one_in_its_queue_is_not() -> None:
    patience = Patience(turn_s=60)
    running = turn(outcome=None, has_ended=False, started_at=900.0)
    late = judge(evidence(turns=(running,), outbox=()), patience=patience)
    assert remarks(late) == [Remark.OVERDUE, Remark.UNKNOWN_EVENT]
    assert late.is_clean(settled=False)
    queued = replace(running, started_at=None)
    assert Remark.OVERDUE not in remarks(judge(evidence(turns=(queued,)), patience=patience))


def test_a_turn_without_its_row_is_found() -> None:
    assert_missing(judge(evidence(turns=())), Problem.NO_TURN)


def test_an_end_without_an_outcome_is_found() -> None:
    assert_missing(judge(evidence(turns=(turn(outcome=None),))), Problem.NO_OUTCOME)


@pytest.mark.parametrize(
    "rows",
    [
        (),
        (row(mark=mark(is_final=False)),),
        (row(mark=mark(TURN, "$other")),),
        (row(mark=mark("t2")),),
    ],
)
def test_an_end_that_no_row_shows_is_found(rows: tuple[OutboxEntry, ...]) -> None:
    assert_missing(judge(evidence(outbox=rows, events=(seen(),), rooms=())), Problem.NO_END)


def test_a_message_that_its_turn_does_not_name_is_found() -> None:
    stray = entry("$stray", turn_id=TURN)
    report = judge(evidence(inbox=(entry(turn_id=TURN), stray)))
    assert report.states[stray.event_id] is FinalState.MISSING
    assert [(f.problem, f.event_id) for f in report.findings] == [(Problem.NO_END, stray.event_id)]


def test_a_refusal_whose_mark_is_still_to_be_made_is_in_hand() -> None:
    """One of a flood: its room was told, and one event will mark all of them."""
    collected = turn(outcome=TurnOutcome.REFUSED, parts=0)
    found = evidence(turns=(collected,), outbox=(), events=(seen(),))
    assert_well(judge(found), FinalState.IN_HAND)
    assert_missing(judge(replace(found, turns=(replace(collected, parts=1),))), Problem.NO_END)


def test_an_end_that_waits_in_the_outbox_is_in_hand() -> None:
    queued = row(None, delivery=Delivery.QUEUED, mark=mark())
    assert_well(judge(evidence(outbox=(queued,), events=(seen(),))), FinalState.IN_HAND)


def test_an_end_that_waits_for_long_is_overdue() -> None:
    queued = row(None, delivery=Delivery.QUEUED, mark=mark(), created_at=0.0)
    report = judge(evidence(outbox=(queued,), events=(seen(),)))
    assert remarks(report) == [Remark.OVERDUE]


def test_an_end_that_was_refused_is_found() -> None:
    assert_missing(judge(evidence(outbox=(refused(),), events=(seen(),))), Problem.NOT_SHOWN)


def test_a_part_of_the_answer_that_was_refused_is_found() -> None:
    part = refused(txn="x0", mark=mark(is_final=False))
    assert_missing(judge(evidence(outbox=(part, row(mark=mark())))), Problem.NOT_SHOWN)


def test_an_end_that_was_refused_and_told_instead_settles_its_message() -> None:
    instead = row(ANSWER, refused_txn_id(TxnId("x1")), mark=mark(), digest="digest of x1")
    report = judge(evidence(outbox=(refused(), instead)))
    assert_well(report, FinalState.ANSWERED)


def test_a_file_that_was_refused_and_sent_as_text_settles_its_message() -> None:
    text = row(ANSWER, stand_in_txn_ids(TxnId("x1"))[1], mark=mark(), digest="digest of x1")
    assert_well(judge(evidence(outbox=(refused(), text))), FinalState.ANSWERED)


def test_a_telling_that_was_refused_too_tells_nobody() -> None:
    instead = refused(txn=refused_txn_id(TxnId("x1")))
    report = judge(evidence(outbox=(refused(), instead), events=(seen(),)))
    assert_missing(report, Problem.NOT_SHOWN)


def test_what_was_given_up_with_its_room_counts_as_its_turn_ended() -> None:
    gone = refused(reason="left the room")
    found = evidence(
        outbox=(gone,), turns=(turn(outcome=TurnOutcome.REFUSED),), joined=frozenset(), events=()
    )
    assert_well(judge(found), FinalState.REFUSED)


def test_what_the_homeserver_does_not_have_is_not_shown() -> None:
    found = evidence(events=(seen(),))
    assert [r.event_id for r in unseen_sent(found)] == [ANSWER]
    assert_missing(judge(found), Problem.GONE)
    assert_well(judge(replace(found, confirmed=frozenset([ANSWER]))), FinalState.ANSWERED)


def test_what_was_sent_before_the_part_of_a_room_that_was_read_is_taken_to_be_there() -> None:
    rooms = (SeenRoom(room_id=ROOM, live_from=960.0, is_cut=True),)
    report = judge(evidence(events=(), rooms=rooms))
    assert only_state(report) is FinalState.ANSWERED
    assert remarks(report) == [Remark.BOUND_MET]


def test_a_room_that_was_not_read_says_nothing_of_its_events() -> None:
    assert_well(judge(evidence(events=(), rooms=())), FinalState.ANSWERED)


def test_a_turn_that_goes_on_with_another_settles_its_messages() -> None:
    first = turn("t0", TurnOutcome.INTERRUPTED)
    second = turn(continues=TurnId("t0"), created_at=901.0)
    found = evidence(inbox=(entry(turn_id=TurnId("t0")),), turns=(first, second))
    assert_well(judge(found), FinalState.ANSWERED)
    assert judge(found).outcomes == {"done": 1}


def test_turns_that_go_on_with_each_other_do_not_hang_the_audit() -> None:
    turns = (turn("t0", continues=TURN), turn(TURN, continues=TurnId("t0")))
    assert only_state(judge(evidence(turns=turns))) is not None


# Messages without a turn...


def test_a_command_is_answered_by_a_reply() -> None:
    assert_well(judge(told("command", reply())), FinalState.ANSWERED)
    assert_missing(judge(told("command")), Problem.NOT_TOLD)


def test_a_command_that_takes_its_time_is_in_hand_until_it_is_answered() -> None:
    at_work = frozenset([EventId(ASKED)])
    for said in ((), (reply(),)):
        found = judge(replace(told("command", *said), errands=at_work))
        assert only_state(found) is FinalState.IN_HAND
        assert found.findings == ()


@pytest.mark.parametrize("reason", ["file", "empty", "too many at once", "anything else"])
def test_what_its_sender_was_told_about_is_refused(reason: str) -> None:
    assert_well(judge(told(reason, reply())), FinalState.REFUSED)
    assert_missing(judge(told(reason)), Problem.NOT_TOLD)


def test_a_reply_on_its_way_is_in_hand_and_a_refused_one_is_found() -> None:
    waiting = reply(delivery=Delivery.QUEUED)
    assert only_state(judge(told("command", waiting))) is FinalState.IN_HAND
    lost = reply(delivery=Delivery.REFUSED, reason="M_FORBIDDEN")
    assert Problem.NOT_SHOWN in problems(judge(told("command", lost)))


def test_a_stranger_is_told_once_and_is_refused_every_time() -> None:
    once = frozenset([(ROOM, MALLORY, "sender not allowed")])
    report = judge(told("sender not allowed", sender=MALLORY, told=once))
    assert only_state(report) is FinalState.REFUSED
    assert_missing(judge(told("sender not allowed", sender=MALLORY)), Problem.NOT_TOLD)


def test_who_was_told_in_the_room_that_replaced_a_room_was_told() -> None:
    other = RoomId("!new:test")
    once = frozenset([(other, ALICE, "room replaced")])
    found = told("room replaced", told=once, replaced_by={ROOM: other})
    assert only_state(judge(found)) is FinalState.REFUSED
    assert_missing(judge(replace(found, replaced_by={})), Problem.NOT_TOLD)


def test_a_room_is_told_once_of_closed_messages_and_strangers_are_not() -> None:
    both = evidence(
        inbox=(entry(reason="undecryptable"), entry("$two", reason="undecryptable")),
        turns=(),
        outbox=(reply(),),
        events=(seen(), seen("$two"), seen("$reply", ME)),
    )
    assert set(judge(both).states.values()) == {FinalState.FAILED}
    assert problems(judge(replace(both, outbox=()))) == [Problem.NOT_TOLD] * 2
    assert judge(told("undecryptable", sender=MALLORY)).states == {}


def test_a_message_whose_handling_failed_must_have_been_told() -> None:
    failed = {"progress": Progress.FAILED}
    assert_well(judge(told("KeyError", reply(), **failed)), FinalState.FAILED)
    assert_missing(judge(told("KeyError", **failed)), Problem.NOT_TOLD)
    assert judge(told("KeyError", sender=MALLORY, **failed)).states == {}
    assert judge(told("KeyError", joined=frozenset(), **failed)).states == {}


def test_what_nothing_could_be_read_of_is_nobodys_message_and_remarked_on() -> None:
    report = judge(told("unreadable: ValidationError", progress=Progress.FAILED))
    assert report.states == {}
    assert Remark.UNREADABLE in remarks(report)


@pytest.mark.parametrize("progress", [Progress.NEW, Progress.PENDING_KEYS])
def test_what_was_received_and_not_used_yet_is_in_hand(progress: Progress) -> None:
    found = evidence(inbox=(entry(progress=progress),), turns=(), outbox=(), events=(seen(),))
    assert_well(judge(found), FinalState.IN_HAND)
    assert remarks(judge(found, patience=Patience(received_s=50))) == [Remark.OVERDUE]


@pytest.mark.parametrize(
    "event", [seen(sender=ME, is_new=True), seen(event_type="m.reaction"), None]
)
def test_what_can_not_be_a_message_is_not_counted(event: SeenEvent | None) -> None:
    new = entry(progress=Progress.NEW, event_type="m.room.name" if event is None else None)
    events = () if event is None else (event,)
    assert judge(evidence(inbox=(new,), turns=(), outbox=(), events=events)).states == {}


def test_what_was_ignored_is_not_counted() -> None:
    assert judge(told("notice", progress=Progress.IGNORED)).states == {}


def test_of_whom_nothing_is_known_nothing_is_said() -> None:
    assert_well(judge(replace(told("file"), events=())), FinalState.REFUSED)


@pytest.mark.parametrize(
    ("reason", "event_type"),
    [("redaction", "m.room.redaction"), ("edit", "m.room.message"), ("edit", "m.room.encrypted")],
)
def test_what_changes_another_message_is_none_itself(reason: str, event_type: str) -> None:
    found = replace(told(reason), events=(seen(event_type=event_type),))
    assert (judge(found).states, judge(found).findings) == ({}, ())


def test_what_was_taken_back_before_it_went_into_a_turn_is_cancelled() -> None:
    assert_well(judge(replace(told("taken back"), events=(seen(),))), FinalState.CANCELLED)


def test_what_was_taken_back_after_it_went_into_a_turn_ends_with_it() -> None:
    back = entry(turn_id=TURN, reason="taken back")
    assert_well(judge(evidence(inbox=(back,))), FinalState.ANSWERED)
    assert_missing(judge(evidence(inbox=(back,), turns=())), Problem.NO_TURN)


def test_what_is_to_go_into_a_turn_that_runs_is_in_hand_until_it_ends() -> None:
    running = turn(outcome=None, has_ended=False, asked=(), started_at=990.0)
    found = evidence(turns=(running,), outbox=(), events=(seen(),))
    assert_well(judge(found), FinalState.IN_HAND)
    over = evidence(turns=(turn(asked=()),), events=(seen(),), rooms=())
    assert_missing(judge(over), Problem.NO_END)


def test_an_advice_names_no_action_of_the_log() -> None:
    """What is amiss here was logged under several, or not at all."""
    assert not any("intake.failed" in advice for advice in ADVICE.values())


# The homeserver's side...


@pytest.mark.parametrize("event_type", ["m.room.message", "m.room.encrypted"])
def test_an_event_that_is_not_in_the_inbox_was_not_received(event_type: str) -> None:
    report = judge(evidence(inbox=(), turns=(), outbox=(), events=(seen(event_type=event_type),)))
    assert_missing(report, Problem.NOT_RECEIVED)


def test_an_event_past_the_place_of_the_database_is_in_hand() -> None:
    report = judge(evidence(inbox=(), turns=(), outbox=(), events=(seen(is_new=True),)))
    assert_well(report, FinalState.IN_HAND)


@pytest.mark.parametrize(
    "half_sent",
    [
        {"txn_id": TxnId("x1")},
        {"digest": "digest of x1"},
    ],
)
def test_an_event_that_was_sent_and_not_marked_yet_is_expected(half_sent: dict[str, Any]) -> None:
    queued = row(None, delivery=Delivery.QUEUED, mark=mark())
    events = (seen(), seen(ANSWER, ME, **half_sent))
    report = judge(evidence(outbox=(queued,), events=events))
    assert_well(report, FinalState.IN_HAND)


def test_what_the_account_said_by_itself_is_remarked_on_unless_it_is_new() -> None:
    events = (*evidence().events, seen("$hand", ME, digest="typed"))
    report = judge(evidence(events=events))
    assert remarks(report) == [Remark.UNKNOWN_EVENT]
    assert report.is_clean(settled=True)
    newer = (*evidence().events, seen("$hand", ME, digest="typed", is_new=True))
    assert remarks(judge(evidence(events=newer))) == []
    sign = (*evidence().events, seen("$sign", ME, digest="an edit", is_aside=True))
    assert remarks(judge(evidence(events=sign))) == []


def test_a_notice_that_was_refused_is_remarked_on() -> None:
    notice = refused(txn="n1", mark=None)
    report = judge(evidence(outbox=(row(mark=mark()), notice)))
    assert remarks(report) == [Remark.NOTICE_NOT_SHOWN]
    assert report.is_clean(settled=True)


# Whatever there is...

EVENTS = st.sampled_from([EventId(f"$e{i}") for i in range(4)])
TURNS = st.sampled_from([TurnId(f"t{i}") for i in range(3)])
TIMES = st.floats(0, 2000)
MARKS = st.builds(
    TurnMark, turn_id=TURNS, asked=st.frozensets(EVENTS, max_size=3), is_final=st.booleans()
)
SEEN = st.builds(
    SeenEvent,
    room_id=st.just(ROOM),
    event_id=EVENTS,
    sender=st.sampled_from([ALICE, MALLORY]),
    event_type=st.sampled_from(["m.room.message", "m.room.encrypted", "m.reaction"]),
    is_own=st.booleans(),
    is_new=st.booleans(),
    digest=st.sampled_from(["a", "b"]),
    mark=st.none() | MARKS,
    txn_id=st.none() | st.sampled_from([TxnId("x0"), TxnId("x1")]),
)
ENTRIES = st.builds(
    InboxEntry,
    room_id=st.just(ROOM),
    event_id=EVENTS,
    progress=st.sampled_from(list(Progress)),
    received_at=TIMES,
    reason=st.sampled_from([None, "command", "undecryptable", "unreadable: X", "file"]),
    turn_id=st.none() | TURNS,
    sender=st.none() | st.sampled_from([ALICE, MALLORY]),
    event_type=st.none() | st.just("m.room.message"),
)
TURN_ENTRIES = st.builds(
    TurnEntry,
    turn_id=TURNS,
    room_id=st.just(ROOM),
    has_ended=st.booleans(),
    outcome=st.none() | st.sampled_from(list(TurnOutcome)),
    asked=st.lists(EVENTS, max_size=3).map(tuple),
    created_at=TIMES,
    started_at=st.none() | TIMES,
    continues=st.none() | TURNS,
)
ROWS = st.builds(
    OutboxEntry,
    room_id=st.just(ROOM),
    txn_id=st.sampled_from([TxnId("x0"), TxnId("x1"), refused_txn_id(TxnId("x0"))]),
    event_type=st.just("m.room.message"),
    delivery=st.sampled_from(list(Delivery)),
    created_at=TIMES,
    digest=st.sampled_from(["a", "b"]),
    event_id=st.none() | EVENTS,
    reason=st.sampled_from([None, "M_FORBIDDEN", "left the room"]),
    mark=st.none() | MARKS,
    reply_to=st.none() | EVENTS,
)
EVIDENCE = st.builds(
    Evidence,
    joined=st.sampled_from([frozenset(), frozenset([ROOM])]),
    inbox=st.lists(ENTRIES, max_size=4, unique_by=lambda e: e.event_id),
    turns=st.lists(TURN_ENTRIES, max_size=3, unique_by=lambda t: t.turn_id),
    outbox=st.lists(ROWS, max_size=3, unique_by=lambda r: r.txn_id),
    told=st.sampled_from([frozenset(), frozenset([(ROOM, ALICE, "file")])]),
    rooms=st.lists(
        st.builds(SeenRoom, room_id=st.just(ROOM), live_from=TIMES, is_cut=st.booleans()),
        max_size=1,
    ),
    events=st.lists(SEEN, max_size=4, unique_by=lambda e: e.event_id),
    confirmed=st.frozensets(EVENTS, max_size=2),
    strangers=st.just(frozenset([MALLORY])),
)


@given(EVIDENCE)
def test_each_message_is_in_one_state_and_what_has_none_has_one_reason(found: Evidence) -> None:
    report = judge(found)
    lost = [f for f in report.findings if f.problem is not Problem.DOUBLED]
    missing = {e for e, state in report.states.items() if state is FinalState.MISSING}
    assert sum(report.counts.values()) == len(report.states)
    assert sorted(f.event_id for f in lost) == sorted(missing)
    known = {e.event_id for e in found.inbox} | {e.event_id for e in found.events}
    assert set(report.states) <= known


@given(EVIDENCE)
def test_no_message_of_others_is_left_out(found: Evidence) -> None:
    """Counted, ignored in the inbox, or told to be nobody's: nothing drops out in between."""
    report = judge(found)
    inbox = {e.event_id: e for e in found.inbox}
    for event in found.events:
        if event.is_message and event.event_id not in inbox:
            assert event.event_id in report.states
    for held in found.inbox:
        if held.turn_id is not None and held.progress is not Progress.IGNORED:
            assert held.event_id in report.states


def test_ten_thousands_of_rows_are_joined_within_seconds() -> None:
    """By its work, not by a clock: each row is looked at a few times."""
    count = 20_000
    ids = [f"$e{i}" for i in range(count)]
    found = evidence(
        inbox=[entry(e, turn_id=TurnId(f"t{e}")) for e in ids],
        turns=[turn(f"t{e}", asked=(EventId(e),)) for e in ids],
        outbox=[row(f"{e}a", f"x{e}", mark=mark(f"t{e}", e)) for e in ids],
        events=[seen(e) for e in ids] + [seen(f"{e}a", ME) for e in ids],
    )
    report = judge(found)
    assert report.counts[FinalState.ANSWERED] == count
    assert report.is_clean(settled=True)
