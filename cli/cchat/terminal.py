"""What other people wrote, made fit for a terminal; sizes, ages and tables. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Whole escape sequences, so that nothing of them stays as text: CSI, then the strings that OSC,
# DCS, SOS, PM and APC begin (to their end or the line's), then any two-character one.
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# Control characters but tab and line feed, and what turns the direction of the text around.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029\x85\x0b\x0c]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNITS = ("B", "KB", "MB", "GB", "TB")


def clean(text: str) -> str:
    """The text without anything that a terminal would obey; lines and tabs stay."""
    text = _LINE_ENDS.sub("\n", text)
    text = _CONTROL.sub("", _ESCAPE.sub("", text))
    return _SURROGATE.sub("\ufffd", text)


def clean_line(text: str, *, max_chars: int = 200) -> str:
    """The same on one line, cut with "…" beyond `max_chars`."""
    line = " ".join(clean(text).split())
    return line if len(line) <= max_chars else f"{line[: max_chars - 1]}…"


def render_size(size_bytes: int) -> str:
    """`512 B`, `135 MB`, `2.0 GB`: powers of 1024, as Docker's limits."""
    value = float(size_bytes)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    digits = 1 if unit in _UNITS[3:] else 0
    return f"{value:.{digits}f} {unit}"


def render_age(age_s: float) -> str:
    """`7 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    whole = max(0, int(age_s))
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if not hours:
        return f"{minutes} min"
    if not days:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def render_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, two blanks apart; wide characters count for two."""
    lines = [list(head), *([clean_line(cell) for cell in row] for row in rows)]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(_render_line(line, widths) for line in lines)


def _render_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)
    )
    return "  ".join(padded).rstrip()


def _width(text: str) -> int:
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) == "Cf":
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1
