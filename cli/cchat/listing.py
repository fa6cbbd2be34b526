"""`cchat runners` and `cchat rooms`: what the local orchestrator says, as a table or as JSON."""

from __future__ import annotations

from pathlib import Path

from cchat.error import Exit
from cchat.output import Output
from cchat.place import say_trouble
from cchat.terminal import render_age, render_size, render_table
from orchestrator.control.client import ControlClient
from orchestrator.control.models import RoomView, RunnerView

_NONE = "-"
_RUNNER_HEAD = (
    "ROOM",
    "STATE",
    "SESSION",
    "CLI",
    "TURN",
    "QUEUE",
    "MEMORY",
    "CPU",
    "PIDS",
    "DISK",
    "UP",
    "CONTAINER",
)
_ROOM_HEAD = ("ROOM", "NAME", "JOINED", "ENCRYPTED", "MEMBERS", "QUEUE", "DISK", "ID")


async def runners(state_dir: Path, output: Output) -> Exit:
    """All runners of the installation. Raises as ControlClient."""
    found = await ControlClient(state_dir).runners()
    await say_trouble(state_dir, output)
    if output.as_json:
        output.show_json([runner.model_dump(mode="json") for runner in found])
    elif found:
        output.show_text(render_runners(found))
    else:
        output.say("No runners yet: a room gets one with its first message.")
    return Exit.OK


async def rooms(state_dir: Path, output: Output) -> Exit:
    """All rooms of the agent. Raises as ControlClient."""
    found = await ControlClient(state_dir).rooms()
    await say_trouble(state_dir, output)
    if output.as_json:
        output.show_json([room.model_dump(mode="json") for room in found])
    elif found:
        output.show_text(render_rooms(found))
    else:
        output.say("The agent is in no room yet: invite it with a Matrix client.")
    return Exit.OK


def render_runners(found: tuple[RunnerView, ...]) -> str:
    """A table, one runner a line."""
    return render_table(_RUNNER_HEAD, [_runner_row(runner) for runner in found])


def render_rooms(found: tuple[RoomView, ...]) -> str:
    """A table, one room a line."""
    return render_table(_ROOM_HEAD, [_room_row(room) for room in found])


def _runner_row(runner: RunnerView) -> list[str]:
    cpu = runner.cpu_total_s
    return [
        "(spare)" if runner.is_spare else runner.alias or runner.name or runner.room_id,
        runner.state.value,
        runner.session.value,
        "running" if runner.cli_running else _NONE,
        render_age(runner.turn.age_s) if runner.turn else _NONE,
        str(runner.queued),
        _share(runner.memory_bytes, runner.memory_limit_bytes),
        _NONE if cpu is None else f"{cpu:.1f} s",
        _NONE if runner.pids is None else str(runner.pids),
        _share(runner.disk_used_bytes, runner.disk_limit_bytes),
        _NONE if runner.uptime_s is None else render_age(runner.uptime_s),
        runner.container_id or runner.container,
    ]


def _share(used: int | None, limit: int | None) -> str:
    if used is None:
        return _NONE
    return render_size(used) if limit is None else f"{render_size(used)} / {render_size(limit)}"


def _room_row(room: RoomView) -> list[str]:
    return [
        room.alias or room.slug,
        room.name or _NONE,
        "yes" if room.joined else "no",
        "yes" if room.encrypted else "no",
        _NONE if room.members is None else str(room.members),
        str(room.queued),
        _share(room.disk_used_bytes, room.disk_limit_bytes),
        room.room_id,
    ]
