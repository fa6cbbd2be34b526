"""`orchestrator gc`: what this installation left behind, listed first, removed when asked.

Rules: only what carries this installation's label, this program's image name, or lies in this state
directory; nothing that runs; nothing that is forced. What a room that the agent has left would come
back to goes only with a word of its own, and only while no orchestrator runs.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from orchestrator.core import texts
from orchestrator.disks import RoomDisks
from orchestrator.errors import AiAgentChatError, PreconditionError
from orchestrator.model import InstallationId, RoomSlug, RunnerState
from orchestrator.runners.docker_backend import DockerBackend, open_docker_backend
from orchestrator.runners.engine import ConflictError, Engine
from orchestrator.runners.image import IMAGE_NAME, read_source
from orchestrator.runners.workdir import remove_room_dir
from orchestrator.store.checking import opened_to_read
from orchestrator.store.copy_files import CopyFiles
from orchestrator.store.database import hold_state_dir
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.room_table import read_rooms
from orchestrator.store.spare_table import read_spares


class WasteKind(StrEnum):
    """What is left behind."""

    CONTAINER = "container"
    IMAGE = "image"
    ROOM = "room's files"
    COPIES = "room's copies"
    DATABASE = "replaced database"

    @property
    def is_kept(self) -> bool:
        """Whether somebody may want it back: it goes only with `--all`."""
        return self not in (WasteKind.CONTAINER, WasteKind.IMAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """One thing. `size_bytes` None: not known."""

    kind: WasteKind
    name: str
    why: str
    size_bytes: int | None
    remove: Callable[[], Awaitable[None]]

    def __str__(self) -> str:
        size = "" if self.size_bytes is None else f", {texts.size(self.size_bytes)}"
        return f"{self.kind} {self.name} ({self.why}{size})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanUpPlan:
    """`is_dry`: only list; `takes_all`: also what somebody may want back."""

    state_dir: Path
    is_dry: bool
    takes_all: bool


async def clean_up(plan: CleanUpPlan, say: Callable[[str], None]) -> int:
    """List what is left behind, and remove it unless it is a dry run; how much could not be.

    Raises:
        PreconditionError: there is no such installation, or an orchestrator runs in it and
            `takes_all` is set.
        AiAgentChatError: the engine or the database can't be read.
    """
    installation, slugs = _read_database(plan.state_dir)
    with ExitStack() as held:
        if plan.takes_all and not plan.is_dry:
            held.enter_context(hold_state_dir(plan.state_dir))
        async with open_docker_backend(installation) as backend:
            found = [
                *await _containers(backend),
                *await _images(backend.engine),
                *await asyncio.to_thread(_files, plan.state_dir, slugs),
            ]
            return await _deal_with(found, plan, say)


async def _deal_with(found: Sequence[Waste], plan: CleanUpPlan, say: Callable[[str], None]) -> int:
    left = 0
    for waste in found:
        if waste.kind.is_kept and not plan.takes_all:
            say(f"keep    {waste}: goes with --all")
        elif plan.is_dry:
            say(f"would   remove {waste}")
        else:
            left += not await _remove(waste, say)
    goes = [waste for waste in found if plan.takes_all or not waste.kind.is_kept]
    size = texts.size(sum(waste.size_bytes or 0 for waste in goes))
    if not goes:
        say(
            "Nothing is left behind that goes without --all."
            if found
            else "Nothing is left behind."
        )
    elif plan.is_dry:
        say(f"{len(goes)} would go, {size}. The same command with --yes removes them.")
    else:
        say(f"{len(goes) - left} removed, {left} left.")
    return left


async def _remove(waste: Waste, say: Callable[[str], None]) -> bool:
    try:
        await waste.remove()
    except (AiAgentChatError, OSError) as e:
        say(f"left    {waste}: {e}")
        return False
    say(f"removed {waste}")
    return True


# What there is...


async def _containers(backend: DockerBackend) -> list[Waste]:
    """Stopped ones: a dead runner is replaced, never revived, so nobody needs them."""

    def removal(container_id: str) -> Callable[[], Awaitable[None]]:
        async def remove() -> None:
            # Not forced: should it run by now, the engine refuses.
            await backend.engine.call(backend.engine.api.remove_container, container_id, v=True)

        return remove

    return [
        Waste(
            kind=WasteKind.CONTAINER,
            name=info.name,
            why="stopped",
            size_bytes=None,
            remove=removal(info.container_id),
        )
        for info in await backend.list()
        if info.state is RunnerState.EXITED
    ]


async def _images(engine: Engine) -> list[Waste]:
    """Of other versions; one that a container of anybody's is made from stays."""
    current = read_source().tag

    def removal(tag: str) -> Callable[[], Awaitable[None]]:
        async def remove() -> None:
            try:
                await engine.call(engine.api.remove_image, tag, force=False)
            except ConflictError as e:
                msg = "in use: docker ps -a shows by which containers"
                raise PreconditionError(msg) from e

        return remove

    found = await engine.call(engine.api.images, name=IMAGE_NAME)
    return [
        Waste(
            kind=WasteKind.IMAGE,
            name=tag,
            why="of another version",
            size_bytes=int(image.get("Size") or 0),
            remove=removal(tag),
        )
        for image in found
        for tag in image.get("RepoTags") or ()
        if tag != current and tag.startswith(f"{IMAGE_NAME}:")
    ]


def _files(state_dir: Path, known: frozenset[str]) -> list[Waste]:
    """What lies in the state directory and no room that the agent is in needs."""
    rooms, copies = state_dir / "rooms", CopyFiles(state_dir / "snapshots")
    found = [
        Waste(
            kind=WasteKind.ROOM,
            name=folder.name,
            why="the agent is not in it",
            size_bytes=_size(folder),
            remove=_room_removal(rooms, folder.name),
        )
        for folder in sorted(rooms.iterdir() if rooms.is_dir() else ())
        if folder.is_dir() and folder.name not in known
    ]
    found += [
        Waste(
            kind=WasteKind.COPIES,
            name=slug,
            why="the agent is not in it",
            size_bytes=_size(copies.root / slug),
            remove=_in_thread(partial(copies.remove, slug)),
        )
        for slug in copies.slugs()
        if slug not in known
    ]
    found += [
        Waste(
            kind=WasteKind.DATABASE,
            name=path.name,
            why="a restore put it aside",
            size_bytes=path.stat().st_size,
            remove=_in_thread(path.unlink),
        )
        for path in sorted(state_dir.glob(f"{DATABASE_NAME}.aside-*"))
    ]
    return found


def _room_removal(rooms: Path, name: str) -> Callable[[], Awaitable[None]]:
    async def remove() -> None:
        await RoomDisks(root=rooms, kind="image").release(RoomSlug(name))
        await asyncio.to_thread(remove_room_dir, rooms / name)

    return remove


def _in_thread(work: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def remove() -> None:
        await asyncio.to_thread(work)

    return remove


def _size(folder: Path) -> int:
    """What it takes on the disk, links not followed."""
    total = 0
    for root, _, names in os.walk(folder):
        if os.path.ismount(root):
            continue
        for name in names:
            with suppress(FileNotFoundError):  # in use by an orchestrator that runs
                total += (Path(root) / name).lstat().st_blocks * 512
    return total


def _read_database(state_dir: Path) -> tuple[InstallationId, frozenset[str]]:
    path = state_dir / DATABASE_NAME
    if not path.exists():
        msg = f"there is no installation in {state_dir}. Name its directory with --state-dir."
        raise PreconditionError(msg)
    try:
        with opened_to_read(path) as db:
            installation, rooms = read_rooms(db)
            # The next start takes these up again, or removes them.
            spares = read_spares(db)
    except sqlite3.Error as e:
        msg = f"{path} can't be read ({e}). orchestrator doctor says more."
        raise PreconditionError(msg) from e
    if installation is None:
        msg = f"{path} was never used by an orchestrator. Name another --state-dir."
        raise PreconditionError(msg)
    known = [room.slug for room in rooms if room.joined] + [spare.slug for spare in spares]
    return installation, frozenset(known)
