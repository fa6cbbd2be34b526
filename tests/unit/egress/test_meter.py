"""A room's purse: what is held back, what is charged, who waits. No sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from orchestrator.core.allowance import Allowance, LimitName
from orchestrator.core.ask import Ask
from orchestrator.core.egress_policy import Route
from orchestrator.core.price import floor_micro_usd, most_micro_usd
from orchestrator.core.texts import find_gateway_refusal
from orchestrator.egress import meter as meter_module
from orchestrator.egress.ledger import MemoryLedger
from orchestrator.egress.meter import Meter, NotAdmittedError, Purse
from orchestrator.egress.upstream import (
    Answer,
    UpstreamCutError,
    UpstreamFailedError,
    UpstreamSilentError,
)
from orchestrator.model import RoomSlug, UserId
from tests.support.virtual_time import run_virtual

ROOM = RoomSlug("a")
ASK = Ask(models=("claude-opus-5-5",), max_tokens=1000, input_tokens=1000)
MOST = most_micro_usd(ASK)
FLOOR = floor_micro_usd(ASK, output_tokens=0)
USAGE = {"input_tokens": 100, "output_tokens": 50}
# 100 tokens at 4 and 50 at 20 micro-dollars.
COST = 1400


def _purse(limit: int | None = None) -> tuple[Purse, MemoryLedger]:
    ledger = MemoryLedger()
    return Purse(ROOM, ledger, limit=limit), ledger


def _answer(*chunks: bytes, status: int = 200, kind: str = "application/json") -> Answer:
    async def pieces() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return Answer(status=status, headers=[("content-type", kind)], chunks=pieces())


def _whole(model: str = "claude-opus-5-5") -> bytes:
    return json.dumps({"model": model, "usage": USAGE}).encode()


async def _drain(meter: Meter, answer: Answer) -> list[bytes]:
    return [chunk async for chunk in meter.watch(answer).chunks]


async def test_an_answer_is_passed_on_as_it_came_and_charged_what_it_said() -> None:
    purse, ledger = _purse()
    body = _whole()
    async with purse.admitted(Route.MESSAGES, ASK) as meter:
        assert await _drain(meter, _answer(body[:9], body[9:])) == [body[:9], body[9:]]
    assert ledger.spent_micro_usd(ROOM) == COST


async def test_the_model_that_answered_sets_the_price_and_a_strange_one_the_highest() -> None:
    for model, cost in (("claude-haiku-5-5", 35), ("made-up", 5250)):
        purse, ledger = _purse()
        async with purse.admitted(Route.MESSAGES, ASK) as meter:
            await _drain(meter, _answer(_whole(model)))
        assert ledger.spent_micro_usd(ROOM) == cost


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
async def test_an_error_of_the_api_costs_nothing(status: int) -> None:
    purse, ledger = _purse()
    async with purse.admitted(Route.MESSAGES, ASK) as meter:
        await _drain(meter, _answer(_whole(), status=status))
    assert ledger.spent_micro_usd(ROOM) == 0


async def test_counting_tokens_costs_nothing() -> None:
    purse, ledger = _purse()
    async with purse.admitted(Route.COUNT_TOKENS, ASK) as meter:
        await _drain(meter, _answer(b'{"input_tokens":5}'))
    assert ledger.spent_micro_usd(ROOM) == 0


async def test_an_answer_that_says_nothing_of_its_use_is_charged_by_an_estimate() -> None:
    purse, ledger = _purse()
    async with purse.admitted(Route.MESSAGES, ASK) as meter:
        await _drain(meter, _answer(b"{}" * 300))
    assert ledger.spent_micro_usd(ROOM) == floor_micro_usd(ASK, output_tokens=200)


async def test_a_client_that_hangs_up_before_the_answer_pays_for_what_it_sent() -> None:
    purse, ledger = _purse()
    with pytest.raises(asyncio.CancelledError):
        async with purse.admitted(Route.MESSAGES, ASK):
            raise asyncio.CancelledError
    assert ledger.spent_micro_usd(ROOM) == FLOOR > 0


async def test_a_client_that_hangs_up_in_the_middle_pays_for_what_was_written() -> None:
    purse, ledger = _purse()
    start = {"type": "message_start", "message": {"model": "claude-opus-5-5", "usage": USAGE}}
    text = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 3000}}
    stream = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in (start, text))

    async def hang_up() -> None:
        async with purse.admitted(Route.MESSAGES, ASK) as meter:
            async for _ in meter.watch(_answer(stream, b"more", kind="text/event-stream")).chunks:
                raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await hang_up()
    # 100 tokens read, and 1,000 or a few more written.
    assert 400 + 1000 * 20 <= ledger.spent_micro_usd(ROOM) <= 400 + 1020 * 20


async def _leave_after(purse: Purse, seconds: float, *chunks: bytes) -> None:
    """Ask, read these chunks, wait, hang up. The loop's clock is the only one."""

    async def pieces() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        await asyncio.sleep(2 * seconds)

    async def ask() -> None:
        async with purse.admitted(Route.MESSAGES, ASK) as meter:
            answer = replace(_answer(kind="text/event-stream"), chunks=pieces())
            async for _ in meter.watch(answer).chunks if chunks else pieces():
                pass

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await ask()


def test_what_was_written_while_nobody_saw_it_is_not_free() -> None:
    # An answer in one piece and hidden thinking show nothing before their end.
    start = {"type": "message_start", "message": {"model": "claude-opus-5-5", "usage": USAGE}}
    seen = b"data: %b\n\n" % json.dumps(start).encode()
    for chunks, read, written in (((), FLOOR, 0), ((seen,), 400, 50)):
        for seconds, unseen in ((5, 500), (600, ASK.max_tokens)):
            purse, ledger = _purse()
            run_virtual(_leave_after(purse, seconds, *chunks))
            most = min(written + unseen, ASK.max_tokens)
            assert ledger.spent_micro_usd(ROOM) == pytest.approx(read + most * 20, abs=40)


@pytest.mark.parametrize(
    ("error", "charged"), [(UpstreamFailedError, 0), (UpstreamSilentError, FLOOR)]
)
async def test_an_api_that_can_not_be_reached_is_not_paid_and_one_that_is_silent_may_be(
    error: type[UpstreamFailedError], charged: int
) -> None:
    purse, ledger = _purse()
    with pytest.raises(error):
        async with purse.admitted(Route.MESSAGES, ASK):
            raise error
    assert ledger.spent_micro_usd(ROOM) == charged


async def test_an_answer_that_the_api_cuts_is_charged_by_what_was_seen() -> None:
    purse, ledger = _purse()

    async def cut() -> None:
        async with purse.admitted(Route.MESSAGES, ASK) as meter:
            await _drain(meter, _answer(b"{"))
            raise UpstreamCutError

    with pytest.raises(UpstreamCutError):
        await cut()
    assert ledger.spent_micro_usd(ROOM) >= FLOOR


async def test_past_its_budget_a_room_is_refused_and_nothing_is_held_or_charged() -> None:
    purse, ledger = _purse(limit=COST)
    async with purse.admitted(Route.MESSAGES, ASK) as meter:
        await _drain(meter, _answer(_whole()))
    for route in Route:
        with pytest.raises(NotAdmittedError) as refused:
            async with purse.admitted(route, ASK):
                pytest.fail("let through")
        assert "$0.0014 of $0.0014" in refused.value.denial.message
    assert ledger.spent_micro_usd(ROOM) == COST
    assert "held_back=0" in repr(purse)


async def test_one_micro_dollar_below_the_limit_one_more_request_is_let_through() -> None:
    purse, ledger = _purse(limit=COST + 1)
    for _ in range(2):
        async with purse.admitted(Route.MESSAGES, ASK) as meter:
            await _drain(meter, _answer(_whole()))
    assert ledger.spent_micro_usd(ROOM) == 2 * COST


async def test_at_once_only_as_many_run_as_the_budget_can_pay_at_their_worst() -> None:
    purse, ledger = _purse(limit=2 * MOST + 1)
    running = most_at_once = done = 0

    async def ask() -> None:
        nonlocal running, most_at_once, done
        async with purse.admitted(Route.MESSAGES, ASK) as meter:
            running += 1
            most_at_once = max(most_at_once, running)
            await asyncio.sleep(0)
            running -= 1
            await _drain(meter, _answer(_whole()))
        done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(ask())
    assert (most_at_once, done) == (3, 8)
    assert ledger.spent_micro_usd(ROOM) == 8 * COST


async def test_requests_that_all_cost_their_worst_overshoot_by_one_at_most() -> None:
    limit = 3 * MOST + MOST // 2
    purse, ledger = _purse(limit=limit)
    refused = 0

    async def ask() -> None:
        nonlocal refused
        try:
            async with purse.admitted(Route.MESSAGES, ASK) as meter:
                await asyncio.sleep(0)
                used = {"cache_creation_input_tokens": 1000, "output_tokens": 1000}
                split = {"cache_creation": {"ephemeral_1h_input_tokens": 1000}}
                body = {"model": "claude-opus-5-5", "usage": {**used, **split}}
                await _drain(meter, _answer(json.dumps(body).encode()))
        except NotAdmittedError:
            refused += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(12):
            group.create_task(ask())
    assert ledger.spent_micro_usd(ROOM) == 4 * MOST < limit + MOST
    assert refused == 8


async def test_who_waits_too_long_for_others_may_ask_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meter_module, "MAX_WAIT_S", 0.01)
    purse, _ = _purse(limit=1)
    async with purse.admitted(Route.MESSAGES, ASK):
        with pytest.raises(NotAdmittedError) as refused:
            async with purse.admitted(Route.MESSAGES, ASK):
                pytest.fail("let through")
    assert refused.value.denial.may_retry
    assert refused.value.denial.status == 429


ALICE, BOB = UserId("@alice:test"), UserId("@bob:test")


async def _ask(purse: Purse) -> None:
    async with purse.admitted(Route.MESSAGES, ASK) as meter:
        await _drain(meter, _answer(_whole()))


async def test_a_request_is_for_those_whose_turns_ran_as_it_was_let_through() -> None:
    purse, ledger = _purse()
    purse.payers = (ALICE,)
    async with purse.admitted(Route.MESSAGES, ASK) as meter:
        purse.payers = (BOB,)
        await _drain(meter, _answer(_whole()))
    assert (ledger.person_micro_usd(ALICE), ledger.person_micro_usd(BOB)) == (COST, 0)
    purse.payers = (ALICE, BOB)
    await _ask(purse)
    assert ledger.person_micro_usd(BOB) == COST // 2
    assert ledger.spent_micro_usd(ROOM) == 2 * COST


async def test_who_has_spent_what_one_person_may_is_refused_and_others_are_not() -> None:
    purse, ledger = _purse()
    purse.allowance = Allowance(base={LimitName.PERSON_USD: COST})
    purse.payers = (ALICE,)
    await _ask(purse)
    with pytest.raises(NotAdmittedError) as refused:
        await _ask(purse)
    assert "Whoever asked for this has spent" in refused.value.denial.message
    assert find_gateway_refusal(refused.value.denial.message) is not None
    purse.payers = (BOB,)
    await _ask(purse)
    assert ledger.person_micro_usd(BOB) == COST


async def test_a_raise_counts_for_the_next_request_and_for_those_that_wait() -> None:
    purse, _ = _purse(limit=MOST)
    async with asyncio.TaskGroup() as group, purse.admitted(Route.MESSAGES, ASK) as meter:
        waiting = group.create_task(_ask(purse))
        await asyncio.sleep(0)
        assert not waiting.done()
        purse.allowance = Allowance(base={LimitName.USD: 3 * MOST})
        purse.look_again()
        await waiting
        await _drain(meter, _answer(_whole()))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("claude-opus-5-5-20261001", "claude-opus-5-5"),
        ("made-up", "other"),
        ("claude-opus-5-5`\n# x", "other"),
    ],
)
async def test_a_model_goes_by_its_name_in_the_price_list(model: str, name: str) -> None:
    purse, _ = _purse()
    async with purse.admitted(Route.MESSAGES, ASK) as meter:
        await _drain(meter, _answer(_whole(model)))
    assert meter.model == name
