"""What a running turn shows of itself in its one message, from the CLI's events. Pure.

All of it is the room's own word, and shown as such: tools and tasks in code, text as Markdown like
any answer. What is complete replaces it, so nothing depends on what is left out here.
"""

from __future__ import annotations

import html
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.core.chunking import last_part
from orchestrator.core.cli_event import (
    AssistantMessage,
    CliEvent,
    Result,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
    UserMessage,
)
from orchestrator.core.quoting import one_line, quote
from orchestrator.core.render import build_text_content
from orchestrator.core.running_tools import summarise_input
from orchestrator.core.task_list import TaskList
from orchestrator.core.texts import live as texts
from orchestrator.model import JsonObject

# Two screens of a phone; rendering it takes some 12 ms.
MAX_SHOWN_CHARS = 4000
_MAX_TEXT_CHARS = 64_000
_MAX_RUNNING = 8
_MAX_LISTED = 10
_MAX_THOUGHT_CHARS = 1500
_ID_CHARS = 128
_NAME_CHARS = 40
_WHAT_CHARS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    what: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    what: str
    seconds: float
    failed: bool


class LiveView:
    """Invariant: what it holds is bounded, whatever it is fed. `changes` counts what can be seen.

    Args:
        text: what an earlier life of the orchestrator had of the answer.
        show_thinking: whether the model's thinking is shown, and not only that it thinks.
    """

    def __init__(self, *, text: str = "", show_thinking: bool = False) -> None:
        self._text = text
        self._partial = ""
        self._show_thinking = show_thinking
        self._thought = ""
        self._state = texts.WORKING
        self._running: OrderedDict[str, _Call] = OrderedDict()
        self._done: list[_Done] = []
        self._counts = {False: 0, True: 0}
        self._tasks = TaskList()
        self.waits_for_decision = False
        self.changes = 0

    def __repr__(self) -> str:
        return f"<LiveView changes={self.changes} running={len(self._running)}>"

    @property
    def is_running_tool(self) -> bool:
        """Whether the time in the status goes on."""
        return bool(self._running)

    def feed(self, event: CliEvent, now: float) -> None:
        """Take in a line of the CLI's; `now` in seconds of any clock. Never raises."""
        changed = self._tasks.feed(event)
        match event:
            case TextDelta(parent_tool_use_id=None):
                self._partial = (self._partial + event.text)[-_MAX_TEXT_CHARS:]
                self._state = texts.WRITING
            case ThinkingDelta(parent_tool_use_id=None):
                self._thought = (self._thought + event.text)[-_MAX_THOUGHT_CHARS:]
                changed = changed or self._state != texts.THINKING or self._show_thinking
                self._state = texts.THINKING
            case AssistantMessage():
                self._said(event, now)
            case UserMessage():
                self._answered(event, now)
            case Result():
                self._state = texts.WORKING
            case _ if not changed:
                return
        is_seen = not isinstance(event, ThinkingDelta) or changed
        self.changes += int(is_seen)

    def before(self, text: str) -> None:
        """What an earlier life of the orchestrator had of the answer."""
        if text:
            self._text = f"{text}\n\n{self._text}" if self._text else text
            self.changes += 1

    def render(self, now: float) -> JsonObject:
        """The content of its message; a `m.text` that pings nobody."""
        parts = [part for part in (self._shown_text(), self._shown_tasks()) if part]
        content = build_text_content("\n\n".join(parts))
        body, formatted = str(content["body"]), content.get("formatted_body")
        markup = str(formatted) if formatted else (f"<p>{html.escape(body)}</p>" if body else "")
        status = self._status(now, quote)
        content["body"] = f"{body}\n\n{status}" if body else status
        content["format"] = "org.matrix.custom.html"
        content["formatted_body"] = markup + self._details(self._status(now, _code))
        return content

    # What the CLI says...

    def _said(self, event: AssistantMessage, now: float) -> None:
        is_own = event.parent_tool_use_id is None and event.error is None
        for block in event.blocks:
            match block:
                case TextBlock() if is_own and block.text.strip():
                    joined = f"{self._text}\n\n{block.text}" if self._text else block.text
                    self._text, self._partial = joined[-_MAX_TEXT_CHARS:], ""
                case ThinkingBlock() if is_own:
                    self._thought = ""
                case ToolUseBlock():
                    self._start(block, now)
        self._state = texts.WORKING

    def _start(self, block: ToolUseBlock, now: float) -> None:
        name = one_line(block.name, max_chars=_NAME_CHARS)
        what = one_line(summarise_input(block.input) or "", max_chars=_WHAT_CHARS)
        call = _Call(what=f"{name}: {what}" if what else name, since=now)
        self._running[block.tool_use_id[:_ID_CHARS]] = call
        while len(self._running) > _MAX_RUNNING:
            self._running.popitem(last=False)

    def _answered(self, event: UserMessage, now: float) -> None:
        for result in event.results:
            call = self._running.pop(result.tool_use_id[:_ID_CHARS], None)
            if call is None:
                continue
            done = _Done(what=call.what, seconds=now - call.since, failed=result.is_error)
            self._done = [*self._done, done][-_MAX_LISTED:]
            self._counts[result.is_error] += 1

    # How it is shown...

    def _shown_text(self) -> str:
        text = "\n\n".join(part for part in (self._text, self._partial) if part.strip())
        shown = last_part(text, max_chars=MAX_SHOWN_CHARS)
        return shown if len(shown) >= len(text) else f"{texts.CUT}\n\n{shown}"

    def _shown_tasks(self) -> str:
        return "\n".join(f"{quote(line, max_chars=160)}  " for line in self._tasks.shown())

    def _status(self, now: float, dress: Callable[[str], str]) -> str:
        if self.waits_for_decision:
            state = texts.DECISION
        elif self._running:
            latest = next(reversed(self._running.values()))
            seconds = max(0.0, now - latest.since)
            state = texts.running(dress(latest.what), seconds, len(self._running) - 1)
        else:
            state = self._state
        counted = texts.counts(self._counts[False], self._counts[True])
        return f"{state} · {counted}" if counted else state

    def _details(self, status: str) -> str:
        """The status, and folded behind it what was done."""
        left_out = sum(self._counts.values()) - len(self._done)
        lines = [texts.left_out(left_out)] if left_out else []
        lines += [texts.finished(_code(d.what), d.seconds, failed=d.failed) for d in self._done]
        thought = self._thought.strip() if self._show_thinking else ""
        if not lines and not thought:
            return f"<p>{status}</p>"
        items = "".join(f"<li>{line}</li>" for line in lines)
        listed = f"<ul>{items}</ul>" if items else ""
        thinking = f"<blockquote>{html.escape(thought)}</blockquote>" if thought else ""
        return f"<details><summary>{status}</summary>{thinking}{listed}</details>"


def _code(text: str) -> str:
    """The room's words as code, in which no client makes links or pills."""
    return f"<code>{html.escape(text)}</code>"
