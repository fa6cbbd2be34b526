"""The figures, and the text that Prometheus reads of them.

What is counted as it happens is in `orchestrator.meters`; this is what is looked up when asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator import meters
from orchestrator.model import RunnerState, TurnOutcome

_PREFIX = "aiagentchat"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomUse:
    """What one room's running runner uses now."""

    room: str
    """Its name on this host, which is no name that people gave it."""
    memory_bytes: int
    cpu_total_s: float
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomDisk:
    """What one room's workspace and home hold, whether its runner runs or not."""

    room: str
    used_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One look at the process. Counters count from its start."""

    send_rate_per_s: float | None = None
    """What the account's 429s have taught; None: no limit met yet."""
    limited: int = 0
    """429s that a message of the outbox met."""
    outbox_waiting: int = 0
    outbox_oldest_s: float = 0.0
    """How long the oldest message has waited; 0 when none does."""
    inbox_waiting: int = 0
    """Events that are stored, and nothing follows from them yet."""
    turns: Mapping[TurnOutcome, int]
    """Turns that have ended, by outcome."""
    turns_running: int = 0
    turns_queued: int = 0
    approvals_waiting: int = 0
    """Questions to people that nobody has answered yet."""
    rooms: int = 0
    """That the agent is in."""
    runners: Mapping[RunnerState, int] | None = None
    """None: the engine did not say."""
    places_waiting: int = 0
    """Rooms whose turn waits because as many runners run as may."""
    starts_waiting: int = 0
    """Rooms whose runner waits for the starts of others."""
    sync_connected: bool = False
    sync_since_s: float = 0.0
    """For how long the sync has been so."""
    database_bytes: int = 0
    """The file and its log."""
    disk_free_bytes: int = 0
    """Where the state directory is."""
    by_room: Sequence[RoomUse] = ()
    """Where `observability.metrics_by_room` is on."""
    disks: Sequence[RoomDisk] = ()
    """The same, of all rooms of which it is known."""


def render_metrics(figures: Figures) -> bytes:
    """The text format of Prometheus, with what the kernel says of this process."""
    registry = CollectorRegistry()
    registry.register(_Once(figures))
    ProcessCollector(registry=registry)
    return generate_latest(registry) + generate_latest(meters.REGISTRY)


class _Once(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """As the library asks."""
        yield from self._sending()
        yield from self._turns()
        yield from self._runners()
        yield from self._rooms()
        yield from self._state()

    def _sending(self) -> Iterable[Metric]:
        now = self._figures
        rate = math.nan if now.send_rate_per_s is None else now.send_rate_per_s
        yield _gauge(
            "send_rate_learnt",
            "Messages per second that the account may send, as 429s have taught; NaN: no limit met",
            rate,
        )
        yield CounterMetricFamily(
            f"{_PREFIX}_send_limited",
            "Refusals for sending too fast (429) that a message met",
            value=now.limited,
        )
        yield _gauge("outbox_waiting", "Messages not yet accepted", now.outbox_waiting)
        yield _gauge(
            "outbox_oldest_seconds", "How long the oldest of them has waited", now.outbox_oldest_s
        )
        yield _gauge("inbox_waiting", "Events from which nothing follows yet", now.inbox_waiting)

    def _turns(self) -> Iterable[Metric]:
        now = self._figures
        turns = CounterMetricFamily(f"{_PREFIX}_turns", "Turns that have ended", labels=["outcome"])
        for outcome in TurnOutcome:
            turns.add_metric([outcome], now.turns.get(outcome, 0))
        yield turns
        yield _gauge("turns_running", "Turns in a runner", now.turns_running)
        yield _gauge("turns_queued", "Turns that wait for their turn", now.turns_queued)
        yield _gauge("approvals_waiting", "Questions that wait for people", now.approvals_waiting)

    def _runners(self) -> Iterable[Metric]:
        now = self._figures
        is_up = float(now.runners is not None)
        yield _gauge("engine_up", "Whether the Docker Engine answers", is_up)
        yield _gauge("places_waiting", "Rooms that wait for a place", now.places_waiting)
        yield _gauge("starts_waiting", "Rooms that wait for others' starts", now.starts_waiting)
        if now.runners is not None:
            runners = _labelled("runners", "Containers of this installation", "state")
            for state in RunnerState:
                runners.add_metric([state], now.runners.get(state, 0))
            yield runners

    def _rooms(self) -> Iterable[Metric]:
        now = self._figures
        yield _gauge("rooms", "Rooms that the agent is in", now.rooms)
        yield from self._disks()
        if not now.by_room:
            return
        memory = _labelled("room_memory_bytes", "Memory of a room's runner", "room")
        cpu = _labelled("room_cpu_seconds", "CPU time of a room's runner since its start", "room")
        processes = _labelled("room_processes", "Processes of a room's runner", "room")
        for one in now.by_room:
            memory.add_metric([one.room], one.memory_bytes)
            cpu.add_metric([one.room], one.cpu_total_s)
            processes.add_metric([one.room], one.processes)
        yield from (memory, cpu, processes)

    def _disks(self) -> Iterable[Metric]:
        if not self._figures.disks:
            return
        used = _labelled("room_disk_bytes", "What a room's workspace and home hold", "room")
        limit = _labelled("room_disk_limit_bytes", "What they may hold", "room")
        for disk in self._figures.disks:
            used.add_metric([disk.room], disk.used_bytes)
            limit.add_metric([disk.room], disk.limit_bytes)
        yield from (used, limit)

    def _state(self) -> Iterable[Metric]:
        now = self._figures
        is_connected = float(now.sync_connected)
        yield _gauge("sync_connected", "Whether the homeserver answers the sync", is_connected)
        yield _gauge("sync_since_seconds", "For how long that has been so", now.sync_since_s)
        yield _gauge("database_bytes", "Size of the database and its log", now.database_bytes)
        free = now.disk_free_bytes
        yield _gauge("disk_free_bytes", "Free space where the state directory is", free)


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", help_text, value=value)


def _labelled(name: str, help_text: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", help_text, labels=[label])
