"""A row with a file: uploaded, then named in a payload that is frozen; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from orchestrator.errors import (
    AiAgentChatError,
    HomeserverUnreachableError,
    LoginRefusedError,
    RateLimitedError,
    RequestRefusedError,
)
from orchestrator.gateway.upload import MOST_UPLOAD_FAILURES
from orchestrator.model import JsonObject, Priority, RoomId
from orchestrator.store.api import OutboxRow
from tests.support.outbox import FlakyHomeserver, MemoryHomeserver, MemoryOutbox
from tests.support.virtual_time import loop_clock
from tests.unit.gateway.test_outbound import make_sender, running, virtual

DATA = b"# A long answer"


@dataclass(slots=True)
class MedialessHomeserver(MemoryHomeserver):
    """Its uploads fail in turn as `errors` says; None is one that succeeds."""

    errors: list[Callable[[], AiAgentChatError] | None] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)

    async def upload_file(self, room_id: RoomId, data: bytes, *, mimetype: str) -> JsonObject:
        self.asked_at.append(loop_clock())
        error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        if error is not None:
            await asyncio.sleep(0)
            raise error()
        return await MemoryHomeserver.upload_file(self, room_id, data, mimetype=mimetype)


class Refusals:
    """Told of each refused row, as the daemon is; its text is sent in another way."""

    def __init__(self, store: MemoryOutbox) -> None:
        self.store = store
        self.told: list[str] = []

    async def __call__(self, row: OutboxRow, error: RequestRefusedError) -> None:
        self.told.append(error.errcode)
        assert row.has_file
        assert await self.store.file(row.seq) == DATA, "its text is still there"
        self.store.add(row.room_id, "instead", priority=row.priority)


@virtual
async def test_a_file_is_uploaded_once_and_its_event_names_it() -> None:
    store, homeserver = MemoryOutbox(), MemoryHomeserver()
    store.add("!a", "before")
    store.add("!a", "answer.md", file=DATA, priority=Priority.FINAL)
    store.add("!a", "after")
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(5)
    assert homeserver.bodies("!a") == ["before", "answer.md", "after"]
    assert [data for _, _, data in homeserver.uploads] == [DATA]
    assert homeserver.contents[1]["url"] == "mxc://memory/1"
    assert store.files == {}


@virtual
async def test_a_lost_answer_to_the_event_does_not_upload_again_nor_change_the_payload() -> None:
    store, homeserver = MemoryOutbox(), FlakyHomeserver(accepts=True)
    store.add("!a", "answer.md", file=DATA)
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(5)
        homeserver.is_away = lambda _: False
        await asyncio.sleep(60)
    assert len(homeserver.uploads) == 1
    assert homeserver.bodies("!a") == ["answer.md"]


@virtual
async def test_a_life_that_ends_between_upload_and_store_leaves_an_orphan_and_no_more() -> None:
    class DyingOutbox(MemoryOutbox):
        dies: bool = True

        async def store_uploaded(
            self, seq: int, content: JsonObject, *, rest: bytes | None = None
        ) -> None:
            if self.dies:
                await asyncio.Event().wait()
            await super().store_uploaded(seq, content, rest=rest)

    store, homeserver = DyingOutbox(), MemoryHomeserver()
    store.add("!a", "answer.md", file=DATA)
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(5)
    assert homeserver.timeline == []
    store.dies = False
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(5)
    assert len(homeserver.uploads) == 2
    assert homeserver.bodies("!a") == ["answer.md"]
    assert homeserver.contents[0]["url"] == "mxc://memory/2"


@virtual
async def test_an_upload_waits_for_no_message_budget_and_spends_none() -> None:
    store, homeserver = MemoryOutbox(), MemoryHomeserver()
    sender = make_sender(store, homeserver)
    sender.budget.sent(loop_clock())
    sender.budget.limited(loop_clock(), 30.0)
    store.add("!a", "answer.md", file=DATA)
    began = loop_clock()
    async with running(sender):
        await asyncio.sleep(60)
    assert homeserver.uploads[0][0] < began + 1
    (sent,) = homeserver.requests
    assert sent[0] >= began + 30


@pytest.mark.parametrize(
    ("error", "errcode"),
    [
        (lambda: RequestRefusedError(errcode="M_TOO_LARGE", status=413, what="x"), "M_TOO_LARGE"),
        (lambda: RequestRefusedError(errcode="M_FORBIDDEN", status=403, what="x"), "M_FORBIDDEN"),
        (lambda: RateLimitedError(3600.0), "UPLOAD_FAILED"),
        (HomeserverUnreachableError, "UPLOAD_FAILED"),
        (lambda: RateLimitedError(None), "UPLOAD_FAILED"),
        (lambda: RateLimitedError(30.0), "UPLOAD_FAILED"),
    ],
    ids=["413", "403", "429 for an hour", "500 for ever", "429 for ever", "429 and 30 s for ever"],
)
def test_an_upload_that_does_not_succeed_is_given_up_in_time_and_told(
    error: Callable[[], AiAgentChatError], errcode: str
) -> None:
    @virtual
    async def test() -> None:
        store, homeserver = MemoryOutbox(), MedialessHomeserver(errors=[error])
        refusals = Refusals(store)
        store.add("!a", "answer.md", file=DATA)
        store.add("!a", "next")
        async with running(make_sender(store, homeserver, on_refused=refusals)):
            await asyncio.sleep(10 * 60)
        assert refusals.told == [errcode]
        assert homeserver.bodies("!a") == ["next", "instead"]
        assert len(homeserver.asked_at) <= MOST_UPLOAD_FAILURES

    test()


@pytest.mark.parametrize("retry_after_s", [None, 0.5, 20.0, 119.0])
def test_an_upload_that_is_limited_waits_as_told_and_delays_no_other_room(
    retry_after_s: float | None,
) -> None:
    @virtual
    async def test() -> None:
        store = MemoryOutbox()
        homeserver = MedialessHomeserver(errors=[lambda: RateLimitedError(retry_after_s), None])
        store.add("!a", "answer.md", file=DATA)
        sender = make_sender(store, homeserver)
        async with running(sender):
            await asyncio.sleep(0.2)
            store.add("!b", "well")
            sender.notify()
            await asyncio.sleep(0.2)
            assert homeserver.bodies("!b") == ["well"]
            await asyncio.sleep(180)
        assert homeserver.bodies("!a") == ["answer.md"]
        first, second = homeserver.asked_at
        assert second - first >= (5.0 if retry_after_s is None else retry_after_s)
        assert sender.budget.rate_per_s() is None, "it says nothing of the limit of messages"

    test()


@virtual
async def test_a_hung_upload_is_ended_and_tried_again() -> None:
    class HangingOnce(MemoryHomeserver):
        async def upload_file(self, room_id: RoomId, data: bytes, *, mimetype: str) -> JsonObject:
            self.uploads.append((loop_clock(), room_id, data))
            if len(self.uploads) == 1:
                await asyncio.Event().wait()
            return {"url": "mxc://memory/x"}

    store, homeserver = MemoryOutbox(), HangingOnce()
    store.add("!a", "answer.md", file=DATA)
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(300)
    assert homeserver.bodies("!a") == ["answer.md"]


@virtual
async def test_while_the_homeserver_is_away_a_file_is_not_given_up() -> None:
    class AwayHomeserver(FlakyHomeserver):
        async def upload_file(self, room_id: RoomId, data: bytes, *, mimetype: str) -> JsonObject:
            if self.is_away(room_id):
                raise HomeserverUnreachableError
            return await super().upload_file(room_id, data, mimetype=mimetype)

    store, homeserver = MemoryOutbox(), AwayHomeserver()
    store.add("!a", "answer.md", file=DATA)
    store.add("!b", "x")
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(1200)
        homeserver.is_away = lambda _: False
        await asyncio.sleep(120)
    assert homeserver.bodies("!a") == ["answer.md"]
    assert store.refused == {}


@virtual
async def test_an_account_that_was_logged_out_ends_the_sender_at_an_upload_too() -> None:
    store, homeserver = MemoryOutbox(), MedialessHomeserver(errors=[LoginRefusedError])
    store.add("!a", "answer.md", file=DATA)
    with pytest.raises(ExceptionGroup) as caught:
        await make_sender(store, homeserver).run()
    assert caught.group_contains(LoginRefusedError)
    assert set(store.rows) == {1}


@virtual
async def test_a_file_whose_room_was_left_meanwhile_is_not_uploaded() -> None:
    store, homeserver = MemoryOutbox(look_delay_s=1.0), MemoryHomeserver()
    store.add("!a", "answer.md", file=DATA)
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(0.5)
        store.files.clear()
        store.rows.clear()
        await asyncio.sleep(10)
    assert homeserver.uploads == []
    assert homeserver.timeline == []


SMALL = b"\x89PNG small"
OF_SMALL: JsonObject = {"mimetype": "image/png", "size": len(SMALL), "w": 8, "h": 6}
IMAGE: JsonObject = {"mimetype": "image/jpeg", "size": len(DATA), "thumbnail_info": OF_SMALL}


def add_image(store: MemoryOutbox) -> None:
    row = store.add("!a", "photo.jpg", file=DATA + SMALL)
    store.rows[row.seq] = replace(row, content={**row.content, "info": IMAGE})
    store.add("!a", "after")


@virtual
async def test_a_thumbnail_is_uploaded_behind_its_image_and_both_are_named() -> None:
    store, homeserver = MemoryOutbox(), MemoryHomeserver()
    add_image(store)
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(5)
    assert [data for _, _, data in homeserver.uploads] == [DATA, SMALL]
    image = homeserver.contents[0]
    assert image["url"] == "mxc://memory/1"
    assert image["info"] == {**IMAGE, "thumbnail_url": "mxc://memory/2"}
    assert homeserver.bodies("!a") == ["photo.jpg", "after"]


@virtual
async def test_a_sender_that_ends_between_the_two_uploads_repeats_neither() -> None:
    store, homeserver = MemoryOutbox(), MemoryHomeserver(latency_s=1)
    add_image(store)
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(1.5)
    assert [data for _, _, data in homeserver.uploads] == [DATA, SMALL]
    assert store.files == {1: SMALL}, "the second was under way"
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(10)
    assert [data for _, _, data in homeserver.uploads] == [DATA, SMALL, SMALL]
    assert homeserver.bodies("!a") == ["photo.jpg", "after"]


@virtual
async def test_a_thumbnail_that_the_homeserver_refuses_is_left_out() -> None:
    def refuse() -> RequestRefusedError:
        return RequestRefusedError(errcode="M_FORBIDDEN", status=403, what="uploading")

    store, homeserver = MemoryOutbox(), MedialessHomeserver(errors=[None, refuse])
    refusals = Refusals(store)
    add_image(store)
    async with running(make_sender(store, homeserver, on_refused=refusals)):
        await asyncio.sleep(5)
    image = homeserver.contents[0]
    assert (image["url"], image["info"]) == (
        "mxc://memory/1",
        {"mimetype": "image/jpeg", "size": len(DATA)},
    )
    assert (refusals.told, store.files) == ([], {})
