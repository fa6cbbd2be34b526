"""Reactions that wait for the news which message they are about, in a room each."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.core.poll import POLL_START
from orchestrator.model import RoomId
from tests.support.asking import handle, relation, run_asking
from tests.support.room_rig import ALICE, Rig
from tests.unit.rooms.test_polls import POLLS, SlowPollServer, begin_slowly, ids, states, vote

OTHER = RoomId("!other:test")


def test_a_flood_of_reactions_in_one_room_costs_no_vote_in_another(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        gate = asyncio.Event()
        server = rig.account = SlowPollServer(gate=gate)
        await rig.store.rooms.ensure(OTHER, joined=True)
        async with rig.life() as life:
            poll = await begin_slowly(rig, life, server)
            _, second = await ids(rig)
            await rig.receive("go", room=OTHER)
            life.notify()

            async def is_out() -> bool:
                return sum(POLL_START in content for content in server.contents) == 2

            await rig.wait(is_out)
            for number in range(100):
                by = f"@mallory{number}:test"
                await rig.receive_event("m.reaction", relation("$none", "👍"), by, OTHER)
            await handle(life)
            await asyncio.sleep(20)
            await vote(rig, life, poll, second)
            gate.set()
            await asyncio.sleep(10)
        assert ("granted_once", ALICE, "[1]") in await states(rig)

    run_asking(tmp_path, test, defaults=POLLS)
