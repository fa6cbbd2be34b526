"""Messages that go into a running turn: offered to its CLI, and followed until a result names them.

Rule: one counts as the turn's from the moment that it may have left this process (`OFFERED`, stored
before it does). The runner applies its id once, however often it is sent.
"""

from __future__ import annotations

from collections.abc import Collection

from loguru import logger

from orchestrator.core.cli_input import build_user_message, message_uuid
from orchestrator.core.steer import SteerState
from orchestrator.core.turn_view import Show, TurnView
from orchestrator.model import SessionId, TurnId
from orchestrator.rooms.kit import Kit
from orchestrator.runners.link import RunnerLink
from orchestrator.store.steer_table import Steer


class TurnSteering:
    """Of one turn. Invariant: `_open` has what was sent and neither applied nor refused."""

    def __init__(self, kit: Kit, turn_id: TurnId, *, is_new: bool) -> None:
        """`is_new`: nobody can have sent anything into the turn yet."""
        self._kit = kit
        self._turn_id = turn_id
        self._open: dict[str, Steer] = {}
        self._refused: set[str] = set()
        self.is_due = not is_new
        """Whether the store may have messages that this has not seen."""

    def __repr__(self) -> str:
        return f"<TurnSteering {sorted(self._open)} due={self.is_due}>"

    async def look(
        self, view: TurnView, link: RunnerLink, session: SessionId, *, sends: bool
    ) -> None:
        """Expect what went into the turn before, and send what is to; only once it is applied.

        With `sends` off, what has not left stays, and waits as a turn of its own in the end.
        """
        self.is_due = False
        for steer in await self._kit.store.steers.of_turn(self._turn_id):
            is_new, command_id = steer.state is SteerState.OPEN, _command_id(steer, session)
            if command_id in self._open or command_id in self._refused or (is_new and not sends):
                continue
            if is_new and not await self._kit.store.steers.move(steer, SteerState.OFFERED):
                self.is_due = True  # something of it may be left
                continue
            view.expect(_uuid(steer), SteerState.OFFERED if is_new else steer.state)
            if is_new or steer.state is SteerState.OFFERED:
                self._open[command_id] = steer
                await link.send_line(command_id, session, _line(steer))

    async def send_again(self, link: RunnerLink, session: SessionId) -> None:
        """After a new attach."""
        for command_id, steer in self._open.items():
            await link.send_line(command_id, session, _line(steer))

    async def start_over(self) -> None:
        """The session is lost, and all that was sent with it: it goes into the next one.

        Stored before there is another session, whose turn would wait for an answer to it.
        """
        for steer in await self._kit.store.steers.of_turn(self._turn_id):
            if steer.state in (SteerState.OFFERED, SteerState.GIVEN):
                await self._kit.store.steers.move(steer, SteerState.OPEN)
        self._open.clear()
        self._refused.clear()
        self.is_due = True

    async def settle(self, command_id: str, view: TurnView, *, is_taken: bool) -> list[Show]:
        """The runner has it, or never takes it; what follows from that for the turn."""
        steer = self._open.pop(command_id, None)
        if steer is None:
            return []
        state = SteerState.GIVEN if is_taken else SteerState.OPEN
        await self._kit.store.steers.move(steer, state)
        logger.bind(action="turn.steer", turn=self._turn_id, taken=is_taken).info(
            "a message went into the running turn" if is_taken else "the turn was over before it"
        )
        if is_taken:
            view.expect(_uuid(steer), SteerState.GIVEN)
            return []
        self._refused.add(command_id)
        return view.forget(_uuid(steer))

    async def note_answered(self, uuids: Collection[str]) -> None:
        """A result that is not the turn's last named these."""
        for steer in await self._kit.store.steers.of_turn(self._turn_id):
            if _uuid(steer) in uuids:
                await self._kit.store.steers.move(steer, SteerState.ANSWERED)


def _command_id(steer: Steer, session: SessionId) -> str:
    """The runner applies an id once: what is lost with a session goes into the next by another."""
    return f"{steer.turn_id}:steer:{steer.position}:{session}"


def _uuid(steer: Steer) -> str:
    return message_uuid(steer.message_id)


def _line(steer: Steer) -> str:
    return build_user_message(steer.pieces.prompt, message_uuid=_uuid(steer))
