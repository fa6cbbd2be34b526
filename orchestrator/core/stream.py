"""The CLI's output lines (stream-json) as typed events.

Rules: any text gives an event and nothing is raised; what is in a line is the room's and is trusted
no further than its shape; no string of an event has a lone surrogate.
The shapes are those of Claude Code 2.1.330 (docs/cli-facts.md).
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from pydantic import ValidationError

from orchestrator.core import cli_line, cli_side_line
from orchestrator.core.cli_event import CliEvent, Garbled, Unknown
from orchestrator.model import JsonObject, JsonValue

# The wire cuts lines at 4 MiB; this only bounds what is parsed if it ever does not.
MAX_LINE_CHARS = 16 << 20
# Tool inputs and MCP messages nest; nothing seen goes past 12.
MAX_DEPTH = 64
HEAD_CHARS = 200
_TYPE_CHARS = 100
_MODELS = {**cli_line.MODELS, **cli_side_line.MODELS}
# In the source an escaped half of a pair has to be there before a lone one can come out of it.
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def parse_line(line: str) -> CliEvent:
    """The event in one line, with or without its line end. Never raises."""
    if len(line) > MAX_LINE_CHARS:
        return _garbled("too_long", line)
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except RecursionError:
        return _garbled("too_deep", line)
    except ValueError:  # not JSON; an integer of more than 4,300 digits; NaN or Infinity
        return _garbled("not_json" if line.strip() else "empty", line)
    if not isinstance(value, dict):
        return _garbled("not_an_object", line)
    if _is_too_deep(value, line):
        return _garbled("too_deep", line)
    if _SURROGATE_ESCAPE.search(line) or _SURROGATE.search(line):
        value = _clean_object(value)
    return _event(value, line)


def clean_text(text: str) -> str:
    """The text with each lone surrogate replaced; such text can't be stored or sent."""
    return _SURROGATE.sub(REPLACEMENT, text)


def _event(value: JsonObject, line: str) -> CliEvent:
    kind = value.get("type")
    if not isinstance(kind, str) or not kind:
        return _garbled("no_type", line)
    name = f"system/{value.get('subtype')}" if kind == "system" else kind
    model = _MODELS.get(name)
    if model is None:
        return Unknown(type=name[:_TYPE_CHARS], size=len(line))
    try:
        event = model.model_validate(value).event()
    except ValidationError:
        return _garbled("wrong_shape", line)
    return event or Unknown(type=name[:_TYPE_CHARS], size=len(line))


def _garbled(reason: str, line: str) -> Garbled:
    return Garbled(reason=reason, head=clean_text(line[:HEAD_CHARS]))


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def _is_too_deep(value: JsonObject, line: str) -> bool:
    # Each level opens a bracket, so nearly every line is settled by counting characters.
    if line.count("{") + line.count("[") <= MAX_DEPTH:
        return False
    level: list[JsonValue] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def _clean_object(value: JsonObject) -> JsonObject:
    return {clean_text(key): _clean(item) for key, item in value.items()}


def _clean(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return _clean_object(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value
