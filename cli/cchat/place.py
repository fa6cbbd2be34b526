"""Where a command works: the state directory, the account, and what talks to either."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cchat.account import Account, find_account
from cchat.chat import Chat
from cchat.matrix import MatrixClient
from cchat.output import Output
from cchat.room import find_room
from cchat.transport import open_transport
from orchestrator.control.client import ControlClient, find_nobody
from orchestrator.control.models import RoomView, StoreState
from orchestrator.errors import (
    AiAgentChatError,
    ConfigError,
    HomeserverUnreachableError,
    NotRunningError,
    PreconditionError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """An open connection to one room."""

    account: Account
    chat: Chat
    me: str
    room_id: str


async def is_running(state_dir: Path) -> bool:
    """Whether an orchestrator listens here; one that answers badly or to others only is one."""
    try:
        await ControlClient(state_dir).health()
    except NotRunningError:
        return False
    except AiAgentChatError:
        return True
    return True


async def say_trouble(state_dir: Path, output: Output) -> None:
    """Say that the orchestrator's disk takes nothing, which holds up every room, where it is so."""
    try:
        store = (await ControlClient(state_dir).status()).store
    except AiAgentChatError:
        return
    if store.state is not StoreState.OK:
        output.say(store.reason or store.state.value)


async def require_account(state_dir: Path) -> Account:
    """The account to use.

    Raises:
        PreconditionError: nothing is set up, and nothing runs that would set it up.
        ConfigError: an orchestrator runs, and there is no account for cchat on its homeserver.
    """
    account = find_account(state_dir, os.environ, Path.home())
    if account is not None:
        return account
    if not await is_running(state_dir):
        msg = f"{find_nobody(state_dir)}\nFor an orchestrator elsewhere, type: cchat login"
        raise PreconditionError(msg)
    msg = (
        "No Matrix account is set up for cchat. Type: cchat login "
        "(or set CCHAT_HOMESERVER, CCHAT_USER_ID and CCHAT_PASSWORD)"
    )
    raise ConfigError([msg])


@asynccontextmanager
async def open_desk(state_dir: Path, typed_room: str, output: Output) -> AsyncIterator[Desk]:
    """Log in where needed and find the room.

    Raises:
        NotRunningError: the embedded homeserver does not answer, because nothing runs it.
        UsageError: no such room, or one that cchat can't read.
        MatrixError: the homeserver does not answer, or refuses.
    """
    account = await require_account(state_dir)

    async def local_rooms() -> Sequence[RoomView]:
        try:
            return await ControlClient(state_dir).rooms()
        except AiAgentChatError:
            # Only a convenience: without an orchestrator there are no slugs.
            return ()

    try:
        async with open_transport(account.homeserver) as transport:
            client = MatrixClient(transport, account, say=output.say)
            chat = Chat(client, say=output.say)
            me = await client.user_id()
            room_id = await find_room(chat, typed_room, me=me, local_rooms=local_rooms)
            await chat.require_plain(room_id)
            yield Desk(account=account, chat=chat, me=me, room_id=room_id)
    except HomeserverUnreachableError as e:
        if account.embedded_in is not None and not await is_running(account.embedded_in):
            raise NotRunningError(account.embedded_in) from e
        raise
