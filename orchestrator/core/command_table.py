"""The one table of room commands: it makes the parser, the hints, the help and the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


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
    STEER = "steer"
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
    SESSIONS = "sessions"
    RESUME = "resume"
    COMPACT = "compact"
    QUEUE = "queue"
    SCHEDULE = "schedule"
    DIFF = "diff"
    UNDO = "undo"
    EXPORT = "export"
    CLONE = "clone"
    LS = "ls"
    GET = "get"
    RESTART = "restart"
    INVITE_AGENT = "invite-agent"


class Group(StrEnum):
    """Headings of the help and of the page, in their order."""

    CONVERSATION = "Conversation"
    DECISIONS = "Decisions"
    FILES = "Files"
    ROOM = "This room"
    PEOPLE = "People and costs"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """What is said of one command, and who may give it."""

    summary: str
    """A clause, for the list."""
    group: Group
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
            group=Group.ROOM,
            needs=Permission.READ,
            usage="[COMMAND]",
            examples=("!help", "!help egress"),
        ),
        CommandName.STATUS: CommandSpec(
            summary="runner, session, queue, limits and version of this room",
            group=Group.ROOM,
            needs=Permission.READ,
        ),
        CommandName.CANCEL: CommandSpec(
            summary="stop what is running",
            group=Group.CONVERSATION,
        ),
        CommandName.STEER: CommandSpec(
            summary="say something into the turn that runs",
            group=Group.CONVERSATION,
            usage="TEXT",
            details="The agent reads it after the tool that runs, or right after its answer, and "
            "answers in the same turn. 20 in a turn at most. Where `while_running` is `steer`, "
            "every message does that.",
            examples=("!steer leave the tests as they are",),
        ),
        CommandName.NEW: CommandSpec(
            summary="start a new conversation; the files stay",
            group=Group.CONVERSATION,
            details="Of the thread that it is said in, or of the room. The old one can be gone on "
            "with: see `!sessions`.",
        ),
        CommandName.RETRY: CommandSpec(
            summary="another go at the last message that ended without an answer",
            group=Group.CONVERSATION,
        ),
        CommandName.APPROVE: CommandSpec(
            summary="allow what the agent asks for; with a number where several wait",
            group=Group.DECISIONS,
            needs=Permission.READ,
            usage="[NUMBER]",
            details=(
                "The same as a ✅ on the question. Where several wait, or another one ended within "
                "the last minute, it lists them by number. A question's number stands in it, and "
                "no other question here gets it. "
                "Who may: those who may decide, and whoever asked for the turn where that is set."
            ),
            examples=("!approve", "!approve 2"),
        ),
        CommandName.DENY: CommandSpec(
            summary="refuse what the agent asks for; the reason reaches it",
            group=Group.DECISIONS,
            needs=Permission.READ,
            usage="[NUMBER] [REASON]",
            details="The same as a ❌ on the question, or a reply. Who may: see `!approve`.",
            examples=("!deny", "!deny use the staging server", "!deny 2 not on a Friday"),
        ),
        CommandName.EGRESS: CommandSpec(
            summary="hosts that can be reached from here; `allow`, `deny` or `revoke` HOST",
            group=Group.DECISIONS,
            needs=Permission.READ,
            usage="[allow HOST [1h|always] | deny HOST | revoke HOST]",
            details="Who may change it: those who may decide.",
            examples=("!egress", "!egress allow example.org 1h", "!egress revoke example.org"),
        ),
        CommandName.COST: CommandSpec(
            summary="what this room has cost: in all, by person, by model",
            group=Group.PEOPLE,
            needs=Permission.READ,
            usage="[day|week]",
            details="Of today, or of the last seven days (UTC). What people cost elsewhere is not "
            "shown.",
            examples=("!cost", "!cost week"),
        ),
        CommandName.BUDGET: CommandSpec(
            summary="what may be used here in a day; admins raise it",
            group=Group.PEOPLE,
            needs=Permission.READ,
            usage="[+AMOUNT [LIMIT] | LIMIT AMOUNT|off|default]",
            details="LIMIT is `usd`, `turns`, `person-usd` or `person-turns`. With a plus it is "
            "for today, else for good. Days are UTC days. Who may change it: admins.",
            examples=("!budget", "!budget +5", "!budget +10 turns", "!budget usd 20"),
        ),
        CommandName.MODEL: CommandSpec(
            summary="the model that answers here",
            group=Group.ROOM,
            usage="[NAME|default]",
            details="From the next turn on; the conversation goes on. A name is as the CLI takes "
            "it: `sonnet`, `opus`, or a model's full name.",
            examples=("!model", "!model sonnet", "!model default"),
        ),
        CommandName.MODE: CommandSpec(
            summary="what the agent may do without asking",
            group=Group.ROOM,
            usage="[ask|accept_edits|plan|bypass|default]",
            details="`ask`: each tool is asked for. `accept_edits`: changes of files in the "
            "workspace are not. `plan`: it plans, and asks before it does anything. `bypass`: "
            "nothing is asked for. From the next turn on; more freedom than is configured only by "
            "an admin.",
            examples=("!mode", "!mode plan", "!mode default"),
        ),
        CommandName.EFFORT: CommandSpec(
            summary="how much the model thinks about an answer",
            group=Group.ROOM,
            usage="[low|medium|high|xhigh|max|default]",
            details="From the next turn on; not every model knows it.",
            examples=("!effort", "!effort high"),
        ),
        CommandName.TIMEOUT: CommandSpec(
            summary="how long a turn may bring nothing before it is stopped",
            group=Group.ROOM,
            usage="[DURATION|default]",
            details="From 10 s to 24 h: `90s`, `10m`, `2h`. More than is configured only by an "
            "admin.",
            examples=("!timeout", "!timeout 10m", "!timeout default"),
        ),
        CommandName.SESSIONS: CommandSpec(
            summary="the conversations that this room has had",
            group=Group.CONVERSATION,
            details="The last 15, by number; a thread's are among them.",
        ),
        CommandName.RESUME: CommandSpec(
            summary="go on with an earlier conversation",
            group=Group.CONVERSATION,
            usage="NUMBER",
            details="Here: in the room, or in the thread that it is said in. One that goes on "
            "elsewhere too is copied. The files stay as they are. Conversations of other rooms "
            "can't be reached.",
            examples=("!resume 2",),
        ),
        CommandName.COMPACT: CommandSpec(
            summary="put a summary in the place of the conversation so far",
            group=Group.CONVERSATION,
            usage="[WHAT TO KEEP]",
            details="The model writes it, which costs about as much as a message. The files stay "
            "as they are.",
            examples=("!compact", "!compact keep what we decided on the schema"),
        ),
        CommandName.QUEUE: CommandSpec(
            summary="what waits here, and who asked",
            group=Group.CONVERSATION,
            needs=Permission.RUN,
            usage="[drop NUMBER]",
            details="With `drop` a message is taken back: one's own, or by an admin any. A "
            "message's number stays its own: no other one here gets it.",
            examples=("!queue", "!queue drop 2"),
        ),
        CommandName.SCHEDULE: CommandSpec(
            summary="turns at a time, once or again and again",
            group=Group.CONVERSATION,
            usage='["CRON" TEXT|in DURATION TEXT|at TIME TEXT|remove NUMBER]',
            details="Times are UTC. A pattern has cron's five fields (minute, hour, day, month, "
            "weekday), every 5 minutes at most. It runs in your name and on your budget; what was "
            "missed by more than 4 minutes is told and not made up for. 20 in a room at most.",
            examples=(
                "!schedule",
                '!schedule "0 9 * * 1-5" Look at the open issues',
                "!schedule in 2h Is the build green?",
                "!schedule at 2026-12-24T18:00 Wish everybody a good evening",
                "!schedule remove 1",
            ),
        ),
        CommandName.LS: CommandSpec(
            summary="the files of the workspace",
            group=Group.FILES,
            usage="[FOLDER]",
            examples=("!ls", "!ls uploads"),
        ),
        CommandName.GET: CommandSpec(
            summary="a file of the workspace, sent here",
            group=Group.FILES,
            usage="PATH",
            details="Plain files of up to `files.max_size`; nothing behind a link.",
            examples=("!get report.pdf", "!get src/main.py"),
        ),
        CommandName.DIFF: CommandSpec(
            summary="what the last turn changed in the workspace",
            group=Group.FILES,
            usage="[TURNS]",
            details="Since before the last turn, the running one included; with a number, since "
            "before the last so many. A long one comes as a file.",
            examples=("!diff", "!diff 3"),
        ),
        CommandName.UNDO: CommandSpec(
            summary="files and conversation as they were before the last turn",
            group=Group.FILES,
            usage="[files|back]",
            details="Given again it goes one turn further back. `files` leaves the conversation as "
            "it is; `back` brings the files back that the last `!undo` took away. What programs "
            "did outside of the workspace is not undone. Copies are kept of the last "
            "`snapshots.keep` turns, where the room can't reach them.",
            examples=("!undo", "!undo files", "!undo back"),
        ),
        CommandName.EXPORT: CommandSpec(
            summary="the conversation and the workspace as an archive",
            group=Group.FILES,
            usage="[chat]",
            details="A zip file, sent into the room; with `chat` the conversation alone.",
            examples=("!export", "!export chat"),
        ),
        CommandName.CLONE: CommandSpec(
            summary="fetch a repository into the workspace",
            group=Group.FILES,
            usage="URL [FOLDER]",
            details="By https, without a password in the address, over this room's way out: where "
            "its host may not be reached, the room is asked. Without a folder it goes into one of "
            "the repository's name.",
            examples=(
                "!clone https://example.org/team/project.git",
                "!clone https://example.org/team/project.git other",
            ),
        ),
        CommandName.RESTART: CommandSpec(
            summary="start this room's container anew",
            group=Group.ROOM,
            details="After the turn that runs, if one does. The conversation and the files stay; "
            "programs that still run, and what was installed outside of the files, don't.",
        ),
        CommandName.INVITE_AGENT: CommandSpec(
            summary="invite another agent's account to this room",
            group=Group.PEOPLE,
            needs=Permission.ADMINISTER,
            usage="NAME|@USER:SERVER",
            details="NAME is an agent of the configuration with an account of its own "
            "(`agents.NAME.user_id`). I need the power to invite.",
            examples=("!invite-agent reviewer", "!invite-agent @reviewer:example.org"),
        ),
    }
)
