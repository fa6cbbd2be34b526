"""How many runners run at once: a place for each, asked for in turn, given up by who is idle.

Rule: a room whose runner works is never asked for its place; of the idle ones the longest idle is,
and before any of them what was made ahead for rooms to come (a spare).
A room that only waits keeps its turn in the queue, where it can be cancelled and survives anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchestrator.model import RoomId, RoomSlug

Call = Callable[[], None]


class RunnerPlaces:
    """Invariant: who waits was told to wait, and is woken by a place that becomes free."""

    def __init__(self, limit: int | None) -> None:
        """`limit`: so many at once; None: as many as there are rooms."""
        self._limit = limit
        # In the order in which they became idle; None: it works.
        self._held: dict[RoomId, Call | None] = {}
        self._waiting: dict[RoomId, list[Call]] = {}
        self._asked: dict[RoomId, None] = {}
        self._spares: dict[RoomSlug, Call] = {}
        self._asked_spares: dict[RoomSlug, None] = {}

    def __repr__(self) -> str:
        return (
            f"<RunnerPlaces {len(self._held)} of {self._limit} waiting={len(self._waiting)} "
            f"spares={len(self._spares)}>"
        )

    @property
    def limit(self) -> int | None:
        """So many at once; None: no limit."""
        return self._limit

    @property
    def waiting(self) -> int:
        """How many rooms wait for one."""
        return len(self._waiting)

    def ask(self, room_id: RoomId, wake: Call) -> bool:
        """Whether the room may have a runner now; it works until `spare` or `leave`.

        If not, `wake` is called once it is worth to ask again. Idempotent.
        """
        if room_id in self._held or self._is_next(room_id):
            self._waiting.pop(room_id, None)
            self._asked.pop(room_id, None)
            self._held[room_id] = None
            self._ask_idle()
            return True
        wakes = self._waiting.setdefault(room_id, [])
        if wake not in wakes:
            wakes.append(wake)
        self._ask_idle()
        return False

    def hold(self, room_id: RoomId) -> None:
        """The room's runner works already: it has a place, whatever the limit is by now."""
        self._held[room_id] = None
        self._waiting.pop(room_id, None)

    async def wait(self, room_id: RoomId) -> None:
        """Until the room may have a runner. Cancel-safe."""
        is_free = asyncio.Event()
        try:
            while not self.ask(room_id, is_free.set):
                is_free.clear()
                await is_free.wait()
        finally:
            self.withdraw(room_id, is_free.set)

    def withdraw(self, room_id: RoomId, wake: Call) -> None:
        """Who asked with this `wake` needs none any more. Idempotent."""
        wakes = self._waiting.get(room_id, [])
        if wake in wakes:
            wakes.remove(wake)
            if not wakes:
                del self._waiting[room_id]
                self._take_back_requests()
                self._wake_next()

    def spare(self, room_id: RoomId, give_up: Call) -> None:
        """The room's runner runs, and nothing works in it. Idempotent.

        One that runs since before has a place by that, above the limit, too. `give_up` is called
        once it is to be given up, because another room waits or too many run; that may be now.
        """
        if self._held.get(room_id) is None:
            self._held.pop(room_id, None)  # to the end of the order
            self._held[room_id] = give_up
            self._ask_idle()

    def is_asked(self, room_id: RoomId) -> bool:
        """Whether the room is to give its place up, still."""
        return room_id in self._asked

    def leave(self, room_id: RoomId) -> None:
        """The room's runner does not run. Idempotent."""
        self._asked.pop(room_id, None)
        if room_id in self._held:
            del self._held[room_id]
            self._wake_next()

    def forget(self, room_id: RoomId) -> None:
        """Nobody asks for the room any more. Idempotent."""
        if self._waiting.pop(room_id, None) is not None:
            self._take_back_requests()
        self.leave(room_id)
        self._wake_next()

    # Runners that are made ahead, for no room...

    @property
    def has_spare_place(self) -> bool:
        """Whether there is a place that no room has or waits for."""
        return self._limit is None or (self._free() > 0 and not self._waiting)

    def take_spare(self, slug: RoomSlug, give_up: Call) -> bool:
        """Whether a runner may be made ahead; `give_up` is called once a room needs its place."""
        if slug not in self._spares and not self.has_spare_place:
            return False
        self._spares[slug] = give_up
        return True

    def hold_spare(self, slug: RoomSlug, give_up: Call) -> None:
        """One runs already: it has a place, above the limit, too; `give_up` may be called now."""
        self._spares[slug] = give_up
        self._ask_idle()

    def leave_spare(self, slug: RoomSlug) -> None:
        """It does not run, or is a room's now. Idempotent."""
        self._asked_spares.pop(slug, None)
        if slug in self._spares:
            del self._spares[slug]
            self._wake_next()

    def _free(self) -> int:
        return (self._limit or 0) - len(self._held) - len(self._spares)

    def _is_next(self, room_id: RoomId) -> bool:
        if self._limit is None:
            return True
        waiting = list(self._waiting)
        ahead = waiting.index(room_id) if room_id in self._waiting else len(waiting)
        return ahead < self._free()

    def _wake_next(self) -> None:
        for wakes in list(self._waiting.values())[: max(self._free(), 0)]:
            for wake in wakes:
                wake()

    def _needed(self) -> int:
        """How many idle rooms have to give their place up."""
        return 0 if self._limit is None else max(0, len(self._waiting) - self._free())

    def _take_back_requests(self) -> None:
        while len(self._asked) + len(self._asked_spares) > self._needed() and self._asked:
            self._asked.popitem()

    def _ask_idle(self) -> None:
        """As many as are needed, beyond those that were asked already; spares first."""
        needed = self._needed() - len(self._asked) - len(self._asked_spares)
        for slug, give_up_spare in list(self._spares.items()):
            if needed > 0 and slug not in self._asked_spares:
                self._asked_spares[slug] = None
                needed -= 1
                give_up_spare()
        for room_id, give_up in list(self._held.items()):
            if needed <= 0:
                return
            if give_up is not None and room_id not in self._asked:
                self._asked[room_id] = None
                needed -= 1
                give_up()
