"""The shapes of the other lines that are used: the session's news, heartbeats, control messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import Field

from orchestrator.core.cli_event import (
    ApiRetry,
    AuthStatus,
    CliEvent,
    CommandLifecycle,
    CompactBoundary,
    ControlCancel,
    ControlResponse,
    ConversationReset,
    HookEvent,
    Init,
    KeepAlive,
    McpMessage,
    Notice,
    OtherRequest,
    PermissionDenied,
    PermissionRequest,
    RateLimit,
    Status,
    TaskEvent,
    ThinkingDelta,
    ToolProgress,
    ToolUseSummary,
)
from orchestrator.core.cli_line import Count, Json, Line, Number, Part, Text, none_as
from orchestrator.model import JsonObject, SessionId

Flag = Annotated[bool, none_as(default=False)]


class InitLine(Line):
    """`system/init`."""

    session_id: str
    model: Text = ""
    cwd: Text = ""
    tools: tuple[str, ...] = ()
    permissionMode: Text = ""  # noqa: N815 - the CLI's name
    claude_code_version: Text = ""

    def event(self) -> CliEvent:
        """The start of a turn."""
        return Init(
            session_id=SessionId(self.session_id),
            model=self.model,
            cwd=self.cwd,
            tools=self.tools,
            permission_mode=self.permissionMode,
            version=self.claude_code_version,
        )


class ApiRetryLine(Line):
    """`system/api_retry`."""

    attempt: Count = 0
    max_retries: Count = 0
    retry_delay_ms: Number = 0.0
    error_status: int | None = None
    error: Text = ""

    def event(self) -> CliEvent:
        """The retry."""
        return ApiRetry(
            attempt=self.attempt,
            max_retries=self.max_retries,
            delay_s=self.retry_delay_ms / 1000,
            status=self.error_status,
            error=self.error,
        )


class StatusLine(Line):
    """`system/status`."""

    status: str | None = None
    permissionMode: str | None = None  # noqa: N815 - the CLI's name

    def event(self) -> CliEvent:
        """The heartbeat."""
        return Status(status=self.status, permission_mode=self.permissionMode)


class _CompactMetadata(Part):
    trigger: Text = ""
    pre_tokens: Count = 0
    post_tokens: Count = 0


class CompactBoundaryLine(Line):
    """`system/compact_boundary`."""

    compact_metadata: _CompactMetadata = _CompactMetadata()

    def event(self) -> CliEvent:
        """The border."""
        data = self.compact_metadata
        return CompactBoundary(
            trigger=data.trigger, pre_tokens=data.pre_tokens, post_tokens=data.post_tokens
        )


class ThinkingTokensLine(Line):
    """`system/thinking_tokens`: all that is seen of thinking that the API keeps to itself."""

    def event(self) -> CliEvent:
        """That there was some."""
        return ThinkingDelta()


class _TaskPatch(Part):
    status: str | None = None


class TaskLine(Line):
    """`system/task_*`."""

    subtype: str
    task_id: Text = ""
    status: str | None = None
    patch: _TaskPatch = _TaskPatch()
    summary: Text = ""
    description: Text = ""

    def event(self) -> CliEvent:
        """What became of the task."""
        return TaskEvent(
            kind=self.subtype,
            task_id=self.task_id,
            status=self.status or self.patch.status,
            summary=self.summary or self.description,
        )


class NoticeLine(Line):
    """`system/informational` and others that hold a sentence for people."""

    subtype: str
    content: Text = ""
    text: Text = ""
    level: Text = "info"

    def event(self) -> CliEvent:
        """The sentence."""
        return Notice(kind=self.subtype, text=self.content or self.text, level=self.level)


class PermissionDeniedLine(Line):
    """`system/permission_denied`."""

    tool_name: Text = ""
    message: Text = ""

    def event(self) -> CliEvent:
        """The denial."""
        return PermissionDenied(tool_name=self.tool_name, message=self.message)


class HookLine(Line):
    """`system/hook_*`."""

    subtype: str
    hook_name: Text = ""
    outcome: str | None = None

    def event(self) -> CliEvent:
        """What became of the hook."""
        return HookEvent(kind=self.subtype, name=self.hook_name, outcome=self.outcome)


class CommandLifecycleLine(Line):
    """`command_lifecycle`."""

    command_uuid: str
    state: str

    def event(self) -> CliEvent:
        """The fate of a message of ours."""
        return CommandLifecycle(command_uuid=self.command_uuid, state=self.state)


class ConversationResetLine(Line):
    """`conversation_reset`."""

    new_conversation_id: str
    trigger: str | None = None

    def event(self) -> CliEvent:
        """The reset."""
        session_id = SessionId(self.new_conversation_id)
        return ConversationReset(new_conversation_id=session_id, trigger=self.trigger)


class ToolProgressLine(Line):
    """`tool_progress`."""

    tool_name: Text = ""
    elapsed_time_seconds: Number = 0.0

    def event(self) -> CliEvent:
        """The heartbeat."""
        return ToolProgress(tool_name=self.tool_name, elapsed_s=self.elapsed_time_seconds)


class KeepAliveLine(Line):
    """`keep_alive`."""

    def event(self) -> CliEvent:
        """The sign of life."""
        return KeepAlive()


class ToolUseSummaryLine(Line):
    """`tool_use_summary`."""

    summary: Text = ""

    def event(self) -> CliEvent:
        """The summary."""
        return ToolUseSummary(summary=self.summary)


class AuthStatusLine(Line):
    """`auth_status`."""

    isAuthenticating: Flag = False  # noqa: N815 - the CLI's name
    error: str | None = None

    def event(self) -> CliEvent:
        """The CLI's own login."""
        return AuthStatus(is_authenticating=self.isAuthenticating, error=self.error)


class _RateLimitInfo(Part):
    status: str
    resetsAt: Annotated[float, Field(allow_inf_nan=False)] | None = None  # noqa: N815
    rateLimitType: str | None = None  # noqa: N815
    utilization: Annotated[float, Field(allow_inf_nan=False)] | None = None


class RateLimitLine(Line):
    """`rate_limit_event`."""

    rate_limit_info: _RateLimitInfo

    def event(self) -> CliEvent:
        """The limit's state."""
        info = self.rate_limit_info
        return RateLimit(
            status=info.status,
            resets_at=info.resetsAt,
            limit_type=info.rateLimitType,
            utilization=info.utilization,
        )


class _Request(Part):
    subtype: str
    tool_name: Text = ""
    tool_use_id: Text = ""
    input: Json = Field(default_factory=dict)
    description: Text = ""
    decision_reason: Text = ""
    requires_user_interaction: Flag = False
    server_name: Text = ""
    message: Json | str | None = None
    permission_suggestions: Annotated[tuple[Any, ...], none_as(())] = ()


class ControlRequestLine(Line):
    """`control_request`."""

    request_id: str
    request: _Request

    def event(self) -> CliEvent:
        """What the CLI asks for."""
        asked, request_id = self.request, self.request_id
        if asked.subtype == "can_use_tool":
            return PermissionRequest(
                request_id=request_id,
                tool_name=asked.tool_name,
                tool_use_id=asked.tool_use_id,
                input=cast("JsonObject", asked.input),
                description=asked.description,
                reason=asked.decision_reason,
                needs_person=asked.requires_user_interaction,
                suggestions=tuple(
                    cast("JsonObject", one)
                    for one in asked.permission_suggestions
                    if isinstance(one, dict)
                ),
            )
        if asked.subtype == "mcp_message" and isinstance(asked.message, dict):
            message = cast("JsonObject", asked.message)
            return McpMessage(request_id=request_id, server_name=asked.server_name, message=message)
        return OtherRequest(request_id=request_id, subtype=asked.subtype)


class ControlCancelLine(Line):
    """`control_cancel_request`."""

    request_id: str

    def event(self) -> CliEvent:
        """Which request is void."""
        return ControlCancel(request_id=self.request_id)


class _Response(Part):
    subtype: str
    request_id: str
    error: Text = ""
    response: Annotated[Json, none_as({})] = Field(default_factory=dict)


class ControlResponseLine(Line):
    """`control_response`."""

    response: _Response

    def event(self) -> CliEvent:
        """The answer."""
        answer = self.response
        failed = answer.subtype != "success"
        return ControlResponse(
            request_id=answer.request_id,
            error=(answer.error or "no reason was given") if failed else None,
            response=cast("JsonObject", answer.response),
        )


MODELS: Mapping[str, type[Line]] = {
    "system/init": InitLine,
    "system/api_retry": ApiRetryLine,
    "system/status": StatusLine,
    "system/compact_boundary": CompactBoundaryLine,
    "system/thinking_tokens": ThinkingTokensLine,
    "system/task_started": TaskLine,
    "system/task_progress": TaskLine,
    "system/task_updated": TaskLine,
    "system/task_notification": TaskLine,
    "system/informational": NoticeLine,
    "system/notification": NoticeLine,
    "system/model_fallback": NoticeLine,
    "system/model_refusal_fallback": NoticeLine,
    "system/model_refusal_no_fallback": NoticeLine,
    "system/local_command_output": NoticeLine,
    "system/permission_denied": PermissionDeniedLine,
    "system/hook_started": HookLine,
    "system/hook_progress": HookLine,
    "system/hook_response": HookLine,
    "command_lifecycle": CommandLifecycleLine,
    "conversation_reset": ConversationResetLine,
    "tool_progress": ToolProgressLine,
    "keep_alive": KeepAliveLine,
    "tool_use_summary": ToolUseSummaryLine,
    "auth_status": AuthStatusLine,
    "rate_limit_event": RateLimitLine,
    "control_request": ControlRequestLine,
    "control_cancel_request": ControlCancelLine,
    "control_response": ControlResponseLine,
}
