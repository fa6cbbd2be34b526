"""What we tell the CLI: each function builds one line for its stdin, without the line end.

A line that is not JSON ends the CLI, so nothing else may be written there. The lines are ASCII.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.stream import clean_text
from orchestrator.model import JsonObject, JsonValue, TurnId

# Any fixed namespace will do; this one is our own.
_NAMESPACE = uuid.UUID("6f6ad0de-53a7-4c0f-9a4e-2f6f4e9d9c11")


def message_uuid(turn_id: TurnId) -> str:
    """The uuid of the turn's user message: always the same for the same turn.

    The CLI runs a uuid once in a session, also after `--resume`, and names it in the turn's result.
    """
    return str(uuid.uuid5(_NAMESPACE, turn_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What the model is shown. The CLI makes it smaller where it is large (2.1.330: 2,000 px)."""

    mimetype: str
    data: bytes


def build_user_message(text: str, *, message_uuid: str, images: Sequence[Image] = ()) -> str:
    """A message of the user; into a running turn the CLI mixes it (core.turn_view).

    A slash at the start would be a command of the CLI (`/clear`, `/model`, …), which a room does
    not give, so a space goes before it.
    """
    words = clean_text(f" {text}" if text.startswith("/") else text)
    parts: list[JsonValue] = [_image_part(image) for image in images]
    content: JsonValue = [*parts, {"type": "text", "text": words}] if parts else words
    return _line(
        {
            "type": "user",
            "uuid": message_uuid,
            "parent_tool_use_id": None,
            "message": {"role": "user", "content": content},
        }
    )


def _image_part(image: Image) -> JsonObject:
    data = base64.b64encode(image.data).decode("ascii")
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": image.mimetype, "data": data},
    }


def build_compact(wish: str, *, message_uuid: str) -> str:
    """The CLI's own command that puts a summary in a conversation's place; not while a turn runs.

    `wish`: what the summary is to keep, for the model; may be empty.
    """
    content = f"/compact {wish}".strip()
    message: JsonObject = {"role": "user", "content": clean_text(content)}
    return _line({"type": "user", "uuid": message_uuid, "message": message})


def build_initialize(request_id: str) -> str:
    """The handshake; the CLI answers with what it can do. It works without, too."""
    return _request(request_id, {"subtype": "initialize"})


def build_interrupt(request_id: str) -> str:
    """End the running turn; its result is `error_during_execution`. The CLI lives on."""
    return _request(request_id, {"subtype": "interrupt"})


def build_permission_allow(
    request_id: str, tool_input: JsonObject, *, rules: Sequence[JsonObject] = ()
) -> str:
    """The tool may run, with this input; `rules` change the session's permissions, no file's."""
    answer: JsonObject = {"behavior": "allow", "updatedInput": tool_input}
    if rules:
        answer["updatedPermissions"] = [{**rule, "destination": "session"} for rule in rules]
    return _answer(request_id, answer)


def build_permission_deny(request_id: str, message: str) -> str:
    """The tool may not run; the model reads the message as the tool's result."""
    return _answer(request_id, {"behavior": "deny", "message": clean_text(message)})


def build_mcp_answer(request_id: str, message: JsonObject) -> str:
    """Our tool server's JSON-RPC answer. A notification is answered too, with an empty result."""
    return _answer(request_id, {"mcp_response": message})


def build_control_error(request_id: str, message: str) -> str:
    """We don't do what the CLI asks for. Without any answer it would wait."""
    error: JsonObject = {"subtype": "error", "request_id": request_id, "error": clean_text(message)}
    return _line({"type": "control_response", "response": error})


def _request(request_id: str, request: JsonObject) -> str:
    return _line({"type": "control_request", "request_id": request_id, "request": request})


def _answer(request_id: str, response: JsonObject) -> str:
    answer: JsonObject = {"subtype": "success", "request_id": request_id, "response": response}
    return _line({"type": "control_response", "response": answer})


def _line(value: JsonValue) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
