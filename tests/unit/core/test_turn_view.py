"""What a room sees of a turn: from recorded lines, after crashes, and of what nobody asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.core.cli_event import (
    AssistantMessage,
    CommandLifecycle,
    ControlCancel,
    McpMessage,
    OtherRequest,
    PermissionRequest,
    RateLimit,
    TextBlock,
    TextDelta,
    ToolProgress,
)
from orchestrator.core.stream import parse_line
from orchestrator.core.turn_view import (
    Ended,
    PermissionAsked,
    PermissionWithdrawn,
    RateLimited,
    ReplyToCli,
    Retrying,
    Show,
    TextReady,
    TurnView,
)
from orchestrator.model import JsonObject, Seq, TurnOutcome
from tests.support.cli_expectations import EXPECTED, check, watch
from tests.support.cli_scenarios import MESSAGE, SCENARIOS

RECORDED = Path(__file__).parents[2] / "recorded" / "claude-2.1.330"


def lines_of(name: str) -> list[str]:
    return (RECORDED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()


def new_view(*, text_shown: bool = False) -> TurnView:
    return TurnView(message_uuid=MESSAGE, now=0.0, text_shown=text_shown)


def said(text: str, *, parent: str | None = None, error: str | None = None) -> AssistantMessage:
    block = TextBlock(text=text)
    return AssistantMessage(message_id="m", blocks=(block,), parent_tool_use_id=parent, error=error)


def asked(request_id: str, tool: str = "Bash", **given: str) -> PermissionRequest:
    tool_input: JsonObject = dict(given)
    return PermissionRequest(
        request_id=request_id,
        tool_name=tool,
        tool_use_id="t",
        input=tool_input,
        description="described",
        reason="",
    )


def result_line(**changes: object) -> str:
    line = {"type": "result", "subtype": "success", "is_error": False, "result": "end"}
    return json.dumps({**line, "user_message_uuids": [MESSAGE], **changes})


def feed(view: TurnView, *events: object) -> list[Show]:
    shows: list[Show] = []
    for number, event in enumerate(events, 1):
        parsed = parse_line(event) if isinstance(event, str) else event
        shows += view.feed(parsed, seq=Seq(number), now=float(number))  # type: ignore[arg-type]
    return shows


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_recorded_turn_shows_what_the_room_should_see(name: str) -> None:
    check(watch(lines_of(name)), EXPECTED[name])


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_crash_anywhere_loses_no_text_and_shows_none_twice(name: str) -> None:
    lines = lines_of(name)
    whole = [s for s in watch(lines) if isinstance(s, TextReady | Ended)]
    for crash in range(len(lines)):
        first = new_view()
        before = [s for s in watch(lines[:crash], first) if isinstance(s, TextReady | Ended)]
        if first.has_ended:
            assert before == whole
            continue
        replay_from = first.needs_replay_from or crash + 1
        second = new_view(text_shown=bool(before))
        after = watch(lines[replay_from - 1 :], second, first=replay_from)
        assert before + [s for s in after if isinstance(s, TextReady | Ended)] == whole


@pytest.mark.parametrize("name", ["tool_denied", "interrupted_question"])
def test_an_open_question_is_asked_again_after_a_crash(name: str) -> None:
    lines = lines_of(name)
    at = next(i for i, line in enumerate(lines) if '"can_use_tool"' in line)
    view = new_view()
    questions = [s for s in watch(lines[: at + 1], view) if isinstance(s, PermissionAsked)]
    assert view.needs_replay_from == at + 1
    assert view.waits_for_permission
    assert watch([lines[at]], new_view()) == questions


def test_a_question_says_in_one_line_what_the_tool_would_do() -> None:
    shows = feed(
        new_view(),
        asked("1", command="rm -r\n  build"),
        asked("2", "Write", content="x", file_path="/workspace/a"),
        asked("3", "mcp__room__send", to="b"),
        asked("4", command="x" * 1000),
    )
    summaries = [show.summary for show in shows if isinstance(show, PermissionAsked)]
    assert summaries[:3] == ["rm -r build", "/workspace/a", "described"]
    assert len(summaries[3]) == 200


def test_text_behind_an_open_question_waits_for_the_answer() -> None:
    view = new_view()
    shows = feed(view, said("before"), asked("r"), said("behind"))
    assert [show for show in shows if isinstance(show, TextReady)] == [TextReady(text="before")]
    needed = [view.needs_replay_from]
    view.answered("r")
    assert [*needed, view.needs_replay_from] == [2, None]
    assert feed(view, said("after")) == [TextReady(text="behind"), TextReady(text="after")]


def test_text_behind_a_question_that_is_never_answered_comes_with_the_end() -> None:
    shows = feed(new_view(), asked("r"), said("behind"), result_line(result="behind"))
    assert isinstance(shows[1], TextReady)
    assert isinstance(shows[2], Ended)
    assert len(shows) == 3


def test_a_withdrawn_question_needs_no_answer() -> None:
    view = new_view()
    shows = feed(view, asked("r"), ControlCancel(request_id="r"))
    assert shows[1:] == [PermissionWithdrawn(request_id="r")]
    assert not view.waits_for_permission


@pytest.mark.parametrize(
    "event",
    [
        OtherRequest(request_id="r", subtype="hook_callback"),
        McpMessage(request_id="r", server_name="s", message={}),
    ],
)
def test_a_request_that_is_not_served_gets_an_error_so_that_the_cli_goes_on(
    event: OtherRequest | McpMessage,
) -> None:
    (show,) = feed(new_view(), event)
    assert isinstance(show, ReplyToCli)
    answer = json.loads(show.line)["response"]
    assert (answer["subtype"], answer["request_id"]) == ("error", "r")


def test_a_subagents_text_is_not_shown() -> None:
    assert feed(new_view(), said("inner", parent="toolu_1")) == []


def test_blank_text_is_not_shown() -> None:
    assert feed(new_view(), said(" \n")) == []


def test_the_results_text_is_shown_once_and_only_if_it_was_not_yet() -> None:
    seen = feed(new_view(), said("end"), result_line())
    unseen = feed(new_view(), said("start"), result_line())
    alone = feed(new_view(), result_line())
    texts = [
        [show.text for show in s if isinstance(show, TextReady)] for s in (seen, unseen, alone)
    ]
    assert texts == [["end"], ["start", "end"], ["end"]]


def test_a_turn_without_text_says_that_nothing_was_shown() -> None:
    (ended,) = feed(new_view(), result_line(result=""))
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.text_already_shown) == (TurnOutcome.DONE, False)


def test_a_turn_that_the_cli_began_by_itself_does_not_end_ours() -> None:
    background = result_line(user_message_uuids=None, origin={"kind": "task-notification"})
    earlier = result_line(user_message_uuids=["33333333-3333-4333-8333-333333333333"])
    view = new_view()
    assert feed(view, background, earlier) == []
    assert isinstance(feed(view, result_line())[-1], Ended)


def test_nothing_is_shown_after_the_end() -> None:
    view = new_view()
    feed(view, result_line())
    assert feed(view, said("late"), asked("r"), result_line(result="again")) == []
    assert view.needs_replay_from is None


def test_a_session_that_is_gone_is_told_apart_from_other_failures() -> None:
    ended = watch(lines_of("unknown_session"))[-1]
    assert isinstance(ended, Ended)
    assert ended.session_lost
    other = watch(lines_of("overloaded"))[-1]
    assert isinstance(other, Ended)
    assert not other.session_lost


def test_a_message_that_the_session_already_knew_is_interrupted_and_not_silent() -> None:
    (ended,) = feed(new_view(), CommandLifecycle(command_uuid=MESSAGE, state="completed"))
    assert isinstance(ended, Ended)
    assert ended.outcome is TurnOutcome.INTERRUPTED


@pytest.mark.parametrize("state", ["discarded", "refused"])
def test_a_message_that_the_cli_did_not_take_fails(state: str) -> None:
    shows = feed(
        new_view(),
        CommandLifecycle(command_uuid=MESSAGE, state="queued"),
        CommandLifecycle(command_uuid="another", state=state),
        CommandLifecycle(command_uuid=MESSAGE, state=state),
    )
    (ended,) = shows
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.reason) == (TurnOutcome.FAILED, f"the CLI {state} the message")


def test_the_fate_of_the_message_does_not_end_a_turn_that_runs() -> None:
    view = new_view()
    shows = feed(view, said("x"), CommandLifecycle(command_uuid=MESSAGE, state="completed"))
    assert [type(show) for show in shows] == [TextReady]
    assert not view.has_ended


def test_retries_and_limits_are_shown_and_an_allowed_limit_is_not() -> None:
    retries = [show for show in watch(lines_of("retried")) if isinstance(show, Retrying)]
    assert [(retry.attempt, retry.status) for retry in retries] == [(1, 529)]
    limits = [show for show in watch(lines_of("usage_limit")) if isinstance(show, RateLimited)]
    assert [(limit.is_rejected, limit.resets_at) for limit in limits] == [(True, 4102444800)]
    allowed = RateLimit(status="allowed", resets_at=None, limit_type=None, utilization=0.1)
    assert feed(new_view(), allowed) == []


def test_only_progress_moves_the_time_of_the_last_progress() -> None:
    view = new_view()
    view.feed(TextDelta(text="a"), seq=Seq(1), now=10.0)
    view.feed(ToolProgress(tool_name="Bash", elapsed_s=30), seq=Seq(2), now=40.0)
    assert view.last_progress_at == 10.0


def test_the_cost_of_a_turn_is_what_it_spent_and_not_what_the_process_did() -> None:
    spent = {"m": {"costUSD": 0.25}, "n": {"costUSD": 0.5}}
    line = result_line(total_cost_usd=9.0, model_usage_since_last_result=spent)
    ended = feed(new_view(), line)[-1]
    assert isinstance(ended, Ended)
    assert ended.cost_usd == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"api_error_status": 500}, "the API failed (500); try again in a minute"),
        ({"api_error": "connection_failed"}, "the API could not be reached; try again in a minute"),
        ({"subtype": "error_max_turns"}, "it met the limit of steps for one turn"),
        ({"terminal_reason": "budget_exhausted"}, "it met the limit of what one turn may cost"),
        ({"errors": ["Hook\n failed."], "result": ""}, "the CLI says: `Hook failed`"),
        ({"errors": ["[ede_diagnostic] x"], "result": ""}, "the CLI ended the turn with `success`"),
        ({"result": "y" * 1000}, "the CLI says: `" + "y" * 300 + "`"),
    ],
)
def test_a_failure_is_told_in_words(changes: dict[str, object], reason: str) -> None:
    ended = feed(new_view(), result_line(is_error=True, **changes))[-1]
    assert isinstance(ended, Ended)
    assert ended.outcome is TurnOutcome.FAILED
    assert (ended.reason or "").startswith(reason)


def test_a_views_repr_says_where_it_is() -> None:
    view = new_view()
    assert "waiting" in repr(view)
    feed(view, asked("r"))
    assert "started open=['r']" in repr(view)
    feed(view, result_line())
    assert "ended" in repr(view)
