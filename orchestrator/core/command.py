"""Room commands: one table makes the parser, the hints, the help, who may, and docs/commands.md."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

PREFIX = "!"
# `!important` or `!!` at the start of a sentence is no command unless it looks like one.
_FORM = re.compile(r"!([a-zA-Z][a-zA-Z0-9_-]{0,31})(?:\s+(.*))?", re.DOTALL)


class Permission(StrEnum):
    """What somebody may do in a room; a role is a set of these (core.role)."""

    READ = "read"
    """Ask how things stand: what changes nothing and shows no file."""
    RUN = "run"
    """Run turns, and change what the room's conversation does."""
    DECIDE = "decide"
    """Grant what an agent asks for."""
    ADMINISTER = "administer"
    """Change what the operator's configuration limits."""


class CommandName(StrEnum):
    """The commands that exist, in the order of the help."""

    HELP = "help"
    STATUS = "status"
    CANCEL = "cancel"
    NEW = "new"
    RETRY = "retry"
    APPROVE = "approve"
    DENY = "deny"
    EGRESS = "egress"
    COST = "cost"
    BUDGET = "budget"
    MODEL = "model"
    MODE = "mode"
    EFFORT = "effort"
    TIMEOUT = "timeout"
    QUEUE = "queue"
    RESTART = "restart"
    INVITE_AGENT = "invite-agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """What is said of one command, and who may give it."""

    summary: str
    """A clause, for the list."""
    needs: Permission = Permission.RUN
    usage: str = ""
    """What may follow the name: `[HOST]`, `on|off`."""
    details: str = ""
    """Sentences for `!help NAME` and the page; limits and defaults stand here."""
    examples: tuple[str, ...] = ()
    """Whole commands that work as they stand."""


COMMANDS: Mapping[CommandName, CommandSpec] = MappingProxyType(
    {
        CommandName.HELP: CommandSpec(
            summary="this list; with a name, what that command does",
            needs=Permission.READ,
            usage="[COMMAND]",
            examples=("!help", "!help egress"),
        ),
        CommandName.STATUS: CommandSpec(
            summary="runner, session, queue, limits and version of this room",
            needs=Permission.READ,
        ),
        CommandName.CANCEL: CommandSpec(summary="stop what is running"),
        CommandName.NEW: CommandSpec(summary="start a new conversation; the files stay"),
        CommandName.RETRY: CommandSpec(
            summary="another go at the last message that ended without an answer"
        ),
        CommandName.APPROVE: CommandSpec(
            summary="allow what the agent asks for; with a number where several wait",
            needs=Permission.READ,
            usage="[NUMBER]",
            details=(
                "The same as a ✅ on the question. Where several wait, it lists them by number. "
                "Who may: those who may decide, and whoever asked for the turn where that is set."
            ),
            examples=("!approve", "!approve 2"),
        ),
        CommandName.DENY: CommandSpec(
            summary="refuse what the agent asks for; the reason reaches it",
            needs=Permission.READ,
            usage="[NUMBER] [REASON]",
            details="The same as a ❌ on the question, or a reply. Who may: see `!approve`.",
            examples=("!deny", "!deny use the staging server", "!deny 2 not on a Friday"),
        ),
        CommandName.EGRESS: CommandSpec(
            summary="hosts that can be reached from here; `allow`, `deny` or `revoke` HOST",
            needs=Permission.READ,
            usage="[allow HOST [1h|always] | deny HOST | revoke HOST]",
            details="Who may change it: those who may decide.",
            examples=("!egress", "!egress allow example.org 1h", "!egress revoke example.org"),
        ),
        CommandName.COST: CommandSpec(
            summary="what this room has cost: in all, by person, by model",
            needs=Permission.READ,
            usage="[day|week]",
            details="Of today, or of the last seven days (UTC). What people cost elsewhere is not "
            "shown.",
            examples=("!cost", "!cost week"),
        ),
        CommandName.BUDGET: CommandSpec(
            summary="what may be used here in a day; admins raise it",
            needs=Permission.READ,
            usage="[+AMOUNT [LIMIT] | LIMIT AMOUNT|off|default]",
            details="LIMIT is `usd`, `turns`, `person-usd` or `person-turns`. With a plus it is "
            "for today, else for good. Days are UTC days. Who may change it: admins.",
            examples=("!budget", "!budget +5", "!budget +10 turns", "!budget usd 20"),
        ),
        CommandName.MODEL: CommandSpec(
            summary="the model that answers here",
            usage="[NAME|default]",
            details="From the next turn on; the conversation goes on. A name is as the CLI takes "
            "it: `sonnet`, `opus`, or a model's full name.",
            examples=("!model", "!model sonnet", "!model default"),
        ),
        CommandName.MODE: CommandSpec(
            summary="what the agent may do without asking",
            usage="[ask|accept_edits|plan|bypass|default]",
            details="`ask`: each tool is asked for. `accept_edits`: changes of files in the "
            "workspace are not. `plan`: it plans, and asks before it does anything. `bypass`: "
            "nothing is asked for. From the next turn on; more freedom than is configured only by "
            "an admin.",
            examples=("!mode", "!mode plan", "!mode default"),
        ),
        CommandName.EFFORT: CommandSpec(
            summary="how much the model thinks about an answer",
            usage="[low|medium|high|max|default]",
            details="From the next turn on; not every model knows it.",
            examples=("!effort", "!effort high"),
        ),
        CommandName.TIMEOUT: CommandSpec(
            summary="how long a turn may bring nothing before it is stopped",
            usage="[DURATION|default]",
            details="From 10 s to 24 h: `90s`, `10m`, `2h`. More than is configured only by an "
            "admin.",
            examples=("!timeout", "!timeout 10m", "!timeout default"),
        ),
        CommandName.QUEUE: CommandSpec(
            summary="what waits here, and who asked",
            needs=Permission.RUN,
            usage="[drop NUMBER]",
            details="With `drop` a message is taken back: one's own, or by an admin any.",
            examples=("!queue", "!queue drop 2"),
        ),
        CommandName.RESTART: CommandSpec(
            summary="start this room's container anew",
            details="After the turn that runs, if one does. The conversation and the files stay; "
            "programs that still run, and what was installed outside of the files, don't.",
        ),
        CommandName.INVITE_AGENT: CommandSpec(
            summary="invite another agent's account to this room",
            needs=Permission.ADMINISTER,
            usage="NAME|@USER:SERVER",
            details="NAME is an agent of the configuration with an account of its own "
            "(`agents.NAME.user_id`). I need the power to invite.",
            examples=("!invite-agent reviewer", "!invite-agent @reviewer:example.org"),
        ),
    }
)


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


def render_help() -> str:
    """The list of commands as Markdown."""
    lines = [f"- `{PREFIX}{name}` — {COMMANDS[name].summary}" for name in CommandName]
    return "\n".join(lines)


def render_command_help(name: CommandName) -> str:
    """What one command does, as Markdown: its form, its details, examples."""
    spec = COMMANDS[name]
    lines = [f"`{form_of(name)}` — {spec.summary}."]
    lines += [spec.details] if spec.details else []
    lines += (
        ["For instance: " + ", ".join(f"`{e}`" for e in spec.examples)] if spec.examples else []
    )
    return "\n\n".join(lines)


def form_of(name: CommandName) -> str:
    """The command with what may follow it."""
    usage = COMMANDS[name].usage
    return f"{PREFIX}{name} {usage}" if usage else f"{PREFIX}{name}"


def is_for_approvers(text: str) -> bool:
    """Whether it is a command that people may use who can decide, and need not run turns."""
    command = parse_command(text)
    return isinstance(command, Command) and command.name in _FOR_APPROVERS


_FOR_APPROVERS = (CommandName.EGRESS, CommandName.APPROVE, CommandName.DENY)
