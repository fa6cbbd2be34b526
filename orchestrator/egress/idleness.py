"""The end of a connection on which nothing moves: a deadline that every moved byte puts off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from orchestrator.egress.proxy import RoomProxy

T = TypeVar("T")


class Idleness:
    """A context that ends with TimeoutError when nothing has moved for the policy's `idle_s`.

    Waiting for the room's own pace is not idleness: the deadline stands still meanwhile.
    """

    def __init__(self, proxy: RoomProxy) -> None:
        self._proxy = proxy
        self._limit = asyncio.timeout(None)
        self._held_back = 0

    def __repr__(self) -> str:
        return f"Idleness({self._limit}, held_back={self._held_back})"

    async def __aenter__(self) -> Idleness:
        await self._limit.__aenter__()
        self.touch()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._limit.__aexit__(kind, error, trace)

    async def move(self, size: int) -> None:
        """Book bytes that are about to be moved, and wait as `RoomProxy.move` does; see there."""
        await self._hold(self._proxy.move(size))

    async def work(self, call: Callable[[], T]) -> T:
        """Call it when it is its turn, and wait as `RoomProxy.work` does; see there."""
        return await self._hold(self._proxy.work(call))

    async def _hold(self, waiting: Coroutine[Any, Any, T]) -> T:
        self._held_back += 1
        self.touch()
        try:
            return await waiting
        finally:
            self._held_back -= 1
            self.touch()

    def touch(self) -> None:
        """Something has moved: the time begins anew."""
        if self._limit.expired():
            return
        now = asyncio.get_running_loop().time()
        self._limit.reschedule(None if self._held_back else now + self._proxy.policy.idle_s)
