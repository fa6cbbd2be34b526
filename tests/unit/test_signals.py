from __future__ import annotations

import asyncio
import signal
from typing import NoReturn

import pytest

from orchestrator.errors import ConfigError
from orchestrator.signals import until_signal


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
        assert await until_signal(signals(signal.SIGINT), never()) is None


async def test_work_that_is_done_leaves_later_signals_to_others() -> None:
    stop = signals()
    assert await until_signal(stop, three()) == 3
    stop.put_nowait(signal.SIGTERM)
    assert stop.get_nowait() is signal.SIGTERM


async def test_a_failure_of_the_work_is_not_taken_for_a_signal() -> None:
    async def fail() -> NoReturn:
        raise ConfigError(["a mistake"])

    with pytest.raises(ExceptionGroup) as failed:
        await until_signal(signals(), fail())
    assert isinstance(failed.value.exceptions[0], ConfigError)
