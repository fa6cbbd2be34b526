"""What the offline model answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.going_on import build_prompt_again
from orchestrator.embedded.messages_model import MessagesRequest, Reply, Text, ToolUse
from orchestrator.embedded.offline_model import OfflineModel

TOOLS = ({"name": "Bash"}, {"name": "Read"}, {"name": "Write"})
ENVIRONMENT = {
    "role": "system",
    "content": "# Environment\n - Primary working directory: /workspace/a b\n - Platform: linux",
}
REMINDER = {"type": "text", "text": "<system-reminder>\nread my name is Eve\n</system-reminder>\n"}


def user(text: str, *more: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*more, {"type": "text", "text": text}]}


def result(text: str, **fields: Any) -> dict[str, Any]:
    part = {"type": "tool_result", "tool_use_id": "t", "content": text, **fields}
    return {"role": "user", "content": [part]}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def ask(*messages: dict[str, Any], **fields: Any) -> Reply:
    body = {"model": "m", "max_tokens": 100, "tools": TOOLS, "messages": messages, **fields}
    return OfflineModel().reply(MessagesRequest.model_validate_json(json.dumps(body)))


def text_of(reply: Reply) -> str:
    return "".join(block.text for block in reply if isinstance(block, Text))


def call_of(reply: Reply) -> ToolUse:
    return next(block for block in reply if isinstance(block, ToolUse))


def test_it_says_that_it_is_offline_and_what_was_said() -> None:
    said = text_of(ask(user("good morning", REMINDER), ENVIRONMENT))
    assert "offline model" in said
    assert "“good morning”" in said
    assert "message 1 of" in said


def test_it_counts_what_the_user_said_and_not_what_tools_said() -> None:
    said = text_of(ask(user("run: ls"), assistant("…"), result("a"), assistant("b"), user("and?")))
    assert "message 2 of" in said


@pytest.mark.parametrize("question", ["what is my name?", "What's my name", "WHAT IS MY NAME ?"])
def test_it_remembers_a_name(question: str) -> None:
    reply = ask(user("hi, my name is Ada!"), assistant("hello"), user(question))
    assert "Your name is Ada." in text_of(reply)


def test_a_name_in_the_clis_own_reminders_is_not_the_users() -> None:
    assert "You have not told me" in text_of(ask(user("what is my name?", REMINDER)))


def test_it_remembers_what_was_said_first() -> None:
    reply = ask(user("one"), assistant("x"), user("two"), user("what did I say first?"))
    assert "“one”" in text_of(reply)


def test_run_calls_bash_with_the_command() -> None:
    call = call_of(ask(user("run: ls -la")))
    assert (call.name, call.input["command"]) == ("Bash", "ls -la")


def test_a_command_may_have_several_lines() -> None:
    assert call_of(ask(user("Run: cat <<X\nhello\nX"))).input["command"] == "cat <<X\nhello\nX"


@pytest.mark.parametrize("prefix", ["@you:localhost: ", "<@you:localhost> ", "[@you:localhost]: "])
def test_the_senders_name_in_front_is_no_part_of_the_request(prefix: str) -> None:
    assert call_of(ask(user(prefix + "run: ls"))).input["command"] == "ls"


def test_a_message_that_is_taken_up_again_is_answered_without_the_note_before_it() -> None:
    again = build_prompt_again("run: ls")
    assert again != "run: ls"
    assert call_of(ask(user(again))).input["command"] == "ls"
    assert "Note by the system" not in text_of(ask(user(build_prompt_again("hello"))))


def test_files_are_named_from_the_working_directory() -> None:
    plain = {"role": "system", "content": " - Primary working directory: /workspace\n"}
    read = call_of(ask(user("read notes.txt"), plain))
    write = call_of(ask(user("write a/b.txt: two\nlines"), plain))
    absolute = call_of(ask(user("read `/etc/hostname`"), plain))
    assert read.input == {"file_path": "/workspace/notes.txt"}
    assert write.input == {"file_path": "/workspace/a/b.txt", "content": "two\nlines\n"}
    assert absolute.input == {"file_path": "/etc/hostname"}


def test_a_tool_that_is_not_offered_is_not_called() -> None:
    reply = ask(user("run: ls"), tools=[{"name": "Read"}])
    assert not any(isinstance(block, ToolUse) for block in reply)
    assert "may not use the tool Bash" in text_of(reply)


def test_a_tools_output_is_shown_and_the_turn_ends() -> None:
    reply = ask(user("run: ls"), assistant("…"), result("a.txt\n```\nb.txt"))
    assert not any(isinstance(block, ToolUse) for block in reply)
    assert "````\na.txt\n```\nb.txt\n````" in text_of(reply)


def test_a_denied_tool_is_reported_and_the_turn_ends() -> None:
    reply = ask(user("run: ls"), assistant("…"), result("Denied by the room.", is_error=True))
    assert "did not work" in text_of(reply)
    assert "Denied by the room." in text_of(reply)


def test_a_silent_tool_is_reported_as_done() -> None:
    assert "printed nothing" in text_of(ask(user("run: true"), assistant("…"), result("")))


def test_a_result_in_blocks_is_read_like_one_in_a_string() -> None:
    blocks: Any = [{"type": "text", "text": "seen"}, {"type": "image", "source": {}}]
    assert "seen" in text_of(ask(user("run: x"), assistant("…"), result(blocks)))


def test_a_huge_output_is_cut() -> None:
    said = text_of(ask(user("run: x"), assistant("…"), result("x" * 100_000)))
    assert "cut here" in said
    assert len(said) < 5000


def test_counting_is_slow_and_bounded() -> None:
    (block,) = ask(user("count to 3")).blocks
    (huge,) = ask(user("count to 999999999")).blocks
    assert isinstance(block, Text)
    assert isinstance(huge, Text)
    assert block.text.split() == ["1", "2", "3"]
    assert block.delay_s > 0
    assert block.chunk_chars * 3 == len(block.text)
    assert huge.text.split()[-1] == "1000"


def test_help_lists_what_it_understands() -> None:
    said = text_of(ask(user("Help!")))
    assert all(word in said for word in ("run:", "read", "write", "count to", "ANTHROPIC_API_KEY"))


def test_a_quota_check_gets_one_token() -> None:
    assert text_of(ask(user("quota"), max_tokens=1, tools=())) == "."


def test_a_title_in_a_given_shape_is_json() -> None:
    shape = {"format": {"type": "json_schema", "schema": {}}}
    assert json.loads(text_of(ask(user("x"), tools=(), output_config=shape)))["title"]


def test_a_title_in_plain_text_is_short() -> None:
    said = text_of(ask(user("run: ls"), tools=(), system="Write a title for this conversation."))
    assert said == "Offline conversation"


@given(said=st.text(min_size=1), tools=st.sampled_from([(), TOOLS]))
def test_whatever_is_said_gets_an_answer(said: str, tools: Any) -> None:
    assert text_of(ask(user(said.encode(errors="replace").decode()), tools=tools))
