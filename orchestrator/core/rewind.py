"""Taking a message back out of the CLI's conversation: what it is asked, and what it answers. Pure.

`rewind_conversation` was tried on 2.1.330 (docs/cli-facts.md): the conversation then ends before
the message, also for a process that resumes the session later.
"""

from __future__ import annotations

import json
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, ValidationError


class Rewound(StrEnum):
    """What came of it."""

    DONE = "done"
    UNKNOWN = "unknown"
    """The conversation has no such message: it was begun anew, or summarised, since."""
    REFUSED = "refused"


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class _Answer(_Model):
    rewound: bool = False
    reason: str | None = None


class _Response(_Model):
    subtype: str
    request_id: str
    response: _Answer = _Answer()


class _Line(_Model):
    type: str
    response: _Response


def build_rewind(request_id: str, *, message_uuid: str) -> str:
    """The line that asks for it. Not while a turn runs."""
    request = {"subtype": "rewind_conversation", "target_message_uuid": message_uuid}
    return json.dumps(
        {"type": "control_request", "request_id": request_id, "request": request},
        separators=(",", ":"),
    )


def parse_rewound(line: str, request_id: str) -> Rewound | None:
    """The answer to this request; None for any other line."""
    if request_id not in line:
        return None
    try:
        parsed = _Line.model_validate_json(line)
    except (ValidationError, ValueError, RecursionError):
        return None
    response = parsed.response
    if parsed.type != "control_response" or response.request_id != request_id:
        return None
    if response.subtype == "success" and response.response.rewound:
        return Rewound.DONE
    is_unknown = response.response.reason == "target_not_found"
    return Rewound.UNKNOWN if is_unknown else Rewound.REFUSED
