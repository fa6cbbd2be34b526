"""Runners made ahead, for rooms that are not known yet (`docker.prewarm`).

A spare is a place like a room's: a name, a uid, directories, a disk, and a container made from
`defaults`, with no CLI, no secret and no way out. The room that is heard of next takes one in the
transaction that makes its row (store/spare_table.py); from there on it is that room's own, and the
room's worker does with it what it does with any: where the room's profile asks for another
container, it is replaced before the first turn.

Rules: a spare is recorded before anything of it is made, and works on it only who has taken its
readiness away, so that no room takes one that is being worked on. It is made while nothing else
starts, and gives way to any room, and to the host's memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NoReturn

from loguru import logger

from orchestrator import meters
from orchestrator.core.lifecycle import restart_delay_s
from orchestrator.core.naming import runner_name
from orchestrator.core.sandbox import spec_hash
from orchestrator.core.warm_pool import PoolSight, SpareSight, SpareStep, next_step
from orchestrator.errors import PreconditionError, TooManyRoomsError
from orchestrator.model import RoomId, RoomSlug, RunnerState
from orchestrator.ports import RunnerInfo
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.room_runner import TROUBLE
from orchestrator.store.api import SpareRow

# What changes without anybody's saying so: a container that died, a place that became free.
_EVERY_S = 5.0
# The room that took one starts its CLI now, and has the processors for itself.
_CALM_S = 10.0
# What fails, or dies, sooner than this after the last was made is tried again later and later.
_WELL_AFTER_S = 60.0
_LONGEST_S = 30.0


class WarmPool:
    """Invariant: each spare whose container may run has a place, until a room has taken it."""

    def __init__(self, kit: Kit, take_up: Callable[[RoomId], Awaitable[None]]) -> None:
        """`take_up`: a room has a runner that runs; it gets its worker."""
        self._kit = kit
        self._take_up = take_up
        self._wanted = kit.config.docker.prewarm
        self._wake = asyncio.Event()
        self._held: set[RoomSlug] = set()
        self._given_up: set[RoomSlug] = set()
        # What the containers of this life's configuration look like.
        self._hashes: dict[RoomSlug, str] = {}
        self._is_pressed = False
        self._is_empty = False
        self._failures = 0
        # Loop times.
        self._again_at = 0.0
        self._calm_at = 0.0
        self._made_at = -_EVERY_S
        kit.store.rooms.on_spare_taken = self._note_taken

    def __repr__(self) -> str:
        return f"<WarmPool {sorted(self._held)} of {self._wanted} pressed={self._is_pressed}>"

    async def run(self) -> NoReturn:
        """Keep as many as are wanted until cancelled; those that run go on. Store errors end it."""
        while True:
            self._wake.clear()
            await self._go_on()
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _pause_s(self) -> float | None:
        """Until the next look, if nobody asks for one before."""
        if not self._wanted and self._is_empty:
            return None
        return min(max(_EVERY_S, restart_delay_s(self._failures)), _LONGEST_S)

    def note_pressure(self, *, is_on: bool) -> bool:
        """The host has too little memory, or has enough; whether a spare is about to go for it."""
        self._is_pressed = is_on
        if not is_on or not self._held or self._failures:
            return False
        self._wake.set()
        return True

    def _note_taken(self) -> None:
        self._calm_at = _now() + _CALM_S
        self._wake.set()

    async def _go_on(self) -> None:
        """All that can be done now."""
        try:
            while await self._step():
                pass
        except (*TROUBLE, TooManyRoomsError) as e:
            self._note_failure()
            logger.bind(action="spare.failed", error=type(e).__name__, why=str(e)).warning(
                "no runner could be made ahead, or let go; rooms do without"
            )

    def _note_failure(self) -> None:
        self._failures += 1
        self._again_at = _now() + restart_delay_s(self._failures)

    async def _step(self) -> bool:
        """The next thing; False: there is none for now."""
        rows = await self._kit.store.spares.all()
        await self._leave_taken(rows)
        self._is_empty = not rows
        if not rows and not self._wanted:
            meters.SPARES.set(0)
            return False
        infos = {info.name: info for info in await self._kit.backend.list()}
        sights = tuple([await self._see(row, infos) for row in rows])
        self._hold(sights)
        meters.SPARES.set(sum(sight.is_ready and sight.is_sound for sight in sights))
        found = next_step(
            PoolSight(
                wanted=self._wanted,
                spares=sights,
                given_up=frozenset(self._given_up),
                is_pressed=self._is_pressed,
                may_make=await self._may_make(),
            )
        )
        if found is None:
            is_well = all(sight.is_ready and sight.is_sound for sight in sights)
            if is_well and len(sights) == self._wanted and _now() > self._made_at + _WELL_AFTER_S:
                self._failures = 0
            return False
        step, slug = found
        if step is SpareStep.MAKE:
            return await self._make(slug)
        if slug is not None:
            await self._let_go(slug, step)
        return True

    async def _see(self, row: SpareRow, infos: Mapping[str, RunnerInfo]) -> SpareSight:
        info = infos.get(self._name(row.slug))
        is_up = info is not None and info.state is RunnerState.RUNNING
        is_sound = False
        if info is not None and is_up and info.generation == row.generation:
            is_sound = info.spec_hash == await self._hash(row)
        elif row.is_ready and row.slug in self._hashes:
            # Of this life, and dead.
            self._note_failure()
        return SpareSight(
            slug=row.slug,
            is_ready=row.is_ready,
            has_container=info is not None,
            is_sound=is_sound,
        )

    async def _hash(self, row: SpareRow) -> str | None:
        """Of the container that would be made now; None: none can be made there."""
        if row.slug not in self._hashes:
            try:
                self._hashes[row.slug] = spec_hash(await self._kit.housing.prepare_spare(row))
            except PreconditionError:
                return None
        return self._hashes[row.slug]

    def _hold(self, sights: Sequence[SpareSight]) -> None:
        """What runs has a place, above the limit, too, as rooms of an earlier life have."""
        for sight in sights:
            if not sight.has_container:
                self._forget(sight.slug)
            elif sight.slug not in self._held:
                self._held.add(sight.slug)
                self._kit.places.hold_spare(sight.slug, self._giving_up(sight.slug))

    async def _leave_taken(self, rows: Sequence[SpareRow]) -> None:
        """A room has it: its place goes to the room, whose worker listens to the runner."""
        for slug in self._held - {row.slug for row in rows}:
            self._forget(slug)
            if (room := await self._kit.store.rooms.by_slug(slug)) is not None:
                logger.bind(action="spare.taken", room=room.room_id, slug=slug).info(
                    "a room has taken a runner that was made ahead"
                )
                await self._take_up(room.room_id)

    async def _may_make(self) -> bool:
        """Whether nobody needs the engine, the processors or the disk first."""
        is_calm = _now() >= max(self._calm_at, self._again_at, self._made_at + _EVERY_S)
        store_is_well = self._kit.store.database.trouble is None
        if not is_calm or not store_is_well or self._kit.starts.is_busy:
            return False
        return await self._kit.housing.has_space()

    async def _make(self, slug: RoomSlug | None) -> bool:
        """Make one and start it; False: there is no place for it now."""
        kit = self._kit
        if not kit.places.has_spare_place:
            return False
        if slug is None:
            slug = (await kit.store.spares.add()).slug
        row = await kit.store.spares.begin(slug)
        if row is None or not kit.places.take_spare(slug, self._giving_up(slug)):
            return False
        self._held.add(slug)
        self._made_at = _now()
        await kit.backend.remove(self._name(slug))
        try:
            spec = await kit.housing.prepare_spare(row, is_vacant=True)
        except PreconditionError:
            # The next attempt is made with another one, should it be this one's disk.
            await self._let_go(slug, SpareStep.DROP)
            raise
        async with kit.starts.permit() as permit:
            await permit.take()
            await kit.backend.ensure(spec)
            await kit.backend.start(spec.name)
        self._hashes[slug] = spec_hash(spec)
        await kit.store.spares.note_ready(slug)
        logger.bind(action="spare.made", slug=slug).info("a runner was made ahead")
        return True

    async def _let_go(self, slug: RoomSlug, step: SpareStep) -> None:
        """Its container goes, and with `DROP` all else; nothing where a room was faster."""
        kit = self._kit
        if await kit.store.spares.begin(slug) is None:
            return
        await kit.backend.remove(self._name(slug))
        if step is SpareStep.DROP:
            await kit.housing.clear(slug)
            await kit.store.spares.drop(slug)
        else:
            await kit.housing.vacate(slug)
        self._forget(slug)
        logger.bind(action="spare.gone", slug=slug, step=step).info(
            "a runner that was made ahead was let go"
        )

    def _forget(self, slug: RoomSlug) -> None:
        self._held.discard(slug)
        self._given_up.discard(slug)
        self._hashes.pop(slug, None)
        self._kit.places.leave_spare(slug)

    def _giving_up(self, slug: RoomSlug) -> Callable[[], None]:
        def give_up() -> None:
            self._given_up.add(slug)
            self._wake.set()

        return give_up

    def _name(self, slug: RoomSlug) -> str:
        return runner_name(self._kit.backend.installation, slug)


def _now() -> float:
    return asyncio.get_running_loop().time()
