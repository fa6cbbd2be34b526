"""A request of the Messages API, as far as a stand-in reads it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.embedded.messages_model import MessagesRequest, ToolUse


def parse(**fields: Any) -> MessagesRequest:
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    return MessagesRequest.model_validate({**body, **fields})


def test_content_may_be_a_string_or_blocks() -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    request = parse(messages=[{"role": "user", "content": blocks}], system="be brief")
    assert parse().last_user_text == "x"
    assert request.last_user_text == "a\nb"
    assert request.system_text == "be brief"


def test_what_the_system_says_between_messages_is_not_what_the_user_said() -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "system", "content": "env"}]
    request = parse(messages=messages, system=[{"type": "text", "text": "prompt"}])
    assert request.last_user_text == "x"
    assert request.system_text == "prompt\nenv"


def test_results_are_found_behind_a_trailing_system_message() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "out"}
    messages = [{"role": "user", "content": [result]}, {"role": "system", "content": "env"}]
    assert [part.result_text for part in parse(messages=messages).tool_results] == ["out"]


def test_a_request_with_only_results_has_no_user_text() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "out"}
    assert parse(messages=[{"role": "user", "content": [result]}]).last_user_text == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"max_tokens": 0},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"model": None},
    ],
)
def test_what_the_api_refuses_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse(**wrong)


def test_unknown_fields_are_ignored() -> None:
    assert parse(thinking={"type": "adaptive"}, context_management={}).model == "m"


def test_each_tool_call_has_an_id_of_its_own() -> None:
    assert len({ToolUse(name="R", input={}).id for _ in range(100)}) == 100
