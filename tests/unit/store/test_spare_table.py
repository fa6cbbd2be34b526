"""Places that are made ahead: each is one spare's or one room's, by the database alone."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.core.naming import ROOMS_PER_INSTALLATION, room_slug
from orchestrator.errors import TooManyRoomsError
from orchestrator.model import RoomId
from orchestrator.store.opening import APPLICATION_ID, DATABASE_NAME
from orchestrator.store.schema import MIGRATIONS
from orchestrator.store.spare_table import read_spares
from orchestrator.store.store import Store, open_store

ROOM, OTHER, THIRD = (RoomId(f"!{name}:test") for name in ("room", "other", "third"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as store:
        yield store


async def test_a_new_room_takes_one_that_is_ready_with_its_generation(store: Store) -> None:
    calls: list[str] = []
    store.rooms.on_spare_taken = lambda: calls.append("taken")
    spare = await store.spares.add()
    begun = await store.spares.begin(spare.slug)
    assert begun is not None
    early = await store.rooms.ensure(THIRD, joined=True)
    assert early.slug == room_slug(THIRD), "one that is being worked on is nobody's"
    await store.spares.note_ready(spare.slug)
    room = await store.rooms.ensure(ROOM, joined=True)
    assert (room.slug, room.index) == (spare.slug, spare.index)
    runner = await store.turns.runner(ROOM)
    assert (runner.generation, runner.epoch, runner.acked) == (begun.generation, None, 0)
    assert calls == ["taken"]
    assert await store.rooms.ensure(ROOM, joined=False) == await store.rooms.get(ROOM)
    assert calls == ["taken"], "a room that is known takes none"


async def test_what_a_room_has_taken_is_no_spare_any_more(store: Store) -> None:
    spare = await store.spares.add()
    await store.spares.note_ready(spare.slug)
    await store.rooms.ensure(ROOM, joined=True)
    assert await store.spares.begin(spare.slug) is None
    await store.spares.note_ready(spare.slug)
    await store.spares.drop(spare.slug)
    assert not await store.spares.all()
    other = await store.rooms.ensure(OTHER, joined=True)
    assert other.slug == room_slug(OTHER)


async def test_one_that_is_ready_is_not_dropped_under_a_room(store: Store) -> None:
    spare = await store.spares.add()
    await store.spares.note_ready(spare.slug)
    await store.spares.drop(spare.slug)
    assert [row.slug for row in await store.spares.all()] == [spare.slug]


async def test_of_two_rooms_at_once_one_has_it(store: Store) -> None:
    spare = await store.spares.add()
    await store.spares.note_ready(spare.slug)
    rooms = await asyncio.gather(*(store.rooms.ensure(room, joined=True) for room in (ROOM, OTHER)))
    assert [room.slug for room in rooms].count(spare.slug) == 1
    assert len({room.index for room in rooms}) == 2


async def test_numbers_of_spares_and_rooms_are_never_the_same(store: Store) -> None:
    indexes = [(await store.rooms.ensure(ROOM, joined=True)).index]
    indexes.append((await store.spares.add()).index)
    indexes.append((await store.rooms.ensure(OTHER, joined=True)).index)
    indexes.append((await store.spares.add()).index)
    assert indexes == [0, 1, 2, 3]


async def test_past_the_last_uid_none_is_made(store: Store) -> None:
    await store.database.run(
        lambda db: db.execute(
            "INSERT INTO spares VALUES ('x', ?, 0, 0)", (ROOMS_PER_INSTALLATION - 1,)
        )
    )
    with pytest.raises(TooManyRoomsError):
        await store.spares.add()


async def test_an_older_database_has_its_rooms_and_no_spares(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as db:
        for script in MIGRATIONS[:6]:
            db.executescript(script)
        db.execute(
            "INSERT INTO rooms (room_id, slug, idx, joined) VALUES (?, ?, 7, 1)",
            (ROOM, room_slug(ROOM)),
        )
        db.execute("PRAGMA user_version = 6")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.commit()
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as db:
        assert not read_spares(db), "a backup, or gc, before the first start"
    async with open_store(tmp_path) as store:
        (room,) = await store.rooms.all()
        assert (room.slug, room.index) == (room_slug(ROOM), 7)
        assert not await store.spares.all()
        assert (await store.spares.add()).index == 8
