"""What people do while the orchestrator dies: each act sends something and sees it through.

An act knows nothing of deaths: it is a client, and goes on when the agent does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import docker
from docker.errors import NotFound

from orchestrator.core.naming import room_slug, runner_name
from orchestrator.model import InstallationId, RoomId
from tests.chaos.judge import read_text, read_value
from tests.chaos.model import build_answer, parse_prompt, squeeze
from tests.chaos.site import PATIENCE_S, Site

_POLL_S = 0.1
_POWER = "m.room.power_levels"

Act = Callable[[Site], Awaitable[None]]


async def prepare(site: Site) -> None:
    """The site's three rooms, each with a runner and a conversation."""
    for _ in range(3):
        await site.new_room()
    await asyncio.gather(*(site.until_joined(room) for room in site.rooms))
    warm = await asyncio.gather(*(site.ask(room, "text") for room in site.rooms))
    await site.until_answered(*warm)


async def ask_for_text(site: Site) -> None:
    """A question and its answer."""
    await site.until_answered(await site.ask(site.rooms[1], "text"))


async def ask_for_tool(site: Site) -> None:
    """A turn that says something, runs a command once, and says something more."""
    await site.until_answered(await site.ask(site.rooms[0], "tool"))


async def ask_for_status(site: Site) -> None:
    """A room command that changes nothing."""
    await site.until_answered(await site.send(site.rooms[0], "!status"))


async def begin_anew(site: Site) -> None:
    """A new conversation, and a turn in it."""
    command = await site.send(site.rooms[0], "!new")
    await site.until_answered(command, await site.ask(site.rooms[0], "tool"))


async def invite(site: Site) -> None:
    """A new room: the agent joins, gets a runner there, and answers."""
    room = await site.new_room()
    await site.until_joined(room)
    await site.until_answered(await site.ask(room, "tool"))


async def ask_for_file(site: Site) -> None:
    """An answer that is too long for messages: its beginning, and a file with all of it."""
    message = await site.ask(site.rooms[0], "huge 6000")
    await site.until_answered(message)
    files = [e for e in site.answers(message) if e["content"].get("msgtype") == "m.file"]
    assert len(files) == 1, f"{message.name}: {len(files)} files"
    data = await site.person.download(files[0]["content"]["url"])
    said, wanted = squeeze(data.decode()), build_answer(parse_prompt(message.text))
    assert said == wanted, f"{message.name}: the file has {len(said)} of {len(wanted)} characters"


async def be_refused(site: Site) -> None:
    """A room that does not take the agent's answer, and then takes one again."""
    room = site.rooms[2]
    before = _refused(site, room)
    await _set_power(site, room, events_default=50)
    message = await site.ask(room, "text")
    site.refused.add(message.event_id)
    async with asyncio.timeout(PATIENCE_S):
        while _refused(site, room) == before:  # noqa: ASYNC110 - another process
            await asyncio.sleep(_POLL_S)
    await _set_power(site, room, events_default=0)
    await site.until_answered(await site.ask(room, "text"))


async def throw_out(site: Site) -> None:
    """A room that the agent has to leave: its runner stops."""
    room = await site.new_room()
    await site.until_joined(room)
    await site.until_answered(await site.ask(room, "text"))
    await site.person.kick(room, site.agent)
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(_is_left, site, room):  # noqa: ASYNC110 - as above
            await asyncio.sleep(_POLL_S)


def _refused(site: Site, room: str) -> int:
    query = "SELECT count(*) FROM outbox WHERE room_id = ? AND state = 'refused'"
    return read_value(site.orchestrator.state_dir, query, room)


async def _set_power(site: Site, room: str, *, events_default: int) -> None:
    power = await site.person.get_state(room, _POWER)
    await site.person.set_state(room, _POWER, {**power, "events_default": events_default})


def _is_left(site: Site, room: str) -> bool:
    state_dir = site.orchestrator.state_dir
    if read_value(state_dir, "SELECT joined FROM rooms WHERE room_id = ?", room):
        return False
    installation = read_text(state_dir, "SELECT value FROM meta WHERE key = 'installation'")
    client = docker.from_env()
    try:
        name = runner_name(InstallationId(installation), room_slug(RoomId(room)))
        status: str = client.containers.get(name).status
    except NotFound:
        return True
    finally:
        client.close()
    return status == "exited"


ACTS: tuple[Act, ...] = (
    ask_for_text,
    ask_for_tool,
    ask_for_status,
    begin_anew,
    ask_for_file,
    invite,
    be_refused,
    throw_out,
)
"""The cheaper one first: a point is tried with the first act that reaches it."""
