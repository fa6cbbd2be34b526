"""Copies of a database in use: whole, checked, private, limited in number."""

from __future__ import annotations

import asyncio
import errno
import json
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.core.lifecycle import TurnEvent
from orchestrator.core.turn_mark import TURN_KEY
from orchestrator.errors import PreconditionError, StoreCorruptError, StoreError, StoreFullError
from orchestrator.model import EventId, Priority, RoomId, TurnId, TurnOutcome, TxnId, UserId
from orchestrator.recovery import back_up
from orchestrator.store.api import InboxKind, NewInboxRow, NewOutboxRow
from orchestrator.store.checking import check_file
from orchestrator.store.copying import (
    CopyStoppedError,
    copied_at,
    copy_database,
    copy_name,
    list_copies,
    prune_copies,
)
from orchestrator.store.growth import KEPT_S, drop_old_words
from orchestrator.store.schema import MIGRATIONS
from orchestrator.store.store import Store, open_store
from orchestrator.store.turn_table import NewTurn
from orchestrator.store.upkeep import Upkeep
from tests.support.inbox import new_rows
from tests.support.room_rig import run_rooms
from tests.support.virtual_time import loop_clock

ROOM = RoomId("!room:test")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as store:
        yield store


def event(name: str, size: int = 100) -> NewInboxRow:
    return NewInboxRow(
        kind=InboxKind.TIMELINE, room_id=ROOM, event_id=EventId(f"${name}"), raw="x" * size
    )


def numbers(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        ids = db.execute("SELECT event_id FROM inbox ORDER BY seq").fetchall()
    return [int(row[0][1:]) for row in ids]


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


async def test_a_copy_made_while_commits_go_on_is_as_of_one_moment(
    store: Store, tmp_path: Path
) -> None:
    await store.inbox.commit_sync([event(str(i), 200_000) for i in range(100)], "s", now=1.0)
    target = tmp_path / "elsewhere" / "copy.sqlite3"
    committed = 100

    def commit_another() -> bool:
        """Called between any two steps of the copy, of which there are some 20."""
        nonlocal committed
        done = store.inbox.commit_sync([event(str(committed))], "s", now=1.0)
        asyncio.run_coroutine_threadsafe(done, loop).result()
        committed += 1
        return committed > 1000

    loop = asyncio.get_running_loop()
    size = await asyncio.to_thread(
        copy_database, tmp_path / "state.sqlite3", target, is_stopped=commit_another
    )
    assert committed > 110
    assert numbers(target) == list(range(100))
    assert check_file(target) == len(MIGRATIONS)
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.stat().st_size == size
    assert left_over(target.parent) == []
    assert not target.with_name("copy.sqlite3-wal").exists()


async def test_a_copy_that_is_given_up_or_finds_no_room_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.inbox.commit_sync([event(str(i), 40_000) for i in range(100)], "s", now=1.0)
    target, source = tmp_path / "backups" / copy_name(1.0), tmp_path / "state.sqlite3"
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(CopyStoppedError):
        copy_database(source, target, is_stopped=stopped.is_set)
    assert list(target.parent.iterdir()) == []

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.store.copying.os.fsync", full)
        with pytest.raises(StoreFullError):
            copy_database(source, target)
    assert list(target.parent.iterdir()) == []


async def test_what_is_no_database_of_ours_is_not_copied(tmp_path: Path) -> None:
    target = tmp_path / "backups" / copy_name(1.0)
    (tmp_path / "state.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreCorruptError):
        copy_database(tmp_path / "state.sqlite3", target)
    (tmp_path / "state.sqlite3").write_bytes(b"")
    with pytest.raises(StoreCorruptError, match="nothing to copy"):
        copy_database(tmp_path / "state.sqlite3", target)
    with pytest.raises(StoreError):
        copy_database(tmp_path / "missing", target)
    assert list(target.parent.iterdir()) == []
    with pytest.raises(PreconditionError, match="--state-dir"):
        back_up(tmp_path / "nowhere", target)


async def test_a_copy_is_never_made_over_what_it_is_a_copy_of(store: Store, tmp_path: Path) -> None:
    for name in ("state.sqlite3", "lock", "other"):
        with pytest.raises(PreconditionError, match="another directory"):
            back_up(tmp_path, tmp_path / name)
    assert back_up(tmp_path, tmp_path / "backups" / "mine.sqlite3") > 4096


async def test_a_copy_replaces_no_other_file_and_makes_no_directory_elsewhere(
    store: Store, tmp_path: Path
) -> None:
    state, elsewhere = tmp_path, tmp_path / "elsewhere"
    elsewhere.mkdir()
    await store.rooms.installation()
    other = elsewhere / "README.md"
    other.write_text("words")
    with pytest.raises(PreconditionError, match="is no copy of a database"):
        back_up(state, other)
    assert other.read_text() == "words"
    with pytest.raises(PreconditionError, match="There is no directory"):
        back_up(state, tmp_path / "mistyped" / "copy.sqlite3")
    assert not (tmp_path / "mistyped").exists()
    for _ in range(2):  # over a copy of before, it is made anew
        assert back_up(state, elsewhere / "copy.sqlite3") > 4096


def test_only_the_newest_copies_are_kept_and_other_files_are_left(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    for day in range(5):
        (folder / copy_name(day * 86400.0)).touch()
    (folder / "state-by-hand.sqlite3").touch()
    assert prune_copies(tmp_path, keep=2) == 3
    assert [copied_at(copy) for copy in list_copies(tmp_path)] == [4 * 86400.0, 3 * 86400.0]
    assert (folder / "state-by-hand.sqlite3").exists()


def upkeep(store: Store, folder: Path, every_s: float | None = 86400.0) -> Upkeep:
    return Upkeep(store.database, folder, every_s=every_s, keep=3, clock=loop_clock)


def run_upkeep(folder: Path, seconds: float, every_s: float | None = 86400.0) -> None:
    async def main() -> None:
        async with open_store(folder) as store, asyncio.TaskGroup() as group:
            task = group.create_task(upkeep(store, folder, every_s).run())
            await asyncio.sleep(seconds)
            task.cancel()

    run_rooms(main())


def test_a_copy_is_made_at_once_then_daily_and_the_oldest_go(tmp_path: Path) -> None:
    run_upkeep(tmp_path, 60)
    (first,) = list_copies(tmp_path)
    run_upkeep(tmp_path, 60)  # the clock of the tests begins anew: the copy is of today
    assert list_copies(tmp_path) == [first]
    run_upkeep(tmp_path, 5 * 86400 + 60)
    assert len(list_copies(tmp_path)) == 3
    assert first not in list_copies(tmp_path)


def test_no_copies_are_made_where_they_are_switched_off(tmp_path: Path) -> None:
    run_upkeep(tmp_path, 3 * 86400, every_s=None)
    assert list_copies(tmp_path) == []


def test_a_copy_that_fails_is_tried_again_in_an_hour_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def main() -> None:
        async with open_store(tmp_path) as store, asyncio.TaskGroup() as group:
            with monkeypatch.context() as patch:
                patch.setattr("orchestrator.store.copying.os.fsync", full)
                task = group.create_task(upkeep(store, tmp_path).run())
                await asyncio.sleep(60)
                assert list_copies(tmp_path) == []
            await asyncio.sleep(3600)
            assert len(list_copies(tmp_path)) == 1
            task.cancel()

    run_rooms(main())


async def test_of_what_ended_a_week_ago_only_the_account_is_kept(store: Store) -> None:
    await store.inbox.commit_sync([event(name) for name in "abc"], "s", now=1.0)
    rows = await new_rows(store)
    for name, row, ended_at in zip("abc", rows, (100.0, 200.0, None), strict=True):
        turn = NewTurn(
            turn_id=TurnId(name),
            room_id=ROOM,
            session="main",
            prompt=f"prompt {name}",
            sender=UserId("@alice:test"),
            asked=(EventId(f"${name}"),),
            inbox=(row.seq,),
        )
        await store.turns.admit(turn, max_queued=9, notices=lambda *_, **__: (), now=1.0)
        message = NewOutboxRow(
            room_id=ROOM,
            txn_id=TxnId(name),
            event_type="m.room.message",
            content={"body": f"answer {name}", TURN_KEY: {"turn": name}},
            priority=Priority.TEXT,
        )
        await store.outbox.add([message], now=1.0)
        (head,) = await store.outbox.outbox_heads(now=300.0, limit=1)
        if ended_at is not None:
            await store.turns.advance(
                turn.turn_id, TurnEvent.ENDED, outcome=TurnOutcome.DONE, now=ended_at
            )
            await store.outbox.mark_sent(head.seq, EventId(f"$sent-{name}"), now=ended_at)

    assert await drop_old_words(store.database, now=KEPT_S + 150.0) == 2
    old, young, waiting = [await store.turns.get(TurnId(name)) for name in "abc"]
    assert old is not None
    assert (old.prompt, old.outcome, old.asked) == ("", TurnOutcome.DONE, ("$a",))
    assert young is not None
    assert young.prompt == "prompt b"
    assert waiting is not None
    assert waiting.prompt == "prompt c"
    (head,) = await store.outbox.outbox_heads(now=300.0, limit=1)
    assert head.content["body"] == "answer c"
    kept = await store.database.run(
        lambda db: db.execute("SELECT content, event_id FROM outbox ORDER BY seq").fetchall()
    )
    assert kept[0] == (json.dumps({TURN_KEY: {"turn": "a"}}), "$sent-a")
    assert "answer b" in kept[1][0]
    assert await drop_old_words(store.database, now=KEPT_S + 150.0) == 0
    # Nothing is taken in twice for it.
    assert await store.inbox.commit_sync([event("a")], "s", now=1.0) == 0


async def test_a_long_past_is_dropped_in_short_steps(store: Store) -> None:
    def work(db: sqlite3.Connection) -> None:
        db.executemany(
            "INSERT INTO outbox (room_id, txn_id, event_type, content, priority, state, "
            "not_before, created_at, ended_at) "
            "VALUES ('!r', ?, 't', '{\"body\": \"x\"}', 'text', 'sent', 0, 0, 1)",
            [(str(i),) for i in range(2000)],
        )

    await store.database.run(work)
    assert await drop_old_words(store.database, now=KEPT_S + 2.0) == 2000
