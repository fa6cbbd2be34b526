"""What a running orchestrator tells Prometheus and whoever watches it."""

from __future__ import annotations

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import Installation
from tests.support.port import free_port

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def ask(address: str, path: str) -> tuple[int, str]:
    async with aiohttp.request("GET", f"http://{address}{path}") as answer:
        return answer.status, await answer.text()


async def test_a_message_and_its_answer_are_seen_in_each_figure(installation: Installation) -> None:
    address = f"127.0.0.1:{free_port()}"
    orchestrator = await installation.configure(
        observability={"metrics": address, "metrics_by_room": True}
    )
    await orchestrator.start()
    assert await ask(address, "/readyz") == (200, "ok\n")
    assert await ask(address, "/healthz") == (200, "ok\n")
    alice = await installation.person()
    room = await installation.room(alice)
    await alice.send(room, "hello")
    await alice.wait_for_text(room, "hello", sender=installation.agent.user_id)

    _, text = await ask(address, "/metrics")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    for stage in ("received", "queued", "first_output", "turn", "accepted"):
        assert found["aiagentchat_stage_seconds_count", stage] >= 1, stage
    assert found["aiagentchat_runner_start_seconds_count",] == 1
    assert found["aiagentchat_runners", "running"] == 1
    assert found["aiagentchat_turns_total", "done"] == 1
    assert found["aiagentchat_rooms",] == 1
    assert found["aiagentchat_sync_connected",] == 1
    assert found["aiagentchat_api_requests_total", "2xx"] >= 1
    assert found["aiagentchat_api_tokens_total", "output"] > 0
    assert found["aiagentchat_api_usd_total",] > 0
    assert found["aiagentchat_database_bytes",] > 10_000
    (memory,) = [v for name, v in found.items() if name[0] == "aiagentchat_room_memory_bytes"]
    assert memory > 1 << 20
