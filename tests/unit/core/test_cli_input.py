"""What we write to the CLI: one ASCII line each, of the shape that 2.1.330 takes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.cli_input import (
    build_control_error,
    build_initialize,
    build_interrupt,
    build_mcp_answer,
    build_permission_allow,
    build_permission_deny,
    build_user_message,
    message_uuid,
)
from orchestrator.model import TurnId


@given(st.text())
def test_any_prompt_is_one_ascii_line_that_gives_it_back(text: str) -> None:
    line = build_user_message(text, message_uuid="u")
    assert line.isascii()
    assert "\n" not in line
    space = " " if text.startswith("/") else ""
    assert json.loads(line)["message"]["content"] == space + text


def test_a_lone_surrogate_in_a_prompt_is_replaced() -> None:
    line = json.loads(build_user_message("a\ud800", message_uuid="u"))
    assert line["message"]["content"] == "a\ufffd"


@pytest.mark.parametrize("text", ["/clear", "/model x", "//"])
def test_a_slash_at_the_start_is_no_command(text: str) -> None:
    line = json.loads(build_user_message(text, message_uuid="u"))
    assert line["message"]["content"] == f" {text}"


def test_a_turn_always_has_the_same_message_uuid() -> None:
    first = message_uuid(TurnId("t1"))
    assert first == message_uuid(TurnId("t1"))
    assert first != message_uuid(TurnId("t2"))
    assert len(first) == 36


def test_requests_and_answers_have_the_shapes_that_the_cli_takes() -> None:
    assert json.loads(build_interrupt("r")) == {
        "type": "control_request",
        "request_id": "r",
        "request": {"subtype": "interrupt"},
    }
    assert json.loads(build_initialize("r"))["request"] == {"subtype": "initialize"}
    answers = {
        build_permission_allow("r", {"command": "ls"}): {
            "behavior": "allow",
            "updatedInput": {"command": "ls"},
        },
        build_permission_deny("r", "no"): {"behavior": "deny", "message": "no"},
        build_mcp_answer("r", {"id": 1}): {"mcp_response": {"id": 1}},
    }
    for line, response in answers.items():
        assert json.loads(line) == {
            "type": "control_response",
            "response": {"subtype": "success", "request_id": "r", "response": response},
        }
    assert json.loads(build_control_error("r", "no"))["response"] == {
        "subtype": "error",
        "request_id": "r",
        "error": "no",
    }
