"""The end has one deadline, a signal skips it, and what is cut short is closed nevertheless."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from orchestrator.ending import END_S, Ending
from orchestrator.errors import StoreError
from tests.support.virtual_time import run_virtual


class Held:
    """What the contexts below hold."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.hanging = asyncio.Event()

    @asynccontextmanager
    async def context(self, name: str, *, hangs: bool = False) -> AsyncIterator[None]:
        self.open.add(name)
        try:
            yield
        finally:
            try:
                if hangs:
                    self.hanging.set()
                    await asyncio.Event().wait()
            finally:
                self.open.discard(name)


async def end(
    held: Held,
    stop: asyncio.Queue[signal.Signals],
    failure: Exception | None = None,
) -> None:
    with Ending(stop) as ending:
        async with AsyncExitStack() as opened:
            try:
                await opened.enter_async_context(held.context("first"))
                await opened.enter_async_context(held.context("hangs", hangs=True))
                await opened.enter_async_context(held.context("last"))
                if failure is not None:
                    raise failure
            finally:
                ending.close()


async def one_that_hangs(failure: Exception | None = None) -> float:
    held, loop = Held(), asyncio.get_running_loop()
    began = loop.time()
    try:
        await end(held, asyncio.Queue(), failure)
    finally:
        assert held.open == set()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    return loop.time() - began


def test_a_context_that_does_not_close_is_cut_at_the_deadline_and_all_are_closed() -> None:
    assert run_virtual(one_that_hangs()) == pytest.approx(END_S, abs=0.1)


def test_a_failure_is_still_the_failure_after_the_cut() -> None:
    with pytest.raises(StoreError, match="why it ends"):
        run_virtual(one_that_hangs(StoreError("why it ends")))


def test_the_time_counts_from_the_wish_to_end() -> None:
    async def main() -> float:
        held, loop = Held(), asyncio.get_running_loop()
        began = loop.time()
        with Ending(asyncio.Queue()) as ending:
            async with AsyncExitStack() as opened:
                try:
                    await opened.enter_async_context(held.context("hangs", hangs=True))
                    ending.begin()
                    await asyncio.sleep(END_S / 2)
                finally:
                    ending.close()
        return loop.time() - began

    assert run_virtual(main()) == pytest.approx(END_S, abs=0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_skips_the_wait(number: signal.Signals) -> None:
    held = Held()

    async def kill() -> None:
        await held.hanging.wait()
        os.kill(os.getpid(), number)

    async with asyncio.timeout(END_S / 2), asyncio.TaskGroup() as group:
        group.create_task(kill())
        await end(held, asyncio.Queue())
    assert held.open == set()


async def test_a_signal_that_came_before_the_closing_skips_it_too() -> None:
    held, stop = Held(), asyncio.Queue[signal.Signals]()
    stop.put_nowait(signal.SIGTERM)
    async with asyncio.timeout(END_S / 2):
        with Ending(stop) as ending:
            async with AsyncExitStack() as opened:
                try:
                    await opened.enter_async_context(held.context("hangs", hangs=True))
                finally:
                    ending.close()
    assert held.open == set()


async def test_a_cancellation_of_others_is_not_swallowed() -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one_that_hangs())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()


def test_an_end_that_is_quick_is_not_disturbed() -> None:
    async def main() -> None:
        held = Held()
        with Ending(asyncio.Queue()) as ending:
            async with AsyncExitStack() as opened:
                try:
                    await opened.enter_async_context(held.context("first"))
                finally:
                    ending.close()
        await asyncio.sleep(2 * END_S)
        assert held.open == set()

    run_virtual(main())
