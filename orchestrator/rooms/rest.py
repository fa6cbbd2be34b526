"""A room's runner at rest: its CLI ends after a while without a turn, then its container.

Both come earlier where another room needs the place, or the host its memory.
Nothing of it is lost: the session is resumed, the workspace and the home are on the host. What the
agent left running goes with the container, and what it put into /tmp.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from loguru import logger

from orchestrator import meters
from orchestrator.core.rest import IdleRunner, Rest, due_rest, next_rest_s
from orchestrator.model import RoomId
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.cli_session import end_clis
from orchestrator.rooms.connection import Connection
from orchestrator.rooms.places import RunnerPlaces
from orchestrator.rooms.room_runner import TROUBLE, RoomRunner

# After something failed at it: an engine that is away, a runner that is being looked into.
_AGAIN_S = 60.0
# A wish that memory be given back is of the moment: by then it is asked for again, or not needed.
_WISH_S = 5.0

_Why = Literal["idle", "place", "memory"]


class RoomRest:
    """Invariant: a runner is put to rest only while its owner holds `errands.idle`."""

    def __init__(self, room_id: RoomId, places: RunnerPlaces) -> None:
        self._room_id = room_id
        self._places = places
        self._since = asyncio.get_running_loop().time()
        self._connection: Connection | None = None
        self._is_down = False
        self._wish = Rest.NONE
        self._wish_until = 0.0
        self._is_at_it = False
        self._again_at = 0.0

    def __repr__(self) -> str:
        return f"<RoomRest since={self._since:.0f} down={self._is_down}>"

    def note_used(self) -> None:
        """A turn has ended; its runner is idle from now on."""
        self._since, self._is_down = asyncio.get_running_loop().time(), False
        self._wish = Rest.NONE

    def wish(self, rest: Rest) -> None:
        """The host's memory is short: the next `look` does this, if it comes soon."""
        self._wish, self._wish_until = rest, asyncio.get_running_loop().time() + _WISH_S

    @property
    def is_wished(self) -> bool:
        """Whether a wish is still open, or something of the kind is being done."""
        return self._is_at_it or self._open_wish(asyncio.get_running_loop().time()) is not Rest.NONE

    def describe(self, runner: RoomRunner) -> IdleRunner | None:
        """The idle runner, where it can be put to rest now."""
        now = asyncio.get_running_loop().time()
        if not runner.is_up or now < self._again_at:
            return None
        connection = runner.connection
        has_cli = connection is not None and bool(
            connection.live_sessions | connection.live_side_sessions
        )
        return IdleRunner(room_id=self._room_id, idle_s=now - self._since, has_cli=has_cli)

    async def look(self, runner: RoomRunner, profile: RoomProfile) -> float | None:
        """Do what is due. Returns the loop time at which more will be; None: nothing will.

        Only the store's errors come out. May be cancelled anywhere, and done again.
        """
        now = asyncio.get_running_loop().time()
        if runner.connection is not None and runner.connection is not self._connection:
            # Started since: by a turn, or for somebody who wanted a file.
            self._connection = runner.connection
            if self._is_down:
                self._is_down, self._since = False, now
        idle_s = now - self._since
        after = {"stop_after_s": profile.idle_stop_s, "hibernate_after_s": profile.hibernate_s}
        due, why = self._due(now, due_rest(idle_s, **after))
        self._is_at_it = True
        try:
            if due is Rest.HIBERNATE and not self._is_down:
                was_up = await runner.hibernate()
                self._is_down, self._connection = True, None
                self._places.leave(self._room_id)
                if was_up:
                    self._log(due, why, idle_s)
            elif due is Rest.STOP_CLI and runner.connection is not None:
                has_ended = await end_clis(runner.connection)
                if has_ended:
                    self._log(due, why, idle_s)
        except TROUBLE as e:
            logger.bind(action="runner.rest", room=self._room_id, error=type(e).__name__).warning(
                "an idle runner could not be put to rest yet"
            )
            self._again_at = now + _AGAIN_S
            return self._again_at
        finally:
            self._is_at_it, self._wish = False, Rest.NONE
        if self._is_down:
            return None
        left_s = next_rest_s(idle_s, **after)
        return None if left_s is None else now + left_s

    def _due(self, now: float, by_time: Rest) -> tuple[Rest, _Why]:
        """What is to be done, and for whom: the most of what is asked for."""
        wish = self._open_wish(now)
        if by_time is Rest.HIBERNATE:
            return by_time, "idle"
        if self._places.is_asked(self._room_id):
            return Rest.HIBERNATE, "place"
        if wish is Rest.HIBERNATE or by_time is Rest.NONE:
            return wish, "memory"
        return by_time, "idle"

    def _open_wish(self, now: float) -> Rest:
        return self._wish if now < self._wish_until else Rest.NONE

    def _log(self, due: Rest, why: _Why, idle_s: float) -> None:
        meters.RUNNER_RESTS.labels(due, why).inc()
        logger.bind(
            action="runner.rest", room=self._room_id, rest=due, why=why, idle_s=round(idle_s)
        ).info("an idle runner was put to rest")
