"""Reading a room back to where it became the agent's, page by page, within a bound."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from orchestrator.audit import history
from orchestrator.audit.history import History, HistoryReader
from orchestrator.core.evidence import SeenEvent
from orchestrator.errors import (
    HomeserverUnreachableError,
    LoginRefusedError,
    RateLimitedError,
    RequestRefusedError,
)
from orchestrator.matrix.http import MatrixHttp
from orchestrator.model import EventId, RoomId, UserId
from tests.support.virtual_time import run_virtual

ME, ALICE, ROOM = UserId("@me:test"), "@alice:test", "!room:test"
HERE = "s5"


def said(number: int, sender: str = ALICE, **more: Any) -> dict[str, Any]:
    usual = {"type": "m.room.message", "content": {"msgtype": "m.text", "body": "x"}}
    stamp = {"event_id": f"$e{number}", "origin_server_ts": number * 1000}
    return {**usual, **stamp, "sender": sender, **more}


def member(number: int, membership: str, before: str | None = None) -> dict[str, Any]:
    unsigned = {"prev_content": {"membership": before}} if before else {}
    return said(
        number,
        type="m.room.member",
        state_key=ME,
        content={"membership": membership},
        unsigned=unsigned,
    )


@dataclass(slots=True)
class ScriptedRooms:
    """Rooms as pages of /messages: what is before and after the place `HERE`, oldest first."""

    before: dict[str, list[dict[str, Any]]]
    after: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)
    refused_rooms: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    async def get(self, path: str, *, what: str, query: Mapping[str, str]) -> Any:
        self.asked.append(path)
        if self.errors:
            raise self.errors.pop(0)
        if path.endswith("/joined_rooms"):
            return {"joined_rooms": [*self.before, 7]}
        room = next(r for r in self.before if r.replace("!", "%21").replace(":", "%3A") in path)
        if room in self.refused_rooms or "/event/" in path:
            raise RequestRefusedError(errcode="M_FORBIDDEN", status=403, what=what)
        return self._page(room, query)

    def _page(self, room: str, query: Mapping[str, str]) -> Any:
        is_back = query["dir"] == "b"
        events = self.before[room][::-1] if is_back else self.after.get(room, [])
        start = query.get("from", HERE)
        at = 0 if start == HERE else int(start)
        size = int(query["limit"])
        end = {"end": str(at + size)} if at + size < len(events) else {}
        return {"chunk": events[at : at + size], **end}


def read(rooms: ScriptedRooms, *, token: str | None = HERE, known: tuple[str, ...] = ()) -> History:
    async def main() -> History:
        return await reader(rooms, token, known).read()

    return run_virtual(main())


def reader(
    rooms: ScriptedRooms, token: str | None = HERE, known: tuple[str, ...] = ()
) -> HistoryReader:
    http = cast("MatrixHttp", rooms)
    return HistoryReader(http, ME, sync_token=token, is_history=known.__contains__)


def ids(found: History, **wanted: Any) -> list[str]:
    def fits(event: SeenEvent) -> bool:
        return all(getattr(event, key) == value for key, value in wanted.items())

    return sorted((e.event_id for e in found.events if fits(e)), key=lambda e: int(e[2:]))


def test_a_room_is_read_back_to_the_agents_invitation_and_on_to_its_end() -> None:
    before = [said(1), member(2, "invite"), said(3), member(4, "join", "invite"), said(5, ME)]
    found = read(ScriptedRooms({ROOM: before}, {ROOM: [said(6), said(7, ME)]}))
    assert ids(found, is_new=False) == ["$e3", "$e5"]
    assert ids(found, is_new=True) == ["$e6", "$e7"]
    assert ids(found, is_own=True) == ["$e5", "$e7"]
    assert found.senders == {ALICE, ME}
    (room,) = found.rooms
    assert (room.room_id, room.live_from, room.is_cut) == (ROOM, 3.0, False)


def test_a_change_of_the_profile_is_no_join() -> None:
    before = [said(1), member(2, "join"), said(3), member(4, "join", "join"), said(5)]
    assert ids(read(ScriptedRooms({ROOM: before}))) == ["$e3", "$e5"]


def test_who_came_back_begins_anew() -> None:
    before = [member(1, "join"), said(2), member(3, "leave", "join"), member(4, "join", "leave")]
    assert ids(read(ScriptedRooms({ROOM: [*before, said(5)]}))) == ["$e5"]


def test_what_was_history_at_the_first_sync_ends_the_walk() -> None:
    before = [said(1), said(2), said(3)]
    found = read(ScriptedRooms({ROOM: before}), known=("$e2",))
    assert ids(found) == ["$e3"]
    assert not found.rooms[0].is_cut


def test_the_walk_stops_at_the_page_that_has_the_beginning() -> None:
    before = [member(0, "join"), *(said(i) for i in range(1, 350))]
    rooms = ScriptedRooms({ROOM: [*(said(1000 + i) for i in range(500)), *before]})
    found = read(rooms)
    assert len(found.events) == 349
    pages = [path for path in rooms.asked if path.endswith("/messages")]
    assert len(pages) == 1 + 4  # one forward, four back


def test_a_room_is_read_back_to_the_bound_and_its_cut_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "MAX_PAGES", 2)
    found = read(ScriptedRooms({ROOM: [member(0, "join"), *(said(i) for i in range(1, 350))]}))
    assert len(found.events) == 200
    assert (found.rooms[0].is_cut, found.rooms[0].live_from) == (True, 150.0)


def test_before_the_first_sync_everything_is_still_to_come() -> None:
    found = read(ScriptedRooms({ROOM: [member(0, "join"), said(1)]}), token=None)
    assert ids(found, is_new=True) == ["$e1"]


def test_a_room_that_is_not_given_is_said_and_does_not_hide_the_others() -> None:
    rooms = ScriptedRooms({ROOM: [member(0, "join"), said(1)], "!gone:test": []})
    rooms.refused_rooms = {"!gone:test"}
    found = read(rooms)
    assert ids(found) == ["$e1"]
    assert {room.room_id: room.is_cut for room in found.rooms} == {ROOM: False, "!gone:test": True}


def test_an_answer_that_does_not_come_is_asked_for_again() -> None:
    errors: list[Exception] = [
        HomeserverUnreachableError(),
        RateLimitedError(3),
        RateLimitedError(None),
    ]
    found = read(ScriptedRooms({ROOM: [member(0, "join"), said(1)]}, errors=errors))
    assert ids(found) == ["$e1"]


@pytest.mark.parametrize(
    ("error", "attempts"), [(HomeserverUnreachableError, 5), (LoginRefusedError, 1)]
)
def test_a_homeserver_that_stays_away_or_a_token_that_ended_ends_it(
    error: type[Exception], attempts: int
) -> None:
    rooms = ScriptedRooms({ROOM: []}, errors=[error() for _ in range(9)])
    with pytest.raises(error):
        read(rooms)
    assert len(rooms.asked) == attempts


def test_an_event_of_any_other_shape_is_left_out() -> None:
    odd: list[Any] = [
        said(2, event_id=5),
        said(3, content=[]),
        said(4, sender=None),
        said(5, type=None),
        said(6, unsigned={"transaction_id": 5}, sender=ME),
        said(7, unsigned={"transaction_id": "x1"}, sender=ME, origin_server_ts="late"),
        said(8, unsigned={"transaction_id": "x1"}),
    ]
    found = read(ScriptedRooms({ROOM: [member(0, "join"), *odd]}))
    assert ids(found) == ["$e6", "$e7", "$e8"]
    assert ids(found, txn_id="x1") == ["$e7"]


def test_an_event_can_be_asked_for_by_itself() -> None:
    async def main() -> bool:
        return await reader(ScriptedRooms({ROOM: []})).has_event(RoomId(ROOM), EventId("$gone"))

    assert run_virtual(main()) is False


def test_many_rooms_are_read_a_few_at_a_time() -> None:
    names = [f"!{secrets.token_hex(4)}:test" for _ in range(20)]
    rooms = ScriptedRooms({name: [member(0, "join"), said(1)] for name in names})
    in_flight = most = 0
    plain = rooms.get

    async def slow(path: str, *, what: str, query: Mapping[str, str]) -> Any:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(1)
        in_flight -= 1
        return await plain(path, what=what, query=query)

    class SlowRooms:
        get = staticmethod(slow)

    async def main() -> History:
        http = cast("MatrixHttp", SlowRooms())
        return await HistoryReader(http, ME, sync_token=HERE, is_history=lambda _: False).read()

    assert len(run_virtual(main()).rooms) == 20
    assert most == 4
