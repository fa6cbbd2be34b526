"""`cchat send` and `cchat tail`."""

from __future__ import annotations

import asyncio
import shlex
import uuid
from dataclasses import dataclass
from pathlib import Path

from cchat.account import Account
from cchat.answer import Answer
from cchat.error import Exit, exit_of_outcome
from cchat.output import Output
from cchat.place import Desk, is_running, open_desk, require_account, say_trouble
from orchestrator.errors import NotRunningError, RequestRefusedError

# An embedded homeserver comes and goes with its orchestrator: a restart takes some 10 s.
_EMBEDDED_GIVE_UP_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRequest:
    """What to send, and whether to stay for the answer, for how many seconds at most."""

    state_dir: Path
    room: str
    text: str
    wait: bool
    timeout_s: float


async def send(request: SendRequest, output: Output) -> Exit:
    """Send a message; with `wait`, print the answer as it comes. Raises as `open_desk`."""
    account = await require_account(request.state_dir)
    down = account.embedded_in if await _is_down(account) else None
    if down is not None and request.wait:
        raise NotRunningError(down)
    async with open_desk(request.state_dir, request.room, output) as desk:
        if request.wait:
            return await _send_and_wait(desk, request, output)
        await _send(desk, request, output, mention=None)
    if down is not None:
        # A homeserver that outlived its orchestrator: the message waits there.
        output.say(f"Sent, and nobody answers yet. {NotRunningError(down)}")
    return Exit.OK


async def _is_down(account: Account) -> bool:
    """Whether the account's orchestrator, where it must be on this host, does not run."""
    return account.embedded_in is not None and not await is_running(account.embedded_in)


async def tail(state_dir: Path, room: str, *, count: int, follow: bool, output: Output) -> Exit:
    """Print the last messages of a room, then what comes, until cancelled."""
    async with open_desk(state_dir, room, output) as desk:
        now = await desk.chat.here(desk.room_id)
        for said in await desk.chat.last(desk.room_id, now, count):
            output.show_said(desk.room_id, said)
        if follow:
            async for said in desk.chat.follow(desk.room_id, now, give_up_s=_give_up_s(desk)):
                output.show_said(desk.room_id, said)
    return Exit.OK


async def _send(desk: Desk, request: SendRequest, output: Output, *, mention: str | None) -> str:
    event_id = await desk.chat.send_text(
        desk.room_id, request.text, txn_id=f"cchat-{uuid.uuid4().hex}", mention=mention
    )
    output.show_sent(desk.room_id, event_id)
    return event_id


async def _send_and_wait(desk: Desk, request: SendRequest, output: Output) -> Exit:
    # The token first: whatever is said after it is seen, however soon the answer comes.
    since = await desk.chat.here(desk.room_id)
    is_command = request.text.startswith("!")
    # Who waits for an answer speaks to the agent; a room command needs no mention.
    mention = None if is_command else desk.account.agent_user_id
    try:
        event_id = await _send(desk, request, output, mention=mention)
        await say_trouble(request.state_dir, output)
    except asyncio.CancelledError:
        # The homeserver may have it before its answer is here.
        stop = suggest("send", request.room, "!cancel")
        output.say(f"If it was sent, stop its turn with: {stop}")
        raise
    answer = Answer(event_id, me=desk.me, agent=desk.account.agent_user_id)
    try:
        async with asyncio.timeout(request.timeout_s):
            outcome = await _listen(desk, answer, since, output)
    except TimeoutError:
        output.say(
            f"No end of the turn within {request.timeout_s:g} s; it may go on in the room. "
            f"See it with: {suggest('tail', request.room)}"
        )
        return Exit.NO_END
    except asyncio.CancelledError:
        stop = suggest("send", request.room, "!cancel")
        output.say(f"The turn goes on. Stop it with: {stop}")
        raise
    code = exit_of_outcome(outcome)
    output.show_end(answer.turn, outcome, code)
    return code


async def _listen(desk: Desk, answer: Answer, since: str, output: Output) -> str:
    async for said in desk.chat.follow(desk.room_id, since, give_up_s=_give_up_s(desk)):
        line = answer.take(said)
        if line is not None:
            output.show_answer(desk.room_id, line)
        if answer.outcome is not None:
            return answer.outcome
    raise RequestRefusedError(errcode="M_UNKNOWN", status=200, what="following the room")


def suggest(*words: str) -> str:
    """A command to type: a shell takes `#demo` for a comment, and a name may have spaces."""
    return shlex.join(["cchat", *words])


def _give_up_s(desk: Desk) -> float | None:
    return _EMBEDDED_GIVE_UP_S if desk.account.embedded_in is not None else None
