"""How the daemon's end is bounded: one deadline for all of it, and a second signal that skips it.

Rule: what is cut short is still closed: a cancellation goes through every context that is open, in
their order, and each of them lets go of what it holds.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from loguru import logger

from orchestrator.errors import EngineUnavailableError, RunnerError
from orchestrator.model import RunnerState
from orchestrator.ports import RunnerBackend, RunnerInfo

# Below Docker's patience (10 s) and systemd's (90 s). Rooms, outbox and runners have bounds of
# their own within it; what is left is for the homeserver's child, doors, connections, database.
END_S = 9.0
_RUNNERS_S = 3.0


class Ending:
    """Bounds what happens between the wish to end and the end. One task, one use.

    Around everything that has to be closed:

        with Ending(stop) as ending:
            async with AsyncExitStack() as opened:
                try:
                    …serve, until a signal or a failure…
                finally:
                    ending.close()

    Invariant: it swallows only the cancellations that it caused itself.
    """

    def __init__(self, stop: asyncio.Queue[signal.Signals]) -> None:
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._task = task
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._signals: tuple[signal.Signals, ...] = ()
        self._cuts = 0
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Ending deadline={self._deadline} cuts={self._cuts}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        for number in self._signals:
            self._loop.remove_signal_handler(number)
        is_ours = self._cuts > 0
        while self._cuts:
            self._cuts -= 1
            self._task.uncancel()
        if not is_ours or not isinstance(error, asyncio.CancelledError) or self._task.cancelling():
            return False
        if isinstance(self._failure, Exception):
            raise self._failure from None
        return True

    @property
    def deadline(self) -> float:
        """When all of it has to be over, in the loop's time."""
        return self.begin()

    def begin(self) -> float:
        """The time counts from here; returns the deadline. Idempotent."""
        if self._deadline is None:
            self._deadline = self._loop.time() + END_S
        return self._deadline

    def close(self) -> None:
        """From here on contexts are closed: the deadline or a signal cuts short whichever it is.

        For a `finally`: what is being raised there is still raised after a cut.
        """
        self._failure = sys.exception()
        self._timer = self._loop.call_at(self.deadline, self._cut, "the time is up")
        self._signals = (signal.SIGINT, signal.SIGTERM)
        for number in self._signals:
            self._loop.add_signal_handler(number, self._cut, number.name)
        if not self._stop.empty():
            self._cut(self._stop.get_nowait().name)

    def _cut(self, why: str) -> None:
        self._cuts += 1
        logger.bind(action="daemon.cut", why=why).warning("closing is cut short")
        self._task.cancel()


async def stop_runners(backend: RunnerBackend, say: Callable[[str], None]) -> None:
    """Stop this installation's runners, all at once."""
    running = [info for info in await backend.list() if info.state is RunnerState.RUNNING]
    if running:
        say(f"Stopping {len(running)} runner{'s' if len(running) > 1 else ''}…")
    async with asyncio.TaskGroup() as group:
        for info in running:
            group.create_task(_stop_runner(backend, info), name=f"stop {info.slug}")


async def _stop_runner(backend: RunnerBackend, info: RunnerInfo) -> None:
    """One that can't be stopped keeps no other from being stopped."""
    try:
        await backend.stop(info.name, grace_s=_RUNNERS_S)
    except (RunnerError, EngineUnavailableError) as e:
        logger.bind(action="runner.stop", room=info.slug, error=type(e).__name__).error(
            "a runner could not be stopped; the next start adopts it"
        )
