from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from orchestrator.gateway.courtesy import Courtesies
from orchestrator.model import EventId, RoomId
from tests.support.room_rig import MemoryCourtesyServer
from tests.support.virtual_time import loop_clock, run_virtual

ROOM = RoomId("!r:test")
Test = Callable[[MemoryCourtesyServer, Courtesies], Coroutine[Any, Any, None]]


def run(test: Test) -> None:
    async def main() -> None:
        server = MemoryCourtesyServer()
        courtesies = Courtesies(server, clock=loop_clock)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(courtesies.run())
            await test(server, courtesies)
            running.cancel()

    run_virtual(main())


def test_only_the_last_receipt_of_a_room_is_sent() -> None:
    async def test(server: MemoryCourtesyServer, courtesies: Courtesies) -> None:
        courtesies.seen(ROOM, EventId("$1"))
        courtesies.seen(ROOM, EventId("$2"))
        await asyncio.sleep(1)
        assert server.read == [(ROOM, "$2")]

    run(test)


def test_typing_is_kept_up_and_ends_for_good() -> None:
    async def test(server: MemoryCourtesyServer, courtesies: Courtesies) -> None:
        courtesies.typing(ROOM, typing=True)
        courtesies.typing(ROOM, typing=True)
        for _ in range(5):
            await asyncio.sleep(25)
            assert server.typing.pop(ROOM) is True
        courtesies.typing(ROOM, typing=False)
        await asyncio.sleep(1)
        assert server.typing.pop(ROOM) is False
        await asyncio.sleep(100)
        assert server.typing == {}
        assert repr(courtesies) == "<Courtesies typing=0 to_send=0 busy=0>"

    run(test)


def test_a_slow_homeserver_shows_in_the_end_what_was_wished_last() -> None:
    async def test(server: MemoryCourtesyServer, courtesies: Courtesies) -> None:
        server.delays_s = [8.0, 0.1]
        courtesies.typing(ROOM, typing=True)
        await asyncio.sleep(1)
        courtesies.typing(ROOM, typing=False)
        await asyncio.sleep(20)
        assert server.typing == {ROOM: False}

    run(test)


def test_a_slow_homeserver_holds_no_more_than_a_few_requests_and_none_is_lost() -> None:
    async def test(server: MemoryCourtesyServer, courtesies: Courtesies) -> None:
        server.delays_s = [10.0] * 60
        for i in range(30):
            courtesies.typing(RoomId(f"!{i}:test"), typing=True)
        await asyncio.sleep(60)
        assert server.most_in_flight == 8
        assert len(server.typing) == 30

    run(test)
