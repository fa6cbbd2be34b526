"""What is said of files: those that people send, and those that they ask for."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.quoting import quote
from orchestrator.core.texts import size

TAKES_NONE = "This room takes no files (files.received_per_turn is 0)."
UNREADABLE = "its address can't be read"
NOT_FETCHED = "the homeserver did not give it"
DAMAGED = "it is not what its sender encrypted"
TOO_MANY = "too many came at once"
SENT = "Sent into the room."
NO_PATH = "Give a path inside the workspace."
NOT_NOW = "Not sent: the file could not be read now. Try again."
TOO_MANY_CALLS = "Not sent: too many files are being sent at once. Try again when some are done."
GET_FORM = "Like this: `!get PATH`, a file of the workspace; `!ls` lists them."
LS_FORM = "Like this: `!ls`, or `!ls FOLDER`."
EMPTY = "Nothing is there."
_MOST_LISTED = 100


def sent(name: str) -> str:
    """The words of a message that is a file alone."""
    return f"(a file: {quote(name)})"


def too_large(size_bytes: int, limit_bytes: int) -> str:
    """Why it was not taken, as a clause."""
    return f"it has {size(size_bytes)}, and {size(limit_bytes)} are taken"


def brought(path: str, mimetype: str, size_bytes: int, *, is_shown: bool = False) -> str:
    """A line for the agent; what `is_shown` is in the message as an image, too."""
    return f"- {path} ({mimetype}, {size(size_bytes)}{', shown above' if is_shown else ''})"


def not_brought(name: str, reason: str) -> str:
    """A line for the agent."""
    return f"- {quote(name)} is not there: {reason}"


def note(lines: Sequence[str]) -> str:
    """Below the message, for the agent."""
    return "\n".join(["[Files that came with this, in the workspace:", *lines, "]"])


def not_taken(name: str, reason: str) -> str:
    """For the room."""
    return f"The file {quote(name)} was not taken: {reason}. Send it again, or another way."


def sent_enough(limit: int) -> str:
    """For the agent."""
    return f"Not sent: {limit} files may be sent in one turn, and were."


def not_sent(path: str, reason: str) -> str:
    """For the agent."""
    return f"Not sent: {quote(path, max_chars=200)}: {reason}."


def listed(lines: Sequence[tuple[str, str, int]]) -> str:
    """Paths with their kinds and sizes."""
    shown = [_listed(*line) for line in lines[:_MOST_LISTED]]
    if len(lines) > _MOST_LISTED:
        shown.append(f"- … and {len(lines) - _MOST_LISTED} more; `!ls FOLDER` lists a folder")
    return "\n".join(shown)


def _listed(path: str, kind: str, size_bytes: int) -> str:
    match kind:
        case "directory":
            return f"- {quote(path + '/', max_chars=200)}"
        case "file":
            return f"- {quote(path, max_chars=200)} · {size(size_bytes)}"
        case _:
            return f"- {quote(path, max_chars=200)} · a {kind}"


def not_listed(path: str, reason: str) -> str:
    """It can't be had."""
    return f"{quote(path or '/', max_chars=200)}: {reason}."


def file_not_taken(errcode: str, size_bytes: int) -> str:
    """In place of a file that the homeserver refused."""
    why = "it is larger than it accepts" if errcode == "M_TOO_LARGE" else f"it says {errcode}"
    return (
        f"The homeserver does not take the file ({size(size_bytes)}): {why}. Have less put into "
        "it, or ask the homeserver's operator for a higher limit."
    )


def gotten(path: str, size_bytes: int) -> str:
    """The file comes below."""
    return f"{quote(path, max_chars=200)}, {size(size_bytes)}:"
