"""What one room does to the others: each noise goes on for as long as its context lasts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from bench.support.daemon_figures import runner_pids
from bench.support.installation import POLL_S, Bench, say
from orchestrator.control.client import ControlClient
from orchestrator.embedded.messages_model import Block, Stall, Text, ToolUse

Noise = Callable[[Bench, str], AbstractAsyncContextManager[None]]

# A noise has its full strength by then.
_BEGIN_S = 2.0
_IDLE_S = 120.0
_SENDERS = 4
# 500 pieces a second for two minutes: longer than it is listened to.
_STREAM = Text(text="word " * 300_000, chunk_chars=24, delay_s=0.002)

_FORK_BOMB = ":(){ :|:& };:; sleep 100"
_MEMORY_HOG = (
    "while :; do python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 24))'; done; sleep 100"
)
_CPU_SPIN = "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; sleep 100"
_DISK_WRITER = (
    "while :; do dd if=/dev/zero of=/workspace/full bs=1M count=512 2>/dev/null; done; sleep 100"
)


@asynccontextmanager
async def flood_messages(bench: Bench, room: str) -> AsyncIterator[None]:
    """A person who sends as fast as the homeserver takes it."""

    async def send() -> None:
        while True:
            await bench.person.send(room, "noise")

    async with asyncio.TaskGroup() as group:
        senders = [group.create_task(send(), name="noise") for _ in range(_SENDERS)]
        await asyncio.sleep(_BEGIN_S)
        try:
            yield
        finally:
            for sender in senders:
                sender.cancel()
    await _kill_runner(bench, room)
    await wait_idle(bench)


@asynccontextmanager
async def hang_cli(bench: Bench, room: str) -> AsyncIterator[None]:
    """A CLI that is stopped in the middle of a turn."""
    bench.api.when("hang", [Stall(seconds=600), Text(text="too late")])
    await bench.person.send(room, "hang")
    await _wait_until_asked(bench, "hang")
    _, cli = await asyncio.to_thread(runner_pids, bench.client, await bench.runner_of(room))
    os.kill(cli, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(cli, signal.SIGCONT)
    await _kill_runner(bench, room)
    await wait_idle(bench)


def ask_for(name: str, block: Block) -> Noise:
    """A turn that the model answers so: an answer that streams, or a tool that the CLI runs."""

    @asynccontextmanager
    async def noise(bench: Bench, room: str) -> AsyncIterator[None]:
        bench.api.when(name, [block], "done")
        await bench.person.send(room, name)
        await _wait_until_asked(bench, name)
        await asyncio.sleep(_BEGIN_S)
        await _say_strength(bench, room)
        try:
            yield
        finally:
            await _say_strength(bench, room)
            await _kill_runner(bench, room)
        await wait_idle(bench)

    return noise


def run_tool(name: str, command: str) -> Noise:
    """A shell command, within the room's limits."""
    return ask_for(name, ToolUse(name="Bash", input={"command": command}))


NOISES: dict[str, Noise] = {
    "a flood of messages": flood_messages,
    "a CLI that hangs": hang_cli,
    "an answer of 500 pieces a second": ask_for("stream", _STREAM),
    "a fork bomb": run_tool("fork bomb", _FORK_BOMB),
    "a memory hog": run_tool("memory hog", _MEMORY_HOG),
    "eight loops on the CPU": run_tool("cpu spin", _CPU_SPIN),
    "a disk writer": run_tool("disk writer", _DISK_WRITER),
}


async def wait_idle(bench: Bench) -> None:
    """Until no turn runs or waits anywhere."""
    client = ControlClient(bench.state_dir)
    async with asyncio.timeout(_IDLE_S):
        while True:
            status = await client.status()
            if not status.turns_running and not status.turns_queued:
                return
            await asyncio.sleep(POLL_S)


async def _wait_until_asked(bench: Bench, text: str) -> None:
    """Until the model was asked this, since the last time."""
    bench.api.asked_at.pop(text, None)
    async with asyncio.timeout(_IDLE_S):
        while text not in bench.api.asked_at:  # noqa: ASYNC110 - noted by another task
            await asyncio.sleep(POLL_S)


async def _say_strength(bench: Bench, room: str) -> None:
    """What the noisy room uses, so that nobody takes silence for fairness."""
    runner = await bench.runner_of(room)
    say(
        f"  the noisy room: {runner.pids} processes, {(runner.memory_bytes or 0) >> 20} MiB, "
        f"{runner.cpu_total_s or 0:.1f} s of CPU since its start {runner.uptime_s or 0:.0f} s ago"
    )


async def _kill_runner(bench: Bench, room: str) -> None:
    """All that the noise has started; its turn ends as interrupted."""
    runner = await bench.runner_of(room)
    container = bench.client.containers.get(runner.container)
    await asyncio.to_thread(container.kill)
