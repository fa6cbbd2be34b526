"""The CLI's lines as events: every recorded line is typed, and nothing raises."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.cli_event import (
    ApiRetry,
    AssistantMessage,
    CliEvent,
    CommandLifecycle,
    ControlCancel,
    ControlResponse,
    ConversationReset,
    Garbled,
    Init,
    KeepAlive,
    McpMessage,
    OtherRequest,
    PermissionRequest,
    RateLimit,
    Result,
    Status,
    TaskEvent,
    TextBlock,
    TextDelta,
    ThinkingDelta,
    ToolProgress,
    ToolUseBlock,
    Unknown,
    UserMessage,
)
from orchestrator.core.stream import HEAD_CHARS, MAX_DEPTH, MAX_LINE_CHARS, parse_line

RECORDED = Path(__file__).parents[2] / "recorded" / "claude-2.1.330"
ALL_LINES = [
    line
    for file in sorted(RECORDED.glob("*.jsonl"))
    for line in file.read_text(encoding="utf-8").splitlines()
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def lines_of(name: str) -> list[CliEvent]:
    text = (RECORDED / f"{name}.jsonl").read_text(encoding="utf-8")
    return [parse_line(line) for line in text.splitlines()]


def one(name: str, kind: type[CliEvent]) -> CliEvent:
    return next(event for event in lines_of(name) if isinstance(event, kind))


def test_every_recorded_line_is_typed() -> None:
    assert len(ALL_LINES) > 250
    assert [line for line in ALL_LINES if isinstance(parse_line(line), Unknown | Garbled)] == []


def test_the_start_of_a_turn_names_the_session_the_mode_and_the_version() -> None:
    init = one("plan_asks", Init)
    assert isinstance(init, Init)
    assert init.session_id == "11111111-1111-4111-8111-111111111111"
    assert init.permission_mode == "plan"
    assert init.version == "2.1.330"
    assert "Bash" in init.tools
    assert not {"CronCreate", "Monitor", "WebFetch"} & set(init.tools)


def test_text_comes_in_deltas_and_then_as_a_block() -> None:
    events = lines_of("answer")
    deltas = [event.text for event in events if isinstance(event, TextDelta)]
    blocks = [block for e in events if isinstance(e, AssistantMessage) for block in e.blocks]
    assert "".join(deltas) == "Hello **there**."
    assert TextBlock(text="Hello **there**.") in blocks


def test_a_tool_call_and_its_result_are_joined_by_their_id() -> None:
    events = lines_of("two_texts_and_a_tool")
    blocks = [block for e in events if isinstance(e, AssistantMessage) for block in e.blocks]
    call = next(block for block in blocks if isinstance(block, ToolUseBlock))
    result = next(r for e in events if isinstance(e, UserMessage) for r in e.results)
    assert call.input == {"command": "echo hi", "description": "say hi"}
    assert (result.tool_use_id, result.text, result.is_error) == (call.tool_use_id, "hi", False)


def test_a_permission_request_says_what_the_tool_would_do() -> None:
    asked = one("tool_denied", PermissionRequest)
    assert isinstance(asked, PermissionRequest)
    assert asked.tool_name == "Bash"
    assert asked.input["command"] == "touch a && rm a"
    assert asked.request_id


def test_an_interrupt_is_answered_and_takes_the_open_question_back() -> None:
    answer = one("interrupted_question", ControlResponse)
    assert isinstance(answer, ControlResponse)
    assert (answer.request_id, answer.error) == ("interrupt-1", None)
    asked, cancel = (
        one("interrupted_question", PermissionRequest),
        one("interrupted_question", ControlCancel),
    )
    assert isinstance(asked, PermissionRequest)
    assert cancel == ControlCancel(request_id=asked.request_id)


def test_a_result_names_the_message_the_cost_and_the_tokens() -> None:
    result = one("two_texts_and_a_tool", Result)
    assert isinstance(result, Result)
    assert result.user_message_uuids == ("22222222-2222-4222-8222-222222222222",)
    assert result.cost_usd == pytest.approx(result.session_cost_usd)
    assert (result.usage.input_tokens, result.usage.output_tokens) == (20, 10)
    assert result.num_turns == 2
    assert not result.is_error


def test_an_api_failure_has_the_word_success_and_is_an_error_all_the_same() -> None:
    result = one("bad_credential", Result)
    assert isinstance(result, Result)
    assert (result.subtype, result.is_error, result.api_error_status) == ("success", True, 401)
    message = one("bad_credential", AssistantMessage)
    assert isinstance(message, AssistantMessage)
    assert message.error == "authentication_failed"


def test_retries_and_limits_are_told() -> None:
    retry = one("retried", ApiRetry)
    assert isinstance(retry, ApiRetry)
    assert (retry.attempt, retry.max_retries, retry.status) == (1, 8, 529)
    limit = one("usage_limit", RateLimit)
    assert isinstance(limit, RateLimit)
    assert (limit.status, limit.limit_type) == ("rejected", "five_hour")
    assert limit.resets_at == 4102444800


def test_a_subagents_words_are_marked_as_its_own() -> None:
    messages = [event for event in lines_of("subagent") if isinstance(event, AssistantMessage)]
    assert {message.parent_tool_use_id for message in messages} == {None, "toolu_01"}
    tasks = [event for event in lines_of("subagent") if isinstance(event, TaskEvent)]
    assert tasks[0].kind == "task_started"
    assert tasks[-1].status == "completed"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"type": "keep_alive"}, KeepAlive()),
        (
            {"type": "tool_progress", "tool_name": "Bash", "elapsed_time_seconds": 30},
            ToolProgress(tool_name="Bash", elapsed_s=30.0),
        ),
        (
            {"type": "system", "subtype": "status", "status": None, "permissionMode": "plan"},
            Status(status=None, permission_mode="plan"),
        ),
        (
            {"type": "control_request", "request_id": "r", "request": {"subtype": "hook_callback"}},
            OtherRequest(request_id="r", subtype="hook_callback"),
        ),
        (
            {
                "type": "control_request",
                "request_id": "r",
                "request": {"subtype": "mcp_message", "server_name": "s", "message": {"id": 1}},
            },
            McpMessage(request_id="r", server_name="s", message={"id": 1}),
        ),
        (
            {"type": "conversation_reset", "new_conversation_id": "n", "trigger": "clear"},
            ConversationReset(new_conversation_id="n", trigger="clear"),  # type: ignore[arg-type]
        ),
        (
            {
                "type": "control_response",
                "response": {"subtype": "error", "request_id": "r", "error": "no"},
            },
            ControlResponse(request_id="r", error="no", response={}),
        ),
    ],
)
def test_lines_that_were_not_recorded_have_their_documented_shape(
    line: dict[str, object], expected: CliEvent
) -> None:
    assert parse_line(json.dumps(line)) == expected


@pytest.mark.parametrize(
    ("line", "is_progress"),
    [
        ('{"type":"keep_alive"}', False),
        ('{"type":"tool_progress","tool_name":"Bash","elapsed_time_seconds":30}', False),
        ('{"type":"system","subtype":"status","status":"requesting"}', False),
        ('{"type":"system","subtype":"api_retry","attempt":1}', False),
        ('{"type":"system","subtype":"never_seen"}', False),
        ('{"type":"stream_event","event":{"type":"ping"}}', False),
        ("garbage", False),
        ('{"type":"system","subtype":"thinking_tokens","estimated_tokens":3}', True),
        ('{"type":"stream_event","event":{"type":"message_stop"}}', True),
        ('{"type":"user","message":{"role":"user","content":"x"}}', True),
    ],
)
def test_only_what_shows_that_the_turn_moves_on_is_progress(line: str, is_progress: bool) -> None:
    assert parse_line(line).is_progress is is_progress


def test_an_unknown_type_is_kept_by_name_and_size() -> None:
    assert parse_line('{"type":"brand_new","x":1}') == Unknown(type="brand_new", size=26)
    assert parse_line('{"type":"system","subtype":"y"}') == Unknown(type="system/y", size=31)
    long = parse_line(json.dumps({"type": "x" * 1000}))
    assert isinstance(long, Unknown)
    assert len(long.type) == 100


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("Segmentation fault", "not_json"),
        ('{"type":', "not_json"),
        ('{"type":"user"} trailing', "not_json"),
        ('{"x": NaN}', "not_json"),
        ('{"x": -Infinity}', "not_json"),
        ('{"x": ' + "9" * 5000 + "}", "not_json"),
        ("[1]", "not_an_object"),
        ('"result"', "not_an_object"),
        ("null", "not_an_object"),
        ("[" * 200_000, "too_deep"),
        ('{"a":' * 100_000, "too_deep"),
        ('{"type":"x","y":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", "too_deep"),
        ("{}", "no_type"),
        ('{"type":1}', "no_type"),
        ('{"type":""}', "no_type"),
        ('{"type":"result"}', "wrong_shape"),
        ('{"type":"result","subtype":"success","duration_ms":1e999}', "wrong_shape"),
        ('{"type":"assistant","message":[1]}', "wrong_shape"),
        ('{"type":"control_request","request_id":7,"request":{}}', "wrong_shape"),
        ('{"type":"rate_limit_event","rate_limit_info":null}', "wrong_shape"),
    ],
)
def test_a_line_that_is_no_event_gives_a_reason(line: str, reason: str) -> None:
    event = parse_line(line)
    assert isinstance(event, Garbled)
    assert event.reason == reason
    assert event.head == line[:HEAD_CHARS]


def test_a_line_without_end_is_refused_before_it_is_parsed() -> None:
    event = parse_line('{"type":"x","y":"' + "z" * MAX_LINE_CHARS)
    assert event == Garbled(reason="too_long", head=('{"type":"x","y":"' + "z" * 200)[:200])


def test_the_deepest_allowed_nesting_is_read() -> None:
    depth = MAX_DEPTH - 1
    line = '{"type":"x","y":' + "[" * depth + "]" * depth + "}"
    assert isinstance(parse_line(line), Unknown)


def test_wide_is_not_deep() -> None:
    line = json.dumps({"type": "x", "y": [[] for _ in range(MAX_DEPTH * 4)]})
    assert isinstance(parse_line(line), Unknown)


def test_lone_surrogates_are_replaced_wherever_they_stand() -> None:
    line = (
        r'{"type":"control_request","request_id":"\ud800","request":{"subtype":"can_use_tool",'
        r'"tool_name":"\udc00x","input":{"\ud800k":["\ud83d\ude00 \udfff"]}}}'
    )
    event = parse_line(line)
    assert isinstance(event, PermissionRequest)
    assert event.request_id == "\ufffd"
    assert event.input == {"\ufffdk": ["😀 \ufffd"]}
    assert repr(event).encode()


def test_null_where_a_text_or_number_is_expected_is_read_as_none_there() -> None:
    line = json.dumps(
        {"type": "result", "subtype": "success", "result": None, "usage": None, "num_turns": None}
    )
    event = parse_line(line)
    assert isinstance(event, Result)
    assert (event.text, event.num_turns, event.usage.input_tokens) == ("", 0, 0)


def test_a_forged_message_keeps_the_fate_of_another_message_apart() -> None:
    event = parse_line('{"type":"command_lifecycle","command_uuid":"a","state":"queued"}')
    assert event == CommandLifecycle(command_uuid="a", state="queued")


@settings(max_examples=300)
@given(st.text())
def test_any_text_gives_an_event(line: str) -> None:
    assert isinstance(parse_line(line), CliEvent)


@settings(max_examples=300)
@given(
    st.sampled_from([json.loads(line) for line in ALL_LINES[::7]]),
    st.dictionaries(st.sampled_from(["message", "event", "request", "result", "usage"]), JSON),
)
def test_a_real_line_with_anything_put_into_it_gives_an_event(
    line: dict[str, object], changes: dict[str, object]
) -> None:
    event = parse_line(json.dumps({**line, **changes}))
    assert isinstance(event, CliEvent)
    assert repr(event).encode()


@settings(max_examples=200)
@given(st.sampled_from(ALL_LINES), st.integers(0, 4000))
def test_a_truncated_line_is_garbled_and_never_half_an_event(line: str, length: int) -> None:
    cut = line[: min(length, len(line) - 1)]
    assert isinstance(parse_line(cut), Garbled)


def test_thinking_that_is_kept_back_still_shows_progress() -> None:
    assert any(isinstance(event, ThinkingDelta) and event.text for event in lines_of("answer"))


def test_hostile_depth_costs_no_more_than_reading_it() -> None:
    started = time.perf_counter()
    parse_line('{"type":"x","y":' + "[[]," * 100_000 + "1" + "]" * 100_000 + "}")
    # Measured at 5 ms; a quadratic walk of the levels would take minutes.
    assert time.perf_counter() - started < 5
