"""What `!status` and the control API say of a room."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from orchestrator.core import texts
from orchestrator.core.quoting import quote
from orchestrator.core.thread import MAIN
from orchestrator.errors import AiAgentChatError
from orchestrator.model import TurnState
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.worker import RoomWorker
from orchestrator.store.api import TurnRow

# The messages of all rooms wait while a command is answered. A sample takes some 20 ms.
_ENGINE_S = 2.0


async def render_status(worker: RoomWorker, kit: Kit) -> str:
    """The room's status as Markdown; an engine that does not answer is a line of it."""
    turns = await kit.store.turns.open_turns(worker.room_id)
    session = await kit.store.sessions.get(worker.room_id, MAIN)
    profile = worker.profile
    limits = profile.limits
    waiting = sum(turn.state is TurnState.QUEUED for turn in turns)
    unsent = await kit.store.outbox.waiting()
    running = [turn for turn in turns if turn.state is not TurnState.QUEUED]
    lines = [
        f"- Runner: {await _runner_line(worker, kit)}",
        f"- Session: {_session_word(worker, resumable=bool(session and session.resumable))}",
        f"- Turn: {_turn_line(running, kit)}; {waiting} waiting "
        f"(at most {kit.config.gateway.max_queued_turns}){_until(worker.waits_until)}",
        f"- Limits: {texts.size(limits.memory)} of memory, {limits.cpus:g} CPUs, "
        f"{limits.pids} processes, {texts.size(limits.tmp)} in /tmp; "
        f"{profile.timeout_s:g} s without progress, {profile.ceiling_s:g} s in all",
        f"- Disk: {await _disk_line(worker, kit)}",
        f"- Permissions: {profile.permissions}; network: {_network(profile)}",
        f"- Model: {quote(profile.model or 'the default')}"
        + (f", effort {profile.effort}" if profile.effort else ""),
        f"- Spending: {_spending(worker, kit)}",
        f"- Account: {texts.account_limit(kit.send_rate_per_s(), unsent)}",
        f"- Version: {kit.version}",
    ]
    return "\n".join(lines)


async def _runner_line(worker: RoomWorker, kit: Kit) -> str:
    try:
        async with asyncio.timeout(_ENGINE_S):
            info = await worker.inspect()
            if info is None:
                return "none yet; the next message makes it"
            if info.state != "running":
                return f"{info.state}; the next message makes it anew"
            stats = await kit.backend.stats(info.name)
    except TimeoutError:
        return "unknown (the engine does not answer)"
    except AiAgentChatError as e:
        return f"unknown ({type(e).__name__})"
    return (
        f"running, generation {info.generation}, {texts.size(stats.memory_bytes)} of memory, "
        f"{stats.pids} processes"
    )


def _spending(worker: RoomWorker, kit: Kit) -> str:
    spent = kit.spent_micro_usd(worker.room.slug)
    return texts.spent_today(spent, worker.profile.budget.usd_per_day)


async def _disk_line(worker: RoomWorker, kit: Kit) -> str:
    try:
        async with asyncio.timeout(_ENGINE_S):
            usage = await kit.housing.disk_usage(worker.room)
            if usage is None:
                known = await kit.housing.known_disks([worker.room])
                usage = known.get(worker.room.slug)
            if usage is not None:
                return texts.disk(usage)
    except (TimeoutError, OSError, AiAgentChatError) as e:
        return f"unknown ({type(e).__name__})"
    return f"at most {texts.size(worker.profile.limits.disk)}"


def _session_word(worker: RoomWorker, *, resumable: bool) -> str:
    if worker.has_live_session:
        return "live"
    return "asleep; the next message resumes it" if resumable else "none yet"


def _network(profile: RoomProfile) -> str:
    can_be_more = profile.egress.allow or profile.egress.ask
    return "the API, and what `!egress` shows" if can_be_more else "the API only"


def _until(waits_until: float | None) -> str:
    return f", until {texts.utc_time(waits_until)} for a usage limit" if waits_until else ""


def _turn_line(running: Sequence[TurnRow], kit: Kit) -> str:
    started = [turn.started_at for turn in running if turn.started_at is not None]
    if not started:
        return "none running"
    longest = f"{max(0.0, kit.wall_clock() - min(started)):.0f} s"
    if len(started) == 1:
        return f"one running for {longest}"
    return f"{len(started)} running, the longest for {longest}"
