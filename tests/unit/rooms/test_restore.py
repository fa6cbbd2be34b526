"""After a restore nothing is run or shown twice, and every room is told once."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.naming import room_slug, room_uid
from orchestrator.core.page_action import PageAction, PageVerb
from orchestrator.errors import PreconditionError, StoreCorruptError
from orchestrator.matrix.response import RESTORE_MARGIN_S
from orchestrator.matrix.sync import RawSync, run_sync
from orchestrator.model import EventId, JsonObject, RoomId, UserId
from orchestrator.recovery import Recovered, restore
from orchestrator.runners.ownership import note_first_uid
from orchestrator.runners.taken_place import note_taken_place
from orchestrator.store.api import InboxKind, NewInboxRow
from orchestrator.store.copying import copy_database
from orchestrator.store.database import hold_state_dir
from orchestrator.store.schema import MIGRATIONS
from orchestrator.store.store import open_store
from tests.support.asking import CAROL
from tests.support.room_rig import ALICE, ME, ROOM, Life, Rig, open_rig, run_rooms
from tests.support.virtual_time import loop_clock
from tests.unit.rooms.scenario import hang, tell, works_for

OTHER, THIRD = RoomId("!other:test"), RoomId("!third:test")


class OneAnswer:
    """A homeserver that has one answer for the sync loop, and then another, and then nothing."""

    user_id = UserId(ME)

    def __init__(self, *answers: JsonObject) -> None:
        self._answers = list(answers)
        self.asked: list[str | None] = []

    async def sync(self, since: str | None, **_: Any) -> RawSync:
        self.asked.append(since)
        if not self._answers:
            await asyncio.Event().wait()
        return RawSync(next_batch=f"after-{len(self.asked)}", body=self._answers.pop(0))

    async def backfill(self, *_: Any, **__: Any) -> Sequence[JsonObject]:
        return ()

    async def after_sync(self, body: JsonObject) -> None:
        """Nothing to do."""


def message(event_id: str, text: str, at_s: float, sender: str = ALICE) -> JsonObject:
    content: JsonObject = {"msgtype": "m.text", "body": text}
    return {
        "type": "m.room.message",
        "event_id": event_id,
        "sender": sender,
        "origin_server_ts": int(at_s * 1000),
        "content": content,
    }


def answer(**rooms: list[JsonObject]) -> JsonObject:
    names = {"room": ROOM, "other": OTHER, "third": THIRD}
    join = {names[k]: {"timeline": {"events": events}} for k, events in rooms.items()}
    return {"rooms": {"join": join}}  # type: ignore[dict-item] # a list of events is JSON


@asynccontextmanager
async def restored(rig: Rig, folder: Path, copy: Path) -> AsyncIterator[Recovered]:
    """The rig goes on with what `restore` made of the copy, as of now."""
    with ThreadPoolExecutor() as pool:
        done = pool.submit(restore, copy, folder, now=loop_clock()).result()
    before = rig.store
    async with open_store(folder) as store:
        rig.store = store
        yield done
        rig.store = before


@asynccontextmanager
async def syncing(rig: Rig, life: Life, server: OneAnswer) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run_sync(
                server,
                rig.store.inbox,
                on_commit=life.notify,
                on_typing=lambda *_: None,
                on_status=lambda _: None,
                clock=loop_clock,
            )
        )
        yield
        task.cancel()


def run(
    folder: Path, test: Callable[[Rig, Path], Coroutine[Any, Any, None]], **sections: Any
) -> None:
    async def main() -> None:
        async with open_rig(folder, **sections) as rig:
            await test(rig, folder)

    run_rooms(main())


def make_copy(folder: Path) -> Path:
    copy = folder / "backups" / "copy.sqlite3"
    copy_database(folder / "state.sqlite3", copy)
    return copy


def test_what_was_answered_after_the_copy_is_not_run_again_and_its_room_is_told_once(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig, folder: Path) -> None:
        async with rig.life() as life:
            await tell(rig, life, "before")
            await rig.receive("hello", room=OTHER)
            life.notify()
            await rig.wait_ended(2)
            copy, token_of_copy = make_copy(folder), await rig.store.inbox.sync_token()
            await rig.receive("after", event_id="$after")
            life.notify()
            await rig.wait_ended(3)
            now = loop_clock()
        started = len(rig.claude.started)
        async with restored(rig, folder, copy), rig.life() as life:
            server = OneAnswer(
                answer(
                    room=[
                        message("$after", "after", now),
                        message("$own", "You said: after", now, sender=ME),
                        message("$unseen", "sent while it was down", now + RESTORE_MARGIN_S / 2),
                    ],
                    other=[message("$own2", "hello", now, sender=ME)],
                ),
                answer(room=[message("$new", "new", now - 999)]),
            )
            async with syncing(rig, life, server):
                await rig.wait_body("You said: new")
                await asyncio.sleep(60)
            said = await rig.bodies()
            assert [body for body in said if body.startswith("You said")] == [
                "You said: before",
                "You said: new",
            ]
            assert sum("restored from a copy" in body for body in said) == 1
            assert await rig.bodies(OTHER) == ["You said: hello"]
            assert server.asked[0] == token_of_copy
        assert len(rig.claude.started) == started + 1

    run(tmp_path, test)


def test_what_was_granted_in_the_copy_is_to_be_granted_again(tmp_path: Path) -> None:
    async def test(rig: Rig, folder: Path) -> None:
        await rig.store.rooms.ensure(ROOM, joined=True)
        await rig.receive("!egress allow example.org always", sender=CAROL)
        async with rig.life() as life:
            life.notify()
            await rig.wait_body("for good, by")
            copy = make_copy(folder)
            await rig.receive("!egress revoke example.org", sender=CAROL)
            life.notify()
            await rig.wait_body("Taken back by")
        async with restored(rig, folder, copy), rig.life():
            await asyncio.sleep(5)
            assert not any(rig.doors.granted.values())
            assert await rig.store.grants.live(ROOM, now=loop_clock()) == []

    run(tmp_path, test, access={"users": [ALICE], "approvers": [CAROL]})


def test_turns_that_had_not_ended_in_the_copy_end_and_are_not_run(tmp_path: Path) -> None:
    async def test(rig: Rig, folder: Path) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            await tell(rig, life, "queued behind it")
            await rig.wait_body("Queued")
            copy = make_copy(folder)
        async with restored(rig, folder, copy) as done, rig.life() as life:
            assert done.turns == 2
            await tell(rig, life, "and now?")
            await rig.wait_body("You said: and now?")
            assert await rig.outcomes() == ["interrupted", "interrupted", "done"]
            assert not any("queued behind it" in body for body in await rig.bodies())
            assert sum("in which this was not finished" in b for b in await rig.bodies()) == 2

    run(tmp_path, test)


def test_messages_that_were_no_turn_yet_in_the_copy_are_not_run_and_their_room_is_told(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig, folder: Path) -> None:
        await rig.receive("never looked at")
        await rig.receive("never looked at either")
        copy = make_copy(folder)
        async with restored(rig, folder, copy), rig.life():
            await rig.wait_body("restored from a copy")
            await asyncio.sleep(30)
            assert len(await rig.bodies()) == 1
            assert await rig.turns() == []

    run(tmp_path, test)


def test_a_runner_that_works_on_what_the_copy_does_not_know_is_replaced(tmp_path: Path) -> None:
    async def test(rig: Rig, folder: Path) -> None:
        rig.claude.scripts["work"] = works_for(300)
        async with rig.life() as life:
            await tell(rig, life, "hello")
            await rig.wait_ended(1)
            copy = make_copy(folder)
            await tell(rig, life, "work")
            await rig.receive("work", room=OTHER)
            life.notify()
            await rig.wait_body("begun")
            await rig.wait_body("begun", room=OTHER)
        assert len(await rig.backend.list()) == 2
        async with restored(rig, folder, copy), rig.life() as life:
            await asyncio.sleep(30)
            assert len(await rig.backend.list()) == 0
            await tell(rig, life, "again")
            await rig.wait_body("You said: again")
            await asyncio.sleep(600)
            assert "finished" not in await rig.bodies()

    run(tmp_path, test)


def test_what_was_queued_in_the_copy_is_looked_for_before_it_is_sent(tmp_path: Path) -> None:
    async def test(rig: Rig, folder: Path) -> None:
        async with rig.life() as life:
            await tell(rig, life, "hello")
            await rig.wait_ended(1)
        copy = make_copy(folder)
        async with restored(rig, folder, copy):
            (head,) = await rig.store.outbox.outbox_heads(now=loop_clock(), limit=9)
            assert head.attempts >= 1
            assert head.created_at < loop_clock() - 86400

    run(tmp_path, test)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("remapped", [None, 231072 + 16384])
def test_rooms_that_the_copy_does_not_know_keep_the_owner_of_their_files(
    tmp_path: Path, remapped: int | None
) -> None:
    async def test(rig: Rig, folder: Path) -> None:
        await rig.store.rooms.ensure(ROOM, joined=True)
        installation = await rig.store.rooms.installation()
        first = remapped or room_uid(installation, 0)
        note_first_uid(folder, installation, first)
        copy = make_copy(folder)
        for room in (OTHER, THIRD):
            row = await rig.store.rooms.ensure(room, joined=True)
            workspace = folder / "rooms" / room_slug(room) / "workspace"
            workspace.mkdir(parents=True)
            uid = first + row.index
            os.chown(workspace, uid, uid)
        async with restored(rig, folder, copy):
            # Heard of in another order than before, with a new one among them.
            new = await rig.store.rooms.ensure(RoomId("!new:test"), joined=True)
            third = await rig.store.rooms.ensure(THIRD, joined=True)
            other = await rig.store.rooms.ensure(OTHER, joined=True)
            assert (other.index, third.index, new.index) == (1, 2, 3)

    run(tmp_path, test)


def test_what_was_a_spare_in_the_copy_and_a_rooms_since_is_given_to_no_other(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig, folder: Path) -> None:
        installation = await rig.store.rooms.installation()
        first = room_uid(installation, 0)
        note_first_uid(folder, installation, first)
        for _ in range(2):
            await rig.store.spares.note_ready((await rig.store.spares.add()).slug)
        copy = make_copy(folder)
        # Its files are there from here on, and say whose they are.
        mine = await rig.store.rooms.ensure(OTHER, joined=True)
        note_taken_place(folder / "rooms", mine)
        workspace = folder / "rooms" / mine.slug / "workspace"
        workspace.mkdir(parents=True)
        os.chown(workspace, first + mine.index, first + mine.index)
        async with restored(rig, folder, copy):
            assert not await rig.store.spares.all()
            stranger = await rig.store.rooms.ensure(THIRD, joined=True)
            again = await rig.store.rooms.ensure(OTHER, joined=True)
            assert stranger.slug == room_slug(THIRD)
            assert (again.slug, again.index) == (mine.slug, mine.index)
            assert stranger.index not in (mine.index, again.index)

    run(tmp_path, test)


def used(folder: Path, token: str) -> None:
    async def main() -> None:
        async with open_store(folder) as store:
            await store.inbox.commit_sync([], token, now=1.0)

    asyncio.run(main())


def token(folder: Path) -> str | None:
    async def main() -> str | None:
        async with open_store(folder) as store:
            return await store.inbox.sync_token()

    return asyncio.run(main())


def test_a_restore_keeps_the_damaged_database_aside_and_takes_its_log_away(tmp_path: Path) -> None:
    used(tmp_path, "old")
    copy = make_copy(tmp_path)
    used(tmp_path, "new")
    (tmp_path / "state.sqlite3").write_bytes(b"damaged" * 1000)
    (tmp_path / "state.sqlite3-wal").write_bytes(b"its log" * 1000)
    done = restore(copy, tmp_path)
    assert done.put_aside is not None
    assert done.put_aside.read_bytes() == b"damaged" * 1000
    assert done.put_aside.with_name(f"{done.put_aside.name}-wal").read_bytes() == b"its log" * 1000
    assert token(tmp_path) == "old"
    assert (tmp_path / "state.sqlite3").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("said_at", "made_at"), [("1000.5", 1000.5), (None, 86400.0)])
def test_a_restore_says_when_its_copy_was_made_and_not_when_it_was_restored(
    tmp_path: Path, said_at: str | None, made_at: float
) -> None:
    used(tmp_path, "old")
    copy = make_copy(tmp_path).rename(tmp_path / "backups" / "state-19700102T000000Z.sqlite3")
    with closing(sqlite3.connect(copy)) as db, db:
        db.execute("DELETE FROM meta WHERE key = 'copied_at'")
        if said_at is not None:
            db.execute("INSERT INTO meta VALUES ('copied_at', ?)", (said_at,))
    assert restore(copy, tmp_path).copied_at == made_at
    with closing(sqlite3.connect(tmp_path / "state.sqlite3")) as db:
        assert not db.execute("SELECT value FROM meta WHERE key = 'copied_at'").fetchall()


def test_a_restore_is_refused_while_an_orchestrator_runs_and_for_what_is_no_sound_copy(
    tmp_path: Path,
) -> None:
    used(tmp_path, "now")
    copy = make_copy(tmp_path)
    with hold_state_dir(tmp_path), pytest.raises(PreconditionError, match="another orchestrator"):
        restore(copy, tmp_path)
    copy.write_bytes(copy.read_bytes()[:-5000])
    for wrong in (copy, tmp_path):
        with pytest.raises(StoreCorruptError, match="or a damaged one"):
            restore(wrong, tmp_path)
    with pytest.raises(PreconditionError, match="There is no"):
        restore(tmp_path / "missing", tmp_path)
    with pytest.raises(PreconditionError, match="the database itself"):
        restore(tmp_path / "state.sqlite3", tmp_path)
    assert token(tmp_path) == "now"


@pytest.mark.parametrize("killed_at", range(1, 6))
def test_a_restore_that_was_killed_anywhere_can_be_done_again(
    tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(tmp_path, "old")
    copy = make_copy(tmp_path)
    used(tmp_path, "new")
    (tmp_path / "state.sqlite3-wal").write_bytes(b"a log" * 1000)
    usual, count = Path.replace, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == killed_at:
            raise KeyboardInterrupt
        return usual(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        try:
            restore(copy, tmp_path)
        except KeyboardInterrupt:
            restore_again = True
        else:
            restore_again = False
    if restore_again:
        restore(copy, tmp_path)
    assert token(tmp_path) == "old"


def test_a_restore_brings_a_copy_of_an_older_schema_to_this_one(tmp_path: Path) -> None:
    copy = tmp_path / "old.sqlite3"
    db = sqlite3.connect(copy)
    db.executescript(f"{MIGRATIONS[0]} PRAGMA user_version = 1;")
    db.execute("INSERT INTO meta VALUES ('sync_token', ?)", ("s",))
    db.commit()
    db.close()
    restore(copy, tmp_path / "state")
    assert token(tmp_path / "state") == "s"


def test_what_was_asked_for_on_the_status_page_before_the_copy_is_not_done_after_it(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig, folder: Path) -> None:
        async with rig.life() as life:
            await tell(rig, life, "before")
        raw = PageAction(verb=PageVerb.RESTART).model_dump_json()
        row = NewInboxRow(kind=InboxKind.PAGE, room_id=ROOM, event_id=EventId("page:a"), raw=raw)
        await rig.store.inbox.add(row, now=loop_clock())
        copy = make_copy(folder)
        async with restored(rig, folder, copy), rig.life():
            await asyncio.sleep(10)
            assert not [body for body in await rig.bodies() if "status page" in body]

    run(tmp_path, test)
