"""Many rooms that stream long answers at once, on a Synapse with its stock limit of messages.

Run `pytest -s` to see the figures that it prints.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.embedded.messages_model import Block, Text, ToolUse
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser
from tests.support.messages_api import open_scripted_api
from tests.support.synapse import run_synapse

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli]

TURN_KEY = "org.aiagentchat.turn"
STOCK_RATE = 0.2
STOCK_BURST = 10
# Refusals of one volley come within the second for which Synapse holds them back, twice.
VOLLEY_S = 2.0


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    """On a Synapse that limits messages as a stock one does, and nothing else."""
    with run_synapse(stock_limits=True, only_messages=True) as server:
        agent = server.register("claude")
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(open_scripted_api())
            yield Installation(tmp_path, server, api, agent, stack)


def script_stream(installation: Installation, name: str, *, steps: int) -> list[str]:
    """Let the turn that names the room stream text and call tools; the blocks of its answer."""
    blocks = [f"[{name}.{i}] " + f"word{i} " * 300 for i in range(steps)]
    blocks = [block.strip() for block in blocks]
    replies: list[list[Block]] = []
    for block in blocks:
        # 2,100 characters, 60 at a time: some two seconds; and a tool that takes two more.
        text = Text(text=block, chunk_chars=60, delay_s=0.06)
        replies.append([text, ToolUse(name="Bash", input={"command": "sleep 2"})])
    replies[-1] = replies[-1][:1]
    installation.api.when(rf"stream {name}\b", *replies)
    return blocks


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the orchestrator's database and log say of the run."""

    last_ended_at: float
    final_waits_s: list[float]
    finals_in_order: bool
    messages: int
    messages_with_the_end: int
    progress: int
    limited_at: list[float]
    """Seconds since the first refusal."""

    @property
    def strays(self) -> int:
        """Refusals after the limit was learnt."""
        return sum(at > VOLLEY_S for at in self.limited_at)


def read_figures(installation: Installation) -> Figures:
    path = installation.orchestrator.state_dir / "state.sqlite3"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        turns = db.execute(
            "SELECT t.room_id, t.ended_at, o.ended_at FROM turns t JOIN outbox o "
            "ON o.room_id = t.room_id AND o.priority = 'final' ORDER BY t.ended_at"
        ).fetchall()
        sent = db.execute(
            "SELECT o.created_at >= t.ended_at - 0.5 FROM outbox o JOIN turns t "
            "ON t.room_id = o.room_id"
        ).fetchall()
    lines = [
        line for line in installation.orchestrator.log.splitlines() if "outbox.limited" in line
    ]
    limited = [datetime.fromisoformat(re.split(r"\s", line)[0]).timestamp() for line in lines]
    # Those of the reserve leave side by side; from there on one after the other.
    late = [sent_at for _, _, sent_at in turns[STOCK_BURST:]]
    with_end = sum(bool(row[0]) for row in sent)
    return Figures(
        last_ended_at=max(ended_at for _, ended_at, _ in turns),
        final_waits_s=[sent_at - ended_at for _, ended_at, sent_at in turns],
        finals_in_order=late == sorted(late),
        messages=len(sent),
        messages_with_the_end=with_end,
        progress=len(sent) - with_end,
        limited_at=[at - limited[0] for at in limited],
    )


async def wait_for_ends(person: MatrixUser, rooms: list[str], timeout_s: float) -> None:
    def have_ended(events: list[dict[str, Any]]) -> bool:
        ended = {e["room_id"] for e in events if e["content"].get(TURN_KEY, {}).get("final")}
        return ended >= set(rooms)

    await person.collect(have_ended, timeout_s=timeout_s, what="the end of every answer")


async def read_answer(person: MatrixUser, room: str, agent: str) -> str:
    """What the room has of the answer: messages, and files in place of their previews."""
    found: list[str] = []
    for event in await person.messages(room, limit=200):
        content = event["content"]
        if event["sender"] != agent or TURN_KEY not in content or "body" not in content:
            continue
        if content["msgtype"] == "m.file":
            found[-1] = (await person.download(content["url"])).decode()
        elif content["msgtype"] == "m.text":
            found.append(content["body"])
    return " ".join(" ".join(found).split())


async def stream_everywhere(
    installation: Installation, *, rooms: int, steps: int, timeout_s: float
) -> Figures:
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    installation.server.unlimit(alice.user_id)
    ids = [await installation.room(alice, name=f"room {i}") for i in range(rooms)]
    blocks = [script_stream(installation, f"r{i}", steps=steps) for i in range(rooms)]
    await asyncio.gather(*(alice.send(room, f"stream r{i} now") for i, room in enumerate(ids)))
    await wait_for_ends(alice, ids, timeout_s)

    agent = installation.agent.user_id
    for room, said in zip(ids, blocks, strict=True):
        answer = await read_answer(alice, room, agent)
        assert answer == " ".join(said), "complete, in order, and once"
        events = [e for e in await alice.messages(room) if e["sender"] == agent]
        finals = [e for e in events if e["content"].get(TURN_KEY, {}).get("final")]
        assert len(finals) == 1
    figures = read_figures(installation)
    waits = sorted(figures.final_waits_s)
    print(  # noqa: T201 - the figures are what it is run for
        f"\nrooms={rooms} messages={figures.messages} progress={figures.progress} "
        f"429={len(figures.limited_at)} strays={figures.strays} "
        f"first_answer_s={waits[0]:.1f} median_s={waits[len(waits) // 2]:.1f} "
        f"last_s={waits[-1]:.1f}"
    )
    return figures


@pytest.mark.timeout(180)
async def test_four_streams_on_a_stock_homeserver_are_complete_and_their_answers_come_first(
    installation: Installation,
) -> None:
    figures = await stream_everywhere(installation, rooms=4, steps=5, timeout_s=150)
    assert figures.strays <= 3
    # The four ends, and what was shown before them: a burst, and one in 5 s.
    assert figures.messages <= 4 * 3 + STOCK_BURST + 8


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_twenty_streams_on_a_stock_homeserver_are_complete_and_their_answers_come_first(
    installation: Installation,
) -> None:
    figures = await stream_everywhere(installation, rooms=20, steps=16, timeout_s=800)
    assert figures.strays <= 3
    assert figures.finals_in_order
    # What goes with the ends leaves at the limit; the pace keeps a margin of 5 % below it.
    at_the_limit_s = figures.messages_with_the_end / STOCK_RATE
    assert max(figures.final_waits_s) < at_the_limit_s * 1.1 + 20
    # Without dropping, 20 rooms make some 300 messages of this.
    assert figures.progress < 60
