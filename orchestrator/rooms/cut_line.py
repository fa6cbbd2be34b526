"""What a line was that is too long to be read, by the first 4 KiB of it. Pure.

The orders of the keys are those of Claude Code 2.1.330 (tests/recorded): nearly all lines begin
with their type; a result begins with its numbers, and has its type behind its text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_TYPE = re.compile(r'\{"type":"([a-z_]+)"')
_RESULT = re.compile(r'\{"(?:duration_api_ms|duration_ms|subtype|is_error|result)":')
_REQUEST_ID = re.compile(r'\{"type":"control_request","request_id":"([A-Za-z0-9_.:-]{1,128})"')


class CutKind(StrEnum):
    """What follows from such a line."""

    RESULT = "result"
    """The turn is over, and nothing else will say so."""
    ANSWER = "answer"
    """Text for the room, or a tool's input."""
    REQUEST = "request"
    """The CLI waits for an answer to it."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """`request_id` is known for most requests."""

    kind: CutKind
    request_id: str | None = None


def parse_cut(head: str) -> Cut:
    """What the line that begins so was."""
    match = _TYPE.match(head)
    name = match[1] if match else None
    if name == "result" or (name is None and _RESULT.match(head)):
        return Cut(kind=CutKind.RESULT)
    if name == "assistant":
        return Cut(kind=CutKind.ANSWER)
    if name == "control_request":
        request = _REQUEST_ID.match(head)
        return Cut(kind=CutKind.REQUEST, request_id=request[1] if request else None)
    return Cut(kind=CutKind.OTHER)
