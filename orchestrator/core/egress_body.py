"""What the body of a Messages API request may ask for, and its rewriting.

The body is parsed, checked and written anew. Rewriting is the point: the API reads exactly what was
checked, whatever two JSON parsers would make of a key that is there twice, of another encoding,
or of odd numbers. The order of keys is kept, and the same input gives the same output, so prompt
caching works as before. `metadata.user_id` is replaced by the room's tag: rooms share nothing at
the API that is keyed by it, and nothing that the CLI puts there (device and session ids) leaves.

Checked by structure, not by searching for words: a tool's input or a file's text may say
anything, but a content block may only carry its content inline. Whatever makes the API's servers
call somebody (remote MCP, web search and fetch, code execution, `url` and `file` sources, remote
schema references) or names something that is stored there (files, containers, threads) is not on
a list, so it is refused; the room's policy adds to the lists what its profile names
(`api_policy`). Nothing is left out but `metadata`: a body means the same, or it is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.core import api_policy as opened
from orchestrator.core.api_policy import ApiPolicy, ServerTool
from orchestrator.core.ask import Ask, read_ask
from orchestrator.core.egress_http import Denial, DenialReason
from orchestrator.core.egress_policy import Route
from orchestrator.core.texts import NOT_LEAVING
from orchestrator.model import JsonObject, JsonValue

# A tool's schema nests some 20 levels; the interpreter's own limit would be met at about 1,000.
MAX_DEPTH = 128
# An upper bound of the parsed values, counted before parsing: each costs about 100 bytes and 0.3
# µs. Four million bytes of source code (a full context window) have about 250,000 of these
# characters.
MAX_STRUCTURE = 1_000_000
# 2**128 has 39 digits. Parsing one of thousands of digits takes quadratic time.
MAX_DIGITS = 40
# The API's own blocks nest three deep: message, tool_result, document of content.
_MAX_CONTENT_DEPTH = 6

_FIELDS = frozenset(
    {
        "cache_control",
        "context_hint",
        "context_management",
        "data_flow",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "output_config",
        "output_format",
        "safeguards",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    }
)
# Looked at by their own structure; everything else is searched for what is stored at the API.
_WALKED = frozenset({"messages", "system", "tools", "output_config", "output_format"})
_MESSAGE_FIELDS = frozenset({"clear_at", "content", "output_config", "role"})
# Tools that the client runs itself, and the advisor, which is the model alone.
_TOOL_TYPES = re.compile(r"custom|(bash|text_editor|memory|computer)_\d{8}|advisor_20260301")
_BLOCK_TYPES = frozenset(
    {
        "advisor_redacted_result",
        "advisor_result",
        "advisor_tool_result",
        "advisor_tool_result_error",
        "compaction",
        "document",
        "fallback",
        "image",
        "redacted_thinking",
        "search_result",
        "server_tool_use",
        "text",
        "thinking",
        "tool_addition",
        "tool_reference",
        "tool_removal",
        "tool_result",
        "tool_use",
    }
)
_SOURCE_TYPES = frozenset({"base64", "text", "content"})
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_SHOWABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedBody:
    """A body to send on, and what it asks for."""

    data: bytes
    ask: Ask


class _RefusedError(Exception):
    """Carries a Denial out of the walk; never leaves this module."""

    def __init__(self, denial: Denial) -> None:
        self.denial = denial
        super().__init__(denial.message)


def count_structure(raw: bytes) -> int:
    """An upper bound for the number of values in the text, at the speed of a memory scan."""
    return 1 + raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def rewrite_body(
    raw: bytes, *, route: Route, user_tag: str, policy: ApiPolicy | None = None
) -> CheckedBody | Denial:
    """The body to send on, or why there is none. Never raises, whatever the bytes are.

    Without a policy nothing but plain messages is allowed. Takes 1 ms for 50 KB, 15 ms for a
    megabyte, and 2 s at the largest sizes that are allowed: the caller decides where to run it, and
    how often.
    """
    try:
        body = _parse(raw)
        _check_depth(body)
        walk = _Walk(policy or ApiPolicy())
        walk.check(body)
        ask = read_ask(
            body,
            size=len(raw),
            attachments=walk.attachments,
            attached_bytes=walk.attached_bytes,
        )
        if route is Route.MESSAGES:
            body["metadata"] = {"user_id": user_tag}
        else:
            # Counting takes no metadata: the API refuses a field that it doesn't know.
            body.pop("metadata", None)
        return CheckedBody(data=_dump(body), ask=ask)
    except _RefusedError as e:
        return e.denial


def _parse(raw: bytes) -> JsonObject:
    if count_structure(raw) > MAX_STRUCTURE:
        raise _invalid(f"it has more than {MAX_STRUCTURE} values")
    try:
        # Decoded here: json.loads would guess UTF-16 and UTF-32 from the first bytes.
        value = json.loads(
            raw.decode("utf-8"), parse_int=_parse_int, parse_constant=_parse_constant
        )
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    except (UnicodeDecodeError, ValueError):
        raise _invalid("expected one JSON object in UTF-8") from None
    if not isinstance(value, dict):
        raise _invalid("expected a JSON object")
    return value


def _dump(body: JsonObject) -> bytes:
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise _invalid("a number is out of range") from None
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        # Half of a surrogate pair, which the CLI can send; only an escape can carry it.
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")


def _parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _invalid(f"a number has more than {MAX_DIGITS} digits")
    return int(text)


def _parse_constant(text: str) -> None:
    raise _invalid("NaN and Infinity are not JSON")


def _check_depth(body: JsonObject) -> None:
    level: list[JsonValue] = [body]
    for _ in range(MAX_DEPTH):
        level = [child for value in level for child in _children(value)]
        if not level:
            return
    raise _invalid(f"it is nested more than {MAX_DEPTH} levels deep")


def _children(value: JsonValue) -> Iterator[JsonValue]:
    """The members that are containers themselves."""
    if isinstance(value, dict):
        return (v for v in value.values() if isinstance(v, dict | list))
    if isinstance(value, list):
        return (v for v in value if isinstance(v, dict | list))
    return iter(())


class _Walk:
    """Walks one body by its structure, and counts what is attached to it. Raises _RefusedError."""

    def __init__(self, policy: ApiPolicy) -> None:
        self._policy = policy
        self.attachments = 0
        self.attached_bytes = 0

    def check(self, body: JsonObject) -> None:
        """All of it."""
        self._check_fields(body)
        self._check_tools(body.get("tools"))
        self._check_messages(body)

    def _is_open(self, table: Mapping[str, frozenset[ServerTool]], name: JsonValue) -> bool:
        return isinstance(name, str) and self._policy.allows(table.get(name))

    def _check_fields(self, body: JsonObject) -> None:
        for name in body:
            if name in opened.FIELDS:
                is_allowed = self._is_open(opened.FIELDS, name)
            else:
                is_allowed = name in _FIELDS or name in self._policy.fields
            if not is_allowed:
                raise _feature(f"the field {_show(name)}")
        for name in ("output_config", "output_format"):
            _check_references(body.get(name))
        for name, value in body.items():
            if name not in _WALKED:
                self._check_stored(value)
        self._check_container(body.get("container"))

    def _check_container(self, container: JsonValue) -> None:
        """By its id only: skills are stored at the API, for the whole organisation."""
        if isinstance(container, dict) and container.keys() - {"id"}:
            raise _feature("a container with more than an id")
        if not isinstance(container, dict | str | None):
            raise _invalid("a container must be an id or an object")

    def _check_tools(self, tools: JsonValue) -> None:
        if tools is None:
            return
        if not isinstance(tools, list):
            raise _invalid("tools must be a list")
        for tool in tools:
            self._check_tool(tool)

    def _check_tool(self, tool: JsonValue) -> None:
        if not isinstance(tool, dict):
            raise _invalid("a tool must be an object")
        kind = tool.get("type")
        is_own = kind is None or (isinstance(kind, str) and _TOOL_TYPES.fullmatch(kind))
        if not is_own and not self._is_open(opened.TOOL_TYPES, kind):
            raise _feature(f"tools of type {_show(kind)}")
        for name in opened.STORED:
            if name in tool and not (
                kind == "mcp_toolset"
                and name == "mcp_server_name"
                and self._is_open(opened.STORED, name)
            ):
                raise _feature(f"a tool with {name}")
        _check_references(tool.get("input_schema"))

    def _check_messages(self, body: JsonObject) -> None:
        messages = body.get("messages")
        if not isinstance(messages, list):
            raise _invalid("messages must be a list")
        for message in messages:
            if not isinstance(message, dict):
                raise _invalid("a message must be an object")
            if extra := message.keys() - _MESSAGE_FIELDS:
                raise _feature(f"a message with {_show(min(extra))}")
            _check_references(message.get("output_config"))
            self._check_content(message.get("content"), 0)
        self._check_content(body.get("system"), 0)

    def _check_content(self, content: JsonValue, depth: int) -> None:
        """Content is text, or a list of blocks, or (inside blocks) one block."""
        if content is None or isinstance(content, str):
            return
        if depth > _MAX_CONTENT_DEPTH:
            raise _invalid("content is nested too deeply")
        for block in content if isinstance(content, list) else [content]:
            if not isinstance(block, dict):
                raise _invalid("a content block must be an object")
            self._check_block(block, depth)

    def _check_block(self, block: JsonObject, depth: int) -> None:
        kind = block.get("type")
        if not isinstance(kind, str) or not (
            kind in _BLOCK_TYPES or self._is_open(opened.BLOCK_TYPES, kind)
        ):
            raise _feature(f"content of type {_show(kind)}")
        if kind == "server_tool_use" and not self._is_open(opened.CALL_NAMES, block.get("name")):
            raise _feature("calls of server-side tools")
        for name, value in block.items():
            if name in opened.STORED and value is not None:
                self._check_stored_in_block(kind, name)
        self._check_source(block.get("source"), kind, depth)
        if kind == "mcp_tool_listing":
            self._check_tools(block.get("tools"))
        self._check_content(block.get("content"), depth + 1)
        self._check_tool_change(block)

    def _check_stored_in_block(self, kind: str, name: str) -> None:
        is_named_so = name == "file_id" and kind in {*opened.OUTPUT_TYPES, "container_upload"}
        is_listing = name == "mcp_server_name" and kind == "mcp_tool_listing"
        # The kind itself is open, or it would have been refused by now.
        if not is_named_so and not is_listing:
            raise _feature(f"content with {name}")

    def _check_source(self, source: JsonValue, kind: str, depth: int) -> None:
        if source is None or (kind == "search_result" and isinstance(source, str)):
            # A search result's source is its name in citations; nobody opens it.
            return
        if not isinstance(source, dict):
            raise _invalid("a source must be an object")
        given = source.get("type")
        if isinstance(given, str) and self._is_open(opened.SOURCE_TYPES, given):
            self._check_remote_source(given, source)
            return
        if not isinstance(given, str) or given not in _SOURCE_TYPES:
            raise _feature(f"content given by {_show(given)}; only inline content is")
        extra = source.keys() - {"type", "media_type", "data", "content"}
        if extra:
            raise _feature(f"an inline source with {_show(min(extra))}")
        if given == "base64":
            self._count(source.get("data"))
        self._check_content(source.get("content"), depth + 1)

    def _check_remote_source(self, given: str, source: JsonObject) -> None:
        # Its size is not known here; it counts as one attachment.
        self.attachments += 1
        extra = source.keys() - {"type", "media_type", "url" if given == "url" else "file_id"}
        if extra:
            raise _feature(f"a source given by {given} with {_show(min(extra))}")

    def _count(self, data: JsonValue) -> None:
        self.attachments += 1
        self.attached_bytes += len(data) if isinstance(data, str) else 0

    def _check_tool_change(self, block: JsonObject) -> None:
        change = block.get("tool")
        if change is None:
            return
        if not isinstance(change, dict) or not self._is_open(
            opened.TOOL_CHANGES, change.get("type")
        ):
            raise _feature("a tool change of this kind")
        if change.get("definition") is not None:
            self._check_tool(change["definition"])

    def _check_stored(self, value: JsonValue) -> None:
        pending: list[JsonValue] = [value]
        while pending:
            held = pending.pop()
            if isinstance(held, dict):
                for name in opened.STORED:
                    if held.get(name) is not None and not self._is_open(opened.STORED, name):
                        raise _feature("a reference to something stored at the API")
            pending.extend(_children(held))


def _check_references(schema: JsonValue) -> None:
    """A schema may point within itself only."""
    pending: list[JsonValue] = [schema]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            for name in _REFERENCES:
                target = value.get(name)
                if isinstance(target, str) and not target.startswith("#"):
                    raise _feature("a schema that refers to another document")
        pending.extend(_children(value))


def _show(name: JsonValue) -> str:
    """A name from the body where it is harmless to repeat."""
    return name if isinstance(name, str) and _SHOWABLE.fullmatch(name) else "(unnamed)"


def _invalid(detail: str) -> _RefusedError:
    return _RefusedError(
        Denial(
            status=400,
            reason=DenialReason.BODY_INVALID,
            message=f"The body was refused: {detail}.",
            kind="invalid_request_error",
        )
    )


def _feature(what: str) -> _RefusedError:
    return _RefusedError(
        Denial(
            status=403,
            reason=DenialReason.BODY_FEATURE,
            message=f"{NOT_LEAVING}: {what}.",
        )
    )
