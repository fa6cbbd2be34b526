"""A homeserver in memory as the sync loop sees it: rooms that grow, tokens, gaps, outages.

For virtual time; what a homeserver does wrong with bytes is in scripted_homeserver.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.errors import HomeserverUnreachableError, MatrixError
from orchestrator.matrix.sync import RawSync
from orchestrator.model import JsonObject, RoomId, UserId

ME = UserId("@agent:test")
ALICE = "@alice:test"
_LATENCY_S = 0.01


class MemoryHomeserver:
    """Implements `sync.SyncSource`; a token is how many events there were (`s3`)."""

    def __init__(self) -> None:
        self.user_id = ME
        self.events: list[tuple[RoomId, JsonObject]] = []
        self.asked_at: list[float] = []
        """When a /sync was asked for (loop time)."""
        self.fault: Callable[[str], MatrixError | None] = lambda _: None
        """Asked before each request (`sync`, `backfill`): what it fails with."""
        self.answers: list[JsonObject] = []
        """Given before anything else, as they are."""

    def say(self, room: RoomId, text: str) -> JsonObject:
        """A message; the event."""
        event: JsonObject = {
            "type": "m.room.message",
            "event_id": f"${text}",
            "sender": ALICE,
            "origin_server_ts": 1,
            "content": {"msgtype": "m.text", "body": text},
        }
        self.events.append((room, event))
        return event

    async def sync(
        self, since: str | None, *, timeout_ms: int, timeline_limit: int, margin_s: float
    ) -> RawSync:
        """As the protocol says; waits for news as long as it is told."""
        self.asked_at.append(asyncio.get_running_loop().time())
        await self._meet("sync")
        if self.answers:
            return _raw(self.answers.pop(0))
        end = asyncio.get_running_loop().time() + timeout_ms / 1000
        while len(self.events) == _position(since) and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.25)
            await self._meet("sync")
        return _raw(self._answer(_position(since), timeline_limit))

    async def backfill(
        self, room_id: RoomId, *, start: str, end: str | None
    ) -> Sequence[JsonObject]:
        """As the protocol says; a page of a hundred can fail by itself."""
        found = self._of(room_id, _position(end), _position(start))
        for _ in range(0, len(found), 100):
            await self._meet("backfill")
        return found

    async def after_sync(self, body: JsonObject) -> None:
        """No keys here."""

    async def _meet(self, request: str) -> None:
        await asyncio.sleep(_LATENCY_S)
        if (error := self.fault(request)) is not None:
            raise error

    def _answer(self, since: int, limit: int) -> JsonObject:
        join: JsonObject = {}
        for room in dict.fromkeys(room for room, _ in self.events[since:]):
            new = self._of(room, since, len(self.events))
            shown = new[-limit:]
            first = next(i for i, (_, event) in enumerate(self.events) if event is shown[0])
            join[room] = {
                "timeline": {
                    "events": list(shown),
                    "limited": len(shown) < len(new),
                    "prev_batch": f"s{first}",
                }
            }
        return {"next_batch": f"s{len(self.events)}", "rooms": {"join": join}}

    def _of(self, room: RoomId, start: int, end: int) -> list[JsonObject]:
        return [event for where, event in self.events[start:end] if where == room]


def unreachable() -> MatrixError:
    """What an outage is."""
    return HomeserverUnreachableError()


def _position(token: str | None) -> int:
    return int((token or "s0")[1:])


def _raw(body: Any) -> RawSync:
    return RawSync(next_batch=body["next_batch"], body=body)
