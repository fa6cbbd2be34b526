"""The daemon, from top to bottom: what is opened in which order, what runs, how it ends.

    lock ► store ► (embedded homeserver, offline model) ► engine, checked ► image ► interceptor
         ► spending ► egress ► disks ► Matrix ► outbox sender ► rooms ► grants, questions
         ► inbound windows ► intake ► sync ► control socket, metrics, status page

Rules: what is opened later may use what was opened earlier, never the other way round, and closing
is the reverse; so a room's last words still find a sender. Every task is named in one of two lists
below, and any of them ending ends the daemon; so does one that an opened part runs in a group of
its own (the writer of spending, the doors). SIGTERM leaves runners and their turns running (the
next start adopts them); SIGINT, a person's Ctrl-C, stops them as well. All of it has one deadline,
and a second signal skips the waiting (`orchestrator.ending`).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from loguru import logger

from orchestrator import __version__
from orchestrator.announcement import Announcement, announce
from orchestrator.audit_log import open_audit_log
from orchestrator.config import Config, Secrets, StatusTokens
from orchestrator.config_watch import ConfigWatch, WatchedFile, keep_applied, watch_config
from orchestrator.core.pacing import BudgetState, SendBudget
from orchestrator.credential_choice import agent_secrets, choose_credential
from orchestrator.disks import open_disks
from orchestrator.egress.gateway import EgressGateway, ProxyMeans, open_egress
from orchestrator.embedded.homeserver import (
    EmbeddedHomeserver,
    open_embedded_homeserver,
)
from orchestrator.embedded.offline_model import open_offline_model
from orchestrator.ending import Ending, stop_runners
from orchestrator.engine_ready import prepare_engine
from orchestrator.errors import AiAgentChatError, RequestRefusedError
from orchestrator.gateway.budget_keeper import BudgetKeeper
from orchestrator.gateway.clock import SteadyClock
from orchestrator.gateway.courtesy import Courtesies
from orchestrator.gateway.inbound import InboundGate
from orchestrator.gateway.outbound import OutboxSender
from orchestrator.host_memory import HostMemory
from orchestrator.housing import HostHousing, open_interceptor
from orchestrator.log import register_secret
from orchestrator.matrix.client import MatrixClient, open_matrix
from orchestrator.matrix.sent import find_sent
from orchestrator.matrix.sync import SyncStatus, run_sync
from orchestrator.model import EventId
from orchestrator.overview import Overview
from orchestrator.room_secret import RoomSecrets
from orchestrator.rooms.decider import build_deciders
from orchestrator.rooms.engine_events import watch_engine
from orchestrator.rooms.hearing import Heard
from orchestrator.rooms.intake import Intake
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.manager import RoomManager
from orchestrator.rooms.places import RunnerPlaces
from orchestrator.rooms.pressure_watch import PressureWatch
from orchestrator.rooms.starts import RunnerStarts
from orchestrator.runners.docker_backend import DockerBackend, open_docker_backend
from orchestrator.runners.image import Base
from orchestrator.signals import Stopped, raise_at_signal, until_signal, watch_signals
from orchestrator.store.api import OutboxRow
from orchestrator.store.copy_files import CopyFiles
from orchestrator.store.database import hold_state_dir
from orchestrator.store.egress_day_table import EgressDayTable
from orchestrator.store.spending import open_spending
from orchestrator.store.store import Store, open_store
from orchestrator.store.upkeep import Upkeep
from orchestrator.views import Views

# For the outbox to drain, within the one deadline of `ending.END_S`.
_DRAIN_S = 4.0

# One short transaction; what it would keep can be learnt again.
_KEEP_S = 1.0
_HOUR_S = 3600.0
_RELOADS = "Reading the configuration again; runners and their turns go on…"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `orchestrator up` was asked for. `config` is None on the embedded homeserver."""

    state_dir: Path
    secrets: Secrets
    room_secrets: RoomSecrets
    build_config: Callable[[EmbeddedHomeserver | None], Config]
    """As it was read when the plan was made, whatever the file says now."""
    embedded_port: int | None
    """Set: run the embedded homeserver on this port of 127.0.0.1."""
    base: Base
    """Where the runner image's base comes from."""
    file: WatchedFile | None = None
    """Set: read again at SIGHUP and when it changes."""
    status_tokens: StatusTokens | None = None
    """What opens the status page, where it is switched on."""


async def run_daemon(plan: Plan, say: Say, on_opened: Callable[[], None]) -> signal.Signals:
    """Run until a signal or a failure; everything that was started is finished at the end.

    Returns the signal. SIGHUP: it ended so that it can start with the configuration as it is now.
    `on_opened` is called once everything is open: the configuration is one that it starts with.

    Raises:
        AiAgentChatError: why it could not start, or what it ended by; as often as not in groups.
    """
    # Whatever a library makes below the state directory (SQLite's files, say) is ours alone, too.
    os.umask(0o077)
    stop = watch_signals()
    with (
        hold_state_dir(plan.state_dir),
        open_audit_log(plan.state_dir),
        Ending(stop) as ending,
    ):
        logger.bind(action="daemon.begin", version=__version__, audit=True).info("it begins")
        async with AsyncExitStack() as opened:
            try:
                # An image takes minutes to build: a signal ends the opening, too.
                system = await until_signal(stop, _open(plan, say, opened))
                if system is None:
                    return signal.SIGTERM
                on_opened()
                await asyncio.to_thread(keep_applied, system.state_dir, system.kit.config)
                watch = watch_config(plan.file, system.embedded, system.kit.config, stop)
                by = await _serve(system, watch, stop, ending, say)
                if by is signal.SIGINT:
                    await until_signal(stop, stop_runners(system.kit.backend, say))
                return by
            finally:
                ending.close()
    return signal.SIGTERM


# Opening...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """What holds resources, and what was read with them."""

    config: Config
    state_dir: Path
    store: Store
    clock: SteadyClock
    backend: DockerBackend
    housing: HostHousing
    egress: EgressGateway
    matrix: MatrixClient
    learnt: BudgetState | None
    txns_since: float
    embedded: EmbeddedHomeserver | None
    offline: bool
    status_tokens: StatusTokens | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _System:
    """All of it, wired."""

    kit: Kit
    embedded: EmbeddedHomeserver | None
    matrix: MatrixClient
    sender: OutboxSender
    keeper: BudgetKeeper
    courtesies: Courtesies
    gate: InboundGate[Heard]
    manager: RoomManager
    intake: Intake
    overview: Overview
    views: Views
    store: Store
    upkeep: Upkeep
    state_dir: Path
    offline: bool


async def _open(plan: Plan, say: Say, opened: AsyncExitStack) -> _System:
    """Everything, in order."""
    enter = opened.enter_async_context
    store, clock = await enter(open_store(plan.state_dir)), SteadyClock()
    await store.begin_life(now=clock())
    embedded = None
    if plan.embedded_port is not None:
        own = open_embedded_homeserver(plan.state_dir, port=plan.embedded_port, say=say)
        embedded = await enter(own)
        register_secret(embedded.agent_password)
        register_secret(embedded.user_password)
    config = plan.build_config(embedded)
    credential, offline = choose_credential(plan.secrets, embedded=embedded is not None)
    upstream = await enter(open_offline_model()) if offline else config.anthropic.upstream
    installation = await store.rooms.installation()
    backend = await enter(open_docker_backend(installation))
    lodging = await prepare_engine(
        backend.engine, config, installation, state_dir=plan.state_dir, base=plan.base, say=say
    )
    interceptor = open_interceptor(config, plan.state_dir)
    means = ProxyMeans(book=EgressDayTable(store.database), clock=clock, interceptor=interceptor)
    spending = await enter(open_spending(store.database, clock=clock))
    egress = await enter(
        open_egress(upstream=upstream, credential=credential, means=means, ledger=spending)
    )
    disks = await enter(
        open_disks(plan.state_dir, config.docker.disk_quota, backend, engine=backend.engine.address)
    )
    housing = HostHousing(
        config=config,
        state_dir=plan.state_dir,
        installation=installation,
        image_id=lodging.image_id,
        ids=lodging.ids,
        egress=egress,
        room_secrets=plan.room_secrets,
        disks=disks,
    )
    secrets = plan.secrets if embedded is None else agent_secrets(embedded)
    matrix = await enter(open_matrix(config.matrix, secrets, plan.state_dir))
    for value in matrix.secret_values:
        register_secret(value)
    for room in await store.rooms.all():
        if room.encrypted:
            matrix.encryption.note_encrypted(room.room_id)
    return _assemble(
        _Opened(
            config=config,
            state_dir=plan.state_dir,
            store=store,
            clock=clock,
            backend=backend,
            housing=housing,
            egress=egress,
            matrix=matrix,
            learnt=await store.meta.send_budget(),
            txns_since=await store.meta.device_since(matrix.device_id, now=clock()),
            embedded=embedded,
            offline=offline,
            status_tokens=plan.status_tokens,
        )
    )


def _assemble(opened: _Opened) -> _System:
    """The parts that hold no resources, wired to each other."""
    config, store, clock, matrix = opened.config, opened.store, opened.clock, opened.matrix
    loop = asyncio.get_running_loop()

    async def find_earlier(row: OutboxRow) -> EventId | None:
        return await find_sent(matrix, row)

    async def on_refused(row: OutboxRow, error: RequestRefusedError) -> None:
        await manager.tell_refused(row, error)

    budget = SendBudget(opened.learnt)
    sender = OutboxSender(
        store.outbox,
        matrix,
        on_refused=on_refused,
        find_sent=find_earlier,
        budget=budget,
        clock=clock,
        txns_since=opened.txns_since,
    )
    courtesies = Courtesies(matrix, clock=loop.time)
    kit = Kit(
        config=config,
        store=store,
        backend=opened.backend,
        housing=opened.housing,
        doors=opened.egress,
        courtesies=courtesies,
        copies=CopyFiles(opened.state_dir / "snapshots"),
        places=RunnerPlaces(config.docker.max_runners),
        starts=RunnerStarts(config.docker.max_starts),
        notify_outbox=sender.notify,
        may_show_progress=sender.may_show_progress,
        deciders=build_deciders(config, store),
        send_aside=sender.send_aside,
        wall_clock=clock,
        version=__version__,
        send_rate_per_s=budget.rate_per_s,
        spent_micro_usd=opened.housing.spent_micro_usd,
        person_micro_usd=opened.housing.person_micro_usd,
        invite=matrix.invite,
        download=matrix.download_file,
        find_event=matrix.find_event,
    )
    manager = RoomManager(kit)
    gate: InboundGate[Heard] = InboundGate(
        manager.close_window,
        quiet_s=config.gateway.quiet_s,
        window_s=config.gateway.inbound_window_s,
    )
    intake = Intake(
        config=config,
        me=matrix.user_id,
        store=store,
        homeserver=matrix,
        encryption=matrix.encryption,
        rooms=manager,
        gate=gate,
        courtesies=courtesies,
        clock=clock,
        notify_outbox=sender.notify,
    )
    overview = Overview(kit, manager, sender, me=matrix.user_id, started_at=clock())
    views = Views(
        kit=kit,
        manager=manager,
        sender=sender,
        overview=overview,
        state_dir=opened.state_dir,
        status_tokens=opened.status_tokens,
        notify_inbox=intake.notify,
    )
    return _System(
        kit=kit,
        embedded=opened.embedded,
        matrix=matrix,
        sender=sender,
        keeper=BudgetKeeper(budget, store.meta, kept=opened.learnt),
        courtesies=courtesies,
        gate=gate,
        manager=manager,
        intake=intake,
        overview=overview,
        views=views,
        store=store,
        upkeep=_build_upkeep(opened),
        state_dir=opened.state_dir,
        offline=opened.offline,
    )


def _build_upkeep(opened: _Opened) -> Upkeep:
    backups = opened.config.backups
    return Upkeep(
        opened.store.database,
        opened.state_dir,
        every_s=None if backups is None else backups.every_h * _HOUR_S,
        keep=1 if backups is None else backups.keep,
        clock=opened.clock,
    )


# Running...


async def _serve(
    system: _System,
    watch: ConfigWatch | None,
    stop: asyncio.Queue[signal.Signals],
    ending: Ending,
    say: Say,
) -> signal.Signals:
    """Run all tasks until a signal; returns which one it was."""
    async with asyncio.TaskGroup() as outlets:
        running = [
            outlets.create_task(work, name=name) for name, work in _outlet_tasks(system).items()
        ]
        try:
            by = await _serve_rooms(system, watch, stop, ending, say)
            is_reload = by is signal.SIGHUP
            say(_RELOADS if is_reload else "Stopping (press Ctrl-C again to skip the wait)…")
        finally:
            # Here, before a failure reaches the group: it would cancel the sender first.
            await _drain(system, stop, ending)
            for task in running:
                task.cancel()
    return by


def _outlet_tasks(system: _System) -> dict[str, Coroutine[Any, Any, NoReturn]]:
    """What must outlive the rooms."""
    return {
        "outbox": system.sender.run(),
        "learnt limit": system.keeper.run(),
        "courtesies": system.courtesies.run(),
    }


def _room_tasks(system: _System, in_step: asyncio.Event) -> dict[str, Coroutine[Any, Any, None]]:
    """Everything else that runs in the daemon besides one task for each room."""
    tasks: dict[str, Coroutine[Any, Any, None]] = {
        "rooms": system.manager.run(),
        "egress grants": system.manager.asking.keeper.run(),
        "egress questions": system.manager.asking.run(),
        "inbound windows": system.gate.run(),
        "intake": system.intake.run(),
        "sync": _sync(system, in_step),
        "engine events": watch_engine(system.kit.backend, system.manager),
        "memory pressure": _build_pressure_watch(system).run(),
        "database upkeep": system.upkeep.run(),
    }
    if system.embedded is not None:
        tasks["embedded homeserver"] = system.embedded.wait_died()
    return tasks


async def _serve_rooms(
    system: _System,
    watch: ConfigWatch | None,
    stop: asyncio.Queue[signal.Signals],
    ending: Ending,
    say: Say,
) -> signal.Signals:
    """Nothing new is taken once this is left: not an event, not a turn. Runners go on."""
    in_step = asyncio.Event()
    by = signal.SIGTERM
    try:
        async with (
            system.views.serve(),
            asyncio.TaskGroup() as group,
        ):
            for name, work in _room_tasks(system, in_step).items():
                group.create_task(work, name=name)
            group.create_task(_announce(system, in_step, say), name="announce")
            if watch is not None:
                group.create_task(watch.run(), name="configuration")
            try:
                await raise_at_signal(stop)
            finally:
                # From here on, whether by a signal or by a failure.
                ending.begin()
    except* Stopped as stopped:
        by = next(e.by for e in stopped.exceptions if isinstance(e, Stopped))
    return by


def _build_pressure_watch(system: _System) -> PressureWatch:
    pressure = system.kit.config.docker.memory_pressure
    limits = None if pressure is None else pressure.limits()
    manager = system.manager
    return PressureWatch(limits, HostMemory().read, manager.workers, manager.spares)


async def _sync(system: _System, in_step: asyncio.Event) -> NoReturn:
    def on_status(status: SyncStatus) -> None:
        system.overview.note_sync(status)
        if status.connected:
            in_step.set()

    await run_sync(
        system.matrix,
        system.store.inbox,
        on_commit=system.intake.notify,
        on_typing=system.gate.typing,
        on_status=on_status,
        clock=system.kit.wall_clock,
    )


async def _announce(system: _System, in_step: asyncio.Event, say: Say) -> None:
    ready = Announcement(
        config=system.kit.config,
        me=system.matrix.user_id,
        embedded=system.embedded,
        state_dir=system.state_dir,
        offline=system.offline,
    )
    await announce(ready, in_step, say)


# Ending...


async def _drain(system: _System, stop: asyncio.Queue[signal.Signals], ending: Ending) -> None:
    """Send what waits, until it is done, the time is up, or a second signal comes."""
    rest_s = ending.deadline - asyncio.get_running_loop().time()
    deadline = system.kit.wall_clock() + min(_DRAIN_S, rest_s)
    left = await until_signal(stop, system.sender.drain(deadline))
    if left:
        logger.bind(action="daemon.drained", rooms=left).warning("messages wait for the next start")
    try:
        async with asyncio.timeout(_KEEP_S):
            await system.keeper.keep()
    except (AiAgentChatError, TimeoutError) as e:
        logger.bind(action="daemon.keep", error=type(e).__name__).error(
            "what was learnt of the account's limit is not kept"
        )
