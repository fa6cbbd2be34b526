from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import NoReturn

import pytest

from orchestrator import daemon
from orchestrator.errors import ConfigError, EngineRequestError
from orchestrator.matrix.client import OwnEvent
from orchestrator.model import (
    EventId,
    InstallationId,
    JsonObject,
    Priority,
    RoomId,
    RunnerState,
    TxnId,
)
from orchestrator.runners.memory_backend import MemoryBackend, MemoryEngine
from orchestrator.runners.memory_stdio import echo
from orchestrator.store.api import OutboxRow
from tests.support.runner_engine import room_spec

INSTALLATION = InstallationId("0123456789abcdef")


def signals(*numbers: signal.Signals) -> asyncio.Queue[signal.Signals]:
    queue: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in numbers:
        queue.put_nowait(number)
    return queue


async def never() -> int:
    await asyncio.Event().wait()
    raise AssertionError


async def three() -> int:
    return 3


async def test_a_signal_ends_work_that_takes_long() -> None:
    async with asyncio.timeout(5):
        assert await daemon._until_signal(signals(signal.SIGINT), never()) is None


async def test_work_that_is_done_leaves_later_signals_to_others() -> None:
    stop = signals()
    assert await daemon._until_signal(stop, three()) == 3
    stop.put_nowait(signal.SIGTERM)
    assert stop.get_nowait() is signal.SIGTERM


async def test_a_failure_of_the_work_is_not_taken_for_a_signal() -> None:
    async def fail() -> NoReturn:
        raise ConfigError(["a mistake"])

    with pytest.raises(ExceptionGroup) as failed:
        await daemon._until_signal(signals(), fail())
    assert isinstance(failed.value.exceptions[0], ConfigError)


class OneStuckBackend(MemoryBackend):
    """Refuses to stop the first runner that it is asked to."""

    refused: str | None = None

    async def stop(self, name: str, *, grace_s: float) -> None:
        if self.refused is None:
            self.refused = name
            raise EngineRequestError
        await super().stop(name, grace_s=grace_s)


async def test_a_runner_that_can_not_be_stopped_keeps_no_other_running(tmp_path: Path) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        engine = MemoryEngine(images={"image": echo})
        backend = OneStuckBackend(INSTALLATION, engine, group)
        for index in range(2):
            spec = room_spec(tmp_path, INSTALLATION, "image", index=index)
            await backend.ensure(spec)
            await backend.start(spec.name)

        await daemon._stop_runners(backend, lambda _: None)

        states = {info.name: info.state for info in await backend.list()}
        assert backend.refused is not None
        assert states.pop(backend.refused) is RunnerState.RUNNING
        assert list(states.values()) == [RunnerState.EXITED]
        backend.kill_all()


def row(content: JsonObject, txn_id: str) -> OutboxRow:
    return OutboxRow(
        seq=1,
        room_id=RoomId("!r:x"),
        txn_id=TxnId(txn_id),
        event_type="m.room.message",
        content=content,
        priority=Priority.TEXT,
        attempts=1,
        not_before=0.0,
        created_at=0.0,
    )


def event(content: JsonObject, txn_id: str | None) -> OwnEvent:
    return OwnEvent(
        event_id=EventId("$e"),
        txn_id=None if txn_id is None else TxnId(txn_id),
        event_type="m.room.message",
        content=content,
    )


@pytest.mark.parametrize(
    ("found", "is_it"),
    [
        (event({"body": "Done."}, "t1"), True),
        (event({"body": "Done."}, "t0"), False),
        (event({"body": "Done."}, None), True),
        (event({"body": "Other."}, None), False),
    ],
)
def test_a_row_is_known_by_its_transaction_id_and_else_by_its_content(
    found: OwnEvent, is_it: bool
) -> None:
    assert daemon._is_of_row(found, row({"body": "Done."}, "t1")) is is_it
