"""JSON from a homeserver, read so that one hostile event can't make the whole answer unreadable.

Owns what differs from plain `json`: numbers that Python refuses, nesting that it can't follow, text
that is not UTF-8. Each is replaced where it stands, so that its neighbours stay readable.
"""

from __future__ import annotations

import json
import math
import re

from orchestrator.model import JsonObject, JsonValue

# Matrix allows integers up to 2**53; 19 digits hold every 64-bit number.
_MAX_DIGITS = 19
# Nothing in Matrix is nested ten deep; Python's reader gives up somewhat below 1,000.
MAX_DEPTH = 128
_TOO_DEEP = '"[nested too deeply]"'
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def parse_json(data: bytes) -> JsonValue:
    """Read JSON. Oversized numbers become text, NaN and infinity null, deep nesting a short text.

    Raises:
        ValueError: it is not JSON (truncated, or something else altogether).
    """
    text = data.decode("utf-8", "replace")
    try:
        return _loads(text)
    except RecursionError:
        return _loads(cut_depth(text))


def parse_object(data: bytes) -> JsonObject:
    """Like `parse_json`, for an answer that has to be an object.

    Raises:
        ValueError: it is not a JSON object.
    """
    value = parse_json(data)
    if not isinstance(value, dict):
        msg = "expected a JSON object"
        raise ValueError(msg)  # noqa: TRY004 - one kind of error for everything unreadable
    return value


def dump_json(value: JsonValue) -> str:
    """JSON in ASCII: whatever the text holds (a lone surrogate, say), a database can store it."""
    return json.dumps(value, separators=(",", ":"))


def cut_depth(text: str, max_depth: int = MAX_DEPTH) -> str:
    """The same text with everything nested deeper than `max_depth` replaced."""
    kept: list[str] = []
    depth = start = 0
    for token in _TOKEN.finditer(text):
        symbol = token.group()
        if symbol in "[{":
            depth += 1
            if depth == max_depth + 1:
                kept += (text[start : token.start()], _TOO_DEEP)
        elif symbol in "]}":
            if depth == max_depth + 1:
                start = token.end()
            depth -= 1
    if depth <= max_depth:
        kept.append(text[start:])
    return "".join(kept)


def _loads(text: str) -> JsonValue:
    value: JsonValue = json.loads(
        text, parse_int=_int, parse_float=_float, parse_constant=lambda _: None
    )
    return value


def _int(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


def _float(digits: str) -> float | str:
    value = float(digits)
    return value if math.isfinite(value) else digits
