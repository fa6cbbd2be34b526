"""Text from a runner made harmless to look at, before it is rendered or shown.

Kept: what letters and emoji need, zero-width joiners and non-joiners included. Shown as `[U+202E]`
and the like: what reorders the text around it. Dropped: terminal escapes, control characters, and
what is invisible and could hide or carry something. Done twice it changes nothing more.
"""

from __future__ import annotations

import re

from orchestrator.core.stream import clean_text

# An escape is dropped with its parameters where it is well-formed; otherwise only its ESC goes, so
# that no text is lost. An OSC (titles, links) has to end on its line.
_ANSI = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]{0,2048}(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]{0,4}[0-Z\\^-~]"
)
_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029\u0085]")
# Embeddings, overrides and isolates: with these, code reads otherwise than it runs.
_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")
_DROPPED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls but tab and line feed
    "\u00ad\u034f"  # soft hyphen, grapheme joiner
    "\u061c\u200e\u200f"  # direction marks
    "\u115f\u1160\u3164\uffa0"  # Hangul fillers, letters without a shape
    "\u17b4\u17b5\u180e"
    "\u200b\u2060-\u2065\u206a-\u206f\ufeff"  # zero-width space, joiner, invisible operators
    "\ufff9-\ufffb"  # annotations
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"  # tags and supplementary variation selectors: carry whole messages
)


def sanitise(text: str) -> str:
    """The text as it may be shown, with line feeds as its only line ends."""
    text = clean_text(text)
    if text.isascii() and text.isprintable():
        return text
    text = _LINE_ENDS.sub("\n", _ANSI.sub("", text))
    text = _DROPPED.sub("", text)
    return _REORDERING.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
