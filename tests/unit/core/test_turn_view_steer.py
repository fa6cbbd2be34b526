"""Messages that went into a turn: it ends once a result names each of them, and not before."""

from __future__ import annotations

import json

import pytest

from orchestrator.core.steer import SteerState
from orchestrator.core.stream import parse_line
from orchestrator.core.turn_view import Ended, Show, SteersAnswered, TextReady, TurnView
from orchestrator.model import Seq, TurnOutcome

OWN, FIRST, SECOND = "own", "first", "second"


def result(*uuids: str, seq: int = 1, view: TurnView, **values: object) -> list[Show]:
    usual = {"type": "result", "subtype": "success", "is_error": False, "result": "words"}
    line = json.dumps({**usual, **values, "user_message_uuids": uuids, "session_id": "s"})
    return view.feed(parse_line(line), seq=Seq(seq), now=0.0)


def ends(shows: list[Show]) -> list[TurnOutcome]:
    return [show.outcome for show in shows if isinstance(show, Ended)]


def new_view() -> TurnView:
    return TurnView(message_uuid=OWN, now=0.0)


def test_a_result_that_names_all_of_them_ends_it() -> None:
    view = new_view()
    view.expect(FIRST, SteerState.GIVEN)
    assert ends(result(OWN, FIRST, view=view)) == [TurnOutcome.DONE]


def test_one_that_was_given_has_a_result_of_its_own() -> None:
    view = new_view()
    view.expect(FIRST, SteerState.GIVEN)
    shows = result(OWN, view=view)
    assert shows == [TextReady(text="words"), SteersAnswered(uuids=())]
    assert view.needs_replay_from is None, "its text is shown, so it is never replayed"
    assert ends(result(FIRST, seq=2, view=view)) == [TurnOutcome.DONE]


def test_of_one_that_may_have_left_the_result_waits_for_the_news() -> None:
    view = new_view()
    view.expect(FIRST, SteerState.OFFERED)
    assert ends(result(OWN, seq=7, view=view)) == []
    assert view.needs_replay_from == 7
    (end,) = view.forget(FIRST)
    assert ends([end]) == [TurnOutcome.DONE]
    assert view.has_ended
    assert view.needs_replay_from is None


def test_the_news_that_it_has_arrived_lets_the_turn_go_on() -> None:
    view = new_view()
    view.expect(FIRST, SteerState.OFFERED)
    result(OWN, seq=7, view=view)
    view.expect(FIRST, SteerState.GIVEN)
    assert view.needs_replay_from is None
    assert ends(result(FIRST, seq=8, view=view)) == [TurnOutcome.DONE]


def test_one_of_two_that_never_arrives_does_not_end_the_others() -> None:
    view = new_view()
    view.expect(FIRST, SteerState.GIVEN)
    view.expect(SECOND, SteerState.OFFERED)
    result(OWN, view=view)
    assert view.forget(SECOND) == []
    assert ends(result(FIRST, seq=2, view=view)) == [TurnOutcome.DONE]


def test_after_a_crash_what_was_answered_is_not_waited_for() -> None:
    view = new_view()
    view.expect(FIRST, SteerState.ANSWERED)
    view.expect(FIRST, SteerState.GIVEN)
    assert not view.waits_for_steer
    assert ends(result(FIRST, view=view)) == [TurnOutcome.DONE]


def test_an_interruption_ends_it_whatever_is_still_to_be_answered() -> None:
    view = new_view()
    view.expect(FIRST, SteerState.GIVEN)
    values = {"is_error": True, "terminal_reason": "aborted_tools"}
    assert ends(result(OWN, view=view, **values)) == [TurnOutcome.CANCELLED]
    assert view.waits_for_steer


def test_what_failed_before_is_said() -> None:
    view = new_view()
    view.expect(FIRST, SteerState.GIVEN)
    shows = result(OWN, view=view, is_error=True, result="no credit", errors=["no credit"])
    assert ends(shows) == []
    assert any(isinstance(show, TextReady) and show.text.startswith("*[") for show in shows)
    assert ends(result(FIRST, seq=2, view=view)) == [TurnOutcome.DONE]


def test_a_result_of_nobodys_changes_nothing() -> None:
    view = new_view()
    view.expect(FIRST, SteerState.GIVEN)
    assert result("other", view=view) == []


@pytest.mark.parametrize("state", [SteerState.OFFERED, SteerState.GIVEN])
def test_with_the_session_all_that_went_into_the_turn_is_lost(state: SteerState) -> None:
    """The turn is started over, whatever became of them."""
    view = new_view()
    view.expect(FIRST, state)
    errors = ["No conversation found with session ID: s"]
    (end,) = result(view=view, is_error=True, errors=errors, subtype="error_during_execution")
    assert isinstance(end, Ended)
    assert end.session_lost
