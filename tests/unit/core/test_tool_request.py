"""What the agent asks to be allowed: all of it is shown, none of it looks like our own words."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.approval import ApprovalKind
from orchestrator.core.render import render_markdown
from orchestrator.core.texts.approval import question
from orchestrator.core.tool_request import (
    MAX_SHOWN_CHARS,
    build_answers,
    describe,
    fence,
    parse_questions,
    usable_rules,
)
from orchestrator.model import JsonObject

RULES: JsonObject = {
    "type": "addRules",
    "behavior": "allow",
    "destination": "localSettings",
    "rules": [{"toolName": "Bash", "ruleContent": "npm test:*"}, {"toolName": "Read"}],
}


def shown(tool: str, given: JsonObject, *suggestions: JsonObject) -> str:
    found = describe(tool, given, suggestions)
    assert found is not None
    assert len(found) == 1
    return found[0].markdown


def test_a_command_is_shown_whole_as_code() -> None:
    command = "npm test\nrm -rf build && echo '```'"
    text = shown("Bash", {"command": command, "description": "harmless"})
    assert text == f"````bash\n{command}\n````"


def test_what_a_command_is_given_besides_is_shown_too() -> None:
    assert '"dangerouslyDisableSandbox": true' in shown(
        "Bash", {"command": "x", "dangerouslyDisableSandbox": True}
    )


def test_an_edit_is_shown_as_a_diff_with_every_line() -> None:
    text = shown("Edit", {"file_path": "/a/b.py", "old_string": "x\ny", "new_string": "x\nz"})
    assert "`/a/b.py`" in text
    assert "```diff" in text
    assert "\n x\n-y\n+z\n" in text


def test_a_change_of_what_is_not_seen_still_shows_both_sides() -> None:
    text = shown("Edit", {"file_path": "a", "old_string": "x\u200b", "new_string": "x"})
    assert "\n-x\n+x\n" in text


def test_a_new_file_is_shown_with_its_language_and_any_other_input_as_it_is() -> None:
    assert "```python\nprint()\n```" in shown("Write", {"file_path": "a.py", "content": "print()"})
    assert '"query": "x"' in shown("WebSearch", {"query": "x"})
    assert '"content": 3' in shown("Write", {"file_path": "a.py", "content": 3})


def test_what_reorders_text_is_made_visible() -> None:
    assert "[U+202E]" in shown("Bash", {"command": "echo \u202e gnp.exe"})


def test_a_request_that_is_too_long_to_be_shown_is_not_described() -> None:
    assert describe("Bash", {"command": "x" * (MAX_SHOWN_CHARS + 1)}) is None


def test_the_rule_for_the_session_is_named_or_not_offered() -> None:
    (one,) = describe("Bash", {"command": "npm test"}, (RULES,)) or ()
    assert one.details.rule == "Bash(npm test:*), Read"
    long: JsonObject = {**RULES, "rules": [{"toolName": "Bash", "ruleContent": "x" * 300}]}
    (one,) = describe("Bash", {"command": "npm test"}, (long,)) or ()
    assert one.details.rule is None


def test_only_rules_that_allow_are_used() -> None:
    mode: JsonObject = {"type": "setMode", "mode": "bypassPermissions"}
    deny: JsonObject = {**RULES, "behavior": "deny"}
    assert usable_rules([mode, deny, RULES]) == (RULES,)


def test_questions_are_numbered_and_answered_in_the_clis_own_words() -> None:
    asked: JsonObject = {
        "questions": [
            {
                "question": "Which `one`?",
                "header": "x",
                "options": [{"label": "A", "description": "first"}, {"label": "B"}],
                "multiSelect": True,
            },
            {"question": "Why?", "options": []},
        ]
    }
    first, second = describe("AskUserQuestion", asked) or ()
    assert first.kind is ApprovalKind.QUESTION
    assert first.details.options == ("A", "B")
    assert first.details.is_multiple
    assert "1. `A` — `first`\n2. `B`" in first.markdown
    assert not second.details.options
    assert build_answers(asked, ["A, B", "because"])["answers"] == {
        "Which `one`?": "A, B",
        "Why?": "because",
    }


def test_questions_of_another_form_are_shown_as_any_input() -> None:
    asked: JsonObject = {"questions": [{"question": 3}]}
    assert parse_questions(asked) == ()
    (one,) = describe("AskUserQuestion", asked) or ()
    assert one.kind is ApprovalKind.TOOL


def test_a_plan_stands_in_a_quote() -> None:
    (one,) = describe("ExitPlanMode", {"plan": "# Do\n\n```\nx\n\n**Allowed by `@alice`**"}) or ()
    assert one.kind is ApprovalKind.PLAN
    assert all(line.startswith("> ") for line in one.markdown.split("\n"))


@given(st.text(max_size=400), st.sampled_from(["Bash", "Write", "Edit", "Other", "x`\n**y**"]))
def test_no_text_leaves_its_block(text: str, tool: str) -> None:
    given: JsonObject = {
        "command": text, "file_path": text, "content": text, "old_string": "", "new_string": text,
    }  # fmt: skip
    (one,) = describe(tool, given) or ()
    message = question(one.kind, one.details, one.markdown, number=1, until=0.0, asker=None)
    html = render_markdown(message).formatted_body or ""
    outside = re.sub(r"<pre>.*?</pre>|<code>.*?</code>", "", html, flags=re.DOTALL)
    assert html.count("<strong>") == 1
    assert "<a " not in outside
    assert "<img" not in outside


@given(st.text(alphabet="`~a\n ", max_size=60))
def test_a_fence_is_never_closed_by_what_it_holds(text: str) -> None:
    html = render_markdown(f"{fence(text, 'bash')}\n\nend").formatted_body or ""
    assert html.count("<pre>") == 1
    assert html.endswith("<p>end</p>")
