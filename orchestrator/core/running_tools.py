"""Which tools the CLI is running at this moment, by what it says of them.

All of it is the room's own word: a hostile CLI may name any tool, or none. It is shown as such, and
decides nothing. A command that runs in the background is not among them: its call has ended.
"""

from __future__ import annotations

from collections import OrderedDict

from orchestrator.core.cli_event import AssistantMessage, CliEvent, ToolUseBlock, UserMessage
from orchestrator.core.quoting import one_line
from orchestrator.model import JsonObject

# Calls of one message run side by side; more than this have not been seen.
_MAX_TOOLS = 8
_ID_CHARS = 128
_NAME_CHARS = 40
_WHAT_CHARS = 100
# Shown first of a tool's input, in this order.
_TELLING_KEYS = ("command", "file_path", "notebook_path", "url", "query", "pattern", "plan")


class RunningTools:
    """Invariant: at most _MAX_TOOLS calls, each without a result so far."""

    def __init__(self) -> None:
        self._tools: OrderedDict[str, str] = OrderedDict()

    def __repr__(self) -> str:
        return f"RunningTools({list(self._tools.values())})"

    def feed(self, event: CliEvent) -> tuple[str, ...]:
        """Take in a line of the CLI's; what it says that it starts, a line each."""
        match event:
            case AssistantMessage():
                calls = [block for block in event.blocks if isinstance(block, ToolUseBlock)]
                return tuple(self._start(call) for call in calls)
            case UserMessage():
                for result in event.results:
                    self._tools.pop(result.tool_use_id[:_ID_CHARS], None)
        return ()

    def describe(self) -> tuple[str, ...]:
        """One line for each, the latest first: the tool's name and what it was given."""
        return tuple(reversed(self._tools.values()))

    def _start(self, block: ToolUseBlock) -> str:
        name = one_line(block.name, max_chars=_NAME_CHARS)
        what = one_line(summarise_input(block.input) or "", max_chars=_WHAT_CHARS)
        line = self._tools[block.tool_use_id[:_ID_CHARS]] = f"{name}: {what}" if what else name
        while len(self._tools) > _MAX_TOOLS:
            self._tools.popitem(last=False)
        return line


def summarise_input(given: JsonObject) -> str | None:
    """What tells most of a tool's input, as it is; None where there is no such thing."""
    values = (given.get(key) for key in _TELLING_KEYS)
    return next((value for value in values if isinstance(value, str)), None)
