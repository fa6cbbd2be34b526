"""What Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from orchestrator.metrics.figures import Figures, render_metrics
from orchestrator.model import TurnOutcome


def samples(figures: Figures) -> dict[str, float]:
    """By name, with the labels' values behind it."""
    families = text_string_to_metric_families(render_metrics(figures).decode())
    return {
        ":".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }


def make_figures(rate: float | None) -> Figures:
    return Figures(
        send_rate_per_s=rate,
        limited=3,
        outbox_waiting=2,
        outbox_oldest_s=12.5,
        inbox_waiting=7,
        turns={TurnOutcome.DONE: 5},
    )


def test_every_figure_is_there_under_its_name() -> None:
    found = samples(make_figures(0.2))
    assert found["aiagentchat_send_rate_learnt"] == 0.2
    assert found["aiagentchat_send_limited_total"] == 3
    assert found["aiagentchat_outbox_waiting"] == 2
    assert found["aiagentchat_outbox_oldest_seconds"] == 12.5
    assert found["aiagentchat_inbox_waiting"] == 7
    assert found["aiagentchat_turns_total:done"] == 5
    assert found["process_resident_memory_bytes"] > 1 << 20


def test_outcomes_that_never_came_are_zero_and_an_unknown_limit_is_no_number() -> None:
    found = samples(make_figures(None))
    turns = {name: value for name, value in found.items() if "turns_total" in name}
    assert len(turns) == len(TurnOutcome)
    assert sum(turns.values()) == 5
    assert found["aiagentchat_send_rate_learnt"] != found["aiagentchat_send_rate_learnt"]
