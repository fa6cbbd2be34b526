"""However serving ends, what waits is sent first; in virtual time, with the real sender."""

from __future__ import annotations

import asyncio
import signal
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from orchestrator import daemon
from orchestrator.ending import END_S, Ending
from orchestrator.errors import RequestRefusedError, StoreCorruptError
from orchestrator.gateway.outbound import OutboxSender
from orchestrator.store.api import OutboxRow
from tests.support.outbox import HangingHomeserver, MemoryHomeserver, MemoryOutbox
from tests.support.virtual_time import loop_clock, run_virtual

ROWS = 3


class Scene:
    """A daemon that serves, with rows in its outbox that take a second each."""

    def __init__(self, homeserver: MemoryHomeserver) -> None:
        self.homeserver = homeserver
        self.outbox = MemoryOutbox()
        self.stop: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self.failure = asyncio.Event()
        self.taking = False
        self.kept = False

    async def work(self) -> None:
        """What takes turns; fails when it is told to."""
        self.taking = True
        for number in range(ROWS):
            self.outbox.add("!room", f"answer {number}")
        try:
            await self.failure.wait()
            raise StoreCorruptError
        finally:
            self.taking = False

    async def keep(self) -> None:
        self.kept = True

    async def serve(self) -> signal.Signals:
        async def forever() -> NoReturn:
            await asyncio.Event().wait()
            raise AssertionError

        async def tell(_row: OutboxRow, _error: RequestRefusedError) -> None:
            raise AssertionError

        sender = OutboxSender(self.outbox, self.homeserver, on_refused=tell, clock=loop_clock)
        system: Any = SimpleNamespace(
            kit=SimpleNamespace(wall_clock=loop_clock),
            sender=sender,
            keeper=SimpleNamespace(run=forever, keep=self.keep),
            courtesies=SimpleNamespace(run=forever),
            state_dir=None,
            views=SimpleNamespace(serve=nullcontext),
        )
        with Ending(self.stop) as ending:
            try:
                return await daemon._serve(system, None, self.stop, ending, lambda _: None)
            finally:
                assert not self.taking, "turns are still taken"
                assert self.kept, "what was learnt of the account's limit is lost"
                ending.close()


@pytest.fixture(autouse=True)
def _only_the_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None:
        return

    monkeypatch.setattr(daemon, "_announce", nothing)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(MemoryHomeserver(latency_s=1.0))
    monkeypatch.setattr(daemon, "_room_tasks", lambda *_: {"work": made.work()})
    return made


def assert_sent(scene: Scene) -> None:
    assert scene.homeserver.bodies("!room") == [f"answer {i}" for i in range(ROWS)]
    assert scene.outbox.heads() == []


def test_at_a_signal_what_waits_is_sent_before_the_end(scene: Scene) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(0.5, scene.stop.put_nowait, signal.SIGTERM)
        assert await scene.serve() is signal.SIGTERM

    run_virtual(main())
    assert_sent(scene)


def test_at_a_failure_of_another_task_what_waits_is_sent_before_it_is_raised(scene: Scene) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(0.5, scene.failure.set)
        with pytest.raises(ExceptionGroup) as failed:
            await scene.serve()
        assert failed.group_contains(StoreCorruptError)

    run_virtual(main())
    assert_sent(scene)


def test_at_a_cancellation_what_waits_is_sent_before_the_end(scene: Scene) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(scene.serve())
            await asyncio.sleep(0.5)
            task.cancel()
        assert task.cancelled()

    run_virtual(main())
    assert_sent(scene)


def test_what_can_not_be_sent_ends_within_the_deadline_and_waits(scene: Scene) -> None:
    scene.homeserver = HangingHomeserver(stuck=frozenset({"!room"}))

    async def main() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(0.5, scene.stop.put_nowait, signal.SIGTERM)
        began = loop.time()
        await scene.serve()
        return loop.time() - began - 0.5

    assert run_virtual(main()) < END_S
    assert len(scene.outbox.heads()) == 1
    assert len(scene.outbox.rows) == ROWS


def test_a_second_signal_skips_the_sending(scene: Scene) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        for after_s in (0.5, 0.6):
            loop.call_later(after_s, scene.stop.put_nowait, signal.SIGTERM)
        began = loop.time()
        await scene.serve()
        return loop.time() - began

    assert run_virtual(main()) == pytest.approx(0.6, abs=0.01)
    assert len(scene.outbox.rows) == ROWS
