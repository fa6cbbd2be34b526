"""What is counted as it happens: each where it belongs, once."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

from loguru import logger

from orchestrator import meters
from orchestrator.log import configure_logging
from tests.support.room_rig import Rig
from tests.unit.rooms.scenario import run, tell, works_for


def value(name: str, **labels: str) -> float:
    return meters.REGISTRY.get_sample_value(name, labels) or 0.0


def stages() -> dict[str, float]:
    names = ("received", "queued", "first_output", "turn", "accepted")
    return {name: value("aiagentchat_stage_seconds_count", stage=name) for name in names}


def test_a_turn_is_measured_in_each_of_its_stages(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(20)
        before, starts = stages(), value("aiagentchat_runner_start_seconds_count")
        took = value("aiagentchat_stage_seconds_sum", stage="turn")
        async with rig.life() as life:
            await tell(rig, life, "work")
            await tell(rig, life, "!status")
            await rig.wait_ended(1)
        after = stages()
        assert after["queued"] - before["queued"] == 1
        assert after["first_output"] - before["first_output"] == 1
        assert after["turn"] - before["turn"] == 1
        assert 20 <= value("aiagentchat_stage_seconds_sum", stage="turn") - took < 25
        assert value("aiagentchat_runner_start_seconds_count") - starts == 1

    run(tmp_path, test)


def test_what_a_sender_sent_is_measured_from_then_on(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        before = stages()["received"]
        content = {"msgtype": "m.text", "body": "hello"}
        async with rig.life() as life:
            await rig.receive_event("m.room.message", content, origin_server_ts=1_000)
            await rig.receive_event("m.room.message", content, origin_server_ts="soon")
            life.notify()
            await rig.wait_ended(1)
        assert stages()["received"] - before == 1

    run(tmp_path, test)


def test_rests_are_counted_by_kind(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        def rests() -> list[float]:
            kinds = ("stop_cli", "hibernate")
            return [value("aiagentchat_runner_rests_total", rest=r, why="idle") for r in kinds]

        before = rests()
        async with rig.life() as life:
            await tell(rig, life, "one")
            await asyncio.sleep(300)
        assert [b - a for a, b in zip(before, rests(), strict=True)] == [1, 1]

    run(tmp_path, test, defaults={"idle_stop_s": 50, "hibernate_s": 100})


def test_errors_are_counted_by_their_action_and_warnings_are_not() -> None:
    configure_logging(fmt="json", level="INFO", sink=io.StringIO())
    before = value("aiagentchat_errors_total", action="test.fails")
    logger.bind(action="test.fails").warning("not yet")
    logger.bind(action="test.fails").error("now")
    logger.bind(action="test.fails").critical("and again")
    assert value("aiagentchat_errors_total", action="test.fails") - before == 2


def test_no_label_has_more_values_than_we_give_it() -> None:
    for family in meters.REGISTRY.collect():
        for sample in family.samples:
            assert set(sample.labels) <= {
                "stage",
                "le",
                "rest",
                "why",
                "verdict",
                "direction",
                "status",
                "kind",
                "action",
            }
