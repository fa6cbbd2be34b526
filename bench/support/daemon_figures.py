"""Idle memory, and restarts of the orchestrator while a turn runs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import docker
from pydantic import BaseModel

from bench.support.figures import Figure, Section, Unit, median
from bench.support.installation import POLL_S, Bench, say
from bench.support.machine import Child, Memory, children_of, memory_of, vm_rss
from orchestrator.control.models import RunnerView
from orchestrator.embedded.messages_model import Stall, Text
from orchestrator.model import TurnId
from tests.support.cli_process import CliProcess
from tests.support.orchestrator import ORCHESTRATOR

# Garbage collections and write-backs of the turns before are done by then.
_IDLE_S = 5.0
_SETTLE_S = 1.0
# Longer than a restart: the request is still open when the kill cuts it.
_HELD_S = 60.0
# The CLI asks again as soon as the gateway is back. The turn must not end before it was seen to be
# attached again; a restart takes less than half of this.
_HELD_AGAIN_S = 5.0
# A dead CLI is noticed, or a turn taken up again, at once or never.
_WAIT_S = 30.0


class _LogLine(BaseModel):
    """One line of the orchestrator's JSON log, as far as it is needed here."""

    time: datetime
    action: str
    turn: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleMemory:
    """Bytes, all taken while nothing runs."""

    runner: int
    cli: Memory
    shim: Memory
    bare_runner: int
    daemon_rss: int
    daemon: Memory
    children: tuple[Child, ...]
    alone: Memory


async def measure_memory(bench: Bench, room: str, cli: CliProcess, rooms: int) -> Section:
    """The room's CLI and the one alone have had the same turns. The room's is killed for this."""
    say("idle memory")
    await asyncio.sleep(_IDLE_S)
    runner = await bench.runner_of(room)
    shim_pid, cli_pid = await asyncio.to_thread(runner_pids, bench.client, runner)
    daemon = bench.orchestrator.pid
    memory = IdleMemory(
        runner=runner.memory_bytes or 0,
        cli=memory_of(cli_pid),
        shim=memory_of(shim_pid),
        daemon_rss=vm_rss(daemon),
        daemon=memory_of(daemon),
        children=tuple(children_of(daemon)),
        alone=memory_of(cli.process.pid),
        # Last: nothing above may see the room's CLI dead.
        bare_runner=await _kill_cli(bench, room, cli_pid),
    )
    title = f"Idle memory: {rooms} rooms, each with a live CLI"
    return Section(title=title, figures=_memory_figures(memory))


async def measure_restarts(bench: Bench, room: str, count: int) -> Section:
    """Kill the orchestrator while a turn runs, and start it again."""
    in_step: list[float] = []
    attached: list[float] = []
    program: list[float] = []
    for n in range(count):
        say(f"restart {n + 1} of {count}")
        event_id, turn_id = await _hold_turn(bench, room, f"hold {n}")
        ready_s, attached_s = await _restart(bench, turn_id)
        in_step.append(ready_s)
        attached.append(attached_s)
        await bench.person.wait_for_answer(event_id)
        await asyncio.sleep(_SETTLE_S)
        program.append(await _time_program())
    than, than_value = "`orchestrator --version`: its imports", median(program)
    rows = {
        "SIGKILL to in step with the homeserver": median(in_step),
        "SIGKILL to the running turn re-attached": median(attached),
    }
    return Section(
        title=f"Restart of the orchestrator, median of {count}",
        figures=tuple(
            Figure(name=name, value=value, than=than, than_value=than_value)
            for name, value in rows.items()
        ),
    )


# Memory...


def runner_pids(client: docker.DockerClient, runner: RunnerView) -> tuple[int, int]:
    """The pids on this machine of a runner's shim and of its one CLI."""
    container = client.containers.get(runner.container)
    table = container.top()
    pid, command = table["Titles"].index("PID"), table["Titles"].index("CMD")
    claudes = (row for row in table["Processes"] if Path(row[command].split()[0]).name == "claude")
    (cli,) = (int(row[pid]) for row in claudes)
    return container.attrs["State"]["Pid"], cli


async def _kill_cli(bench: Bench, room: str, pid: int) -> int:
    """What the room's runner holds once its CLI is gone; the shim lives on."""
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(_WAIT_S):
        # The control socket is asked; it has no events.
        while (await bench.runner_of(room)).cli_running:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
    await asyncio.sleep(_SETTLE_S)
    return (await bench.runner_of(room)).memory_bytes or 0


def _memory_figures(memory: IdleMemory) -> tuple[Figure, ...]:
    by_rss = ("the CLI alone, RSS", memory.alone.rss)
    by_pss = ("the CLI alone, PSS", memory.alone.pss)
    by_own = ("the CLI alone, its own pages", memory.alone.own)
    rows = (
        ("a runner with a live CLI, cgroup", memory.runner, by_rss),
        ("· the CLI in it, RSS", memory.cli.rss, by_rss),
        ("· the CLI in it, PSS", memory.cli.pss, by_pss),
        ("· the CLI in it, its own pages", memory.cli.own, by_own),
        ("· the shim in it, RSS", memory.shim.rss, by_rss),
        ("· the shim in it, PSS", memory.shim.pss, by_pss),
        ("a runner without a CLI, cgroup", memory.bare_runner, by_rss),
        ("the orchestrator, VmRSS", memory.daemon_rss, by_rss),
        ("the orchestrator, PSS", memory.daemon.pss, by_pss),
        *((f"its child {c.program}, PSS", c.memory.pss, by_pss) for c in memory.children),
    )
    return tuple(
        Figure(name=name, value=value, unit=Unit.BYTES, than=than, than_value=than_value)
        for name, value, (than, than_value) in rows
    )


# Restarts...


async def _hold_turn(bench: Bench, room: str, text: str) -> tuple[str, TurnId]:
    """A turn that runs and goes on running; its message's event id, and its own id."""
    bench.api.when(text, [Stall(seconds=_HELD_AGAIN_S), Text(text=f"{text}: done")])
    bench.api.once(text, [Stall(seconds=_HELD_S), Text(text="held for too long")])
    _, event_id = await bench.person.send(room, text)
    await bench.api.wait_until(lambda api: any(r.last_user_text == text for r in api.asked))
    await asyncio.sleep(_SETTLE_S)
    turn = (await bench.runner_of(room)).turn
    assert turn is not None, "the turn that was to be held has ended"
    return event_id, turn.turn_id


async def _restart(bench: Bench, turn_id: TurnId) -> tuple[float, float]:
    """Seconds from SIGKILL to in step, and to the turn attached again."""
    began_at, start = time.time(), time.perf_counter()
    await bench.orchestrator.kill()
    await bench.orchestrator.start()
    ready_s = time.perf_counter() - start
    async with asyncio.timeout(_WAIT_S):
        # It is another program's log: there is no event for it.
        while (resumed_at := find_resumed(bench.orchestrator.log, turn_id)) is None:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
    return ready_s, resumed_at - began_at


def find_resumed(log: str, turn_id: TurnId) -> float | None:
    """When (Unix time) a log says that the turn is followed again on its old runner, if it does.

    The log is asked because the control socket takes a second: the engine samples memory first.
    """
    lines = (line for line in log.splitlines() if line.startswith("{") and turn_id in line)
    for line in map(_LogLine.model_validate_json, lines):
        if line.action == "turn.resume" and line.turn == turn_id:
            return line.time.timestamp()
    return None


async def _time_program() -> float:
    """Seconds for the orchestrator's program to start, load its code and end."""
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR, "--version", stdout=asyncio.subprocess.DEVNULL
    )
    code = await process.wait()
    assert code == 0, f"orchestrator --version ended with {code}"
    return time.perf_counter() - start
