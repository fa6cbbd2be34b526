"""A reply as the Messages API sends it: as a stream of server-sent events, or as one message.

Pure: delays and cuts are values among the steps; `messages_api` acts on them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.embedded.messages_model import (
    Block,
    CutStream,
    HttpError,
    MessagesRequest,
    Reply,
    Stall,
    StreamError,
    Text,
    Thinking,
    ToolUse,
)
from orchestrator.model import JsonObject, JsonValue

# About what a tokenizer makes of English text and of JSON.
_CHARS_PER_TOKEN = 4
_JSON_CHUNK_CHARS = 32
_CONTENT = (Text, Thinking, ToolUse)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Send nothing for this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Cut the connection."""


Step = bytes | Wait | Cut


def render_stream(reply: Reply, request: MessagesRequest, *, size_chars: int) -> Iterator[Step]:
    """The steps that stream a reply.

    Args:
        reply: what is answered; it holds no HttpError.
        request: what it answers.
        size_chars: the size of the request's body, from which its tokens are estimated.
    """
    message = _message(reply, request, size_chars, content=[], stop_reason=None, output_tokens=1)
    yield _event("message_start", {"message": message})
    yield _event("ping", {})
    index = 0
    for block in reply:
        match block:
            case Stall(seconds=seconds):
                yield Wait(seconds=seconds)
            case CutStream():
                yield Cut()
                return
            case StreamError(type=kind, message=text):
                yield _event("error", {"error": {"type": kind, "message": text}})
                return
            case Text() | Thinking() | ToolUse():
                yield from _render_block(block, index)
                index += 1
            case HttpError():
                msg = "an HttpError comes first in a reply"
                raise ValueError(msg)
    yield _event(
        "message_delta",
        {
            "delta": {"stop_reason": stop_reason(reply), "stop_sequence": None},
            "usage": {"output_tokens": output_tokens(reply)},
        },
    )
    yield _event("message_stop", {})


def render_message(reply: Reply, request: MessagesRequest, *, size_chars: int) -> JsonObject:
    """The whole reply as one message, for a request that does not stream."""
    content: list[JsonValue] = [_content(block) for block in reply if isinstance(block, _CONTENT)]
    return _message(
        reply,
        request,
        size_chars,
        content=content,
        stop_reason=stop_reason(reply),
        output_tokens=output_tokens(reply),
    )


def render_error(kind: str, message: str, request_id: str) -> JsonObject:
    """An error in the API's shape."""
    error: JsonObject = {"type": kind, "message": message}
    return {"type": "error", "error": error, "request_id": request_id}


def stop_reason(reply: Reply) -> str:
    """Why the model stopped."""
    if reply.stop_reason is not None:
        return reply.stop_reason
    return "tool_use" if any(isinstance(b, ToolUse) for b in reply) else "end_turn"


def output_tokens(reply: Reply) -> int:
    """The reply's size in tokens: as scripted, or estimated."""
    if reply.output_tokens is not None:
        return reply.output_tokens
    return sum(estimate_tokens(len(json.dumps(_content(b)))) for b in reply if _is_content(b))


def estimate_tokens(chars: int) -> int:
    """Tokens from characters; at least one."""
    return max(1, chars // _CHARS_PER_TOKEN)


def _is_content(block: Block) -> bool:
    return isinstance(block, _CONTENT)


def _message(
    reply: Reply,
    request: MessagesRequest,
    size_chars: int,
    *,
    content: list[JsonValue],
    stop_reason: str | None,
    output_tokens: int,
) -> JsonObject:
    tokens = reply.input_tokens
    usage: JsonObject = {
        "input_tokens": estimate_tokens(size_chars) if tokens is None else tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _render_block(block: Text | Thinking | ToolUse, index: int) -> Iterator[Step]:
    yield _event("content_block_start", {"index": index, "content_block": _start(block)})
    delay_s = block.delay_s if isinstance(block, Text) else 0.0
    for number, delta in enumerate(_deltas(block)):
        if number and delay_s:
            yield Wait(seconds=delay_s)
        yield _event("content_block_delta", {"index": index, "delta": delta})
    yield _event("content_block_stop", {"index": index})


def _start(block: Text | Thinking | ToolUse) -> JsonObject:
    match block:
        case Text():
            return {"type": "text", "text": ""}
        case Thinking():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case ToolUse(id=call, name=name):
            return {"type": "tool_use", "id": call, "name": name, "input": {}}


def _content(block: Block) -> JsonObject:
    match block:
        case Text(text=text):
            return {"type": "text", "text": text}
        case Thinking(text=text):
            return {"type": "thinking", "thinking": text, "signature": _SIGNATURE}
        case ToolUse(id=call, name=name, input=arguments):
            return {"type": "tool_use", "id": call, "name": name, "input": arguments}
        case _:
            return {}


# Opaque to clients, which send it back as it came.
_SIGNATURE = "c3RhbmQtaW4="


def _deltas(block: Text | Thinking | ToolUse) -> Iterator[JsonObject]:
    match block:
        case Text(text=text, chunk_chars=size):
            for piece in _pieces(text, size):
                yield {"type": "text_delta", "text": piece}
        case Thinking(text=text):
            for piece in _pieces(text, _JSON_CHUNK_CHARS):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": _SIGNATURE}
        case ToolUse(input=arguments):
            yield {"type": "input_json_delta", "partial_json": ""}
            for piece in _pieces(json.dumps(arguments), _JSON_CHUNK_CHARS):
                yield {"type": "input_json_delta", "partial_json": piece}


def _pieces(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _event(name: str, data: JsonObject) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()
