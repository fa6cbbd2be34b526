"""Every sentence of the status page, and what a room is told of what was done there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from orchestrator.core.approval import ApprovalKind
from orchestrator.core.page_action import STATUS_PAGE, PageVerb
from orchestrator.core.quoting import one_line, quote
from orchestrator.core.status_view import SeenRunner, SeenTurn
from orchestrator.core.texts import duration, size, usd
from orchestrator.model import TurnOutcome

_LONGEST_NAME = 60
_LONGEST_LINE = 120
# Names of people beside a question; a list of patterns may be long.
_MAX_NAMED = 4

TURN_OVER = "That turn has ended already."

TITLE = "aiagentchat"
WELL = "All well"
SHOW = "Show it"
BACK = "Back"
LOG_OUT = "Log out"
TURN = "Turn"
ENCRYPTED = "encrypted"
ALL_ROOMS = "All rooms"
NO_ROOMS = "The agent is in no room."
NO_QUESTIONS = "Nothing waits for a person."
NO_ENDS = "No turn has ended yet."
NO_EXITS = "Nothing has gone through the proxy lately."
LET_THROUGH = "let through"
REFUSED = "refused"
NO_ENGINE = "The engine does not answer: what the runners are is not known."
NO_RUNNER = "no runner; the next message makes it"
LOGIN = "The status page's token"
LOGIN_WHAT = (
    "The token of STATUS_TOKEN shows the page; that of STATUS_ADMIN_TOKEN may cancel, restart and "
    "decide, too."
)
NOT_IT = "That is not a token of this page."
TOO_MANY_TRIES = "Too many wrong tokens: try again in a minute."
READ_ONLY = "Seen with the reader's token: nothing can be changed here."
NOT_SHOWN = (
    "What it asks can't be shown here now, and nothing is allowed unseen. Decide it in the room, "
    "where all of it stands."
)
ANSWER_IN_ROOM = "It is a question for words or a choice: answer it in the room."
NOT_HERE = "There is nothing here."
NO_FORM = "That is no form of this page."
NOT_OURS = "That was sent by another page: nothing was done. Load the page anew, and try again."
NOT_THIS_NAME = "Ask for this page as 127.0.0.1 or localhost."
LATE = "No answer in time."
FAILED = "It failed; the log says why."
TAKEN = "Taken: it is done within moments, and the room is told."
TAKEN_BEFORE = "That was sent already, and is done once."
OVER = "That is over: somebody decided, or it has ended."
HEADS = MappingProxyType(
    {
        "questions": "Waits for a person",
        "rooms": "Rooms and runners",
        "ends": "Turns lately",
        "costs": "Costs (list prices)",
        "exits": "Connections out of rooms",
    }
)
BUTTONS: Mapping[PageVerb, str] = MappingProxyType(
    {
        PageVerb.CANCEL: "Cancel this turn",
        PageVerb.RESTART: "Restart this room's runner",
        PageVerb.ALLOW: "Allow it once",
        PageVerb.REFUSE: "Refuse it",
    }
)
ALLOW_HOUR = "Allow it for 1 hour"
KINDS: Mapping[ApprovalKind, str] = MappingProxyType(
    {
        ApprovalKind.EGRESS: "host",
        ApprovalKind.TOOL: "tool",
        ApprovalKind.PLAN: "plan",
        ApprovalKind.QUESTION: "question",
    }
)


def from_page(text: str) -> str:
    """What a room reads of something that was done on the page."""
    return f"By {quote(STATUS_PAGE)}: {text}"


def host(subject: str, wanted_by: str | None) -> str:
    """All that a question about a host asks; what wanted it is the room's word."""
    if not wanted_by:
        return subject
    return f"{subject}\n\nRunning then, in the room's own words:\n{wanted_by}"


def name(text: str) -> str:
    """Somebody's or some room's name, as one line that hides and reorders nothing."""
    return one_line(text, max_chars=_LONGEST_NAME) or "…"


def line(text: str) -> str:
    """Anything of a room's as one line."""
    return one_line(text, max_chars=_LONGEST_LINE) or "…"


def age(seconds: float) -> str:
    """How long something lasts, in whole units, from seconds to days."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86400:.0f} days"


def moment(at: str) -> str:
    """A time of the log, to the minute."""
    return name(at[:16].replace("T", " "))


def runner(seen: SeenRunner) -> str:
    """A container in a line."""
    if seen.state != "running":
        return f"{seen.state}: the next message makes it anew"
    parts = ["running" if seen.cli_runs else "at rest: its CLI has ended"]
    if seen.up_s is not None:
        parts.append(f"up {age(seen.up_s)}")
    if seen.memory_bytes is not None:
        limit = f" of {size(seen.memory_limit_bytes)}" if seen.memory_limit_bytes else ""
        parts.append(f"{size(seen.memory_bytes)}{limit}")
    if seen.processes is not None:
        parts.append(f"{seen.processes} processes")
    return ", ".join(parts)


def session(seen: SeenRunner) -> str:
    """What the next turn goes on from."""
    known = {"none": "no session yet", "new": "session begun", "resumable": "session kept"}
    return known.get(seen.session, name(seen.session))


def turn(seen: SeenTurn) -> str:
    """A turn in a line."""
    where = ", in a thread" if seen.in_thread else ""
    return f"{seen.stage}, {age(seen.age_s)}{where}"


def deciders(named: Sequence[str], until: str) -> str:
    """Who may decide, and until when."""
    shown = ", ".join(name(one) for one in dict.fromkeys(named[:_MAX_NAMED]))
    more = f" and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
    return f"until {until}, by {shown or 'whoever the room’s power levels allow'}{more}"


def up(seconds: float) -> str:
    """How long the orchestrator runs."""
    return f"up {age(seconds)}"


def to_be_sent(count: int) -> str:
    """Messages that wait for the homeserver."""
    return f"{count} to be sent"


def more(count: int) -> str:
    """What is not shown."""
    return f"and {count} more"


def members(count: int) -> str:
    """Of a room."""
    return f"{count} members"


# What these are given is put in as it is: the page has it escaped.


def rooms(count: int, runners: str) -> str:
    """How many rooms there are; `runners`: how many of each state."""
    return f"{count} rooms; runners: {runners or 'none'}"


def asked_by(sender: str) -> str:
    """Whose turn it is."""
    return f"for {sender}"


def asked_in(room: str, who: str) -> str:
    """Below a question."""
    return f"in {room}, {who}"


def outcome(how: TurnOutcome) -> str:
    """How a turn ended."""
    return how.replace("_", " ")


def today(micro_usd: int, limit_usd: float | None = None) -> str:
    """Spent since the day began, in millionths of a USD, and what may be."""
    of = "" if limit_usd is None else f" of {usd(round(limit_usd * 1e6))}"
    return f"{usd(micro_usd)}{of} today"


def month(micro_usd: int) -> str:
    """Spent lately, in millionths of a USD."""
    return f"{usd(micro_usd)} in 30 days"


def took(seconds: float) -> str:
    """How long a turn took."""
    return duration(round(seconds, 1))
