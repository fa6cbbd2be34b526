"""What the CLI can say, as values; `core.stream` makes them from its lines.

`is_progress` says whether an event shows that the turn moves on, for the timer that ends a turn
without progress. Heartbeats, retries and answers to our own requests do not show that.
Only what is used is typed; docs/cli-facts.md lists where the rest was seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.model import JsonObject, SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class CliEvent:
    """One line of the CLI's output."""

    is_progress: ClassVar[bool] = False


# Content of messages.


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBlock:
    """Text for the room."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingBlock:
    """Thinking, a whole block; `text` is empty where the API keeps it to itself."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUseBlock:
    """The model calls a tool."""

    tool_use_id: str
    name: str
    input: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherBlock:
    """A content block of a type that is not used here."""

    type: str


Block = TextBlock | ThinkingBlock | ToolUseBlock | OtherBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool gave back; text parts only, joined by line ends."""

    tool_use_id: str
    text: str
    is_error: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens, as the API counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0


# The session.


@dataclass(frozen=True, slots=True, kw_only=True)
class Init(CliEvent):
    """system/init: printed at the start of every turn, not only of the process."""

    is_progress: ClassVar[bool] = True
    session_id: SessionId
    model: str
    cwd: str
    tools: tuple[str, ...]
    permission_mode: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationReset(CliEvent):
    """A command (`/clear`) threw the conversation away; the session has another id from here on."""

    new_conversation_id: SessionId
    trigger: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLifecycle(CliEvent):
    """The fate of the user message that we sent with this uuid."""

    command_uuid: str
    state: str
    """queued, started, completed, cancelled, discarded or refused."""


# The model's work.


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantMessage(CliEvent):
    """A finished content block: the CLI prints one message for each, subagents' ones included."""

    is_progress: ClassVar[bool] = True
    message_id: str
    blocks: tuple[Block, ...]
    parent_tool_use_id: str | None = None
    """The call that started the subagent which speaks; None for the agent itself."""
    error: str | None = None
    """Set where the CLI speaks in the model's place about a failure: authentication_failed,
    billing_error, rate_limit, overloaded, invalid_request, model_not_found, server_error,
    max_output_tokens, unknown, …"""
    api_error: str | None = None
    """A finer word than `error`: usage_limit_reached, connection_failed, …"""
    api_error_status: int | None = None
    is_aborted: bool = False
    """An interrupt cut it; the text may end in the middle of a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserMessage(CliEvent):
    """Tool results, or a note that the CLI itself put into the conversation."""

    is_progress: ClassVar[bool] = True
    results: tuple[ToolResult, ...]
    parent_tool_use_id: str | None = None
    is_synthetic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta(CliEvent):
    """A piece of text; the whole block follows as an AssistantMessage."""

    is_progress: ClassVar[bool] = True
    text: str
    parent_tool_use_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingDelta(CliEvent):
    """A piece of thinking, or only the news that there was some."""

    is_progress: ClassVar[bool] = True
    text: str = ""
    parent_tool_use_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolInputDelta(CliEvent):
    """A piece of a tool call's JSON."""

    is_progress: ClassVar[bool] = True
    partial_json: str
    parent_tool_use_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageUsage(CliEvent):
    """message_start or message_delta of the stream: tokens so far, and how the message stopped."""

    is_progress: ClassVar[bool] = True
    usage: Usage
    stop_reason: str | None = None
    parent_tool_use_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMark(CliEvent):
    """A border in the stream: content_block_start, content_block_stop, message_stop."""

    is_progress: ClassVar[bool] = True
    kind: str
    parent_tool_use_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent(CliEvent):
    """A subagent or a background command started, moved on, or ended."""

    is_progress: ClassVar[bool] = True
    kind: str
    """task_started, task_progress, task_updated or task_notification."""
    task_id: str
    status: str | None = None
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactBoundary(CliEvent):
    """The conversation was shortened to fit the context window."""

    is_progress: ClassVar[bool] = True
    trigger: str
    pre_tokens: int
    post_tokens: int = 0


# Waiting.


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(CliEvent):
    """A heartbeat: `requesting`, `compacting`, or None with a changed permission mode."""

    status: str | None
    permission_mode: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolProgress(CliEvent):
    """A heartbeat of a running tool, every 30 s."""

    tool_name: str
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAlive(CliEvent):
    """Nothing but a sign of life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRetry(CliEvent):
    """A request to the API failed and is tried again."""

    attempt: int
    max_retries: int
    delay_s: float
    status: int | None
    """HTTP status; None when there was no answer."""
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit(CliEvent):
    """What the API said of a subscription's limits (never printed with an API key)."""

    status: str
    """allowed, allowed_warning or rejected."""
    resets_at: float | None
    """Unix time."""
    limit_type: str | None
    utilization: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthStatus(CliEvent):
    """The CLI's own login; with the placeholder key it is never seen."""

    is_authenticating: bool
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(CliEvent):
    """A sentence of the CLI for people."""

    kind: str
    """informational, notification, model_fallback, local_command_output, …"""
    text: str
    level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionDenied(CliEvent):
    """A tool was denied by a rule or the mode, without anybody having been asked."""

    tool_name: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HookEvent(CliEvent):
    """A hook started, printed something, or ended."""

    kind: str
    name: str
    outcome: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUseSummary(CliEvent):
    """A sentence about the tool calls before it."""

    summary: str


# Requests of the CLI, each of which waits for our answer.


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionRequest(CliEvent):
    """May this tool run? Questions (AskUserQuestion) and plans (ExitPlanMode) arrive here too."""

    is_progress: ClassVar[bool] = True
    request_id: str
    tool_name: str
    tool_use_id: str
    input: JsonObject
    description: str
    reason: str
    """Why the CLI asks, where it says so."""
    needs_person: bool = False
    suggestions: tuple[JsonObject, ...] = ()
    """Changes of its permissions that the CLI offers, as it wrote them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpMessage(CliEvent):
    """A JSON-RPC message for a tool server that we declared."""

    is_progress: ClassVar[bool] = True
    request_id: str
    server_name: str
    message: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherRequest(CliEvent):
    """hook_callback, elicitation, request_user_dialog, …: nothing of ours asked for it."""

    request_id: str
    subtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlCancel(CliEvent):
    """The CLI takes a request of its own back; no answer is wanted any more."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlResponse(CliEvent):
    """The CLI's answer to a request of ours; `error` is None when it did what was asked."""

    request_id: str
    error: str | None
    response: JsonObject


# The end.


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(CliEvent):
    """The end of a turn: ours, or one that the CLI started by itself (`origin`)."""

    is_progress: ClassVar[bool] = True
    subtype: str
    """success, error_during_execution, error_max_turns, error_max_budget_usd, …; `success` is also
    printed when the API refused, with `is_error`."""
    is_error: bool
    text: str
    session_id: SessionId | None
    num_turns: int
    duration_s: float
    session_cost_usd: float
    """What the process has cost since it started."""
    cost_usd: float | None
    """What was spent since the result before this one."""
    usage: Usage
    denied_tools: tuple[str, ...]
    errors: tuple[str, ...]
    terminal_reason: str | None
    """completed, api_error, prompt_too_long, max_turns, aborted_streaming, aborted_tools, …"""
    api_error: str | None
    api_error_status: int | None
    origin: str | None
    """Who asked for the turn, when it was not a user message: task-notification, …"""
    user_message_uuids: tuple[str, ...]
    """The messages that this turn answers; empty for a turn that nobody asked for."""


# What could not be typed.


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(CliEvent):
    """A well-formed line of a type that is not used here: `type` or `system/subtype`."""

    type: str
    size: int
    """Characters of the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbled(CliEvent):
    """A line that is no event: the reason as one word, and the first characters of it."""

    reason: str
    """empty, too_long, not_json, not_an_object, too_deep, no_type or wrong_shape."""
    head: str
