"""A disk that takes nothing: what is asked for waits, visibly, and nothing is half done."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from orchestrator.errors import StoreError
from orchestrator.model import EventId, Priority, RoomId, TxnId
from orchestrator.store.api import InboxKind, InboxState, NewInboxRow, NewOutboxRow
from orchestrator.store.failure import StoreTrouble
from orchestrator.store.store import Store, open_store
from tests.support.inbox import new_rows
from tests.support.room_rig import run_rooms

PAGES = "PRAGMA max_page_count"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as store:
        yield store


@pytest.fixture
def lines() -> Iterator[list[str]]:
    found: list[str] = []
    handler = logger.add(lambda m: found.append(m.record["extra"].get("action", "")))
    yield found
    logger.remove(handler)


def event(name: str) -> NewInboxRow:
    raw = '{"body": "%s"}' % ("x" * 20_000)
    return NewInboxRow(
        kind=InboxKind.TIMELINE, room_id=RoomId("!r:t"), event_id=EventId(name), raw=raw
    )


async def fill_disk(store: Store) -> None:
    """SQLite itself says that the disk is full: the file may not grow."""

    def work(db: sqlite3.Connection) -> None:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"{PAGES} = {pages}")

    await store.database.run(work)


async def make_room(store: Store) -> None:
    await store.database.run(lambda db: db.execute(f"{PAGES} = 1000000").fetchone())


async def count(store: Store) -> int:
    return len(await new_rows(store))


def in_virtual_time(folder: Path, test: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with open_store(folder) as store:
            await test(store)

    run_rooms(main())


def test_a_write_on_a_full_disk_waits_and_reads_go_on_meanwhile(
    tmp_path: Path, lines: list[str]
) -> None:
    async def test(store: Store) -> None:
        await store.inbox.commit_sync([event("$1")], "s1", now=1.0)
        await fill_disk(store)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(store.inbox.commit_sync([event("$2")], "s2", now=1.0))
            second = group.create_task(store.inbox.commit_sync([event("$3")], "s2", now=1.0))
            await asyncio.sleep(3600)
            assert not first.done()
            assert await count(store) == 1
            assert await store.inbox.sync_token() == "s1"
            trouble = store.database.trouble
            assert isinstance(trouble, StoreTrouble)
            assert trouble.is_full
            assert str(tmp_path) in trouble.reason
            assert 3500 < store.database.waited_s < 3700
            await make_room(store)
            async with asyncio.timeout(6):
                assert (await first, await second) == (1, 1)
        assert store.database.trouble is None
        assert await count(store) == 3
        assert [line for line in lines if line.startswith("store.")] == ["store.full", "store.well"]

    in_virtual_time(tmp_path, test)


def test_who_gives_up_waiting_for_the_disk_has_changed_nothing(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        await fill_disk(store)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await store.inbox.commit_sync([event("$1")], "s1", now=1.0)
        assert store.database.trouble is not None
        await make_room(store)
        assert await store.inbox.sync_token() is None
        await store.inbox.commit_sync([event("$2")], "s2", now=1.0)
        assert store.database.trouble is None
        assert await count(store) == 1

    in_virtual_time(tmp_path, test)


@pytest.mark.parametrize(
    ("code", "waits"),
    [
        ("SQLITE_FULL", True),
        ("SQLITE_IOERR_WRITE", True),
        ("SQLITE_IOERR_FSYNC", True),
        ("SQLITE_IOERR_DIR_FSYNC", True),
        ("SQLITE_IOERR_TRUNCATE", True),
        ("SQLITE_IOERR_SHMSIZE", True),
        ("SQLITE_IOERR_READ", False),
        ("SQLITE_IOERR_SHORT_READ", False),
        ("SQLITE_IOERR_CORRUPTFS", False),
        ("SQLITE_CORRUPT", False),
        ("SQLITE_READONLY", False),
        ("SQLITE_BUSY", False),
    ],
)
def test_only_what_writing_fails_with_is_waited_out(tmp_path: Path, code: str, waits: bool) -> None:
    attempts = 0

    def work(db: sqlite3.Connection) -> str:
        nonlocal attempts
        attempts += 1
        if attempts > 3:
            return "done"
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = code
        raise error

    async def test(store: Store) -> None:
        if waits:
            assert await store.database.run(work) == "done"
        else:
            with pytest.raises(StoreError):
                await store.database.run(work)
            assert attempts == 1

    in_virtual_time(tmp_path, test)


async def test_what_an_earlier_life_put_off_is_due_again_whatever_its_clock_said(
    store: Store,
) -> None:
    row = NewOutboxRow(
        room_id=RoomId("!r:t"),
        txn_id=TxnId("t"),
        event_type="m.room.message",
        content={},
        priority=Priority.TEXT,
    )
    await store.outbox.add([row], now=5000.0)
    await store.inbox.commit_sync([event("$1")], "s1", now=5000.0)
    (new,) = await new_rows(store)
    await store.inbox.mark(new.seq, InboxState.PENDING_KEYS)
    await store.begin_life(now=1400.0)
    (head,) = await store.outbox.outbox_heads(now=1400.0, limit=1)
    assert head.not_before == 1400.0
    (pending,) = await store.inbox.pending_keys()
    assert pending.received_at == 1400.0
