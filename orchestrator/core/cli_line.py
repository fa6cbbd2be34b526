"""The shapes of the lines that carry a turn: messages, stream events, results, as pydantic models.

Only the fields that are used are named; the rest is ignored. Each model turns itself into an event;
None means that the line is of a kind that is not used.
A field that the CLI may leave out has a default, so that a newer CLI is read as far as it goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from orchestrator.core.cli_event import (
    AssistantMessage,
    Block,
    CliEvent,
    MessageUsage,
    OtherBlock,
    Result,
    StreamMark,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolInputDelta,
    ToolResult,
    ToolUseBlock,
    Usage,
    UserMessage,
)
from orchestrator.model import JsonObject, SessionId

Json = dict[str, Any]
"""Raw JSON inside this module; it leaves as JsonObject."""


def none_as(default: object) -> BeforeValidator:
    """Read null as the default: the CLI writes null for much that it could leave out."""
    return BeforeValidator(lambda value: default if value is None else value)


Text = Annotated[str, none_as("")]
Count = Annotated[int, none_as(0)]
Number = Annotated[float, none_as(0.0), Field(allow_inf_nan=False)]


class Line(BaseModel):
    """One line of the CLI."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    def event(self) -> CliEvent | None:
        """The line as an event."""
        raise NotImplementedError


class Part(BaseModel):
    """A piece of a line."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class _Usage(Part):
    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_input_tokens: Count = 0
    cache_creation_input_tokens: Count = 0

    def usage(self) -> Usage:
        return Usage(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cache_read_tokens=self.cache_read_input_tokens,
            cache_creation_tokens=self.cache_creation_input_tokens,
        )


class _Block(Part):
    type: str = ""
    text: Text = ""
    thinking: Text = ""
    id: Text = ""
    name: Text = ""
    input: Json = {}
    tool_use_id: Text = ""
    content: Annotated[str | list[Json], none_as("")] = ""
    is_error: Annotated[bool, none_as(default=False)] = False

    def block(self) -> Block:
        match self.type:
            case "text":
                return TextBlock(text=self.text)
            case "thinking" | "redacted_thinking":
                return ThinkingBlock(text=self.thinking)
            case "tool_use":
                given = cast("JsonObject", self.input)
                return ToolUseBlock(tool_use_id=self.id, name=self.name, input=given)
            case _:
                return OtherBlock(type=self.type)

    def result(self) -> ToolResult:
        content = self.content
        if not isinstance(content, str):
            texts = [part.get("text") for part in content if part.get("type") == "text"]
            content = "\n".join(text for text in texts if isinstance(text, str))
        return ToolResult(tool_use_id=self.tool_use_id, text=content, is_error=self.is_error)


def _as_blocks(value: object) -> object:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class _Message(Part):
    id: Text = ""
    content: Annotated[list[_Block], BeforeValidator(_as_blocks)] = []


class AssistantLine(Line):
    """`assistant`."""

    message: _Message
    parent_tool_use_id: str | None = None
    error: str | None = None
    is_api_error_message: bool | None = None
    api_error: str | None = None
    api_error_status: int | None = None
    aborted: bool | None = None

    def event(self) -> CliEvent:
        """The message."""
        error = self.error or ("unknown" if self.is_api_error_message else None)
        return AssistantMessage(
            message_id=self.message.id,
            blocks=tuple(block.block() for block in self.message.content),
            parent_tool_use_id=self.parent_tool_use_id,
            error=error,
            api_error=self.api_error,
            api_error_status=self.api_error_status,
            is_aborted=bool(self.aborted),
        )


class UserLine(Line):
    """`user`."""

    message: _Message
    parent_tool_use_id: str | None = None
    isSynthetic: bool | None = None  # noqa: N815 - the CLI's name

    def event(self) -> CliEvent:
        """The tool results in it."""
        results = [b.result() for b in self.message.content if b.type == "tool_result"]
        return UserMessage(
            results=tuple(results),
            parent_tool_use_id=self.parent_tool_use_id,
            is_synthetic=bool(self.isSynthetic),
        )


class _Delta(Part):
    type: str | None = None
    text: Text = ""
    thinking: Text = ""
    partial_json: Text = ""
    stop_reason: str | None = None


class _StartedMessage(Part):
    usage: _Usage = _Usage()


class _StreamEvent(Part):
    type: str
    delta: _Delta = _Delta()
    usage: Annotated[_Usage, none_as(_Usage())] = _Usage()
    message: _StartedMessage = _StartedMessage()


class StreamEventLine(Line):
    """`stream_event`: the API's own streaming events."""

    event_: _StreamEvent = Field(alias="event")
    parent_tool_use_id: str | None = None

    def event(self) -> CliEvent | None:
        """The delta or mark; None for a ping."""
        inner, parent = self.event_, self.parent_tool_use_id
        match inner.type:
            case "content_block_delta":
                return self._delta(inner.delta)
            case "message_start":
                return MessageUsage(usage=inner.message.usage.usage(), parent_tool_use_id=parent)
            case "message_delta":
                return MessageUsage(
                    usage=inner.usage.usage(),
                    stop_reason=inner.delta.stop_reason,
                    parent_tool_use_id=parent,
                )
            case "content_block_start" | "content_block_stop" | "message_stop":
                return StreamMark(kind=inner.type, parent_tool_use_id=parent)
            case _:
                return None

    def _delta(self, delta: _Delta) -> CliEvent:
        parent = self.parent_tool_use_id
        match delta.type:
            case "text_delta":
                return TextDelta(text=delta.text, parent_tool_use_id=parent)
            case "input_json_delta":
                return ToolInputDelta(partial_json=delta.partial_json, parent_tool_use_id=parent)
            case "thinking_delta" | "signature_delta":
                return ThinkingDelta(text=delta.thinking, parent_tool_use_id=parent)
            case _:
                return StreamMark(kind=delta.type or "delta", parent_tool_use_id=parent)


class _Denial(Part):
    tool_name: str


class _ModelUsage(Part):
    costUSD: Number = 0.0  # noqa: N815 - the CLI's name


class _Origin(Part):
    kind: str | None = None


class ResultLine(Line):
    """`result`."""

    subtype: str
    is_error: bool = False
    result: Text = ""
    session_id: str | None = None
    num_turns: Count = 0
    duration_ms: Number = 0.0
    total_cost_usd: Number = 0.0
    usage: Annotated[_Usage, none_as(_Usage())] = _Usage()
    model_usage_since_last_result: dict[str, _ModelUsage] | None = None
    permission_denials: list[_Denial] = []
    errors: list[str] = []
    terminal_reason: str | None = None
    api_error: str | None = None
    api_error_status: int | None = None
    origin: _Origin | None = None
    user_message_uuid: str | None = None
    user_message_uuids: list[str] | None = None

    def event(self) -> CliEvent:
        """The end of a turn."""
        spent = self.model_usage_since_last_result
        uuids = self.user_message_uuids or [u for u in [self.user_message_uuid] if u]
        return Result(
            subtype=self.subtype,
            is_error=self.is_error or self.subtype != "success",
            text=self.result,
            session_id=SessionId(self.session_id) if self.session_id else None,
            num_turns=self.num_turns,
            duration_s=self.duration_ms / 1000,
            session_cost_usd=self.total_cost_usd,
            cost_usd=None if spent is None else sum(m.costUSD for m in spent.values()),
            usage=self.usage.usage(),
            denied_tools=tuple(denial.tool_name for denial in self.permission_denials),
            errors=tuple(self.errors),
            terminal_reason=self.terminal_reason,
            api_error=self.api_error,
            api_error_status=self.api_error_status,
            origin=self.origin.kind if self.origin else None,
            user_message_uuids=tuple(uuids),
        )


MODELS: Mapping[str, type[Line]] = {
    "assistant": AssistantLine,
    "user": UserLine,
    "stream_event": StreamEventLine,
    "result": ResultLine,
}
