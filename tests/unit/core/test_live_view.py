"""What is shown of a running turn: bounded, escaped, and in words, whatever the CLI says."""

from __future__ import annotations

import json

import nh3
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.chunking import last_part, measure_content
from orchestrator.core.cli_event import (
    AssistantMessage,
    Block,
    CliEvent,
    TextBlock,
    TextDelta,
    ThinkingDelta,
    ToolResult,
    ToolUseBlock,
    UserMessage,
)
from orchestrator.core.edit import build_edit, parse_edited, parse_new_content, read_said
from orchestrator.core.live_view import LiveView
from orchestrator.core.task_list import TaskList
from orchestrator.core.texts import live as texts
from orchestrator.model import EventId

TAGS = {"p", "br", "details", "summary", "ul", "ol", "li", "code", "pre", "blockquote", "strong"}
TAGS |= {"em", "a", "s", "del", "hr", "table", "thead", "tbody", "tr", "th", "td"}
TAGS |= {f"h{n}" for n in range(1, 7)}


def said(*blocks: Block) -> AssistantMessage:
    return AssistantMessage(message_id="m", blocks=blocks)


def call(name: str, given: dict[str, object], id_: str = "t") -> AssistantMessage:
    return said(ToolUseBlock(tool_use_id=id_, name=name, input=given))  # type: ignore[arg-type]


def gave(text: str, id_: str = "t", *, is_error: bool = False) -> UserMessage:
    return UserMessage(results=(ToolResult(tool_use_id=id_, text=text, is_error=is_error),))


words = st.text(max_size=60)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["Bash", "TodoWrite", "TaskCreate", "TaskUpdate"]) | words
keys = st.sampled_from(["command", "todos", "subject", "taskId", "status"]) | words
events: st.SearchStrategy[CliEvent] = st.one_of(
    words.map(lambda text: TextDelta(text=text)),
    words.map(lambda text: ThinkingDelta(text=text)),
    words.map(lambda text: said(TextBlock(text=text))),
    st.builds(call, names, st.dictionaries(keys, json_values, max_size=4), words),
    st.builds(gave, words, words, is_error=st.booleans()),
)


@given(st.lists(events, max_size=30), st.booleans())
def test_whatever_the_cli_says_the_form_is_bounded_and_has_only_tags_that_clients_take(
    fed: list[CliEvent], show: bool
) -> None:
    view = LiveView(show_thinking=show)
    for number, event in enumerate(fed):
        view.feed(event, float(number))
    content = view.render(100.0)
    markup = str(content["formatted_body"])
    assert nh3.clean(markup, tags=TAGS, attributes={"code": {"class"}, "ol": {"start"}}).count(
        "<"
    ) >= markup.replace("</br>", "").count("<script")
    assert "<script" not in markup
    assert "<img" not in markup
    assert measure_content(build_edit(content, EventId("$e"))) < 50_000
    json.dumps(content).encode()
    assert content["m.mentions"] == {}


def test_a_long_text_is_shown_by_its_end_and_an_open_fence_is_opened_again() -> None:
    text = "begin\n\n```python\n" + "x = 1\n" * 2000
    part = last_part(text, max_chars=100)
    assert part.startswith("```python\n")
    assert len(part) < 130
    assert last_part("short", max_chars=100) == "short"
    assert last_part("a" * 300, max_chars=100) == "a" * 100
    view = LiveView()
    view.feed(TextDelta(text=text), 0.0)
    content = view.render(0.0)
    assert str(content["body"]).startswith("… *(the beginning")
    assert 'class="language-python"' in str(content["formatted_body"])


def test_a_tool_is_named_with_its_time_and_how_those_before_it_ended() -> None:
    view = LiveView()
    view.feed(call("Bash", {"command": "make a"}, "1"), 0.0)
    view.feed(gave("ok", "1"), 3.0)
    view.feed(call("Bash", {"command": "make <i>"}, "2"), 3.0)
    view.feed(gave("bad", "2", is_error=True), 5.0)
    view.feed(call("Read", {"file_path": "a.py"}, "3"), 5.0)
    content = view.render(17.4)
    assert content["body"] == "⏳ `Read: a.py` · 12 s · 1 ✓, 1 ✗"
    markup = str(content["formatted_body"])
    assert "<summary>⏳ <code>Read: a.py</code> · 12 s · 1 ✓, 1 ✗</summary>" in markup
    assert "<li>✓ <code>Bash: make a</code> · 3 s</li>" in markup
    assert "<li>✗ failed: <code>Bash: make &lt;i&gt;</code> · 2 s</li>" in markup


def test_thinking_is_a_sign_unless_it_is_wanted() -> None:
    quiet, open_ = LiveView(), LiveView(show_thinking=True)
    for view in (quiet, open_):
        view.feed(ThinkingDelta(text="a <secret> plan"), 0.0)
    assert quiet.render(0.0)["body"] == texts.THINKING
    assert "plan" not in str(quiet.render(0.0))
    assert "<blockquote>a &lt;secret&gt; plan</blockquote>" in str(
        open_.render(0.0)["formatted_body"]
    )
    changes = quiet.changes
    quiet.feed(ThinkingDelta(text="more"), 1.0)
    assert quiet.changes == changes, "more thinking changes nothing that can be seen"


def test_the_list_of_tasks_ticks_itself_off_in_both_of_the_tools_forms() -> None:
    tasks = TaskList()
    todos = [{"content": "one", "status": "completed"}, {"content": "two", "status": "pending"}]
    assert tasks.feed(call("TodoWrite", {"todos": todos}))
    assert tasks.shown() == ("☑ one", "☐ two")
    made = TaskList()
    assert not made.feed(call("TaskCreate", {"subject": "build"}, "c1"))
    assert made.feed(gave("Task #7 created successfully: build", "c1"))
    assert made.feed(call("TaskUpdate", {"taskId": "7", "status": "in_progress"}, "u1"))
    assert made.shown() == ("▶ build",)
    assert not made.feed(call("TaskUpdate", {"taskId": "8", "status": "completed"}, "u2"))
    assert made.feed(call("TaskUpdate", {"taskId": "7", "status": "deleted"}, "u3"))
    assert made.shown() == ()


def test_of_a_long_list_finished_tasks_are_left_out_first() -> None:
    todos = [{"content": f"t{n}", "status": "completed" if n < 5 else "pending"} for n in range(20)]
    tasks = TaskList()
    tasks.feed(call("TodoWrite", {"todos": todos}))
    shown = tasks.shown()
    assert len(shown) == 13
    assert shown[-1] == "… and 8 more"
    assert shown[0] == "☐ t5"


def test_an_edit_holds_the_whole_new_content_and_its_target() -> None:
    content = {"msgtype": "m.text", "body": "x" * 5000, "m.mentions": {}}
    edit = build_edit(content, EventId("$e"))  # type: ignore[arg-type]
    assert parse_edited(edit) == "$e"
    assert parse_new_content(edit) == content
    assert len(str(edit["body"])) < 310
    assert read_said(edit) == edit, "without a turn's mark it is somebody's edit"
    assert parse_edited({"m.relates_to": {"rel_type": "m.thread", "event_id": "$e"}}) is None
    assert parse_edited({"m.relates_to": "?"}) is None
