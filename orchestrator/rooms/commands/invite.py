"""`!invite-agent`: another agent's account is invited to the room."""

from __future__ import annotations

import re

from loguru import logger

from orchestrator.core.texts import person as texts
from orchestrator.errors import RequestRefusedError
from orchestrator.model import UserId
from orchestrator.rooms.room_command import Refused, Reply, RoomCommand

_USER_ID = re.compile(r"@[^:\s]{1,200}:[^\s]{1,230}")


async def invite_agent(doing: RoomCommand, argument: str) -> None:
    """Invite it, beside everything else; the command is answered when the homeserver has."""
    accounts = {
        name: agent.user_id
        for name, agent in doing.kit.config.agents.items()
        if agent.user_id is not None
    }
    is_id = _USER_ID.fullmatch(argument) is not None and len(argument.encode()) <= 255
    user_id = UserId(argument) if is_id else accounts.get(argument.lower())
    if user_id is None:
        words = texts.no_such_agent(argument or "(no name)", sorted(accounts))
        await doing.say(Refused(words))
        return
    is_me = user_id == doing.kit.config.matrix.user_id
    if is_me or await doing.kit.store.people.is_member(doing.worker.room_id, user_id):
        await doing.say(texts.agent_is_here(user_id))
        return
    name = next((name for name, account in accounts.items() if account == user_id), None)
    doing.errands.start(_invite(doing, user_id, name), f"invite to {doing.worker.room_id}")


async def _invite(doing: RoomCommand, user_id: UserId, name: str | None) -> None:
    """Until it is answered the command's row is NEW: after a crash it is asked again."""
    room_id = doing.worker.room_id
    try:
        await doing.errands.ask(lambda: doing.kit.invite(room_id, user_id))
        reply: Reply = texts.agent_invited(user_id, name)
    except RequestRefusedError as e:
        logger.bind(action="room.invite_refused", room=room_id, errcode=e.errcode).warning(
            "an agent could not be invited"
        )
        reply = Refused(texts.invite_refused(user_id, e.errcode))
    await doing.say(reply)
    doing.kit.notify_outbox()
