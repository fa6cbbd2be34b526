"""Somebody else's words within a sentence of ours, so that they stay words.

What a room's people, its CLI and its tools say is never a part of our own sentences: as one line of
code it can't look like a second message, a status, a list, a link or a name that is pinged.
"""

from __future__ import annotations

from orchestrator.core.sanitise import sanitise

# One line on a phone.
_QUOTE_CHARS = 80


def quote(text: str, *, max_chars: int = _QUOTE_CHARS) -> str:
    """The beginning of the text as one line of code; it has no effect in a room."""
    return f"`{one_line(text, max_chars=max_chars) or '…'}`"


def one_line(text: str, *, max_chars: int) -> str:
    """The beginning of the text as one line that can stand within code; it may be empty."""
    line = " ".join(sanitise(text[: 8 * max_chars]).replace("`", "'").split())
    return line if len(line) <= max_chars else f"{line[: max_chars - 1].rstrip()}…"
