"""Signs on the message that asked: seen, and how it ended. A courtesy, of which nothing depends.

Rules:
- a sign spends one of the account's messages, so it leaves when there are some to spare and nothing
  else waits; it is no row of the outbox, where it would hold up what is behind it in its room;
- what can't leave within seconds is left out: the words of the answer say the same;
- a sign's transaction id is made of its message and of itself: sent again, after a crash say, it is
  the same event, or the homeserver refuses the second one, which is as good.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NoReturn

from orchestrator.core.naming import txn_id
from orchestrator.core.texts import mark as texts
from orchestrator.model import EventId, RoomId, TurnState
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.reaction import REACTION_TYPE
from orchestrator.store.api import TurnRow

# Later than this the answer itself is the better sign, or nearly there.
_SEEN_WITHIN_S = 5.0
# An end's sign leaves after the last message; a limit that is met for longer leaves it out.
_ENDED_WITHIN_S = 30.0
# Messages of one turn: what is on a screen. Each costs a message of the account's.
MAX_OF_TURN = 10
# More than these at once are a flood, which gets no signs.
_MAX_WISHES = 200
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    room_id: RoomId
    event_id: EventId
    sign: str
    until: float


class Marks:
    """Invariant: of a message only the latest sign waits."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._wishes: dict[EventId, _Wish] = {}
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Marks waiting={len(self._wishes)}>"

    def note_accepted(self, turn: TurnRow) -> None:
        """The turn is in the queue, or further."""
        if turn.state is not TurnState.ENDED:
            self._wish(turn, texts.ACCEPTED, within_s=_SEEN_WITHIN_S)

    def note_ended(self, turn: TurnRow) -> None:
        """The turn has ended, and no other takes its message up. Without words: it was redacted."""
        if turn.outcome is not None and turn.prompt:
            sign = texts.OUTCOMES.get(turn.outcome, texts.FAILED)
            self._wish(turn, sign, within_s=_ENDED_WITHIN_S)

    async def run(self) -> NoReturn:
        """Send signs until cancelled.

        Raises:
            LoginRefusedError: the account was logged out.
            StoreError: the database failed.
        """
        while True:
            self._wake.clear()
            await self._look()
            try:
                async with asyncio.timeout(_LOOK_EVERY_S if self._wishes else None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _wish(self, turn: TurnRow, sign: str, *, within_s: float) -> None:
        until = self._now() + within_s
        for event_id in turn.asked[-MAX_OF_TURN:]:
            self._wishes.pop(event_id, None)
            if len(self._wishes) < _MAX_WISHES:
                wish = _Wish(room_id=turn.room_id, event_id=event_id, sign=sign, until=until)
                self._wishes[event_id] = wish
        self._wake.set()

    async def _look(self) -> None:
        """One attempt of a room at most that the account refuses."""
        refused: set[RoomId] = set()
        for wish in list(self._wishes.values()):
            if self._now() > wish.until:
                self._forget(wish)
            elif wish.room_id not in refused and self._wishes.get(wish.event_id) is wish:
                if await self._send(wish):
                    self._forget(wish)
                else:
                    refused.add(wish.room_id)

    async def _send(self, wish: _Wish) -> bool:
        return await self._kit.send_aside(
            wish.room_id,
            REACTION_TYPE,
            {
                "m.relates_to": {
                    "rel_type": "m.annotation",
                    "event_id": wish.event_id,
                    "key": wish.sign,
                }
            },
            txn_id(f"{wish.event_id}:mark:{wish.sign}", 0),
        )

    def _forget(self, wish: _Wish) -> None:
        if self._wishes.get(wish.event_id) is wish:
            del self._wishes[wish.event_id]

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
