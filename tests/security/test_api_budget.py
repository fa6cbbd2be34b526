"""A room's budget at a live gateway: what it costs to ask, to hang up, to ask at once, to go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from orchestrator.core.ask import Ask
from orchestrator.core.price import find_price, most_micro_usd
from orchestrator.egress.gateway import EgressGateway
from orchestrator.egress.ledger import MemoryLedger
from orchestrator.model import JsonObject, JsonValue, RoomSlug
from orchestrator.store.database import open_database
from orchestrator.store.spending import open_spending
from tests.support.egress import (
    ANSWER_S,
    Upstream,
    body_of,
    build_body,
    build_request,
    connect,
    error_of,
    open_room,
    open_upstream,
    room_door,
    send_raw,
    status_of,
)

ROOM = RoomSlug("room-a")
MODEL = "claude-opus-5-5"
ASK = build_request(build_body(model=MODEL, max_tokens=100))
USAGE: JsonObject = {
    "input_tokens": 100,
    "cache_creation_input_tokens": 200,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 200},
    "cache_read_input_tokens": 1000,
    "output_tokens": 50,
    "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0},
}
# 100 × 4 + 200 × 8 + 1,000 × 0.2 + 50 × 20 micro-dollars, and one search.
COST = 400 + 1600 + 200 + 1000 + 10_000


def _whole(**changes: JsonValue) -> JsonObject:
    return {"type": "message", "model": MODEL, "content": [], "usage": {**USAGE, **changes}}


def _events(*, text: str = "hello", ends: bool = True) -> bytes:
    start = _whole(output_tokens=1, server_tool_use=None)
    events: list[JsonObject] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
    ]
    if ends:
        used = {"output_tokens": 50, "server_tool_use": USAGE["server_tool_use"]}
        events += [{"type": "message_delta", "usage": used}, {"type": "message_stop"}]
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


@contextlib.asynccontextmanager
async def _room(
    path: Path, *, limit: int | None = None
) -> AsyncIterator[tuple[Upstream, EgressGateway]]:
    async with (
        open_upstream() as upstream,
        open_room(path / "a", upstream.url, budget_micro_usd=limit) as (gateway, _),
    ):

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.json_response(_whole())

        upstream.handler = answer
        yield upstream, gateway


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(ANSWER_S):
        while not is_so():  # noqa: ASYNC110 (nothing signals it)
            await asyncio.sleep(0.01)


async def _settled(gateway: EgressGateway) -> int:
    """What was spent, once nothing is under way any more."""
    await _until(lambda: not gateway._doors[ROOM]._connections)
    return gateway.spent_micro_usd(ROOM)


async def test_an_answer_in_one_piece_is_charged_by_its_usage(tmp_path: Path) -> None:
    async with _room(tmp_path) as (_, gateway):
        for asked in range(1, 4):
            assert status_of(await send_raw(tmp_path / "a", ASK)) == 200
            assert gateway.spent_micro_usd(ROOM) == asked * COST


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_a_stream_is_charged_the_same_and_not_a_byte_of_it_is_changed(
    tmp_path: Path, piece: int
) -> None:
    stream = _events(text='Grüße 🎉 "usage": {"output_tokens": 1}')

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for at in range(0, len(stream), piece):
            await response.write(stream[at : at + piece])
        return response

    async with _room(tmp_path) as (upstream, gateway):
        upstream.handler = answer
        assert body_of(await send_raw(tmp_path / "a", ASK)) == stream
        assert await _settled(gateway) == COST


async def test_over_its_budget_a_room_is_told_once_and_is_not_to_ask_again(
    tmp_path: Path,
) -> None:
    async with _room(tmp_path, limit=COST) as (upstream, gateway):
        assert status_of(await send_raw(tmp_path / "a", ASK)) == 200
        count = build_request(line="POST /v1/messages/count_tokens HTTP/1.1")
        for request in (ASK, count):
            answer = await send_raw(tmp_path / "a", request)
            assert status_of(answer) == 429
            assert b"x-should-retry: false\r\n" in answer
            kind, message = error_of(answer)
            assert kind == "rate_limit_error"
            assert message.startswith("This room has spent its budget for today: $0.01 of $0.01.")
            assert "until 00:00 UTC" in message
        assert len(upstream.seen) == 1
        stats = gateway.stats(ROOM)
        assert (stats.requests_allowed, stats.requests_denied) == (1, 2)
        assert stats.last_denial == "budget"


async def test_a_rooms_budget_is_its_own(tmp_path: Path) -> None:
    async with _room(tmp_path, limit=COST) as (_, gateway):
        await gateway.open_door(room_door(tmp_path / "b", slug="room-b", budget_micro_usd=COST))
        for name, status in (("a", 200), ("a", 429), ("b", 200), ("b", 429)):
            assert status_of(await send_raw(tmp_path / name, ASK)) == status


async def test_twenty_requests_at_once_overshoot_by_one_at_most(tmp_path: Path) -> None:
    """Each costs its worst: all that it may write, and all of its body written to the cache."""
    body = build_body(model=MODEL, max_tokens=1000, system="x" * 4000)
    worst = most_micro_usd(Ask(models=(MODEL,), max_tokens=1000, input_tokens=len(body) // 2))
    limit = worst * 7 // 2
    price = find_price(MODEL)
    tokens = (worst - 1000 * price.output // 1000) * 1000 // price.write_1h

    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        used = {
            "cache_creation_input_tokens": tokens,
            "cache_creation": {"ephemeral_1h_input_tokens": tokens},
            "output_tokens": 1000,
        }
        return web.json_response({"model": MODEL, "usage": used})

    async with _room(tmp_path, limit=limit) as (upstream, gateway):
        upstream.handler = answer
        async with asyncio.TaskGroup() as group:
            sent = [
                group.create_task(send_raw(tmp_path / "a", build_request(body))) for _ in range(20)
            ]
        statuses = sorted(status_of(task.result()) for task in sent)
        assert statuses == [200] * 4 + [429] * 16
        spent = gateway.spent_micro_usd(ROOM)
        assert limit < spent <= limit + worst
        assert len(upstream.seen) == 4


async def test_near_the_limit_requests_wait_for_each_other_and_none_that_fits_is_refused(
    tmp_path: Path,
) -> None:
    async with _room(tmp_path, limit=12 * COST) as (upstream, gateway):
        request = build_request(build_body(model=MODEL, max_tokens=128_000))
        async with asyncio.TaskGroup() as group:
            sent = [group.create_task(send_raw(tmp_path / "a", request)) for _ in range(12)]
        assert [status_of(task.result()) for task in sent] == [200] * 12
        assert len(upstream.seen) == 12
        assert gateway.spent_micro_usd(ROOM) == 12 * COST


async def test_hanging_up_before_the_answer_is_not_free(tmp_path: Path) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        asked.set()
        await never.wait()
        return web.json_response({})

    async with _room(tmp_path) as (upstream, gateway):
        upstream.handler = answer
        async with connect(tmp_path / "a") as (_, writer):
            writer.write(ASK)
            async with asyncio.timeout(ANSWER_S):
                await asked.wait()
        assert await _settled(gateway) > 0


async def test_hanging_up_in_the_middle_is_charged_for_what_was_written(tmp_path: Path) -> None:
    never = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_events(text="word " * 600, ends=False))
        await never.wait()
        return response

    async with _room(tmp_path) as (upstream, gateway):
        upstream.handler = answer
        async with connect(tmp_path / "a") as (reader, writer), asyncio.timeout(ANSWER_S):
            writer.write(ASK)
            await reader.readuntil(b'word "}}')
        read = 400 + 1600 + 200
        # 3,000 bytes of text: 1,000 tokens by our count, 600 to 1,000 by anybody's.
        assert read + 1000 * 20 <= await _settled(gateway) <= read + 1030 * 20


async def test_a_room_that_always_hangs_up_comes_to_its_limit(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_events(ends=False))
        await asyncio.Event().wait()
        return response

    async with _room(tmp_path, limit=10_000) as (upstream, gateway):
        upstream.handler = answer
        for _ in range(100):
            async with connect(tmp_path / "a") as (reader, writer), asyncio.timeout(ANSWER_S):
                writer.write(ASK)
                if b" 429 " in await reader.readuntil(b"\r\n\r\n"):
                    break
                await reader.readuntil(b"hello")
            await _settled(gateway)
        assert len(upstream.seen) < 10
        assert gateway.spent_micro_usd(ROOM) >= 10_000


async def test_a_cut_by_the_api_is_charged_and_its_refusals_are_not(tmp_path: Path) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_events(ends=False))
        assert request.transport is not None
        request.transport.abort()
        return response

    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.json_response(_whole(), status=529)

    async with _room(tmp_path) as (upstream, gateway):
        upstream.handler = refuse
        assert status_of(await send_raw(tmp_path / "a", ASK)) == 529
        assert gateway.spent_micro_usd(ROOM) == 0
        upstream.handler = cut
        await send_raw(tmp_path / "a", ASK)
        assert await _settled(gateway) >= 400 + 1600 + 200 + 20


async def test_a_model_that_nobody_knows_costs_the_most(tmp_path: Path) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"usage": {"input_tokens": 1000, "output_tokens": 1000}})

    async with _room(tmp_path) as (upstream, gateway):
        upstream.handler = answer
        request = build_request(build_body(model="claude-haiku-5-5-but-free"))
        assert status_of(await send_raw(tmp_path / "a", request)) == 200
        assert gateway.spent_micro_usd(ROOM) == 15_000 + 75_000


@pytest.mark.parametrize(
    "usage",
    [None, [], "none", {"input_tokens": -(10**9), "output_tokens": "5"}, {"input_tokens": 0}],
)
async def test_an_answer_never_earns_money(tmp_path: Path, usage: JsonValue) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"model": MODEL, "usage": usage})

    async with _room(tmp_path) as (upstream, gateway):
        upstream.handler = answer
        assert status_of(await send_raw(tmp_path / "a", ASK)) == 200
        assert gateway.spent_micro_usd(ROOM) >= 0


async def test_a_budget_that_is_spent_is_spent_after_a_restart(tmp_path: Path) -> None:
    for statuses in ([200, 200, 429], [429], [429, 429]):
        async with (
            open_database(tmp_path / "db") as database,
            open_spending(database, clock=time.time) as ledger,
            open_upstream() as upstream,
            open_room(tmp_path / "a", upstream.url, budget_micro_usd=COST + 1, ledger=ledger),
        ):

            async def answer(_: web.Request) -> web.StreamResponse:
                return web.json_response(_whole())

            upstream.handler = answer
            assert [status_of(await send_raw(tmp_path / "a", ASK)) for _ in statuses] == statuses


async def test_a_new_day_has_a_new_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_795_737_570.0]
    monkeypatch.setattr("orchestrator.egress.ledger.time.time", lambda: now[0])
    ledger = MemoryLedger()
    async with (
        open_upstream() as upstream,
        open_room(tmp_path / "a", upstream.url, budget_micro_usd=1, ledger=ledger),
    ):
        assert status_of(await send_raw(tmp_path / "a", ASK)) == 200
        refused = await send_raw(tmp_path / "a", ASK)
        assert status_of(refused) == 429
        assert "in 1 min" in error_of(refused)[1]
        now[0] += 30
        assert status_of(await send_raw(tmp_path / "a", ASK)) == 200


async def test_without_a_budget_what_is_spent_is_counted(tmp_path: Path) -> None:
    async with _room(tmp_path) as (_, gateway):
        for _ in range(3):
            assert status_of(await send_raw(tmp_path / "a", ASK)) == 200
        await gateway.close_door(ROOM)
        assert gateway.spent_micro_usd(ROOM) == 3 * COST


async def test_a_client_that_leaves_while_it_waits_for_others_is_forgotten(
    tmp_path: Path,
) -> None:
    go_on = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return web.json_response(_whole())

    async with _room(tmp_path, limit=1) as (upstream, gateway):
        upstream.handler = answer
        async with asyncio.TaskGroup() as group, asyncio.timeout(ANSWER_S):
            first = group.create_task(send_raw(tmp_path / "a", ASK))
            await _until(lambda: bool(upstream.seen))
            async with connect(tmp_path / "a") as (_, writer):
                writer.write(ASK)
                await _until(lambda: len(gateway._doors[ROOM]._connections) == 2)
            await _until(lambda: len(gateway._doors[ROOM]._connections) == 1)
            go_on.set()
        assert status_of(first.result()) == 200
        assert len(upstream.seen) == 1
        assert gateway.spent_micro_usd(ROOM) == COST
