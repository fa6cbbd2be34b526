"""The metrics' port: what it answers, and what happens when it can't be had."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from orchestrator.control.models import RoomView, RunnerView, SyncState, SyncView
from orchestrator.core.pacing import BudgetState, SendBudget
from orchestrator.errors import EngineUnavailableError, PreconditionError, StoreCorruptError
from orchestrator.gateway.outbound import OutboxSender
from orchestrator.metrics.figures import Figures
from orchestrator.metrics.server import open_metrics
from orchestrator.metrics.source import MetricsSource
from orchestrator.model import RoomSlug, RunnerState, TurnOutcome
from orchestrator.ports import RunnerInfo
from orchestrator.rooms.places import RunnerPlaces
from orchestrator.rooms.starts import RunnerStarts
from orchestrator.store.store import Store, open_store
from tests.support.outbox import MemoryHomeserver
from tests.support.port import free_port
from tests.unit.store.test_store import admit, event, message


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


async def ask(address: str, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    async with aiohttp.request(method, f"http://{address}{path}") as answer:
        return answer.status, await answer.text()


async def read_nothing() -> Figures:
    raise StoreCorruptError


async def look_well(*, is_strict: bool) -> tuple[str, ...]:
    return ()


@dataclass
class Sight:
    """What the overview would see."""

    sync: SyncView = field(
        default_factory=lambda: SyncView(state=SyncState.CONNECTED, since=1000.0, reason=None)
    )
    fails: bool = False
    is_stuck: bool = False

    async def containers(self) -> Sequence[RunnerInfo]:
        if self.fails:
            raise EngineUnavailableError
        return [runner(RunnerState.RUNNING), runner(RunnerState.EXITED), runner(RunnerState.EXITED)]

    async def runners(self) -> tuple[RunnerView, ...]:
        view = RunnerView.model_construct(
            slug="room-a", memory_bytes=1 << 20, cpu_total_s=2.5, pids=7
        )
        return (
            view,
            RunnerView.model_construct(slug="b", memory_bytes=None, cpu_total_s=1, pids=1),
        )

    async def rooms(self) -> tuple[RoomView, ...]:
        if self.is_stuck:
            await asyncio.Event().wait()
        return (
            RoomView.model_construct(slug="room-a", disk_used_bytes=3, disk_limit_bytes=10),
            RoomView.model_construct(slug="asleep", disk_used_bytes=7, disk_limit_bytes=10),
            RoomView.model_construct(slug="new", disk_used_bytes=None, disk_limit_bytes=None),
        )


def runner(state: RunnerState) -> RunnerInfo:
    return RunnerInfo(
        name="r",
        slug=RoomSlug("room-a"),
        container_id="c",
        state=state,
        generation=1,
        spec_hash="h",
        exit_code=None,
        oom_killed=False,
        started_at=None,
    )


def source_of(folder: Path, store: Store, sight: Sight, **more: object) -> MetricsSource:
    async def tell_nobody(*_: object) -> None:
        pass

    budget = SendBudget(BudgetState(interval_s=5.0, burst=10.0))
    sender = OutboxSender(store.outbox, MemoryHomeserver(), on_refused=tell_nobody, budget=budget)
    return MetricsSource(
        store=store,
        sender=sender,
        overview=sight,
        places=RunnerPlaces(None),
        starts=RunnerStarts(None),
        state_dir=folder,
        clock=lambda: 1030.0,
        **more,
    )


async def test_the_figures_are_those_of_the_store_and_the_sender(
    tmp_path: Path, address: str
) -> None:
    async with open_store(tmp_path) as store:
        await admit(store, "a", max_queued=0, now=1000.0)
        refused = await admit(store, "b", max_queued=0, now=1001.0)
        assert refused.outcome is TurnOutcome.REFUSED
        await store.inbox.commit_sync([event("c"), event("d")], "s", now=1.0)
        await store.outbox.add([message("m")], now=1002.0)
        source = source_of(tmp_path, store, Sight(), by_room=True)
        async with open_metrics(address, source.read, look=source.problems, required=True):
            status, text = await ask(address)
    assert status == 200
    for line in (
        "aiagentchat_send_rate_learnt 0.2",
        "aiagentchat_send_limited_total 0.0",
        "aiagentchat_outbox_waiting 3.0",
        "aiagentchat_outbox_oldest_seconds 30.0",
        "aiagentchat_inbox_waiting 2.0",
        'aiagentchat_turns_total{outcome="refused"} 1.0',
        'aiagentchat_turns_total{outcome="done"} 0.0',
        "aiagentchat_turns_queued 1.0",
        "aiagentchat_turns_running 0.0",
        "aiagentchat_approvals_waiting 0.0",
        "aiagentchat_rooms 0.0",
        "aiagentchat_engine_up 1.0",
        'aiagentchat_runners{state="running"} 1.0',
        'aiagentchat_runners{state="exited"} 2.0',
        "aiagentchat_places_waiting 0.0",
        "aiagentchat_starts_waiting 0.0",
        "aiagentchat_sync_connected 1.0",
        "aiagentchat_sync_since_seconds 30.0",
        'aiagentchat_room_memory_bytes{room="room-a"} 1.048576e+06',
        'aiagentchat_room_processes{room="room-a"} 7.0',
        'aiagentchat_room_disk_bytes{room="room-a"} 3.0',
        'aiagentchat_room_disk_bytes{room="asleep"} 7.0',
        'aiagentchat_room_disk_limit_bytes{room="asleep"} 10.0',
    ):
        assert f"\n{line}\n" in text


async def test_disks_that_can_not_be_looked_at_cost_only_their_own_figures(
    tmp_path: Path, address: str
) -> None:
    async with open_store(tmp_path) as store:
        source = source_of(tmp_path, store, Sight(is_stuck=True), by_room=True)
        async with open_metrics(address, source.read, look=source.problems, required=True):
            status, text = await ask(address)
    assert status == 200
    assert "aiagentchat_room_disk_bytes{" not in text
    assert "aiagentchat_room_memory_bytes{" in text


async def test_an_engine_that_does_not_answer_costs_only_its_own_figures(
    tmp_path: Path, address: str
) -> None:
    async with open_store(tmp_path) as store:
        source = source_of(tmp_path, store, Sight(fails=True), by_room=True)
        async with open_metrics(address, source.read, look=source.problems, required=True):
            status, text = await ask(address)
    assert status == 200
    assert "\naiagentchat_engine_up 0.0\n" in text
    assert "aiagentchat_runners{" not in text
    assert "aiagentchat_room_memory_bytes{" not in text
    assert '\naiagentchat_room_disk_bytes{room="room-a"} 3.0\n' in text, "of this host, not of it"
    assert "\naiagentchat_outbox_waiting 0.0\n" in text


async def test_ready_is_who_answers_a_message_that_is_sent_now(
    tmp_path: Path, address: str
) -> None:
    async with open_store(tmp_path) as store:
        sight = Sight()
        source = source_of(tmp_path, store, sight)
        async with open_metrics(address, source.read, look=source.problems, required=True):
            assert await ask(address, "/readyz") == (200, "ok\n")
            sight.fails = True
            assert await ask(address, "/readyz") == (503, "engine: no answer\n")
            assert (await ask(address, "/healthz"))[0] == 200, "a restart would not help"
            sight.sync = SyncView(state=SyncState.RETRYING, since=1.0, reason="502")
            status, text = await ask(address, "/readyz")
            assert (status, text.splitlines()) == (503, ["homeserver: 502", "engine: no answer"])


async def test_a_database_that_fails_is_worth_a_restart(address: str) -> None:
    async def look(*, is_strict: bool) -> tuple[str, ...]:
        return ("database: StoreCorruptError",)

    async with open_metrics(address, read_nothing, look=look, required=True):
        assert await ask(address, "/healthz") == (503, "database: StoreCorruptError\n")
        assert (await ask(address, "/readyz"))[0] == 503


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/", 404), ("GET", "/x", 404), ("POST", "/metrics", 405)],
)
async def test_whatever_else_is_asked_for_is_refused(
    address: str, method: str, path: str, status: int
) -> None:
    async with open_metrics(address, read_nothing, look=look_well, required=True):
        assert (await ask(address, path, method))[0] == status


async def test_a_store_that_fails_is_no_figures_and_no_end(address: str) -> None:
    async with open_metrics(address, read_nothing, look=look_well, required=True):
        assert (await ask(address))[0] == 503


@pytest.mark.parametrize("named", ["taken", "127.0.0.1:99999", "no-such-host.invalid:9464"])
async def test_an_address_that_was_named_and_can_not_be_had_ends_the_start(
    named: str, taken: str
) -> None:
    where = taken if named == "taken" else named
    with pytest.raises(PreconditionError, match=r"observability\.metrics"):
        async with open_metrics(where, read_nothing, look=look_well, required=True):
            pass


async def test_a_default_address_that_is_taken_costs_only_the_metrics(taken: str) -> None:
    reached = False
    async with open_metrics(taken, read_nothing, look=look_well, required=False):
        reached = True
    assert reached


@pytest.mark.parametrize("end", ["stop", "cancel", "sibling"])
async def test_whatever_ends_it_the_port_is_free_again(address: str, end: str) -> None:
    async def serve(opened: asyncio.Event) -> None:
        async with open_metrics(address, read_nothing, look=look_well, required=True):
            opened.set()
            if end != "stop":
                await asyncio.Event().wait()

    async def fail(opened: asyncio.Event) -> None:
        await opened.wait()
        if end == "sibling":
            raise LookupError

    opened = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(serve(opened))
            group.create_task(fail(opened))
            await opened.wait()
            if end == "cancel":
                serving.cancel()
    except* LookupError:
        assert end == "sibling"
    async with open_metrics(address, read_nothing, look=look_well, required=True):
        assert (await ask(address))[0] == 503


async def test_without_an_address_nothing_listens() -> None:
    before = sockets()
    async with open_metrics(None, read_nothing, look=look_well, required=True):
        assert sockets() == before


def sockets() -> set[str]:
    """This process's open sockets."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that the list was read with
            found.add(str(descriptor.readlink()))
    return {name for name in found if name.startswith("socket:")}
