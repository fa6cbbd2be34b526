"""Room commands: one table makes the parser, the hints and the help."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from enum import StrEnum

PREFIX = "!"
# `!important` or `!!` at the start of a sentence is no command unless it looks like one.
_FORM = re.compile(r"!([a-zA-Z][a-zA-Z0-9_-]{0,31})(?:\s+(.*))?", re.DOTALL)


class CommandName(StrEnum):
    """The commands that exist."""

    HELP = "help"
    STATUS = "status"
    CANCEL = "cancel"
    NEW = "new"
    RETRY = "retry"
    EGRESS = "egress"


SUMMARIES: dict[CommandName, str] = {
    CommandName.HELP: "this list",
    CommandName.STATUS: "runner, session, queue, limits and version of this room",
    CommandName.CANCEL: "stop what is running",
    CommandName.NEW: "start a new conversation; the files stay",
    CommandName.RETRY: "another go at the last message that ended without an answer",
    CommandName.EGRESS: "hosts that can be reached from here; `allow`, `deny` or `revoke` HOST",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A known command and the text after it."""

    name: CommandName
    argument: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownCommand:
    """Looks like a command; `nearest` is the known name that it resembles, if any."""

    name: str
    nearest: str | None


def parse_command(text: str) -> Command | UnknownCommand | None:
    """The command that a message is, or None for a message that is none."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        return None
    name, argument = match[1].lower(), (match[2] or "").strip()
    if name in CommandName.__members__.values():
        return Command(name=CommandName(name), argument=argument)
    near = difflib.get_close_matches(name, list(CommandName), n=1, cutoff=0.5)
    return UnknownCommand(name=name, nearest=near[0] if near else None)


def render_help() -> str:
    """The list of commands as Markdown."""
    lines = [f"- `{PREFIX}{name}` — {SUMMARIES[name]}" for name in CommandName]
    return "\n".join(lines)


def is_for_approvers(text: str) -> bool:
    """Whether it is a command that people may use who can decide, and need not run turns."""
    command = parse_command(text)
    return isinstance(command, Command) and command.name is CommandName.EGRESS
