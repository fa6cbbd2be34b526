"""The Docker Engine's events of one installation, across lost connections.

Rules: the engine is asked for what happened since the last event seen, so that a short gap loses
nothing; one that the engine itself forgot is lost, which is why rooms also look for themselves.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from loguru import logger

from orchestrator.core.sandbox import LABEL_INSTALLATION
from orchestrator.errors import EngineRequestError, EngineUnavailableError
from orchestrator.model import InstallationId
from orchestrator.ports import RunnerEvent
from orchestrator.runners.docker_model import Event
from orchestrator.runners.engine import Engine

KINDS: Final = ("start", "die", "oom", "destroy")
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_NANO: Final = 1_000_000_000


def watch_events(engine: Engine, installation: InstallationId) -> AsyncIterator[RunnerEvent]:
    """Events from the moment of this call on, in the engine's order, until cancelled."""
    return _watch(engine, installation, time.time_ns())


async def _watch(
    engine: Engine, installation: InstallationId, since_ns: int
) -> AsyncIterator[RunnerEvent]:
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            async with aclosing(_events_since(engine, installation, since_ns)) as events:
                async for event in events:
                    pause_s = _FIRST_PAUSE_S
                    # The engine repeats the last one: its `since` includes the moment it names.
                    if event.time_ns > since_ns:
                        since_ns = event.time_ns
                        yield event.runner_event()
        except (EngineUnavailableError, EngineRequestError) as e:
            logger.warning(
                "engine events interrupted",
                action="engine_watch",
                installation=installation,
                error=type(e).__name__,
                again_in_s=pause_s,
            )
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


async def _events_since(
    engine: Engine, installation: InstallationId, since_ns: int
) -> AsyncGenerator[Event, None]:
    filters = {
        "type": ["container"],
        "event": list(KINDS),
        "label": [f"{LABEL_INSTALLATION}={installation}"],
    }
    query = {
        "since": f"{since_ns // _NANO}.{since_ns % _NANO:09d}",
        "filters": json.dumps(filters),
    }
    async with engine.exchange("GET", "/events", query) as exchange:
        async for line in exchange.json_lines():
            yield Event.parse(line)
