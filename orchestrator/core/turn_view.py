"""What a room should see of one turn, from the CLI's events.

A turn survives a crash of ours: commit what is shown together with the acknowledgement of all
events before `needs_replay_from`, and make the next view with `text_shown` where the turn has
outbox rows. Fed with the rest, it shows what the first view would have shown from there.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.cli_event import (
    ApiRetry,
    AssistantMessage,
    CliEvent,
    CommandLifecycle,
    ControlCancel,
    McpMessage,
    OtherRequest,
    PermissionRequest,
    RateLimit,
    Result,
    TextBlock,
    Usage,
)
from orchestrator.core.cli_input import build_control_error, build_mcp_answer
from orchestrator.core.failure import explain_failure, is_unresumable, is_usage_limit
from orchestrator.core.room_tools import SERVER, FileCall, build_answer, parse_call
from orchestrator.core.running_tools import summarise_input
from orchestrator.core.steer import SteerState
from orchestrator.model import JsonObject, Seq, TurnOutcome

_SUMMARY_CHARS = 200
_INTERRUPTED = frozenset({"aborted_streaming", "aborted_tools"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TextReady:
    """A complete text block of the agent, as Markdown; never empty."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionAsked:
    """The CLI waits until the request is allowed or denied (core.cli_input)."""

    request_id: str
    tool: str
    summary: str
    """One line: what the tool would do."""
    input: JsonObject
    needs_person: bool
    """A question or a plan: there is no sense in a rule that answers it."""
    suggestions: tuple[JsonObject, ...] = ()
    """What the CLI would change in its permissions for good, as it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWanted:
    """The agent wants to send a file; the CLI waits for the answer to `message`."""

    request_id: str
    call: FileCall
    message: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionWithdrawn:
    """The request needs no answer any more."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyToCli:
    """A line that the CLI waits for; send it as it is. Sending it twice does no harm."""

    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimited:
    """A limit of the account is met (`is_rejected`) or near."""

    is_rejected: bool
    resets_at: float | None
    """Unix time."""
    limit_type: str | None
    utilization: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """A request to the API failed; the CLI tries again after `delay_s`."""

    attempt: int
    max_retries: int
    delay_s: float
    status: int | None
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The turn is over. It comes once; everything after it belongs to nobody.

    CANCELLED means interrupted by us, whatever our reason was: a timeout is one, too.
    """

    outcome: TurnOutcome
    reason: str | None
    """Why it failed: a clause in words. None for DONE and CANCELLED."""
    text_already_shown: bool
    """Whether the room has any text of this turn."""
    session_lost: bool = False
    """The session to be resumed does not exist; nothing of the turn ran. Start a new one."""
    is_usage_limit: bool = False
    """The account's limit ended it. Earlier requests of it may have run tools."""
    limit_resets_at: float | None = None
    """When that limit resets (Unix time), where the CLI said so."""
    cost_usd: float | None = None
    usage: Usage | None = None
    duration_s: float | None = None
    num_turns: int | None = None
    denied_tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SteersAnswered:
    """A result that is not the turn's last named these messages of those that went into it."""

    uuids: tuple[str, ...]


Show = (
    TextReady
    | SteersAnswered
    | PermissionAsked
    | FileWanted
    | PermissionWithdrawn
    | ReplyToCli
    | RateLimited
    | Retrying
    | Ended
)


class TurnView:
    """One turn. Invariant: after Ended nothing more is shown and nothing is needed again."""

    def __init__(self, *, message_uuid: str, now: float, text_shown: bool = False) -> None:
        """`text_shown`: a view before a crash already had text of this turn shown."""
        self._message_uuid = message_uuid
        self._steers: dict[str, SteerState] = {}
        self._held_end: tuple[Seq, Ended] | None = None
        self._text_shown = text_shown
        self._last_text: str | None = None
        self._is_started = False
        self._ended = False
        self._open_requests: dict[str, Seq] = {}
        self._held: list[Show] = []
        self._limit: tuple[Seq, float | None] | None = None
        self.last_progress_at = now
        """When an event last showed progress; the same clock as `now`."""

    def __repr__(self) -> str:
        state = "ended" if self._ended else "started" if self._is_started else "waiting"
        return f"<TurnView {self._message_uuid} {state} open={sorted(self._open_requests)}>"

    @property
    def has_ended(self) -> bool:
        """Whether Ended was given."""
        return self._ended

    @property
    def waits_for_permission(self) -> bool:
        """Whether a permission request is unanswered; time does not count against the turn then."""
        return bool(self._open_requests)

    @property
    def needs_replay_from(self) -> Seq | None:
        """The first event that a new view would have to be fed; None: all may be acknowledged.

        That is the oldest permission request without an answer, the news of a limit that the
        result may be about, or a result after which a message may or may not have come in time.
        Deltas, marks, heartbeats and what was shown are never needed again. Text that comes behind
        an open request is held back until the answer, and the model's text makes the news of a
        limit old: so no text is ever shown from an event that will be replayed.
        """
        held = [part[0] for part in (self._limit, self._held_end) if part is not None]
        return min([*self._open_requests.values(), *held], default=None)

    def feed(self, event: CliEvent, *, seq: Seq, now: float) -> list[Show]:
        """What the room should see because of the event, in order. Never raises."""
        if self._ended:
            return []
        if event.is_progress:
            self.last_progress_at = now
            self._is_started = True
        if isinstance(event, AssistantMessage):
            if event.error is None:
                self._limit = None
            self._held += self._texts(event)
        if isinstance(event, Result) and self._is_ours(event):
            return [*self._release(), *self._result_of(event, seq)]
        released = [] if self._open_requests else self._release()
        return [*released, *self._control(event, seq)]

    def expect(self, message_uuid: str, state: SteerState) -> None:
        """One more message goes into the turn, which ends once a result names each of them.

        The CLI takes it in at the next result of a tool, and then one result names both; or works
        on it after the turn's own result, and then another one names it.
        """
        known = self._steers.get(message_uuid)
        if known is not SteerState.ANSWERED:
            self._steers[message_uuid] = state
        if state is SteerState.GIVEN:
            self._held_end = None  # its result comes

    def forget(self, message_uuid: str) -> list[Show]:
        """It has not reached the CLI and never will; the end, if it is all that was waited for."""
        self._steers.pop(message_uuid, None)
        if self._held_end is None or self.waits_for_steer:
            return []
        end = self._held_end[1]
        self._ended, self._held_end = True, None
        return [end]

    @property
    def waits_for_steer(self) -> bool:
        """Whether a message that went into the turn has had no result."""
        return any(state is not SteerState.ANSWERED for state in self._steers.values())

    def answered(self, request_id: str) -> None:
        """A permission request was answered, and the answer is on its way. Idempotent."""
        self._open_requests.pop(request_id, None)

    def _control(self, event: CliEvent, seq: Seq) -> list[Show]:
        match event:
            case CommandLifecycle():
                return self._lifecycle(event)
            case RateLimit() if event.status != "allowed":
                if event.status == "rejected":
                    self._limit = (seq, event.resets_at)
                return [_rate_limited(event)]
            case ApiRetry():
                return [_retrying(event)]
            case PermissionRequest():
                self._open_requests[event.request_id] = seq
                return [_permission_asked(event)]
            case ControlCancel():
                self.answered(event.request_id)
                return [PermissionWithdrawn(request_id=event.request_id)]
            case McpMessage() if (call := parse_call(event.message)) is not None:
                self._open_requests[event.request_id] = seq
                wanted = FileWanted(request_id=event.request_id, call=call, message=event.message)
                return [wanted]
            case McpMessage():
                return [ReplyToCli(line=build_tool_answer(event))]
            case OtherRequest():
                return [_refused_request(event)]
            case _:
                return []

    def _texts(self, event: AssistantMessage) -> list[Show]:
        # With an error the CLI speaks, not the model; its result says the same as the reason.
        if event.parent_tool_use_id is not None or event.error is not None:
            return []
        texts = [block.text for block in event.blocks if isinstance(block, TextBlock)]
        return [show for text in texts for show in self._text(text)]

    def _text(self, text: str) -> list[Show]:
        if not text.strip():
            return []
        self._last_text = text
        self._text_shown = True
        return [TextReady(text=text)]

    def _release(self) -> list[Show]:
        held, self._held = self._held, []
        return held

    def _lifecycle(self, event: CommandLifecycle) -> list[Show]:
        if event.command_uuid != self._message_uuid:
            return []
        if event.state in {"queued", "started"}:
            self._is_started = True
            return []
        if event.state in {"discarded", "refused"}:
            reason = f"the CLI {event.state} the message"
            return [*self._release(), self._end(TurnOutcome.FAILED, reason)]
        if self._is_started:
            return []  # its result comes
        # The session knows the uuid: it ran, or began to, in an earlier life of the CLI.
        reason = "an earlier run of this message ended without a result"
        return [self._end(TurnOutcome.INTERRUPTED, reason)]

    def _is_ours(self, event: Result) -> bool:
        """A result names the messages that it answers; only a failure to start names none."""
        if event.user_message_uuids:
            ours = {self._message_uuid, *self._steers}
            return not ours.isdisjoint(event.user_message_uuids)
        return event.origin is None

    def _result_of(self, event: Result, seq: Seq) -> list[Show]:
        if is_unresumable(event):
            return self._result(event)  # nothing ran, so nothing that went into it, either
        named = [uuid for uuid in event.user_message_uuids if uuid in self._steers]
        self._steers.update(dict.fromkeys(named, SteerState.ANSWERED))
        if not self.waits_for_steer or event.terminal_reason in _INTERRUPTED:
            return self._result(event)
        # The CLI goes on with the next message by itself.
        *shown, end = self._result(event)
        self._ended = False
        if isinstance(end, Ended):
            shown += self._text(f"*[{end.reason}]*") if end.reason else []
            if SteerState.GIVEN not in self._steers.values():
                self._held_end = (seq, end)
        return [*shown, SteersAnswered(uuids=tuple(named))]

    def _result(self, event: Result) -> list[Show]:
        if event.is_error:
            if event.terminal_reason in _INTERRUPTED:
                return [self._end(TurnOutcome.CANCELLED, None, event)]
            return [self._end(TurnOutcome.FAILED, explain_failure(event), event)]
        return [*self._unseen_text(event.text), self._end(TurnOutcome.DONE, None, event)]

    def _unseen_text(self, text: str) -> list[Show]:
        # A result repeats the last text block. Text that was shown before a crash is not seen here.
        is_seen = self._text_shown if self._last_text is None else self._last_text == text
        return [] if is_seen else self._text(text)

    def _end(self, outcome: TurnOutcome, reason: str | None, result: Result | None = None) -> Ended:
        self._ended = True
        self._open_requests.clear()
        resets_at, self._limit = self._limit[1] if self._limit else None, None
        shown = self._text_shown
        if result is None:
            return Ended(outcome=outcome, reason=reason, text_already_shown=shown)
        return Ended(
            outcome=outcome,
            reason=reason,
            text_already_shown=shown,
            session_lost=is_unresumable(result),
            is_usage_limit=is_usage_limit(result),
            limit_resets_at=resets_at if is_usage_limit(result) else None,
            cost_usd=result.cost_usd,
            usage=result.usage,
            duration_s=result.duration_s,
            num_turns=result.num_turns,
            denied_tools=result.denied_tools,
        )


def _rate_limited(event: RateLimit) -> RateLimited:
    return RateLimited(
        is_rejected=event.status == "rejected",
        resets_at=event.resets_at,
        limit_type=event.limit_type,
        utilization=event.utilization,
    )


def _retrying(event: ApiRetry) -> Retrying:
    return Retrying(
        attempt=event.attempt,
        max_retries=event.max_retries,
        delay_s=event.delay_s,
        status=event.status,
        error=event.error,
    )


def _permission_asked(event: PermissionRequest) -> PermissionAsked:
    return PermissionAsked(
        request_id=event.request_id,
        tool=event.tool_name,
        summary=_summarise(event),
        input=event.input,
        needs_person=event.needs_person,
        suggestions=event.suggestions,
    )


def build_tool_answer(event: McpMessage) -> str:
    """The line that answers a message to a tool server, where it is no call of a tool of ours."""
    if event.server_name != SERVER:
        return build_control_error(event.request_id, "not served here: tool server")
    return build_mcp_answer(event.request_id, build_answer(event.message))


def _refused_request(event: OtherRequest) -> ReplyToCli:
    what = event.subtype[:_SUMMARY_CHARS]
    return ReplyToCli(line=build_control_error(event.request_id, f"not served here: {what}"))


def _summarise(event: PermissionRequest) -> str:
    telling = summarise_input(event.input)
    line = " ".join((event.description if telling is None else telling).split())
    return line if len(line) <= _SUMMARY_CHARS else f"{line[: _SUMMARY_CHARS - 1]}…"
