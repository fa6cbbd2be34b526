"""What may not be shown: one filter that takes every secret out of a text before it is written.

Two nets, since neither is enough alone: the exact values that this process holds, in every spelling
that a repr, a JSON text or a URL gives them, and the shapes that credentials have.
"""

from __future__ import annotations

import json
import re
from urllib.parse import quote

HIDDEN = "[hidden]"
# Shorter ones are parts of ordinary words; hiding them would only make the log unreadable.
_MIN_SECRET_CHARS = 4
# Backslashes before one character: four layers of escaping make sixteen of one.
_ESCAPES = r"\\{0,16}"

# A quote around a name or a value may itself be escaped, inside JSON or a repr; four levels of it
# are more than we ever nest, and a bound keeps the search linear.
_QUOTE = r"""\\{0,4}["']?"""
_NAMES = (
    r"(?:access_token|refresh_token|password|passwd|secret|api[_-]?key|oauth[_-]?token|"
    r"registration_shared_secret|x-api-key|authorization|(?:MATRIX|ANTHROPIC|CLAUDE)[A-Z_]*_TOKEN)"
)
_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    # Anthropic: API keys (sk-ant-api…), OAuth (sk-ant-oat…, sk-ant-ort…), and what looks like them.
    (re.compile(r"sk-ant-[A-Za-z0-9_\-]+"), HIDDEN),
    # Synapse: access (syt_), refresh (syr_) and login (syl_) tokens; its authentication service's.
    (re.compile(r"\b(?:sy[trl]|mat|mar|mct)_[A-Za-z0-9_=.\-]{8,}"), HIDDEN),
    (re.compile(r"\b(Bearer|Basic)(\s+)[A-Za-z0-9._~+/=\-]+", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    # name=value, name: value, "name": "value"; a value in quotes may have blanks in it.
    (
        re.compile(
            rf"({_NAMES}{_QUOTE}\s*[=:]\s*(?:b?\\{{0,4}}(?P<q>[\"'])))(?:(?!\\{{0,4}}(?P=q)).)+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(
            rf"({_NAMES}\s*[=:]\s*)(?!(?:Bearer|Basic)\b)[^\s\"'&,;\\)\]}}]+", re.IGNORECASE
        ),
        rf"\1{HIDDEN}",
    ),
)
_SECRET_FIELD = re.compile(
    r"(?:^|_)(?:token|password|passwd|secret|api_?key|authorization|credentials?|placeholder)$",
    re.IGNORECASE,
)


class Redactor:
    """Takes secrets out of texts. It only ever learns more; it forgets with `clear`."""

    def __init__(self) -> None:
        self._patterns: dict[str, str] = {}
        self._exact: re.Pattern[str] | None = None

    def __repr__(self) -> str:
        return f"Redactor({len(self._patterns)} values)"

    def register(self, value: str) -> None:
        """Hide a value from now on; empty ones and ones under 4 characters are passed over."""
        plain = value.strip()
        if len(plain) < _MIN_SECRET_CHARS or plain in self._patterns:
            return
        self._patterns[plain] = _pattern(plain)
        # The longest first: where one secret is the beginning of another, nothing of either stays.
        longest_first = sorted(self._patterns, key=len, reverse=True)
        self._exact = re.compile("|".join(self._patterns[secret] for secret in longest_first))

    def clear(self) -> None:
        """Forget all values; the shapes stay."""
        self._patterns.clear()
        self._exact = None

    def redact(self, text: str) -> str:
        """The text with HIDDEN in the place of each secret."""
        if self._exact is not None:
            text = self._exact.sub(HIDDEN, text)
        for shape, replacement in _SHAPES:
            text = shape.sub(replacement, text)
        return text


def is_secret_field(name: str) -> bool:
    """Whether a log field of this name is hidden whatever its value."""
    return _SECRET_FIELD.search(name) is not None


def _pattern(secret: str) -> str:
    """A pattern for the value as it looks in a text, a repr (also of bytes), a JSON text, a URL."""
    parts: list[str] = []
    for char in secret:
        part = _char_pattern(char)
        # A run of backslashes is one part: it has no fixed length in an escaped text anyway.
        if not (char == "\\" and parts and parts[-1] == part):
            parts.append(part)
    return "".join(parts)


def _char_pattern(char: str) -> str:
    if char.isascii() and (char.isalnum() or char in "_.-~"):
        return re.escape(char)
    raw = char.encode("utf-8", "surrogatepass")
    spelled = {char, repr(char)[1:-1], json.dumps(char)[1:-1], repr(raw)[2:-1]}
    # Each layer of repr or JSON doubles the backslashes and may put one before a quote.
    ways = {_ESCAPES + re.escape(way.lstrip("\\")).replace(r"\\", _ESCAPES) for way in spelled}
    ways.add(f"(?i:{re.escape(quote(raw, safe=''))})")
    if char == "\\":
        ways.add(_ESCAPES.replace("{0,", "{1,"))
    if char == " ":
        ways.add(r"\+")
    return f"(?:{'|'.join(sorted(ways - {_ESCAPES}))})"
