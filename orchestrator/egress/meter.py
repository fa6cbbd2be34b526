"""Counts what a room's requests cost, while their answers pass by, and keeps the room's budget.

Rules: a request is let through or refused before a byte of it leaves; while it runs, the most that
it can cost is held back; at its end, however it ends, it is charged what the answer said, or an
estimate where the answer said nothing. Not a byte of an answer is changed, or waits for this.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from orchestrator import meters
from orchestrator.core.allowance import Allowance, LimitName
from orchestrator.core.ask import Ask
from orchestrator.core.budget import Verdict, decide, not_now, over_budget, over_person_budget
from orchestrator.core.egress_http import Denial
from orchestrator.core.egress_policy import Route
from orchestrator.core.price import (
    cost_micro_usd,
    dearest,
    find_listed,
    find_price,
    floor_micro_usd,
    most_micro_usd,
)
from orchestrator.core.usage import UsageReader
from orchestrator.egress.ledger import Ledger
from orchestrator.egress.upstream import Answer, UpstreamFailedError, UpstreamSilentError
from orchestrator.model import RoomSlug, UserId

# How long a request waits for others of its room, where the budget may not be enough for all. The
# CLI waits 600 s for an answer; after the refusal it asks again.
MAX_WAIT_S = 120.0
# What a model may have written unseen (an answer in one piece, hidden thinking) until the client
# left: large models write 40 to 100 tokens a second, faster ones cost a fraction of them.
UNSEEN_TOKENS_PER_S = 100
_OK = 200


class NotAdmittedError(Exception):
    """The room's budget does not allow the request. Carries the refusal."""

    def __init__(self, denial: Denial) -> None:
        self.denial = denial
        super().__init__(denial.reason)


class Meter:
    """Reads one answer's usage. Charged once, by its purse."""

    def __init__(self, ask: Ask, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._seen_at = clock()
        self._reader: UsageReader | None = None
        self._status: int | None = None
        self.is_sent = True
        """Whether the API may have worked on the request."""
        self.is_over = False
        """Whether the API has ended it; else what ends it is the client's leaving."""

    @property
    def has_answer(self) -> bool:
        """Whether the API has begun to answer."""
        return self._status is not None

    def watch(self, answer: Answer) -> Answer:
        """The same answer; what passes through it is read."""
        kind = dict(answer.headers).get("content-type", "")
        self._status = answer.status
        self._reader = UsageReader(is_stream=kind.startswith("text/event-stream"))
        return replace(answer, chunks=self._read(answer.chunks, self._reader))

    async def _read(
        self, chunks: AsyncIterator[bytes], reader: UsageReader
    ) -> AsyncIterator[bytes]:
        try:
            async for data in chunks:
                # Before it is passed on: what a client does not wait for was written all the same.
                written = reader.written_bytes
                reader.feed(data)
                if reader.written_bytes > written:
                    self._seen_at = self._clock()
                yield data
        except UpstreamFailedError:
            self.is_over = True
            raise
        reader.end()
        self.is_over = True

    @property
    def model(self) -> str:
        """The model that answered, as far as the price list knows it."""
        said = None if self._reader is None else self._reader.model
        return find_listed(said or next(iter(self._ask.models), ""))

    def cost_micro_usd(self) -> int:
        """What the request has cost by now. An answer that is no success costs nothing."""
        if self._status not in (_OK, None) or not self.is_sent:
            return 0
        reader = self._reader
        if reader is None:
            return floor_micro_usd(self._ask, output_tokens=self._with_unseen(0))
        if not reader.has_usage:
            written = self._with_unseen(reader.written_tokens)
            return floor_micro_usd(self._ask, output_tokens=written)
        return self._said_micro_usd(reader)

    def count(self, micro_usd: int) -> None:
        """Into what Prometheus is told, once."""
        status = "none" if self._status is None else f"{self._status // 100}xx"
        meters.API_REQUESTS.labels(status).inc()
        meters.API_USD.inc(micro_usd / 1e6)
        for share in [] if self._reader is None else self._reader.shares():
            used = share.usage
            meters.API_TOKENS.labels("input").inc(used.input_tokens)
            meters.API_TOKENS.labels("cache_write").inc(used.write_5m_tokens + used.write_1h_tokens)
            meters.API_TOKENS.labels("cache_read").inc(used.read_tokens)
            meters.API_TOKENS.labels("output").inc(used.output_tokens)

    def _with_unseen(self, tokens: int) -> int:
        """With what may have been written since, where the client did not wait for the end."""
        if self.is_over:
            return tokens
        unseen = int((self._clock() - self._seen_at) * UNSEEN_TOKENS_PER_S)
        return max(tokens, min(tokens + unseen, self._ask.max_tokens))

    def _said_micro_usd(self, reader: UsageReader) -> int:
        own, *others = reader.shares()
        usage = own.usage
        if not reader.is_complete:
            written = self._with_unseen(max(usage.output_tokens, reader.written_tokens))
            usage = replace(usage, output_tokens=written)
        price = find_price(own.model) if own.model else dearest(self._ask.models)
        rest = (cost_micro_usd(o.usage, find_price(o.model or "")) for o in others)
        return cost_micro_usd(usage, price) + sum(rest)


class Purse:
    """One room's money. Invariant: what is held back is the most that its open requests can cost.

    A request is for those who `payers` names when it is let through, in equal parts.
    """

    def __init__(self, slug: RoomSlug, ledger: Ledger, *, limit: int | None) -> None:
        """`limit`: micro-dollars for a UTC day; None: spending is counted, and not limited."""
        self._slug = slug
        self._ledger = ledger
        self.allowance = Allowance(base={} if limit is None else {LimitName.USD: limit})
        """What may be spent here, by day; replaced as a whole."""
        self.payers: tuple[UserId, ...] = ()
        """Who asked for what runs here, or ran last."""
        self._held_back = 0
        self._settled = asyncio.Event()

    def __repr__(self) -> str:
        return f"Purse({self._slug}, limit={self._limit()}, held_back={self._held_back})"

    def look_again(self) -> None:
        """The allowance is another: who waits may go on."""
        self._settled.set()

    def _limit(self, name: LimitName = LimitName.USD) -> int | None:
        return self.allowance.on(self._ledger.day()).get(name)

    @contextlib.asynccontextmanager
    async def admitted(self, route: Route, ask: Ask) -> AsyncIterator[Meter]:
        """Let a request through, waiting for others where it must; it is charged at the end.

        Counting tokens costs nothing, and is refused with the rest when the budget is spent.

        Raises:
            NotAdmittedError: the budget is spent, or may be by requests that take long.
        """
        most = most_micro_usd(ask) if route is Route.MESSAGES else 0
        await self._wait_for_turn()
        self._held_back += most
        payers = self.payers
        meter = Meter(ask, asyncio.get_running_loop().time)
        try:
            yield meter
        except UpstreamFailedError as e:
            meter.is_over = True
            meter.is_sent = meter.has_answer or isinstance(e, UpstreamSilentError)
            raise
        finally:
            self._held_back -= most
            if route is Route.MESSAGES:
                cost = meter.cost_micro_usd()
                self._ledger.charge(self._slug, cost, people=payers, model=meter.model)
                meter.count(cost)
            self._settled.set()

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                while self._verdict() is Verdict.WAIT:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            raise NotAdmittedError(not_now()) from None
        limit, left_s = self._limit(), self._ledger.seconds_left()
        spent = self._ledger.spent_micro_usd(self._slug)
        if limit is not None and spent >= limit:
            raise NotAdmittedError(over_budget(limit=limit, spent=spent, left_s=left_s))
        limit = self._limit(LimitName.PERSON_USD)
        if limit is not None and self._of_people(limit) is Verdict.REFUSE:
            raise NotAdmittedError(over_person_budget(limit=limit, left_s=left_s))

    def _verdict(self) -> Verdict:
        """The room's; where it has money, that of those who the request is for."""
        spent = self._ledger.spent_micro_usd(self._slug)
        verdict = decide(limit=self._limit(), spent=spent, held_back=self._held_back)
        limit = self._limit(LimitName.PERSON_USD)
        if verdict is not Verdict.ADMIT or limit is None:
            return verdict
        return self._of_people(limit)

    def _of_people(self, limit: int) -> Verdict:
        """Of several whose turns run side by side, one with money left is enough."""
        if not self.payers:
            return Verdict.ADMIT
        spent = min(self._ledger.person_micro_usd(person) for person in self.payers)
        return decide(limit=limit, spent=spent, held_back=self._held_back)
