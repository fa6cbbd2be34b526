"""Every sentence that a room is shown; short, plain, with the next step.

This package is the one place of them: what belongs to one part stands in a module of its own.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from orchestrator.core.disk import DiskUsage, Shortage
from orchestrator.core.going_on import MAX_RESUMES, GoOn
from orchestrator.core.quoting import quote
from orchestrator.model import Limits, TurnOutcome

HELP_HINT = "`!help` lists the commands."
NOT_ALLOWED = (
    "I only take turns from people that this installation's operator has listed (access.users). "
    "Ask them to add you."
)
EMPTY_MESSAGE = "That message has no text that I could work on."
TOO_MANY_AT_ONCE = "Not taken: too many people write here at once. Please send it again."
MESSAGE_TOO_LARGE = "A part of the answer was larger than the homeserver accepts; it is left out."
MALFORMED = (
    "I could not read that message: parts of it are not as Matrix has them. Please send it again "
    "as plain text."
)
TOO_MUCH_TO_SAY = (
    "Not taken: more waits to be said in this room than the homeserver lets me send within a "
    "minute. This one and what comes while that is so is left out. Send it again in a minute. "
    "`!cancel` always works."
)
UNDECRYPTABLE = (
    "I could not decrypt a message: its key has not reached me. Please send it again; if that "
    "does not help, write from a device that was logged in when the message was sent."
)
CANCEL_NOTHING = "Nothing is running."
CANCEL_ASKED = "Stopping…"
NEW_CONVERSATION = "The next message starts a new conversation. The files stay as they are."
NEW_CONVERSATION_WHEN_IDLE = "After the running turn, a new conversation starts. The files stay."
SESSION_LOST = (
    "The earlier conversation could not be resumed, so this is a new one. "
    "The files are still there."
)
RETRY_NOTHING = "There is nothing to retry: no message of this room ended without an answer."
RETRY_RUNS = "That message is being worked on again already; `!cancel` stops it."
RETRY_DONE = "That message was taken up again already, and answered. Send it again for another go."
RETRY_TAKEN_BACK = "The last message without an answer was taken back: it is not asked again."
RETRY_TOO_OLD = "The last message without an answer is too old: its text is gone. Send it again."
DONE_WITHOUT_TEXT = "Done, without anything to say."
FAILED_INSIDE = (
    "Something failed on my side while I worked on this; the operator's log has the details. "
    "Please send it again."
)
ROOM_CONTINUES = (
    "This room continues the one that it replaces: the conversation, its files and what is still "
    "being worked on go on here."
)
ROOM_REPLACED = (
    "Something was said to me in the room that this one replaces. I no longer read along there; "
    "please write here."
)


BUDGET_HELD_BACK = (
    "Other requests of this room are under way and may use up what is left of its budget for today."
)
NOT_LEAVING = "This is not allowed to leave a room"
_BUDGET_SPENT = "This room has spent its budget for today"
# `budget_spent`, word for word: what else stands there is somebody else's.
_BUDGET_SENTENCE = re.compile(
    rf"{_BUDGET_SPENT}: \$[0-9.,]{{1,20}} of \$[0-9.,]{{1,20}}\. It gets no more answers of the "
    r"model until 00:00 UTC, in (?:[0-9]{1,2} h )?[0-9]{1,2} min; an admin can raise it for today: "
    r"`!budget \+1`"
)
_PERSON_SPENT = "Whoever asked for this has spent what one person may in a day"
_PERSON_SENTENCE = re.compile(
    rf"{_PERSON_SPENT}: \$[0-9.,]{{1,20}}\. Their turns get no more answers of the model until "
    r"00:00 UTC, in (?:[0-9]{1,2} h )?[0-9]{1,2} min; an admin can raise it for today: "
    r"`!budget \+1 person-usd`"
)
# Names of fields, tools and betas have 64 characters at most (`core.egress_body`, `api_policy`).
_FEATURE_CHARS = 120


def usd(micro_usd: int) -> str:
    """An amount in dollars: cents, and more digits below a cent."""
    if 0 < micro_usd < 10_000:
        return f"${micro_usd / 1e6:.6f}".rstrip("0")
    return f"${micro_usd / 1e6:,.2f}"


def spent_today(micro_usd: int, usd_per_day: float | None) -> str:
    """What a room's requests have cost on this UTC day, by the list prices."""
    limit = "" if usd_per_day is None else f" of {usd(round(usd_per_day * 1e6))}"
    return f"{usd(micro_usd)}{limit} spent today (UTC)"


def budget_spent(*, limit: int, spent: int, left_s: float) -> str:
    """What the CLI is told, and shows, when its room's budget for the day is spent."""
    return (
        f"{_BUDGET_SPENT}: {usd(spent)} of {usd(limit)}. It gets no more answers of the model "
        f"until 00:00 UTC, in {until_midnight(left_s)}; an admin can raise it for today: "
        "`!budget +1`."
    )


def person_budget_spent(*, limit: int, left_s: float) -> str:
    """The same of a person; not how much it was, for it may have been in other rooms."""
    return (
        f"{_PERSON_SPENT}: {usd(limit)}. Their turns get no more answers of the model until "
        f"00:00 UTC, in {until_midnight(left_s)}; an admin can raise it for today: "
        "`!budget +1 person-usd`."
    )


def until_midnight(seconds: float) -> str:
    """How long a UTC day has left, for people."""
    minutes = max(1, math.ceil(seconds / 60))
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{rest} min"


def find_gateway_refusal(said: str) -> str | None:
    """What our gateway said, within what the CLI shows as the API's words: a clause, or None.

    Whoever is in the CLI's place may have written all of `said`. So nothing of it is passed on but
    a sentence that can only be ours, and what was refused, quoted.
    """
    for sentence in (_BUDGET_SENTENCE, _PERSON_SENTENCE):
        if (spent := sentence.search(said)) is not None:
            return _clause(spent[0])
    _, found, what = said.partition(f"{NOT_LEAVING}: ")
    if not found:
        return None
    return (
        f"{_clause(NOT_LEAVING)}: {quote(what.rstrip('.'), max_chars=_FEATURE_CHARS)}; "
        "the operator can allow it in the room's profile (`api`)"
    )


def _clause(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


_REFUSED = "A part of what I had to say was refused by the homeserver"


def message_refused(errcode: str) -> str:
    """What stands in place of a message that the homeserver refuses for good."""
    if errcode == "M_TOO_LARGE":
        return MESSAGE_TOO_LARGE
    return f"{_REFUSED} ({errcode}); it is left out. The operator's log has the details."


def is_message_refused(text: object) -> bool:
    """Whether the text is such a stand-in: what it says is said once."""
    return isinstance(text, str) and text.startswith((MESSAGE_TOO_LARGE, _REFUSED))


def not_handled(kind: str) -> str:
    """A message of somebody's that could not be worked on; `kind` of error, never its text."""
    return (
        f"I could not take this message in: something failed ({kind}). The operator's log has the "
        "details. Please send it again, as plain text."
    )


def in_file(size_bytes: int, *, is_rest: bool) -> str:
    """Behind the beginning of an answer that is too long for messages."""
    what = "This is the beginning of the rest. All of it" if is_rest else "This is the beginning."
    what += f" ({size(size_bytes)}) is" if is_rest else f" The whole answer ({size(size_bytes)}) is"
    return f"*{what} in the file below.*"


FILE_NOT_TAKEN = "The homeserver does not take the file, so here is what it has as messages."


def file_left_out(left_bytes: int) -> str:
    """The end of a file's text that was sent as messages, as far as that goes."""
    return (
        f"{size(left_bytes)} more are left out: the homeserver does not take the file, and this is "
        "too long for messages. Ask for a shorter answer, or for a file in the workspace."
    )


def queued(position: int, *, waits_until: float | None = None) -> str:
    """How many turns are before this one, and until when (Unix time) the first of them waits."""
    if waits_until is not None:
        return (
            f"Queued: {position} before this one. All of them wait until {utc_time(waits_until)}, "
            "when the usage limit resets. `!cancel` withdraws the first."
        )
    return f"Queued: {position} before this one. `!cancel` stops the running one."


def retrying(prompt: str, ahead: int) -> str:
    """A person wanted another go."""
    behind = f" {ahead} before it." if ahead else ""
    return f"Another go at {quote(prompt)}.{behind}"


def queue_full(max_queued: int) -> str:
    """The turn was not taken."""
    return (
        f"Not taken: {max_queued} turns are waiting already, the most for this room. This one and "
        "what comes while that is so is left out. Send it again when some are done."
    )


def too_fast(burst: int, per_minute: int) -> str:
    """A sender's messages are not taken any more; said once in a flood, to the first of them."""
    return (
        f"Not taken: your messages come too fast. {burst} at once are fine, and then {per_minute} "
        "a minute; this one and all above that are left out. Wait a minute, then send again what "
        "is missing. `!cancel` always works."
    )


def goes_on(outcome: TurnOutcome, go_on: GoOn, *, reason: str | None, prompt: str) -> str:
    """A turn ended without an answer, and another one takes its message up by itself."""
    count = f"({go_on.resumes} of {MAX_RESUMES})"
    if outcome is TurnOutcome.INTERRUPTED:
        return (
            f"Interrupted: {reason or 'the runner ended'}, while I worked on {quote(prompt)}. "
            f"Going on with it {count}; `!cancel` stops it."
        )
    return (
        f"Waiting: {reason or 'a usage limit was met'}. Going on with {quote(prompt)} at "
        f"{utc_time(go_on.not_before)} {count}; what is sent meanwhile waits behind it. "
        "`!cancel` withdraws it."
    )


def ended(
    outcome: TurnOutcome,
    *,
    reason: str | None,
    timeout_s: float,
    ceiling_s: float,
    limits: Limits,
    prompt: str,
    resumes: int = 0,
) -> str:
    """The sentence that ends a turn which has no answer."""
    match outcome:
        case TurnOutcome.CANCELLED:
            return "Cancelled."
        case TurnOutcome.TIMED_OUT if reason == "ceiling":
            return f"Stopped: it ran for {duration(ceiling_s)}, the longest that is allowed here."
        case TurnOutcome.TIMED_OUT:
            return f"Stopped: nothing came for {duration(timeout_s)}."
        case TurnOutcome.OUT_OF_MEMORY:
            return (
                f"Stopped: it met this room's memory limit of {size(limits.memory_bytes)}. "
                "Files are kept; the next message works."
            )
        case TurnOutcome.INTERRUPTED:
            return (
                f"Interrupted: {reason or 'the runner ended'}, while I worked on {quote(prompt)}. "
                f"{_not_again(resumes)} Files are kept; `!retry` has another go."
            )
        case TurnOutcome.REFUSED:
            return f"Not taken: {reason or 'refused'}."
        case TurnOutcome.FAILED:
            return f"Failed: {reason or 'no reason was given'}."
        case TurnOutcome.DONE:
            return DONE_WITHOUT_TEXT


def restored(copied_at: str) -> str:
    """The database is an older copy: what was said since is known to nobody."""
    return (
        f"My memory was restored from a copy of {copied_at}. What was said here since then was not "
        "run again. Please send again what has no answer. Files are as they were left."
    )


def restored_turn(copied_at: str) -> str:
    """A turn that had not ended in the copy that was restored."""
    return (
        f"Interrupted: my memory was restored from a copy of {copied_at}, in which this was not "
        "finished. It was not run again; if it has no answer here, please send it again."
    )


def _not_again(resumes: int) -> str:
    if not resumes:
        return "It was not run again."
    times = "once" if resumes == 1 else f"{resumes} times"
    return f"I went on with it {times}; it is not run again."


def memory_limit_met(limits: Limits) -> str:
    """A process (not the whole runner) was ended for its memory."""
    return (
        f"This room's memory limit of {size(limits.memory_bytes)} was met: "
        "the kernel ended a process here."
    )


def processes_ended(limit: int) -> str:
    """What turns left running took the room's last processes."""
    return (
        f"What was left running here had used up this room's limit of {limit} processes; "
        "it was ended. Files are kept."
    )


DISK_SICK = (
    "This room's disk met an error and takes nothing more for now. It is checked before the next "
    "message is worked on; should that not help, the operator has to look at it."
)
_MAKE_ROOM = (
    "Ask me to delete what is no longer needed. The operator can raise `limits.disk` for this room."
)


def disk(usage: DiskUsage) -> str:
    """What the room's workspace and home hold, for its status."""
    how = "" if usage.is_enforced else " (counted)"
    return (
        f"{size(usage.used_bytes)} of {size(usage.limit_bytes)}, "
        f"{usage.files} of {usage.limit_files} files{how}"
    )


def disk_full(shortage: Shortage, usage: DiskUsage) -> str:
    """Said once when there is nothing left to write into, or nearly."""
    if shortage is Shortage.SPACE:
        used, most = size(usage.used_bytes), size(usage.limit_bytes)
        return f"This room's disk is full: {used} of {most} are used by its files. {_MAKE_ROOM}"
    return (
        f"This room's disk takes no more files: it has {usage.files} of {usage.limit_files}. "
        f"{_MAKE_ROOM}"
    )


def disk_limit_met(usage: DiskUsage) -> str:
    """Why a turn was stopped where the orchestrator has to do it."""
    return f"it met this room's disk limit ({disk(usage)}). {_MAKE_ROOM}"


def disk_hopeless(usage: DiskUsage) -> str:
    """Why a turn was not taken where cleaning up is left to the operator."""
    return (
        f"this room's files are more than twice what it may have ({disk(usage)}); "
        "the operator has to make room"
    )


def runner_trouble(why: str) -> str:
    """The turn can't start yet."""
    return f"This waits: the room's runner can't be had right now ({why}). I keep trying."


def no_place(limit: int) -> str:
    """As many rooms' runners work as may."""
    runners = "1 runner works" if limit == 1 else f"{limit} runners work"
    return f"This waits: at most {runners} at once here. It begins when one is free."


def start_trouble(failures: int, delay_s: float) -> str:
    """The CLI ended by itself again and again; the next start waits."""
    return (
        f"This waits {duration(math.ceil(delay_s))}: Claude Code ended by itself the last "
        f"{failures} times. `!cancel` withdraws it."
    )


def api_trouble(status: int | None, attempt: int, max_retries: int) -> str:
    """The API does not answer as it should, and is asked again."""
    how = f"answers {status}" if status else "can't be reached"
    return f"The Messages API {how}. Trying again ({attempt} of {max_retries})."


def unknown_command(name: str, nearest: str | None) -> str:
    """A hint for a command that does not exist."""
    hint = f" Did you mean `!{nearest}`?" if nearest else ""
    return f"There is no command `!{name}`.{hint} {HELP_HINT}"


def takes_nothing(name: str) -> str:
    """Words behind a command that has no use for any."""
    return f"`!{name}` takes nothing after it; nothing was done."


def account_limit(rate_per_s: float | None, waiting: int) -> str:
    """What the homeserver lets the agent's account send, all rooms together."""
    what = "1 message waiting" if waiting == 1 else f"{waiting} messages waiting"
    if rate_per_s is None:
        return f"no limit of the homeserver's met yet, {what}"
    return f"may send about {rate_per_s:.2g} messages/s (learnt), {what}"


def utc_time(at: float) -> str:
    """A Unix time for people, in UTC."""
    return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def size(count: int) -> str:
    """Bytes for people: 2 GiB, 512 MiB, 100 B."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.4g} {unit}"
        value /= 1024
    raise AssertionError


def duration(seconds: float) -> str:
    """Seconds for people, in minutes from two on."""
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{seconds / 60:.3g} min"


_OFFLINE = [
    "",
    "  *** OFFLINE MODEL: no ANTHROPIC_API_KEY and no CLAUDE_CODE_OAUTH_TOKEN is set. ***",
    "  *** Answers come from a small built-in stand-in; the CLI, its container and    ***",
    "  *** the room are real. Set one of the two and start again for the real model.  ***",
    "",
]


def embedded_banner(
    *,
    homeserver: str,
    room: str,
    user_id: str,
    password: str,
    agent: str,
    limit_lifted: bool,
    offline: bool,
    permissions: str,
    file: str,
    cchat: str,
) -> list[str]:
    """What a newcomer is told on the terminal once everything is ready."""
    lines = [
        "",
        "Ready. What runs here:",
        f"  a Matrix homeserver (Synapse) at {homeserver}, on this machine only",
        f"  the agent {agent}, which answers in {room}; each room gets a container of its own",
    ]
    if limit_lifted:
        lines.append(
            "  the homeserver's message limit is lifted for the agent (through the admin API)"
        )
    lines += _OFFLINE if offline else ["  the model: the Messages API, with your credential"]
    return [
        *lines,
        f"  tools that would ask are {_permission_words(permissions)}",
        "",
        "Log in with any Matrix client:",
        f"  homeserver {homeserver}   user {user_id}   password {password}   room {room}",
        f"  (the same for scripts: {file})",
        "",
        "Or type, in another terminal:",
        f"  {cchat} send --wait '{room.partition(':')[0]}' 'Hello, who are you?'",
        "",
        "Ctrl-C stops everything.",
    ]


def _permission_words(permissions: str) -> str:
    if permissions == "ask":
        return "asked for in the room (`--permissions bypass` lets it work in its sandbox)"
    return f"handled as `permissions: {permissions}` says"
