"""What the agent asks to be allowed, as a person is to see it: all of it, nothing like our words.

Rules:
- everything of the request is shown: a command, a path, a change as a diff, any other input as it
  is. What is too long for a message goes with it as a file; what is longer than MAX_SHOWN_CHARS
  can't be shown, and so can't be allowed;
- it stands in fences that it can't close and in quotes that it can't leave, and what reorders or
  hides text is made visible before (core.sanitise).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.approval import ApprovalKind, ToolDetails
from orchestrator.core.quoting import one_line
from orchestrator.core.running_tools import summarise_input
from orchestrator.core.sanitise import sanitise
from orchestrator.model import JsonObject, JsonValue

# Five times the longest file that a person would read line by line. Where the homeserver takes no
# file this is shown as messages, of which there are 50 at most (rooms.outgoing), 20 KB each.
MAX_SHOWN_CHARS = 200_000
# Two screens of a phone; longer ones are a file, so that the question's end is near its beginning.
INLINE_CHARS = 4000
MAX_QUESTIONS = 8
MAX_OPTIONS = 9
"""As many as there are keycap signs of one digit."""
_WHAT_CHARS = 120
_RULE_CHARS = 200
_MAX_RULES = 8
_PLAN, _QUESTION = "ExitPlanMode", "AskUserQuestion"
_A_PLAN = ToolDetails(what="a plan")
_LANGUAGES = {
    "c": "c", "cpp": "cpp", "css": "css", "go": "go", "html": "html", "java": "java",
    "js": "javascript", "json": "json", "md": "markdown", "py": "python", "rs": "rust",
    "sh": "bash", "sql": "sql", "toml": "toml", "ts": "typescript", "yaml": "yaml", "yml": "yaml",
}  # fmt: skip
_RUNS = re.compile(r"`+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One answer that a question offers."""

    label: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question of the agent's; `text` and labels are as it wrote them."""

    text: str
    options: tuple[Option, ...]
    is_multiple: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One thing to be decided: what is kept of it, and its words as Markdown."""

    kind: ApprovalKind
    details: ToolDetails
    markdown: str


def describe(
    tool: str, given: JsonObject, suggestions: Sequence[JsonObject] = ()
) -> tuple[Shown, ...] | None:
    """What a request asks, in order; None where it is too long to be shown."""
    if tool == _QUESTION and (questions := parse_questions(given)):
        shown = tuple(_ask(question) for question in questions)
    elif tool == _PLAN:
        # The CLI adds the plan from the file that the model wrote; without one there is none.
        plan = given.get("plan")
        markdown = _as_quote(plan) if isinstance(plan, str) else "> …"
        shown = (Shown(kind=ApprovalKind.PLAN, details=_A_PLAN, markdown=markdown),)
    else:
        shown = (_tool(tool, given, suggestions),)
    return None if sum(len(one.markdown) for one in shown) > MAX_SHOWN_CHARS else shown


def parse_questions(given: JsonObject) -> tuple[Question, ...]:
    """The questions of an AskUserQuestion; none where they are not as the CLI's own are."""
    asked = given.get("questions")
    if not isinstance(asked, list) or not 0 < len(asked) <= MAX_QUESTIONS:
        return ()
    found = [_question(one) for one in asked]
    return tuple(one for one in found if one is not None) if None not in found else ()


def build_answers(given: JsonObject, answers: Sequence[str]) -> JsonObject:
    """The input with the people's answers, as the CLI reads them."""
    questions = parse_questions(given)
    by_text: JsonObject = {q.text: a for q, a in zip(questions, answers, strict=True)}
    return {**given, "answers": by_text}


def usable_rules(suggestions: Sequence[JsonObject]) -> tuple[JsonObject, ...]:
    """Those of the CLI's suggestions that add rules which allow; others change modes or files."""
    return tuple(
        one
        for one in suggestions[:_MAX_RULES]
        if one.get("type") == "addRules" and one.get("behavior") == "allow"
    )


def _question(asked: JsonValue) -> Question | None:
    if not isinstance(asked, dict) or not isinstance(text := asked.get("question"), str):
        return None
    options = asked.get("options", [])
    if not isinstance(options, list) or len(options) > MAX_OPTIONS:
        return None
    found = []
    for option in options:
        if not isinstance(option, dict) or not isinstance(label := option.get("label"), str):
            return None
        description = option.get("description")
        found.append(
            Option(label=label, description=description if isinstance(description, str) else "")
        )
    return Question(text=text, options=tuple(found), is_multiple=asked.get("multiSelect") is True)


def _ask(question: Question) -> Shown:
    lines = [_as_quote(question.text), ""]
    for number, option in enumerate(question.options, 1):
        label = one_line(option.label, max_chars=_WHAT_CHARS)
        more = one_line(option.description, max_chars=INLINE_CHARS)
        lines.append(f"{number}. `{label or '…'}`" + (f" — `{more}`" if more else ""))
    details = ToolDetails(
        what=one_line(question.text, max_chars=_WHAT_CHARS) or "…",
        options=tuple(one_line(o.label, max_chars=_WHAT_CHARS) or "…" for o in question.options),
        is_multiple=question.is_multiple,
    )
    return Shown(kind=ApprovalKind.QUESTION, details=details, markdown="\n".join(lines))


def _tool(tool: str, given: JsonObject, suggestions: Sequence[JsonObject]) -> Shown:
    name = one_line(tool, max_chars=40) or "a tool"
    what = one_line(summarise_input(given) or "", max_chars=_WHAT_CHARS)
    details = ToolDetails(
        what=f"{name}: {what}" if what else name, rule=_rule_of(usable_rules(suggestions))
    )
    return Shown(kind=ApprovalKind.TOOL, details=details, markdown=_input(tool, given))


def _rule_of(rules: Sequence[JsonObject]) -> str | None:
    """What the rules allow, as the CLI writes rules: `Bash(npm test:*)`."""
    names: list[str] = []
    for rule in rules:
        parts = rule.get("rules")
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict) and isinstance(part.get("toolName"), str):
                content = part.get("ruleContent")
                names.append(f"{part['toolName']}({content})" if content else f"{part['toolName']}")
    text = ", ".join(one_line(name, max_chars=_RULE_CHARS) for name in names)
    # One that can't be shown whole can't be agreed to.
    return text if text and len(text) <= _RULE_CHARS and "…" not in text else None


def _input(tool: str, given: JsonObject) -> str:
    match tool:
        case "Bash" if isinstance(command := given.get("command"), str):
            rest = {k: v for k, v in given.items() if k not in ("command", "description")}
            return _with_rest(fence(command, "bash"), rest)
        case "Write" if _are_text(given, "file_path", "content"):
            path, content = str(given["file_path"]), str(given["content"])
            rest = {k: v for k, v in given.items() if k not in ("file_path", "content")}
            body = f"New content of {_code(path)}:\n\n{fence(content, _language(path))}"
            return _with_rest(body, rest)
        case "Edit" if _are_text(given, "file_path", "old_string", "new_string"):
            path = str(given["file_path"])
            used = ("file_path", "old_string", "new_string")
            rest = {k: v for k, v in given.items() if k not in used and v is not False}
            diff = _diff(str(given["old_string"]), str(given["new_string"]))
            return _with_rest(f"Change of {_code(path)}:\n\n{fence(diff, 'diff')}", rest)
        case _:
            return fence(_json(given), "json")


def _are_text(given: JsonObject, *names: str) -> bool:
    return all(isinstance(given.get(name), str) for name in names)


def _with_rest(body: str, rest: JsonObject) -> str:
    return f"{body}\n\n{fence(_json(rest), 'json')}" if rest else body


def _json(value: JsonValue) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _diff(old: str, new: str) -> str:
    """Every line of both: nothing of a change is left out."""
    before, after = sanitise(old).splitlines(), sanitise(new).splitlines()
    count = max(len(before), len(after), 1)
    lines = difflib.unified_diff(before, after, n=count, lineterm="")
    shown = [line for line in lines if not line.startswith(("--- ", "+++ "))]
    # Where only line ends or what is not shown differs, both stand there whole.
    return "\n".join(shown or [*(f"-{x}" for x in before), *(f"+{x}" for x in after)])


def _language(path: str) -> str:
    return _LANGUAGES.get(path.rpartition(".")[2].lower(), "")


def _code(text: str) -> str:
    """A path whole, as code of one line."""
    return f"`{one_line(text, max_chars=4096) or '…'}`"


def fence(text: str, language: str = "") -> str:
    """The text as a code block that it can't close."""
    text = sanitise(text)
    longest = max((len(run) for run in _RUNS.findall(text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def _as_quote(text: str) -> str:
    """Markdown of the agent's, rendered within a quote: no line of it stands outside."""
    lines = sanitise(text).strip("\n").split("\n")
    return "\n".join(f"> {line}" for line in lines)
