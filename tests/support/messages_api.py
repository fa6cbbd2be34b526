"""The Messages API as a test scripts it: the offline model's server with rules instead of a brain.

    async with open_scripted_api() as api:
        api.when("list the files", [ToolUse(name="Bash", input={"command": "ls"})], "two files")
        api.once("hello", HttpError(status=529, type="overloaded_error", message="Overloaded"))

`when` answers a turn: its first request gets the first step, the request that brings the result of
a tool gets the next one. `once` answers one request, whichever step of a turn it is. Without a rule
the answer is `You said: …`, or `The tool said: …` after a tool's result.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from orchestrator.embedded.messages_api import ReceivedRequest, open_messages_api
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
from orchestrator.embedded.offline_model import side_reply

_BLOCKS = (Text, Thinking, ToolUse, Stall, CutStream, StreamError, HttpError)
Step = str | Block | Sequence[Block] | Reply


class ScriptedApi:
    """A model with rules. `requests` has every HTTP request, `asked` those of conversations."""

    def __init__(self) -> None:
        self.base_url = ""
        self.requests: list[ReceivedRequest] = []
        self.asked: list[MessagesRequest] = []
        self._rules: list[tuple[re.Pattern[str], tuple[Reply, ...]]] = []
        self._once: list[tuple[re.Pattern[str], Reply]] = []
        self._changed = asyncio.Event()

    def when(self, pattern: str, *steps: Step) -> None:
        """Answer turns whose last user text has the pattern; a later rule goes before earlier ones.

        Past the last step the answer is the default one, so that a turn always ends.
        """
        self._rules.insert(0, (_compile(pattern), tuple(_reply(step) for step in steps)))

    def once(self, pattern: str, *steps: Step) -> None:
        """Answer the next requests that have the pattern, one step each; they go before `when`."""
        self._once.extend((_compile(pattern), _reply(step)) for step in steps)

    def reply(self, request: MessagesRequest) -> Reply:
        """The scripted answer; the CLI's requests for itself get their own and are not recorded."""
        side = side_reply(request)
        if side is not None:
            return side
        self.asked.append(request)
        self._changed.set()
        return self._take_once(request) or self._by_rule(request) or _default(request)

    async def wait_until(
        self, is_met: Callable[[ScriptedApi], bool], timeout_s: float = 30
    ) -> None:
        """Wait for a state of the recorded requests.

        Raises:
            TimeoutError: it was not reached in time.
        """
        async with asyncio.timeout(timeout_s):
            while not is_met(self):
                self._changed.clear()
                await self._changed.wait()

    def _record(self, request: ReceivedRequest) -> None:
        self.requests.append(request)
        self._changed.set()

    def _take_once(self, request: MessagesRequest) -> Reply | None:
        for number, (pattern, reply) in enumerate(self._once):
            if pattern.search(request.last_user_text):
                del self._once[number]
                return reply
        return None

    def _by_rule(self, request: MessagesRequest) -> Reply | None:
        step = _count_results(request)
        for pattern, replies in self._rules:
            if pattern.search(request.last_user_text):
                return replies[step] if step < len(replies) else None
        return None


@asynccontextmanager
async def open_scripted_api(*, port: int = 0) -> AsyncIterator[ScriptedApi]:
    """Serve a scripted API on 127.0.0.1 while the context lasts."""
    api = ScriptedApi()
    async with open_messages_api(api, port=port, on_request=api._record) as base_url:
        api.base_url = base_url
        yield api


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _reply(step: Step) -> Reply:
    if isinstance(step, Reply):
        return step
    if isinstance(step, str):
        return Reply(blocks=(Text(text=step),))
    return Reply(blocks=(step,) if isinstance(step, _BLOCKS) else tuple(step))


def _count_results(request: MessagesRequest) -> int:
    """How many rounds of tool results came after what the user said last."""
    count = 0
    for message in reversed(request.messages):
        if message.role != "user":
            continue
        if message.text and not any(p.type == "tool_result" for p in message.content):
            break
        count += 1
    return count


def _default(request: MessagesRequest) -> Reply:
    results = request.tool_results
    if results:
        return _reply("The tool said: " + "\n".join(result.result_text for result in results))
    return _reply(f"You said: {request.last_user_text}")
