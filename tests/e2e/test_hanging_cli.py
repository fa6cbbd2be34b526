"""A CLI that hangs, hears nothing or floods: its turn ends, the queue goes on, the room is told.

The real orchestrator, shim and container; in the CLI's place a program that misbehaves as its
prompt says, which the real CLI can't be made to. One room for each misdeed, all at the same time.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import time

import pytest

from tests.e2e.conftest import Installation
from tests.support import hostile_cli
from tests.support.matrix_user import MatrixUser, body_of
from tests.support.runner_engine import ensure_cli_image

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.timeout(300)]

TIMEOUT_S = 4
STALLED = f"Stopped: nothing came for {TIMEOUT_S} s."
# What each says before it ends; the output limit is met long before the time is up.
SAYS = {
    "hang silently": STALLED,
    "hang in mid-line": STALLED,
    "hang after a part": STALLED,
    "be stubborn": STALLED,
    "have stubborn children": STALLED,
    "close your output": STALLED,
    "flood": "it met this room's output limit of 4 MiB",
}


@pytest.fixture(scope="module")
def image() -> str:
    return ensure_cli_image(inspect.getsource(hostile_cli))


async def start(installation: Installation, image: str) -> MatrixUser:
    limits = {"output_bytes": "4m"}
    defaults = {"permissions": "bypass", "timeout_s": TIMEOUT_S, "limits": limits}
    orchestrator = await installation.configure(docker={"image": image}, defaults=defaults)
    await orchestrator.start()
    return await installation.person()


async def test_a_cli_that_hangs_or_floods_is_ended_told_and_the_queue_goes_on(
    installation: Installation, image: str
) -> None:
    alice = await start(installation, image)
    agent = installation.agent.user_id
    rooms = {misdeed: await installation.room(alice, name=misdeed) for misdeed in SAYS}
    for room in rooms.values():
        await alice.send(room, "hello")
    for room in rooms.values():
        await alice.wait_for_text(room, "You said: hello", sender=agent)

    began = time.monotonic()
    for misdeed, room in rooms.items():
        await alice.send(room, misdeed)
    await asyncio.sleep(3)  # a turn of its own for each
    for room in rooms.values():
        await alice.send(room, "and now?")
    for misdeed, room in rooms.items():
        await alice.wait_for_text(room, SAYS[misdeed], sender=agent)
        await alice.wait_for_text(room, "You said: and now?", sender=agent)
        took = time.monotonic() - began
        sys.stdout.write(f"{misdeed}: told and on with the queue after {took:.1f} s\n")

    for misdeed, room in rooms.items():
        said = alice.texts(room, sender=agent)
        assert sum(SAYS[misdeed] in text for text in said) == 1, (misdeed, said)
        assert said.count("You said: and now?") == 1, (misdeed, said)
    # The shim did what it was told. Only behind a flood its answer may come too late.
    runners = {one.room_id: one for one in await installation.orchestrator.runners()}
    replaced = {name for name, room in rooms.items() if runners[room].generation > 1}  # type: ignore[index] # each has one by then
    assert replaced <= {"flood"}


async def test_a_prompt_that_is_never_read_ends_by_the_clock_and_is_not_given_twice(
    installation: Installation, image: str
) -> None:
    """It is larger than the pipe: the rest of it waits in the shim."""
    alice = await start(installation, image)
    agent = installation.agent.user_id
    room = await installation.room(alice)
    await alice.send(room, "read no more")
    await alice.wait_for_text(room, "You said: read no more", sender=agent)
    for letter in "ABC":
        await alice.send(room, letter * 40_000)
    await alice.wait_for_text(room, STALLED, sender=agent)
    await alice.send(room, "and now?")
    await alice.wait_for_text(room, "You said: and now?", sender=agent)
    said = alice.texts(room, sender=agent)
    assert not any("AAAA" in text for text in said)
    assert said.count(STALLED) == 1


async def test_a_second_result_of_a_turn_is_not_shown_and_ends_no_other_turn(
    installation: Installation, image: str
) -> None:
    alice = await start(installation, image)
    agent = installation.agent.user_id
    room = await installation.room(alice)
    await alice.send(room, "give two results")
    await alice.wait_for_text(room, "You said: give two results", sender=agent)
    for number in range(3):
        await alice.send(room, f"message {number}")
        answer = await alice.wait_for_text(room, f"You said: message {number}", sender=agent)
        assert body_of(answer) == f"You said: message {number}"
