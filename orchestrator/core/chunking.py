"""Long Markdown as several messages, each within the limit of one event.

A cut is made, in this order of preference, at a blank line before something that is not indented,
at any blank line, at a line's end, at a line's end inside a code fence (which is closed, and opened
again in the next piece with its language), at a space, anywhere. Nothing is lost: the pieces'
sources, joined, are the text but for blank lines between two of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.core.render import build_plain_content, build_text_content
from orchestrator.core.sanitise import sanitise
from orchestrator.model import JsonObject

# What the sender adds to a content besides the text: the turn's key with the ids that it answers.
RESERVE_BYTES = 2048
# Less leaves no room for text beside a code fence that is closed and opened again.
LEAST_BYTES = 1000
# Body and HTML both hold the text, and the HTML its tags: 2.2 bytes a character in ordinary prose.
_FIRST_CHARS_PER_BYTE = 0.4
_TRIES = 5
_FENCE = re.compile(r"[ \t]*(?:>[ \t]*)*(`{3,16}|~{3,16})([^\n]*)")
_BLANK_LINES = re.compile(r"(?:[ \t]*\n)+")
_LANGUAGE = re.compile(r"[ \t]*([A-Za-z0-9_+#.-]{1,40})")
# Cuts, the best first.
_CLEAN, _BLANK, _LINE, _IN_FENCE = range(4)


def encrypted_limit(max_event_bytes: int) -> int:
    """What a content may have in an encrypted room: base64 makes it 4/3 as long."""
    return max_event_bytes * 3 // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One message: its part of the text, and the same as it is sent."""

    source: str
    content: JsonObject
    markdown: str
    """Its part as Markdown of its own: a code fence that is open at its ends is closed there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fence:
    """An open code fence: how to close it, and how to open it again."""

    marker: str
    opening: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """Where a piece ends, and the fence that is open there."""

    end: int
    fence: _Fence | None


def split_markdown(text: str, *, max_bytes: int, notice: bool = False) -> Iterator[Piece]:
    """Pieces whose contents each take at most `max_bytes` as canonical JSON; lazily, in order.

    Time grows with the length of the text: 1 s for 1 MB of prose, 7 s for 1 MB of tables. So take
    the pieces of a long text outside the event loop.

    Raises:
        ValueError: for a limit that leaves no room for text.
    """
    if max_bytes < LEAST_BYTES:
        msg = f"max_bytes must be at least {LEAST_BYTES}"
        raise ValueError(msg)
    text = sanitise(text)
    start, fence, chars = 0, None, int(max_bytes * _FIRST_CHARS_PER_BYTE)
    while start < len(text):
        blank = None if fence else _BLANK_LINES.match(text, start)
        if blank is not None:
            start = blank.end()
            continue
        cut, content = _fit(text, start, fence, chars, max_bytes=max_bytes, notice=notice)
        source = text[start : cut.end]
        if source.strip():
            markdown = _dress(text, start, cut, fence)
            yield Piece(source=source, content=content, markdown=markdown)
            # As many characters as should fit, if the text goes on as it was.
            chars = int(len(source) * max_bytes / measure_content(content) * 0.95)
        start, fence = cut.end, cut.fence


def split_for_event(
    text: str, *, max_event_bytes: int, notice: bool = False, reserve_bytes: int = RESERVE_BYTES
) -> list[JsonObject]:
    """The ready contents of the messages for this text; none for blank text.

    `reserve_bytes` of each stay free for what the sender adds. An encrypted event is about 4/3 of
    this; give three quarters of the limit there. A limit that leaves no room for text is passed:
    a turn that answers many messages names them all.
    """
    max_bytes = max(LEAST_BYTES, max_event_bytes - reserve_bytes)
    pieces = split_markdown(text, max_bytes=max_bytes, notice=notice)
    return [piece.content for piece in pieces]


def last_part(text: str, *, max_chars: int) -> str:
    """Its end as Markdown of its own, from a line's begin on; all of it where that is short enough.

    Takes about 1 ms for 100,000 characters.
    """
    least = len(text) - max_chars
    if least <= 0:
        return text
    position, fence = 0, None
    while position < least:
        end = text.find("\n", position) + 1
        if end <= 0:
            return text[least:]  # one long line
        fence = _fence_after(text[position:end], fence)
        position = end
    return (f"{fence.opening}\n" if fence else "") + text[position:]


def measure_content(content: JsonObject) -> int:
    """Bytes of a content as canonical JSON, which is what the homeserver's limit counts."""
    return len(
        json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    )


def _fit(
    text: str, start: int, fence: _Fence | None, chars: int, *, max_bytes: int, notice: bool
) -> tuple[_Cut, JsonObject]:
    """The first piece from `start` that was found to fit; without HTML where nothing else does."""
    for _ in range(_TRIES):
        cut = _find_cut(text, start, chars, fence)
        content = build_text_content(_dress(text, start, cut, fence), notice=notice)
        size = measure_content(content)
        if size <= max_bytes:
            return cut, content
        chars = max(1, int((cut.end - start) * min(0.9, max_bytes / size * 0.9)))
    # One character is at most 6 bytes in JSON; what dresses a fence takes less than 200.
    cut = _find_cut(text, start, (max_bytes - 400) // 6, fence)
    return cut, build_plain_content(_dress(text, start, cut, fence).strip("\n"), notice=notice)


def _dress(text: str, start: int, cut: _Cut, fence: _Fence | None) -> str:
    """The piece as Markdown of its own: an open fence is opened at its begin, closed at its end."""
    source = text[start : cut.end]
    head = f"{fence.opening}\n" if fence else ""
    if cut.fence is None or cut.end == len(text):
        return head + source
    return f"{head}{source}" + ("" if source.endswith("\n") else "\n") + cut.fence.marker


def _find_cut(text: str, start: int, chars: int, fence: _Fence | None) -> _Cut:
    """The best cut at most `chars` after `start`: in the later half if there is one."""
    limit = start + max(1, chars)
    if limit >= len(text):
        return _Cut(end=len(text), fence=None)
    best: dict[tuple[bool, int], _Cut] = {}
    last_fence = fence
    for cut, rank in _line_cuts(text, start, limit, fence):
        is_late = cut.end - start >= chars // 2
        best[not is_late, rank] = cut
        last_fence = cut.fence
    if best:
        return best[min(best)]
    space = text.rfind(" ", start + 1, limit)
    end = space + 1 if space > start + chars // 2 else limit
    return _Cut(end=end, fence=last_fence)


def _line_cuts(
    text: str, start: int, limit: int, fence: _Fence | None
) -> Iterator[tuple[_Cut, int]]:
    """Each line's end up to `limit`, with its rank."""
    position = start
    while (end := text.find("\n", position, limit) + 1) > 0:
        line = text[position:end]
        fence = _fence_after(line, fence)
        rank = _IN_FENCE if fence else _LINE
        if fence is None and not line.strip():
            rank = _BLANK if text[end : end + 1] in {" ", "\t"} else _CLEAN
        yield _Cut(end=end, fence=fence), rank
        position = end


def _fence_after(line: str, fence: _Fence | None) -> _Fence | None:
    """The fence that is open behind the line."""
    found = _FENCE.match(line)
    if found is None:
        return fence
    marker, info = found[1], found[2]
    if fence is not None:
        is_end = marker.startswith(fence.marker) and not info.strip()
        return None if is_end else fence
    if marker[0] == "`" and "`" in info:
        return None  # code within a line
    language = _LANGUAGE.match(info)
    return _Fence(marker=marker, opening=marker + (language[1] if language else ""))
