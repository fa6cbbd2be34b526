"""The CLI's sessions in a room's runner: the live one, resumed, new, or cleared away."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from dataclasses import replace

from loguru import logger

from orchestrator.core.cli_command import build_cli_argv, build_cli_env
from orchestrator.errors import RunnerGoneError
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.model import RoomId, SessionId
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.connection import SIDE_SESSIONS, LinkLost
from orchestrator.rooms.idle import IdleEar
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.room_runner import TROUBLE, RoomRunner
from orchestrator.runners.event import SessionExited
from orchestrator.runners.link import RunnerLink
from orchestrator.store.api import SessionRow, TurnRow

MAIN = "main"
"""The session of the room's main timeline."""
# A killed process is reaped and its last output said within milliseconds; a shim that needs longer
# does not do what it is told.
_CLEAR_S = 5.0


class CliSessions:
    """Invariant: of a room's sessions the stored one alone is given turns."""

    def __init__(self, room_id: RoomId, profile: RoomProfile, kit: Kit, runner: RoomRunner) -> None:
        self._room_id = room_id
        self._profile = profile
        self._kit = kit
        self._runner = runner

    async def ensure(self, link: RunnerLink) -> SessionRow:
        """The room's conversation, with a CLI that runs: the live one, resumed, or new."""
        row = await self._kit.store.turns.session(self._room_id, MAIN)
        live = self._live()
        for other in sorted(live - {row.session_id if row else ""}):
            await link.signal_session(f"end:{uuid.uuid4()}", other, "kill")
        if row is not None and row.session_id in live:
            if row.command == self._command():
                return row
            await self._end_outdated()
        if row is not None and row.resumable:
            row = replace(row, command=self._command())
            await self._kit.store.turns.store_session(row)
            reach(FaultPoint.SESSION_STORED)
            await self._open(link, row, resume=True)
            return row
        return await self.begin(link)

    async def begin(self, link: RunnerLink) -> SessionRow:
        """A new conversation, stored and started."""
        row = SessionRow(
            room_id=self._room_id,
            session=MAIN,
            session_id=SessionId(str(uuid.uuid4())),
            resumable=False,
            command=self._command(),
        )
        await self._kit.store.turns.store_session(row)
        reach(FaultPoint.SESSION_STORED)
        await self._open(link, row, resume=False)
        return row

    async def of_turn(self, turn: TurnRow, link: RunnerLink) -> SessionRow | None:
        """The session that a running turn is in, also when `!new` has dropped it meanwhile."""
        row = await self._kit.store.turns.session(self._room_id, turn.session)
        known = [name for name in link.welcome.sessions if name not in SIDE_SESSIONS]
        if row is None and known:
            newest = known[-1]
            row = SessionRow(
                room_id=self._room_id,
                session=turn.session,
                session_id=SessionId(newest),
                resumable=True,
            )
        return row

    async def clear(self) -> None:
        """End every process of every session, and wait until that was said.

        A runner that does not do it is condemned.
        """
        try:
            async with asyncio.timeout(_CLEAR_S):
                await self._kill_all()
        except (TimeoutError, *TROUBLE) as e:
            logger.bind(
                action="runner.condemn", room=self._room_id, error=type(e).__name__
            ).warning("the runner could not be cleared, and will be replaced")
            self._runner.condemn()

    async def _kill_all(self) -> None:
        connection = self._runner.connection
        if connection is None:
            raise RunnerGoneError
        link, killed = await connection.ready(), set(connection.live_sessions)
        # Programs of ours go, too: by the mark of a session that stays others could stay.
        for session in sorted(connection.known_sessions | connection.side_sessions):
            await link.signal_session(f"clear:{uuid.uuid4()}", session, "kill")
        ear = IdleEar(self._room_id, self._kit)
        while killed:
            item = await connection.receive(None)
            if isinstance(item, LinkLost):
                raise item.error
            if item is not None:
                await ear.hear(item, link, is_last=connection.is_empty)
            if isinstance(item, SessionExited):
                killed.discard(item.session)

    async def _end_outdated(self) -> None:
        """End a CLI that was started with other settings: permissions are among them."""
        logger.bind(action="session.outdated", room=self._room_id).info(
            "the room's settings have changed: its CLI is started anew"
        )
        await self.clear()
        if self._runner.is_condemned:
            raise RunnerGoneError

    def _live(self) -> set[str]:
        connection = self._runner.connection
        return set(connection.live_sessions) if connection else set()

    def _argv(self, session_id: SessionId, *, resume: bool) -> list[str]:
        agent = self._kit.config.agents.get(self._profile.agent)
        return build_cli_argv(
            session_id=session_id,
            resume=resume,
            model=self._profile.model or (agent.model if agent else None),
            system_prompt=self._profile.system_prompt or (agent.system_prompt if agent else None),
            effort=self._profile.effort,
            permissions=self._profile.permissions,
            project=self._profile.project.policy(),
            web_fetch=bool(self._profile.egress.allow) or self._profile.egress.ask,
            web_search="web_search" in self._profile.api.server_tools,
            sends_files=self._profile.files.sent_per_turn > 0,
        )

    def _command(self) -> str:
        """A digest of the command line as the settings are now, whatever the session."""
        quarters = self._runner.quarters
        variables = [f"{n}={v}" for n, v in quarters.environment] if quarters else []
        text = "\0".join([*self._argv(SessionId(""), resume=False), *variables])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    async def _open(self, link: RunnerLink, session: SessionRow, *, resume: bool) -> None:
        argv = self._argv(session.session_id, resume=resume)
        quarters = self._runner.quarters
        if quarters is None:
            raise RunnerGoneError
        await link.open_session(
            f"open:{uuid.uuid4()}",
            session.session_id,
            argv=argv,
            env={
                **dict(quarters.environment),
                **build_cli_env(
                    quarters.placeholder,
                    is_subscription=quarters.is_subscription,
                    claude_md=self._profile.project.claude_md,
                    is_home_full=await self._kit.housing.is_full(quarters.spec.home),
                ),
            },
            cwd="/workspace",
        )
        reach(FaultPoint.SESSION_OPENED)
