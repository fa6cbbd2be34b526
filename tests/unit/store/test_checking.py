"""A database that is not sound is refused, left as it is, and what to restore is named."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.errors import StoreCorruptError, StoreError, StoreFullError, StoreTooNewError
from orchestrator.model import EventId, RoomId
from orchestrator.store.api import InboxKind, NewInboxRow
from orchestrator.store.copying import copy_database, list_copies
from orchestrator.store.database import hold_state_dir
from orchestrator.store.schema import MIGRATIONS
from orchestrator.store.store import open_store
from tests.support.inbox import new_rows

COPY = Path("backups/state-20260101T000000Z.sqlite3")


def event(name: str) -> NewInboxRow:
    return NewInboxRow(
        kind=InboxKind.TIMELINE,
        room_id=RoomId("!room:test"),
        event_id=EventId(f"${name}"),
        raw='{"body": "%s"}' % ("x" * 400),
    )


async def fill(state_dir: Path, *, crash: bool = False, commits: int = 40) -> None:
    """A used database with a copy; with `crash` as a kill leaves it: much of it is in the log."""
    state_dir.mkdir(parents=True, exist_ok=True)
    left = state_dir.with_name("left")
    async with open_store(state_dir) as store:
        for i in range(commits):
            await store.inbox.commit_sync([event(f"e{i}")], f"s{i}", now=1.0)
        copy_database(state_dir / "state.sqlite3", state_dir / COPY)
        if crash:
            shutil.copytree(state_dir, left)
    if crash:
        shutil.rmtree(state_dir)
        left.rename(state_dir)


def contents(state_dir: Path) -> dict[str, bytes]:
    """All of the database but the log's index, which is no content."""
    return {
        path.name: path.read_bytes()
        for path in state_dir.glob("state.sqlite3*")
        if not path.name.endswith("-shm")
    }


async def refuse(state_dir: Path, kind: type[StoreError] = StoreCorruptError) -> str:
    before = contents(state_dir)
    with pytest.raises(kind) as caught:
        async with open_store(state_dir):
            pass
    assert contents(state_dir) == before
    assert caught.value.exit_code == 4
    return str(caught.value)


async def count_events(state_dir: Path) -> int:
    async with open_store(state_dir) as store:
        return len(await new_rows(store))


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 // 4096 * 4096])


def truncate_unevenly(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_byte_of_each_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for start in range(4096, len(data), 4096):
        data[start] ^= 0xFF
    path.write_bytes(data)


def zero_the_log(path: Path) -> None:
    log = path.with_name("state.sqlite3-wal")
    log.write_bytes(bytes(len(log.read_bytes())))


def flip_a_byte_early_in_the_log(path: Path) -> None:
    log = path.with_name("state.sqlite3-wal")
    data = bytearray(log.read_bytes())
    data[32 + 24 + 2000] ^= 0x01
    log.write_bytes(data)


def take_the_head_of_the_log(path: Path) -> None:
    log = path.with_name("state.sqlite3-wal")
    data = bytearray(log.read_bytes())
    data[10] ^= 0x01
    log.write_bytes(data)


def lose_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE outbox")


def empty(path: Path) -> None:
    for part in path.parent.glob("state.sqlite3*"):
        part.unlink()
    path.touch()


def remove(path: Path) -> None:
    for part in path.parent.glob("state.sqlite3*"):
        part.unlink()


def begin_anew(path: Path) -> None:
    remove(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")


def be_anothers(path: Path) -> None:
    remove(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")


def be_anothers_by_its_mark(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA application_id = 252006674")


@pytest.mark.parametrize(
    ("damage", "crash"),
    [
        (truncate, False),
        (truncate_unevenly, False),
        (flip_a_byte_of_each_page, False),
        (zero_the_log, True),
        (flip_a_byte_early_in_the_log, True),
        (take_the_head_of_the_log, True),
        (lose_a_table, False),
        (empty, False),
        (remove, False),
        (begin_anew, False),
        (be_anothers, False),
        (be_anothers_by_its_mark, False),
    ],
)
async def test_a_database_that_is_not_sound_is_refused_unchanged_and_the_copy_is_named(
    tmp_path: Path, damage: Callable[[Path], None], crash: bool
) -> None:
    state_dir = tmp_path / "state"
    await fill(state_dir, crash=crash)
    damage(state_dir / "state.sqlite3")
    said = await refuse(state_dir)
    assert f"orchestrator restore {state_dir / COPY} --state-dir {state_dir}" in said
    assert "2026-01-01 00:00 UTC" in said


async def test_a_copy_that_is_damaged_itself_is_not_named(tmp_path: Path) -> None:
    await fill(tmp_path)
    newer = tmp_path / "backups/state-20260102T000000Z.sqlite3"
    newer.write_bytes((tmp_path / COPY).read_bytes()[:5000])
    truncate(tmp_path / "state.sqlite3")
    assert str(COPY) in await refuse(tmp_path)
    (tmp_path / COPY).unlink()
    said = await refuse(tmp_path)
    assert "There is no sound copy" in said
    assert f"orchestrator restore FILE --state-dir {tmp_path}" in said


async def test_a_database_of_a_newer_version_is_refused_with_its_log_unchanged(
    tmp_path: Path,
) -> None:
    await fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "state.sqlite3")) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    assert "newer version" in await refuse(tmp_path, StoreTooNewError)


async def test_all_commits_are_there_after_a_kill_also_without_the_index_of_the_log(
    tmp_path: Path,
) -> None:
    state_dir = tmp_path / "state"
    await fill(state_dir, crash=True)
    assert (state_dir / "state.sqlite3-wal").stat().st_size > 100_000
    (state_dir / "state.sqlite3-shm").unlink(missing_ok=True)
    assert await count_events(state_dir) == 40


async def test_a_commit_that_a_power_loss_cut_short_is_no_damage(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    await fill(state_dir, crash=True)
    log = state_dir / "state.sqlite3-wal"
    data = bytearray(log.read_bytes())
    # The last commit's frames reached the disk but for one of them.
    last = len(data) - 24 - 4096
    assert struct.unpack_from(">I", data, last + 4)[0] > 0
    data[last + 24 : last + 24 + 512] = bytes(512)
    log.write_bytes(data)
    assert await count_events(state_dir) == 39


async def test_a_first_start_that_was_killed_at_any_size_of_the_file_is_begun_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.sqlite3"
    path.touch()
    assert await count_events(tmp_path) == 0
    for part in tmp_path.iterdir():
        part.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
    assert await count_events(tmp_path) == 0


async def test_a_migration_keeps_a_copy_of_what_was_before_it(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.sqlite3")) as db:
        db.executescript(f"{MIGRATIONS[0]} PRAGMA user_version = 1;")
        db.execute("INSERT INTO meta VALUES ('sync_token', 's1')")
        db.commit()
    async with open_store(tmp_path) as store:
        assert await store.inbox.sync_token() == "s1"
    (copy,) = list_copies(tmp_path)
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT value FROM meta WHERE key = 'sync_token'").fetchone() == ("s1",)
    async with open_store(tmp_path):
        assert list_copies(tmp_path) == [copy]


def test_a_lock_that_a_dead_process_left_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("4194304\n and more that an older version may have written")
    with hold_state_dir(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"{os.getpid()} ")


def test_a_state_directory_without_room_for_its_lock_is_refused_as_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(StoreFullError, match="Free some space"), hold_state_dir(tmp_path):
        pass
