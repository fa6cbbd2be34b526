"""The metrics' port: what it answers, and what happens when it can't be had."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from orchestrator.core.pacing import BudgetState, SendBudget
from orchestrator.errors import PreconditionError, StoreCorruptError
from orchestrator.gateway.outbound import OutboxSender
from orchestrator.metrics.figures import Figures
from orchestrator.metrics.server import open_metrics
from orchestrator.metrics.source import MetricsSource
from orchestrator.model import TurnOutcome
from orchestrator.store.store import open_store
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


async def test_the_figures_are_those_of_the_store_and_the_sender(
    tmp_path: Path, address: str
) -> None:
    async with open_store(tmp_path) as store:
        budget = SendBudget(BudgetState(interval_s=5.0, burst=10.0))

        async def tell_nobody(*_: object) -> None:
            pass

        sender = OutboxSender(
            store.outbox, MemoryHomeserver(), on_refused=tell_nobody, budget=budget
        )
        await admit(store, "a", max_queued=0, now=1000.0)
        refused = await admit(store, "b", max_queued=0, now=1001.0)
        assert refused.outcome is TurnOutcome.REFUSED
        await store.inbox.commit_sync([event("c"), event("d")], "s", now=1.0)
        await store.outbox.add([message("m")], now=1002.0)
        source = MetricsSource(store, sender, lambda: 1030.0)
        async with open_metrics(address, source.read, required=True):
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
    ):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/", 404), ("GET", "/x", 404), ("POST", "/metrics", 405)],
)
async def test_whatever_else_is_asked_for_is_refused(
    address: str, method: str, path: str, status: int
) -> None:
    async with open_metrics(address, read_nothing, required=True):
        assert (await ask(address, path, method))[0] == status


async def test_a_store_that_fails_is_no_figures_and_no_end(address: str) -> None:
    async with open_metrics(address, read_nothing, required=True):
        assert (await ask(address))[0] == 503


@pytest.mark.parametrize("named", ["taken", "127.0.0.1:99999", "no-such-host.invalid:9464"])
async def test_an_address_that_was_named_and_can_not_be_had_ends_the_start(
    named: str, taken: str
) -> None:
    where = taken if named == "taken" else named
    with pytest.raises(PreconditionError, match=r"observability\.metrics"):
        async with open_metrics(where, read_nothing, required=True):
            pass


async def test_a_default_address_that_is_taken_costs_only_the_metrics(taken: str) -> None:
    reached = False
    async with open_metrics(taken, read_nothing, required=False):
        reached = True
    assert reached


@pytest.mark.parametrize("end", ["stop", "cancel", "sibling"])
async def test_whatever_ends_it_the_port_is_free_again(address: str, end: str) -> None:
    async def serve(opened: asyncio.Event) -> None:
        async with open_metrics(address, read_nothing, required=True):
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
    async with open_metrics(address, read_nothing, required=True):
        assert (await ask(address))[0] == 503


async def test_without_an_address_nothing_listens() -> None:
    before = sockets()
    async with open_metrics(None, read_nothing, required=True):
        assert sockets() == before


def sockets() -> set[str]:
    """This process's open sockets."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that the list was read with
            found.add(str(descriptor.readlink()))
    return {name for name in found if name.startswith("socket:")}
