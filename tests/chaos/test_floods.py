"""A room whose CLI prints without end: its answer comes, memory stays bounded, others go on.

A program floods in the CLI's place, through the real shim, wire and rooms. What is asserted of the
memory is what may be held, with room for an allocator that keeps what it freed; the figures beside
each other are in `bench.floods`.
"""

from __future__ import annotations

import asyncio

import pytest

from bench.support.machine import peak_rss, reset_peak, vm_rss
from orchestrator.rooms.outgoing import TURN_KEY
from tests.e2e.conftest import Installation, installation
from tests.support.flood_cli import PROGRAM
from tests.support.matrix_user import Json, MatrixUser, body_of
from tests.support.runner_engine import ensure_cli_image

__all__ = ["installation"]

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.timeout(300)]

# Buffers of a link: the spool's replay (8 MiB) and a line (4 MiB), as bytes, as text and parsed.
MOST_HELD_BYTES = 96 << 20
SHORT = (("output", 20), ("line", 20), ("tiny", 10_000), ("pace", 1), ("stderr", 20), ("junk", 2))
LONG = (("output", 100), ("line", 64), ("tiny", 1_000_000), ("pace", 60), ("stderr", 100))


@pytest.fixture(scope="module")
def image() -> str:
    return ensure_cli_image(PROGRAM)


def is_end_of(event: Json, asked: str) -> bool:
    mark = event.get("content", {}).get(TURN_KEY, {})
    return bool(mark.get("final")) and asked in mark["asked"]


async def answer_to(person: MatrixUser, asked: str, *, timeout_s: float = 60) -> Json:
    return await person.wait_for(
        lambda event: is_end_of(event, asked), timeout_s=timeout_s, what="the end of a turn"
    )


async def flood(
    installation: Installation, floods: tuple[tuple[str, int], ...], *, timeout_s: float
) -> None:
    """Each flood in one room, with turns of another room during it."""
    daemon = installation.orchestrator
    person = await installation.person()
    noisy, quiet = await installation.room(person), await installation.room(person)
    for room in (noisy, quiet):
        await answer_to(person, await person.send(room, "warm up"))
    for kind, size in floods:
        before = vm_rss(daemon.pid)
        reset_peak(daemon.pid)
        flooding = await person.send(noisy, f"flood {kind} {size}")
        for n in range(3):
            asked = await person.send(quiet, f"{kind} {n}")
            said = await answer_to(person, asked)
            assert said["content"][TURN_KEY]["outcome"] == "done"
            assert body_of(said) == f"You said: {kind} {n}"
        end = await answer_to(person, flooding, timeout_s=timeout_s)
        assert end["content"][TURN_KEY]["outcome"] == "done", body_of(end)
        assert f"flooded {kind} {size}" in body_of(end)
        assert peak_rss(daemon.pid) - before < MOST_HELD_BYTES, kind
    assert "Traceback" not in daemon.log


@pytest.fixture
async def flooded(image: str, installation: Installation) -> Installation:
    await installation.configure(docker={"image": image})
    await installation.orchestrator.start()
    return installation


async def test_a_room_that_prints_without_end_gets_its_answer_and_costs_the_others_nothing(
    flooded: Installation,
) -> None:
    async with asyncio.timeout(200):
        await flood(flooded, SHORT, timeout_s=60)


@pytest.mark.long
@pytest.mark.timeout(2400)
async def test_however_much_a_room_prints_what_is_held_of_it_stays_the_same(
    flooded: Installation,
) -> None:
    await flood(flooded, LONG, timeout_s=1800)
