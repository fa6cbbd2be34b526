from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.ending import stop_runners
from orchestrator.errors import EngineRequestError
from orchestrator.model import InstallationId, RunnerState
from orchestrator.runners.memory_backend import MemoryBackend, MemoryEngine
from orchestrator.runners.memory_stdio import echo
from tests.support.runner_engine import room_spec

INSTALLATION = InstallationId("0123456789abcdef")


class OneStuckBackend(MemoryBackend):
    """Refuses to stop the first runner that it is asked to."""

    refused: str | None = None

    async def stop(self, name: str, *, grace_s: float) -> None:
        if self.refused is None:
            self.refused = name
            raise EngineRequestError
        await super().stop(name, grace_s=grace_s)


async def test_a_runner_that_can_not_be_stopped_keeps_no_other_running(tmp_path: Path) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        engine = MemoryEngine(images={"image": echo})
        backend = OneStuckBackend(INSTALLATION, engine, group)
        for index in range(2):
            spec = room_spec(tmp_path, INSTALLATION, "image", index=index)
            await backend.ensure(spec)
            await backend.start(spec.name)

        await stop_runners(backend, lambda _: None)

        states = {info.name: info.state for info in await backend.list()}
        assert backend.refused is not None
        assert states.pop(backend.refused) is RunnerState.RUNNING
        assert list(states.values()) == [RunnerState.EXITED]
        backend.kill_all()
