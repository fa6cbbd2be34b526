"""The tool server that the orchestrator is to the CLI: one tool, `send_file`. Pure.

It is declared as a server of the type `sdk`: the CLI sends its JSON-RPC messages as control
requests on stdout, and reads the answers on stdin. So it needs no port, no process, and no secret
in the runner. Tried on 2.1.330 (docs/cli-facts.md). Everything that comes is the room's own word.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from orchestrator.model import JsonObject, JsonValue

SERVER = "room"
SEND_FILE = "send_file"
CLI_NAME = f"mcp__{SERVER}__{SEND_FILE}"
"""What the CLI calls it when it asks: what it may send is bounded here, so it is always allowed."""
CONFIG = json.dumps({"mcpServers": {SERVER: {"type": "sdk", "name": SERVER}}})
_PROTOCOL = "2025-06-18"
_METHOD_NOT_FOUND = -32601
_ID_CHARS = 128
_TOOL: JsonObject = {
    "name": SEND_FILE,
    "description": (
        "Send a file of the workspace into the chat room, where people see it: an image as an "
        "image, anything else as a file to download. Give a path inside the workspace; links are "
        "not followed."
    ),
    "inputSchema": {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "the file, for instance out/chart.png"},
            "caption": {"type": "string", "description": "one line about it, if useful"},
        },
        "required": ["path"],
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCall:
    """The agent wants to send a file; `call_id` is the same when it is asked again."""

    call_id: str
    path: str
    caption: str


def parse_call(message: JsonObject) -> FileCall | None:
    """A call of our tool; None for any other message."""
    params = message.get("params")
    if message.get("method") != "tools/call" or not isinstance(params, dict):
        return None
    given = params.get("arguments")
    given = given if isinstance(given, dict) else {}
    if params.get("name") != SEND_FILE:
        return None
    meta = params.get("_meta")
    use = meta.get("claudecode/toolUseId") if isinstance(meta, dict) else None
    return FileCall(
        call_id=(use if isinstance(use, str) else f"call {message.get('id')}")[:_ID_CHARS],
        path=_text(given.get("path")),
        caption=_text(given.get("caption")),
    )


def build_answer(message: JsonObject) -> JsonObject:
    """What our server says to anything but a call: who it is, and what it has."""
    match message.get("method"):
        case "initialize":
            params = message.get("params")
            asked = params.get("protocolVersion") if isinstance(params, dict) else None
            version = asked if isinstance(asked, str) else _PROTOCOL
            return _result(
                message,
                {
                    "protocolVersion": version,
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": SERVER, "version": "1"},
                },
            )
        case "tools/list":
            return _result(message, {"tools": [_TOOL]})
        case str(method) if method.startswith("notifications/") or method == "ping":
            return _result(message, {})
        case _:
            error: JsonObject = {"code": _METHOD_NOT_FOUND, "message": "not served here"}
            return {"jsonrpc": "2.0", "id": message.get("id"), "error": error}


def build_result(message: JsonObject, text: str, *, is_error: bool) -> JsonObject:
    """What came of a call."""
    content: list[JsonValue] = [{"type": "text", "text": text}]
    return _result(message, {"content": content, "isError": is_error})


def _result(message: JsonObject, result: JsonObject) -> JsonObject:
    # A notification has no id, and is answered all the same: the CLI waits for each request.
    return {"jsonrpc": "2.0", "id": message.get("id", 0), "result": result}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
