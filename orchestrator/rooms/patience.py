"""Asking the homeserver for as long as it takes, beside everything else.

What an inbox row asks for (an answer to an invitation, what an alias stands for) is a task; the row
stays NEW until the homeserver has answered, so a crash only means that it is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from loguru import logger

from orchestrator.errors import (
    HomeserverUnreachableError,
    LoginRefusedError,
    RateLimitedError,
    StoreError,
)

T = TypeVar("T")
_MAX_WAIT_S = 60.0
# Strangers can cause as many questions as they like; they must not fill the line.
_MAX_AT_ONCE = 4


class Patience:
    """A few questions at a time, each repeated until it is answered (waits of 1 to 60 s)."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_MAX_AT_ONCE)
        self._group: asyncio.TaskGroup | None = None

    def __repr__(self) -> str:
        return f"<Patience {self._slots}>"

    def use_group(self, group: asyncio.TaskGroup) -> None:
        """Whose tasks the questions are; before `start`."""
        self._group = group

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Do what asks beside everything else.

        Raises:
            RuntimeError: there is no group yet; nothing was started.
        """
        if self._group is None:
            work.close()
            msg = f"nobody runs {name}"
            raise RuntimeError(msg)
        return self._group.create_task(_contained(work, name), name=name)

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer. May be cancelled; what is not retryable comes out."""
        failures = 0
        while True:
            wait_s = 0.0
            async with self._slots:
                try:
                    return await question()
                except RateLimitedError as e:
                    wait_s = e.retry_after_s or 0.0
                except HomeserverUnreachableError:
                    pass
            # 64 s is past the maximum: no large powers for large counts.
            wait_s = max(wait_s, float(1 << min(failures, 6)))
            failures += 1
            await asyncio.sleep(min(wait_s, _MAX_WAIT_S))


async def _contained(work: Coroutine[Any, Any, None], name: str) -> None:
    """A bug met here costs this question, which the next start asks again, and nobody else."""
    try:
        await work
    except (StoreError, LoginRefusedError):
        raise
    except Exception as e:  # noqa: BLE001 - the boundary of one room's question
        log = logger.bind(action="intake.question_failed", question=name, error=type(e).__name__)
        log.opt(exception=e).error("what an event asked the homeserver failed inside")
