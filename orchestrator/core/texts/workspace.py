"""Every sentence that a room is shown about its workspace: what changed, going back, taking along.

Names, addresses and what programs say stand in these as code (`quote`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.clone_url import CloneProblem
from orchestrator.core.quoting import quote
from orchestrator.core.rewind import Rewound
from orchestrator.core.texts import size
from orchestrator.core.workspace_copy import name_of

_MOST_NAMES = 8
_REASON_CHARS = 400

# Why there is no copy, as clauses.
COPY_TOO_SLOW = "copying it took too long"
COPY_RUNNER = "the room's runner did not answer"
COPY_HOST = "this host could not keep it"

TOO_MANY_ERRANDS = (
    "Not taken: five such commands wait in this room already. Wait for their answers."
)
ERRAND_CANCELLED = "Cancelled."
OFF = (
    "This room keeps no copies of its workspace (snapshots.keep is 0), so there is nothing to see."
)
NO_TURN = "No turn has run here since copies are kept, so there is nothing to compare with."
NOTHING_TO_UNDO = "There is nothing to undo: no turn has run here, or all of them were taken back."
NOTHING_TO_BRING_BACK = (
    "There is nothing to bring back: no `!undo` was given since the last turn, or it changed no "
    "file."
)
BUSY = {
    "undo": "Not while a turn runs or waits. `!cancel` stops it; then `!undo` again.",
    "clone": "Not while a turn runs or waits. `!cancel` stops it, or wait for its end.",
    "compact": "Not while a turn runs or waits. `!cancel` stops it, or wait for its end.",
}
COPY_SHARED = "another turn ran beside it"
COPY_GONE = (
    "The copy of before that turn is not whole any more, so nothing was changed. The operator's "
    "log has the details."
)
DIFF_USAGE = "Like this: `!diff`, or `!diff 3` for what the last three turns changed."
UNDO_USAGE = (
    "Like this: `!undo`, `!undo files` (the conversation stays), or `!undo back` (the files as "
    "they were before the last `!undo`)."
)
EXPORT_USAGE = "Like this: `!export`, or `!export chat` for the conversation alone."
EXPORT_EMPTY = "There is nothing to export: no conversation and no file."
RUNNER_TROUBLE = (
    "The room's runner can't be reached now, so nothing was done. Try again in a minute."
)
HOST_TROUBLE = "This host could not keep what that needs. The operator's log has the details."
REWIND_REFUSED = (
    "Claude Code does not take that message back, so nothing was changed. `!undo files` brings "
    "back the files alone; `!new` starts a new conversation."
)


def copy_too_large(total_bytes: int, limit_bytes: int) -> str:
    """Why there is no copy, as a clause."""
    return f"it holds {size(total_bytes)}, and up to {size(limit_bytes)} is copied"


def no_copy(reason: str, *, what: str) -> str:
    """There is none of before the turn that a command is about."""
    return (
        f"There is no copy of the workspace of before that turn: {quote_reason(reason)}. So "
        f"`{what}` can't go there; nothing was changed."
    )


def not_now(reason: str) -> str:
    """The workspace can't be looked at."""
    return f"The workspace can't be read now: {quote_reason(reason)}. Nothing was changed."


def quote_reason(reason: str) -> str:
    """A clause of ours, without its full stop."""
    return reason.strip().rstrip(".")


def too_far(asked: int, known: int) -> str:
    """More turns than there are copies of."""
    turns = "one turn" if known == 1 else f"{known} turns"
    return f"Copies are kept of the last {turns}; `!diff {asked}` goes further back."


def since(turns: int, *, is_running: bool) -> str:
    """Behind `changed`."""
    if turns == 1:
        return f"since before the {'running' if is_running else 'last'} turn"
    return f"since before the last {turns} turns"


def diff_in_file(size_bytes: int) -> str:
    """Below a summary whose diff is too long for messages."""
    return f"*The diff ({size(size_bytes)}) is in the file below.*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """What an `!undo` did."""

    prompt: str
    changed: Sequence[str]
    """Files and folders that are as they were."""
    removed: Sequence[str]
    others: Sequence[str]
    """Of these, what somebody changed after the turn had ended."""
    rewound: Rewound | None
    """None: the conversation was to be left as it is."""
    is_new_conversation: bool
    can_go_back: bool
    has_threads: bool = False


def undone(what: Undone) -> str:
    """What was undone, what it means for the conversation, and how to get back."""
    prompt = quote(what.prompt) if what.prompt else "the last turn"
    parts = [f"**Undone:** {prompt}", "", f"- Files: {_files(what)}"]
    parts.append(f"- Conversation: {_conversation(what)}")
    if what.others:
        parts.append(
            f"- Changed after that turn, by no turn, and now as before it: {_names(what.others)}"
        )
    if what.has_threads:
        parts.append("- Threads work on the same files, so this counts for them, too.")
    if what.can_go_back and (what.changed or what.removed):
        parts.append("- `!undo back` brings the files to where they were (until the next turn).")
    return "\n".join(parts)


def undone_partly(reason: str) -> str:
    """It stopped halfway."""
    return (
        f"Only a part of the files is as it was: {quote_reason(reason)}. Nothing is lost; the "
        "same command again goes on."
    )


def brought_back(changed: Sequence[str], removed: Sequence[str]) -> str:
    """After `!undo back`."""
    done = _done(changed, removed)
    return f"The files are as they were before the last `!undo`: {done}. The conversation stays."


def _files(what: Undone) -> str:
    return _done(what.changed, what.removed)


def _done(changed: Sequence[str], removed: Sequence[str]) -> str:
    parts = [f"{len(changed)} restored ({_names(changed)})"] if changed else []
    parts += [f"{len(removed)} removed ({_names(removed)})"] if removed else []
    return ", ".join(parts) or "nothing had changed"


def _conversation(what: Undone) -> str:
    if what.rewound is None:
        return "left as it is"
    if what.rewound is Rewound.DONE:
        return "does not know that message any more"
    if what.is_new_conversation:
        return "it was begun anew since, and stays as it is"
    return (
        "that message is not in it as such (it was summarised since); what a summary says of it "
        "stays, and `!new` starts without it"
    )


def _names(paths: Sequence[str]) -> str:
    shown = [quote(name_of(path)) for path in paths[:_MOST_NAMES]]
    if len(paths) > len(shown):
        shown.append(f"and {len(paths) - len(shown)} more")
    return ", ".join(shown)


# `!export`...


def exported(*, files: int, turns: int, left_out: Sequence[str]) -> str:
    """Above the archive."""
    text = f"The conversation ({turns} messages) and the workspace ({files} files), as an archive."
    return text + (f" Left out, for they can't be read: {_names(left_out)}." if left_out else "")


def export_without_files(reason: str) -> str:
    """Above an archive that has the conversation alone."""
    return (
        f"The conversation alone: the workspace is not in it, because {quote_reason(reason)}. "
        "`!export` takes it once there is less."
    )


def export_too_large(limit_bytes: int) -> str:
    """Over what may be sent."""
    return (
        f"The archive would be larger than the {size(limit_bytes)} that this room sends in one "
        "file (files.max_size). `!export chat` sends the conversation alone; or have what is not "
        "needed removed from the workspace first."
    )


# `!clone`...

_CLONE_HINTS = {
    CloneProblem.FORM: "Like this: `!clone https://git.example.org/team/project [FOLDER]`.",
    CloneProblem.CREDENTIALS: (
        "No names and passwords in an address: everybody here would read them, and so would the "
        "agent. The operator can give this room a secret for a host (secrets)."
    ),
    CloneProblem.SCHEME: "Only https addresses: `!clone https://git.example.org/team/project`.",
    CloneProblem.NAME: (
        "A folder's name is made of letters, digits, `.`, `_` and `-`, and starts with none of the "
        "last two: `!clone https://git.example.org/team/project FOLDER`."
    ),
}


def clone_hint(problem: CloneProblem) -> str:
    """One line that says the right form."""
    return _CLONE_HINTS[problem]


def clone_exists(folder: str) -> str:
    """It would overwrite something."""
    return f"There is {quote(folder)} in the workspace already. `!clone URL FOLDER` takes another."


def clone_progress(said: str) -> str:
    """After a while, and then rarely."""
    return f"Still cloning: {quote(said)}. `!cancel` stops it."


def cloned(url: str, folder: str) -> str:
    """It is there."""
    return f"Cloned {quote(url, max_chars=200)} into {quote(folder)}."


def clone_refused(host: str) -> str:
    """The egress gateway let nothing through."""
    return (
        f"{quote(host)} can't be reached from here. Who may decide allows it with `!egress allow "
        f"{host}`, or by the question about it, where one is open: `!egress` lists them. Then "
        "`!clone` again."
    )


def clone_failed(said: str) -> str:
    """Git's own words."""
    why = quote(said, max_chars=_REASON_CHARS) if said else "git did not say why"
    return f"Not cloned: {why}. Nothing of it is left in the workspace."


def clone_too_slow(limit_s: float) -> str:
    """It met its time."""
    return (
        f"Not cloned: it took longer than {limit_s / 60:g} minutes. Nothing of it is left in the "
        "workspace."
    )
