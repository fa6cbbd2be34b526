"""Threads for calls that block, which the end of the process does not wait for.

A pool of `concurrent.futures` is joined when the interpreter ends: an engine that hangs would hold
a process that was told to stop for as long as one call may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class CallThreads:
    """Invariant: at most `most` calls run, the given up ones included; others wait their turn."""

    def __init__(self, most: int, name: str = "docker call") -> None:
        self._name = name
        self._free = asyncio.Semaphore(most)

    def __repr__(self) -> str:
        return f"CallThreads({self._free!r})"

    async def run(self, work: Callable[[], T]) -> T:
        """Run it in a thread of its own. A cancel returns at once; the thread goes on to its end.

        Raises:
            Exception: what the work raised.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        await self._free.acquire()

        def settle(result: T | None, error: BaseException | None) -> None:
            self._free.release()
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type] # without an error there is one

        def call() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as e:  # noqa: BLE001 - passed on to whoever waits for the call
                error = e
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(settle, result, error)

        try:
            threading.Thread(target=call, name=self._name, daemon=True).start()
        except RuntimeError:  # the host has no thread left
            self._free.release()
            raise
        return await done
