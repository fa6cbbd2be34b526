"""The CLI's sessions in a room's runner: the live one, resumed, new, or cleared away."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

from loguru import logger

from orchestrator.core.cli_command import build_cli_argv, build_cli_env
from orchestrator.core.thread import MAIN
from orchestrator.errors import AiAgentChatError, RunnerGoneError
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.model import RoomId, SessionId
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.connection import SIDE_SESSIONS, Connection, Item, LinkLost
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.room_runner import TROUBLE, RoomRunner
from orchestrator.runners.link import RunnerLink
from orchestrator.store.api import SessionRow, TurnRow

# A killed process is reaped and its last output said within milliseconds; a shim that needs longer
# does not do what it is told.
_CLEAR_S = 5.0
# A CLI whose input has ended is gone within some 0.1 s; a longer one is killed.
_LEAVE_S = 5.0


class CliSessions:
    """Of one conversation. Invariant: of its sessions the stored one alone is given turns.

    In a room those CLIs run that turns are in, and the one of the last turn.
    """

    def __init__(
        self,
        room_id: RoomId,
        conversation: str,
        profile: RoomProfile,
        kit: Kit,
        runner: RoomRunner,
    ) -> None:
        self._room_id = room_id
        self._conversation = conversation
        self._profile = profile
        self._kit = kit
        self._runner = runner

    async def ensure(self, link: RunnerLink) -> SessionRow:
        """The conversation, with a CLI that runs: the live one, resumed, new, or a copy."""
        stored = await self._kit.store.sessions.of_room(self._room_id)
        row = stored.get(self._conversation)
        live = self._live()
        others = live - {row.session_id if row else ""}
        others -= self._claimed()
        kept = others & {other.session_id for other in stored.values()}
        for other in sorted(others - kept):
            await link.signal_session(f"end:{uuid.uuid4()}", other, "kill")
        if kept:
            await self._leave(kept)
        if row is not None and row.session_id in live:
            if row.command == self._command():
                return row
            await self._end_outdated(row.session_id)
        if row is not None and row.resumable:
            row = replace(row, command=self._command())
            await self._kit.store.sessions.put(row)
            reach(FaultPoint.SESSION_STORED)
            await self._open(link, row, resume=True)
            return row
        main = stored.get(MAIN)
        if row is not None:
            return await self.begin(link, forks=row.forks)
        is_new_thread = self._conversation != MAIN and main is not None and main.resumable
        return await self.begin(link, forks=main.session_id if main and is_new_thread else None)

    async def begin(self, link: RunnerLink, *, forks: SessionId | None = None) -> SessionRow:
        """A new session, stored and started; with `forks` as a copy of that one."""
        row = SessionRow(
            room_id=self._room_id,
            session=self._conversation,
            session_id=SessionId(str(uuid.uuid4())),
            resumable=False,
            forks=forks,
            command=self._command(),
        )
        await self._kit.store.sessions.put(row)
        reach(FaultPoint.SESSION_STORED)
        await self._open(link, row, resume=False)
        return row

    async def _leave(self, others: Collection[str]) -> None:
        if self._runner.connection is None:
            raise RunnerGoneError
        await _leave(self._runner.connection, others)

    async def of_turn(self, turn: TurnRow, link: RunnerLink) -> SessionRow | None:
        """The session that a running turn is in, whatever a command has put in its place since."""
        row = await self._kit.store.sessions.get(self._room_id, turn.session)
        known = [name for name in link.welcome.sessions if name not in SIDE_SESSIONS]
        # Offered by an earlier version: it had one CLI, the one that was started last.
        session_id = turn.session_id or SessionId(known[-1] if known else "")
        if not session_id or (row is not None and row.session_id == session_id):
            return row
        return SessionRow(
            room_id=self._room_id, session=turn.session, session_id=session_id, resumable=True
        )

    async def clear(self, own: str) -> None:
        """End every process of every session, and wait until that was said.

        Where other turns run, of the `own` session alone. A runner that does not do it is
        condemned.
        """
        try:
            async with asyncio.timeout(_CLEAR_S):
                await self._kill(own)
        except (TimeoutError, *TROUBLE) as e:
            logger.bind(
                action="runner.condemn", room=self._room_id, error=type(e).__name__
            ).warning("the runner could not be cleared, and will be replaced")
            self._runner.condemn()

    async def _kill(self, own: str) -> None:
        connection = self._runner.connection
        if connection is None:
            raise RunnerGoneError
        link = await connection.ready()
        # Programs of ours go, too: by the mark of a session that stays others could stay.
        everything = connection.known_sessions | connection.side_sessions
        is_shared = bool(self._claimed() - {own})
        targets = everything & {own} if is_shared else everything
        await _wait_for_end(
            connection,
            targets,
            lambda name: link.signal_session(f"clear:{uuid.uuid4()}", name, "kill"),
        )

    async def _end_outdated(self, session: str) -> None:
        """End a CLI that was started with other settings: permissions are among them."""
        logger.bind(action="session.outdated", room=self._room_id).info(
            "the room's settings have changed: its CLI is started anew"
        )
        await self.clear(session)
        if self._runner.is_condemned:
            raise RunnerGoneError

    def _claimed(self) -> frozenset[str]:
        """The sessions in which turns run."""
        return frozenset(self._runner.followed.values())

    def _live(self) -> set[str]:
        connection = self._runner.connection
        return set(connection.live_sessions) if connection else set()

    def _argv(
        self, session_id: SessionId, *, resume: bool, forks: SessionId | None = None
    ) -> list[str]:
        agent = self._kit.config.agents.get(self._profile.agent)
        return build_cli_argv(
            session_id=session_id,
            resume=resume,
            forks=forks,
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
        forks = None if resume else session.forks
        argv = self._argv(session.session_id, resume=resume, forks=forks)
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


async def end_clis(connection: Connection) -> bool:
    """Let every program of ours in an idle runner end; what they started runs on.

    One that is not gone within 5 s is killed, with what it started. Returns whether one ran.

    Raises:
        RunnerError: the connection is lost.
    """
    running = connection.live_sessions | connection.live_side_sessions
    if running:
        await _leave(connection, running)
    return bool(running)


async def _leave(connection: Connection, sessions: Collection[str]) -> None:
    """End their input; programs that they started run on, unless one has to be killed."""
    link = await connection.ready()
    try:
        async with asyncio.timeout(_LEAVE_S):
            await _wait_for_end(
                connection,
                sessions,
                lambda name: link.close_session(f"leave:{uuid.uuid4()}", name),
            )
    except TimeoutError:
        for one in sorted(_live_of(connection, sessions)):
            await link.signal_session(f"end:{uuid.uuid4()}", one, "kill")


async def _wait_for_end(
    connection: Connection,
    sessions: Collection[str],
    tell: Callable[[str], Awaitable[None]],
) -> None:
    """Tell each to end, and wait until the live ones have; the worker takes in what they say.

    Raises:
        RunnerError: the connection is lost.
    """
    ended = asyncio.Event()
    lost: list[AiAgentChatError] = []

    def hear(item: Item) -> None:
        if isinstance(item, LinkLost):
            lost.append(item.error)
        if lost or not _live_of(connection, sessions):
            ended.set()

    connection.listeners.add(hear)
    try:
        is_live = bool(_live_of(connection, sessions))
        for name in sorted(sessions):
            await tell(name)
        if is_live and not connection.lost:
            await ended.wait()
    finally:
        connection.listeners.discard(hear)
    if lost:
        raise lost[0]


def _live_of(connection: Connection, sessions: Collection[str]) -> set[str]:
    return (connection.live_sessions | connection.live_side_sessions).intersection(sessions)
