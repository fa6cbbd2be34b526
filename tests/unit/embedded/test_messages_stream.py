"""A reply as the Messages API sends it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.embedded.messages_model import (
    Block,
    CutStream,
    HttpError,
    MessagesRequest,
    Reply,
    Stall,
    StreamError,
    Text,
    Thinking,
    ToolUse,
    text_reply,
)
from orchestrator.embedded.messages_stream import (
    Cut,
    Wait,
    render_error,
    render_message,
    render_stream,
    stop_reason,
)

REQUEST = MessagesRequest.model_validate(
    {"model": "claude-x", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
)


def steps_of(*blocks: Block) -> list[Any]:
    return list(render_stream(Reply(blocks=blocks), REQUEST, size_chars=400))


def events_of(*blocks: Block) -> list[dict[str, Any]]:
    """The events, checked for their framing on the way."""
    events = []
    for step in steps_of(*blocks):
        if isinstance(step, bytes):
            name, data, *rest = step.decode().split("\n")
            parsed = json.loads(data.removeprefix("data: "))
            assert name == f"event: {parsed['type']}"
            assert rest == ["", ""]
            events.append(parsed)
    return events


def kinds_of(*blocks: Block) -> list[str]:
    return [event["type"] for event in events_of(*blocks)]


def test_a_text_is_streamed_as_the_api_does() -> None:
    assert kinds_of(Text(text="abcdef", chunk_chars=3)) == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


@given(text=st.text(), size=st.integers(1, 50))
def test_the_pieces_of_a_text_join_to_the_text(text: str, size: int) -> None:
    deltas = [
        e["delta"]["text"]
        for e in events_of(Text(text=text, chunk_chars=size))
        if e["type"] == "content_block_delta"
    ]
    assert "".join(deltas) == text
    assert all(len(delta) <= size for delta in deltas)


def test_a_tools_input_arrives_in_pieces_of_json_that_join_to_it() -> None:
    wanted = {"command": "echo " + "ä" * 200, "n": 1}
    events = events_of(ToolUse(name="Bash", input=wanted, id="toolu_1"))
    assert events[2]["content_block"] == {
        "type": "tool_use",
        "id": "toolu_1",
        "name": "Bash",
        "input": {},
    }
    pieces = [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"]
    assert pieces[0] == ""
    assert len(pieces) > 2
    assert json.loads("".join(pieces)) == wanted
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_thinking_ends_with_its_signature() -> None:
    deltas = [e["delta"] for e in events_of(Thinking(text="hm")) if e["type"].endswith("_delta")]
    assert [d.get("type") for d in deltas[:2]] == ["thinking_delta", "signature_delta"]


def test_blocks_are_numbered_in_order_and_delays_do_not_count() -> None:
    events = events_of(Text(text="a"), Stall(seconds=1), ToolUse(name="Read", input={}))
    starts = [e["index"] for e in events if e["type"] == "content_block_start"]
    stops = [e["index"] for e in events if e["type"] == "content_block_stop"]
    assert starts == stops == [0, 1]


def test_the_delay_is_between_pieces_and_not_before_the_first() -> None:
    steps = steps_of(Text(text="abc", chunk_chars=1, delay_s=0.5))
    kinds = ["wait" if isinstance(s, Wait) else "sent" for s in steps]
    assert kinds == ["sent"] * 4 + ["wait", "sent"] * 2 + ["sent"] * 3


def test_a_cut_ends_the_stream_at_once() -> None:
    steps = steps_of(Text(text="a"), CutStream(), Text(text="b"))
    assert isinstance(steps[-1], Cut)
    assert b"message_stop" not in b"".join(s for s in steps if isinstance(s, bytes))


def test_an_error_in_mid_stream_is_the_last_event() -> None:
    events = events_of(Text(text="a"), StreamError(), Text(text="b"))
    assert events[-1] == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "Overloaded"},
    }


def test_an_http_error_after_content_is_a_mistake_of_the_script() -> None:
    with pytest.raises(ValueError, match="comes first"):
        steps_of(Text(text="a"), HttpError(status=500, type="api_error", message="x"))


def test_usage_is_estimated_unless_it_is_scripted() -> None:
    estimated = events_of(Text(text="a"))[0]["message"]["usage"]["input_tokens"]
    scripted = Reply(blocks=(Text(text="a"),), input_tokens=7, output_tokens=9)
    message = render_message(scripted, REQUEST, size_chars=400)
    assert estimated == 100
    assert message["usage"] == {
        "input_tokens": 7,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 9,
        "service_tier": "standard",
    }


def test_the_whole_message_has_the_content_that_the_stream_has() -> None:
    reply = Reply(blocks=(Thinking(text="t"), Text(text="a"), ToolUse(name="R", input={}, id="i")))
    message = render_message(reply, REQUEST, size_chars=4)
    assert message["role"] == "assistant"
    assert message["model"] == "claude-x"
    assert message["stop_reason"] == "tool_use"
    assert message["content"] == [
        {"type": "thinking", "thinking": "t", "signature": "c3RhbmQtaW4="},
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "i", "name": "R", "input": {}},
    ]


def test_the_stop_reason_can_be_scripted() -> None:
    assert stop_reason(Reply(blocks=(Text(text="a"),), stop_reason="max_tokens")) == "max_tokens"
    assert stop_reason(text_reply("a")) == "end_turn"


def test_an_error_has_the_apis_shape() -> None:
    assert render_error("not_found_error", "Not found", "req_1") == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "Not found"},
        "request_id": "req_1",
    }
