"""The figures, and the text that Prometheus reads of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator.model import TurnOutcome

_PREFIX = "aiagentchat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One look at the process. Counters count from its start."""

    send_rate_per_s: float | None
    """What the account's 429s have taught; None: no limit met yet."""
    limited: int
    """429s that a message of the outbox met."""
    outbox_waiting: int
    outbox_oldest_s: float
    """How long the oldest message has waited; 0 when none does."""
    inbox_waiting: int
    """Events that are stored, and nothing follows from them yet."""
    turns: Mapping[TurnOutcome, int]
    """Turns that have ended, by outcome."""


def render_metrics(figures: Figures) -> bytes:
    """The text format of Prometheus, with what the kernel says of this process."""
    registry = CollectorRegistry()
    registry.register(_Once(figures))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """As the library asks."""
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
        turns = CounterMetricFamily(f"{_PREFIX}_turns", "Turns that have ended", labels=["outcome"])
        for outcome in TurnOutcome:
            turns.add_metric([outcome], now.turns.get(outcome, 0))
        yield turns


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", help_text, value=value)
