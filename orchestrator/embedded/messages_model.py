"""The Messages API's words: a request as it arrives, and a reply as a script writes it.

A `ScriptedModel` decides what is answered; `messages_stream` turns that into the API's events, and
`messages_api` serves them. The offline model and the tests' scripts are the two kinds of model.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from orchestrator.model import JsonObject

# The CLI puts its own words beside the user's in the same message, in tags of this kind.
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class ContentPart(_Lenient):
    """One block of a message; which fields it has depends on its type."""

    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, JsonValue] = {}
    tool_use_id: str = ""
    content: str | tuple[ContentPart, ...] = ""
    is_error: bool = False
    source: dict[str, JsonValue] = {}
    """Of an image: its kind and its bytes."""

    @property
    def result_text(self) -> str:
        """The text of a tool's result, without what is not text (images)."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if part.type == "text")


class Message(_Lenient):
    """One message of the conversation. The pinned CLI sends `system` ones in its middle, too."""

    role: Literal["user", "assistant", "system"]
    content: tuple[ContentPart, ...]

    @field_validator("content", mode="before")
    @classmethod
    def _parts(cls, value: object) -> object:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    @property
    def text(self) -> str:
        """All its text, without the reminders that the CLI adds to it."""
        texts = (_REMINDER.sub("", p.text).strip() for p in self.content if p.type == "text")
        return "\n".join(t for t in texts if t)


class Tool(_Lenient):
    """A tool that the model may call."""

    name: str


class OutputFormat(_Lenient):
    """The shape that the answer must have."""

    type: str = "text"


class OutputConfig(_Lenient):
    """How the answer is to be made."""

    format: OutputFormat | None = None


class MessagesRequest(_Lenient):
    """The body of `POST /v1/messages`, as far as a stand-in needs it."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)]
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    system: tuple[ContentPart, ...] = ()
    tools: tuple[Tool, ...] = ()
    output_config: OutputConfig = OutputConfig()
    stream: bool = False

    @field_validator("system", mode="before")
    @classmethod
    def _system_parts(cls, value: object) -> object:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    @property
    def user_texts(self) -> list[str]:
        """What the user said, oldest first; messages that only carry tool results are left out."""
        return [m.text for m in self.messages if m.role == "user" and m.text]

    @property
    def last_user_text(self) -> str:
        """What the user said last, or an empty text."""
        texts = self.user_texts
        return texts[-1] if texts else ""

    @property
    def tool_results(self) -> list[ContentPart]:
        """The results that the last message brings, if it brings any."""
        for message in reversed(self.messages):
            if message.role == "user":
                return [p for p in message.content if p.type == "tool_result"]
        return []

    @property
    def system_text(self) -> str:
        """Everything that the system says, in the prompt and between the messages."""
        between = (m.text for m in self.messages if m.role == "system")
        return "\n".join([*(p.text for p in self.system), *between])

    def has_tool(self, name: str) -> bool:
        """Whether the model may call this tool."""
        return any(tool.name == name for tool in self.tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Text, streamed in pieces of `chunk_chars`, `delay_s` apart."""

    text: str
    chunk_chars: int = 24
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """A thinking block before the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """A call of one of the client's tools."""

    name: str
    input: JsonObject
    id: str = field(default_factory=lambda: f"toolu_{uuid.uuid4().hex[:24]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """Silence of this many seconds, in the middle of the stream or before its first byte."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CutStream:
    """The connection is cut here, without an end of the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamError:
    """An `error` event in the middle of a stream that began with status 200."""

    type: str = "overloaded_error"
    message: str = "Overloaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpError:
    """An answer with an error status; it must be a reply's first block, after stalls at most."""

    status: int
    type: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()


Block = Text | Thinking | ToolUse | Stall | CutStream | StreamError | HttpError


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a model answers, in order."""

    blocks: tuple[Block, ...]
    stop_reason: str | None = None
    """None: `tool_use` when a tool is called, otherwise `end_turn`."""
    input_tokens: int | None = None
    """None: estimated from the size of the request."""
    output_tokens: int | None = None
    """None: estimated from the size of the reply."""

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)


class ScriptedModel(Protocol):
    """Decides what is answered; it must not block."""

    def reply(self, request: MessagesRequest) -> Reply:
        """The answer to one request."""
        ...


def text_reply(text: str, *, delay_s: float = 0.0) -> Reply:
    """A reply that is one text."""
    return Reply(blocks=(Text(text=text, delay_s=delay_s),))
