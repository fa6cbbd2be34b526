"""A room in which hosts are refused and people decide about them, on the rig of the rooms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from orchestrator.core.egress_rules import Scheme, Target
from orchestrator.model import EventId, JsonObject, RoomId
from tests.support.memory_claude import Turn
from tests.support.outbox import MemoryHomeserver
from tests.support.room_rig import ALICE, ROOM, Life, Rig, open_rig, run_rooms

CAROL = "@carol:test"
"""May decide, and nothing else."""
BOB = "@bob:test"
REVIEWER = "@reviewer:test"
"""Another agent of the installation."""
HOST = Target(host="example.org", port=443, scheme=Scheme.HTTPS)
HOUR, ALWAYS, NO = "⏱️", "♾️", "❌"

ACCESS = {"users": [ALICE, BOB], "approvers": [CAROL, REVIEWER, "@agent:*"]}
AGENTS = {"claude": {}, "reviewer": {"user_id": REVIEWER}}


def run_asking(
    folder: Path, test: Callable[[Rig], Coroutine[Any, Any, None]], **sections: Any
) -> None:
    """Run a test in a room that is known, with a homeserver that takes what is sent."""

    async def main() -> None:
        async with open_rig(folder, **{"access": ACCESS, "agents": AGENTS, **sections}) as rig:
            rig.account = MemoryHomeserver()
            await rig.store.rooms.ensure(ROOM, joined=True)
            await test(rig)

    run_rooms(main())


def target(host: str, port: int = 443, scheme: Scheme = Scheme.HTTPS) -> Target:
    """A target by its host."""
    return Target(host=host, port=port, scheme=scheme)


async def listening(rig: Rig) -> None:
    """Until this life's doors have somebody to tell."""

    async def check() -> bool:
        return rig.doors.listener is not None

    await rig.wait(check)


async def questions(rig: Rig, room: RoomId = ROOM) -> list[EventId]:
    """The events of the questions that the room was asked, in order, as far as they were sent."""

    def work(db: Any) -> list[EventId]:
        query = (
            "SELECT outbox.event_id FROM approvals JOIN outbox USING (txn_id) "
            "WHERE approvals.room_id = ? AND outbox.event_id IS NOT NULL ORDER BY asked_at, seq"
        )
        return [EventId(event_id) for (event_id,) in db.execute(query, (room,))]

    return await rig.store.database.run(work)


async def rows(rig: Rig, query: str) -> list[tuple[Any, ...]]:
    """What a query of the database gives."""
    return await rig.store.database.run(lambda db: list(db.execute(query).fetchall()))


async def ask(rig: Rig, what: Target = HOST) -> EventId:
    """A host is refused; the event of the question that comes of it."""
    await listening(rig)
    before = len(await questions(rig))
    assert not rig.doors.connect(what)

    async def is_asked() -> bool:
        return len(await questions(rig)) > before

    await rig.wait(is_asked)
    return (await questions(rig))[-1]


def relation(event_id: str, key: str, rel_type: str = "m.annotation") -> JsonObject:
    """The content of a reaction."""
    return {"m.relates_to": {"rel_type": rel_type, "event_id": event_id, "key": key}}


async def react(
    rig: Rig, life: Life, question: str, key: str, *, by: str = CAROL, room: RoomId = ROOM
) -> None:
    """Somebody reacts, and that is handled as far as it can be."""
    await rig.receive_event("m.reaction", relation(question, key), by, room)
    await handle(life)


async def handle(life: Life) -> None:
    """What has come is handled, and what follows from it said."""
    life.notify()
    await asyncio.sleep(0.5)


async def said_of(rig: Rig, word: str, room: RoomId = ROOM) -> list[str]:
    """What the room reads that has the word."""
    return [body for body in await rig.bodies(room) if word in body]


def uses(tool: str, **given: Any) -> Callable[[Turn], Coroutine[Any, Any, None]]:
    """A turn that calls a tool, which takes a minute."""

    async def script(turn: Turn) -> None:
        block = {"type": "tool_use", "id": "t1", "name": tool, "input": given}
        turn.line(type="assistant", message={"id": "m1", "content": [block]})
        await asyncio.sleep(60)
        result = {"type": "tool_result", "tool_use_id": "t1", "content": "done"}
        turn.line(type="user", message={"content": [result]})
        turn.text("finished")
        turn.result("finished")

    return script
