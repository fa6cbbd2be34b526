"""Tools that the model of a test calls."""

from __future__ import annotations

from orchestrator.embedded.messages_model import ToolUse
from orchestrator.model import JsonValue


def bash(command: str, **more: JsonValue) -> ToolUse:
    """The CLI's Bash tool; `more` are its further arguments."""
    return ToolUse(name="Bash", input={"command": command, "description": "test", **more})
