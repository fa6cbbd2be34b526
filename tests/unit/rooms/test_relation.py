"""A homeserver refuses what a message relates to: the room gets the message all the same, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.core.thread import parse_thread
from orchestrator.core.turn_mark import parse_reply
from orchestrator.errors import RequestRefusedError
from orchestrator.model import EventId, JsonObject, JsonValue, Priority, RoomId, TxnId
from orchestrator.store.api import NewOutboxRow
from tests.support.outbox import MemoryHomeserver
from tests.support.room_rig import ROOM, Rig
from tests.unit.rooms.scenario import run, tell

GONE = "$gone"


@dataclass(slots=True)
class ForgetfulHomeserver(MemoryHomeserver):
    """Has no event GONE any more, as Synapse says that."""

    status: int = 400
    refusals: int = 0

    async def answer(
        self, room_id: RoomId, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        relation = content.get("m.relates_to")
        if isinstance(relation, dict) and relation.get("event_id") == GONE:
            self.refusals += 1
            raise RequestRefusedError(errcode="M_UNKNOWN", status=self.status, what="sending")
        return self.accept(room_id, content, txn_id)


@pytest.mark.parametrize("crash_at", [0, *range(60, 130, 5)])
def test_an_answer_whose_thread_is_gone_is_said_outside_of_it_once(
    tmp_path: Path, crash_at: int
) -> None:
    async def test(rig: Rig) -> None:
        server = rig.account = ForgetfulHomeserver()
        async with rig.life(crash_at=crash_at) as life:
            await tell(rig, life, "hello", thread=GONE)
            if not crash_at:
                await rig.wait_ended(1)
            else:
                await life.points.crashed.wait()
        async with rig.life():
            await rig.wait_ended(1)

            async def is_sent() -> bool:
                return not await rig.store.outbox.waiting()

            await rig.wait(is_sent)
        said = [content for content in server.contents if content.get("body")]
        assert [content["body"] for content in said] == ["You said: hello"]
        assert parse_thread(said[0]) is None
        assert server.refusals > 0
        assert await rig.outcomes() == ["done"]

    run(tmp_path, test)


@pytest.mark.parametrize("status", [403, 413])
def test_what_is_refused_for_something_else_is_not_tried_again(tmp_path: Path, status: int) -> None:
    async def test(rig: Rig) -> None:
        server = rig.account = ForgetfulHomeserver(status=status)
        content: JsonObject = {
            "body": "x",
            "m.relates_to": {"rel_type": "m.thread", "event_id": GONE, "is_falling_back": True},
        }
        await rig.store.outbox.add([row("a", content)], now=0)
        async with rig.life():

            async def is_settled() -> bool:
                return not await rig.store.outbox.waiting()

            await rig.wait(is_settled)
        assert server.refusals == 1
        assert all("was refused" in str(content["body"]) for content in server.contents)

    run(tmp_path, test)


def row(name: str, content: JsonObject, *, edits: str | None = None) -> NewOutboxRow:
    return NewOutboxRow(
        room_id=ROOM,
        txn_id=TxnId(name),
        event_type="m.room.message",
        content=content,
        priority=Priority.FINAL,
        edits=None if edits is None else TxnId(edits),
    )


def test_a_message_loses_what_it_relates_to_one_thing_at_a_time(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        outbox = rig.store.outbox
        await outbox.add([row("live", {"body": "…"})], now=0)
        (live,) = await outbox.outbox_heads(now=1, limit=1)
        await outbox.mark_attempt(live.seq, ROOM, now=1)
        await outbox.mark_sent(live.seq, EventId("$live"), now=1)
        relation: JsonObject = {
            "rel_type": "m.thread",
            "event_id": GONE,
            "is_falling_back": False,
            "m.in_reply_to": {"event_id": "$asked"},
        }
        content: JsonObject = {"body": "done", "m.relates_to": relation}
        await outbox.add([row("final", content, edits="live")], now=1)

        async def head() -> JsonObject:
            (found,) = await outbox.outbox_heads(now=2, limit=1)
            return found.content

        assert (await head())["body"] == "* done"
        seq = live.seq + 1
        assert await outbox.loosen(seq)
        assert parse_thread(await head()) == GONE
        assert await outbox.loosen(seq)
        assert parse_thread(await head()) is None
        assert parse_reply(await head()) == "$asked"
        assert await outbox.loosen(seq)
        assert await head() == {"body": "done"}
        assert not await outbox.loosen(seq)

    run(tmp_path, test)
