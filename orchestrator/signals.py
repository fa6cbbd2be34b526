"""The signals that ask for the end, and work that one of them gives up.

Rule: a signal is taken out of the queue once, by whoever waits then; later ones are left to others.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

from loguru import logger

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - not an error: how a group of tasks learns of a signal
    """A signal asked for the end."""

    def __init__(self, by: signal.Signals) -> None:
        self.by = by
        super().__init__(by.name)


def watch_signals() -> asyncio.Queue[signal.Signals]:
    """The signals that ask for the end, in the order in which they come."""
    asked: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.put_nowait, number)
    return asked


async def until_signal(
    stop: asyncio.Queue[signal.Signals], work: Coroutine[Any, Any, T]
) -> T | None:
    """Do the work, in this task; None when a signal came first, and it was given up.

    Raises:
        ExceptionGroup: of what the work raised.
    """
    done: T | None = None
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(raise_at_signal(stop), name="signal")
            done = await work
            watch.cancel()
    except* Stopped as stopped:
        done = None
        names = ", ".join(str(e) for e in stopped.exceptions)
        logger.bind(action="daemon.hurry", signal=names).info("not waiting any longer")
    return done


async def raise_at_signal(stop: asyncio.Queue[signal.Signals]) -> NoReturn:
    """Wait for a signal.

    Raises:
        Stopped: one came.
    """
    raise Stopped(await stop.get())
