"""Room commands in messages: what one says, and what is said of it (`core.command_table`). Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.core.command_table import COMMANDS as COMMANDS
from orchestrator.core.command_table import CommandName as CommandName
from orchestrator.core.command_table import CommandSpec as CommandSpec
from orchestrator.core.command_table import Group as Group
from orchestrator.core.command_table import Permission as Permission

PREFIX = "!"
# `!important` or `!!` at the start of a sentence is no command unless it looks like one.
_FORM = re.compile(r"!([a-zA-Z][a-zA-Z0-9_-]{0,31})(?:\s+(.*))?", re.DOTALL)


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
    return UnknownCommand(name=name, nearest=find_nearest(name))


def find_nearest(name: str) -> str | None:
    """The known name that a mistyped one resembles, if any."""
    near = difflib.get_close_matches(name, list(CommandName), n=1, cutoff=0.5)
    return near[0] if near else None


def render_help(permissions: Collection[Permission] = tuple(Permission)) -> str:
    """The list of what somebody with these permissions may say, as Markdown."""
    parts: list[str] = []
    for group in Group:
        lines = [
            f"- `{PREFIX}{name}` — {COMMANDS[name].summary}"
            for name in CommandName
            if COMMANDS[name].group is group and COMMANDS[name].needs in permissions
        ]
        parts += [f"**{group}**\n{chr(10).join(lines)}"] if lines else []
    return "\n\n".join([*parts, f"`{PREFIX}{CommandName.HELP} COMMAND` says more of one."])


def render_command_help(name: CommandName) -> str:
    """What one command does, as Markdown: its form, its details, examples."""
    spec = COMMANDS[name]
    lines = [f"`{form_of(name)}` — {spec.summary}."]
    lines += [spec.details] if spec.details else []
    lines += [f"Who may: {_WHO[spec.needs]}."]
    lines += (
        ["For instance: " + ", ".join(f"`{e}`" for e in spec.examples)] if spec.examples else []
    )
    return "\n\n".join(lines)


_WHO = {
    Permission.READ: "whoever may do anything here",
    Permission.RUN: "whoever may run turns here",
    Permission.DECIDE: "approvers and admins",
    Permission.ADMINISTER: "admins",
}


def form_of(name: CommandName) -> str:
    """The command with what may follow it."""
    usage = COMMANDS[name].usage
    return f"{PREFIX}{name} {usage}" if usage else f"{PREFIX}{name}"


def is_for_approvers(text: str) -> bool:
    """Whether it is a command that people may use who can decide, and need not run turns."""
    command = parse_command(text)
    return isinstance(command, Command) and command.name in _FOR_APPROVERS


_FOR_APPROVERS = (CommandName.EGRESS, CommandName.APPROVE, CommandName.DENY)
