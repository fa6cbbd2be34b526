"""Who may have a runner, when there are only so many."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from orchestrator.model import RoomId
from orchestrator.rooms.places import RunnerPlaces

A, B, C, D = (RoomId(f"!{name}:test") for name in "abcd")


class Calls(list[str]):
    """What was called, by name."""

    def named(self, name: str) -> Call:
        return Call(self, name)


class Call:
    def __init__(self, calls: Calls, name: str) -> None:
        self._calls, self._name = calls, name

    def __call__(self) -> None:
        self._calls.append(self._name)


def test_without_a_limit_everybody_has_one() -> None:
    places, calls = RunnerPlaces(None), Calls()
    assert all(places.ask(room, calls.named(room)) for room in (A, B, C, D))
    assert places.waiting == 0


def test_who_works_keeps_its_place_and_the_longest_idle_gives_it_up() -> None:
    places, calls = RunnerPlaces(3), Calls()
    for room in (A, B, C):
        assert places.ask(room, calls.named(f"wake {room}"))
    places.spare(B, calls.named("B gives up"))
    places.spare(A, calls.named("A gives up"))
    wake = calls.named("wake D")
    assert not places.ask(D, wake)
    assert not places.ask(D, wake), "asking again asks nobody else"
    assert calls == ["B gives up"]
    places.leave(B)
    assert calls == ["B gives up", "wake D"]
    assert places.ask(D, wake)
    assert not places.ask(B, calls.named("wake B"))
    assert calls == ["B gives up", "wake D", "A gives up"]


def test_one_that_was_asked_and_works_again_is_not_waited_for() -> None:
    places, calls = RunnerPlaces(2), Calls()
    assert places.ask(A, calls.named("wake A"))
    assert places.ask(B, calls.named("wake B"))
    places.spare(A, calls.named("A gives up"))
    assert not places.ask(C, calls.named("wake C"))
    assert places.ask(A, calls.named("wake A")), "it has a turn again before it gave up"
    places.spare(B, calls.named("B gives up"))
    assert calls == ["A gives up", "B gives up"]


def test_places_are_had_in_the_order_in_which_they_were_asked_for() -> None:
    places, calls = RunnerPlaces(1), Calls()
    assert places.ask(A, calls.named("wake A"))
    b = calls.named("wake B")
    assert not places.ask(B, b)
    c = calls.named("wake C")
    assert not places.ask(C, c)
    places.leave(A)
    assert not places.ask(C, c), "B was first"
    assert places.ask(B, b)
    places.leave(B)
    assert places.ask(C, c)


def test_who_needs_none_any_more_holds_nobody_up() -> None:
    places, calls = RunnerPlaces(1), Calls()
    assert places.ask(A, calls.named("wake A"))
    b = calls.named("wake B")
    assert not places.ask(B, b)
    c = calls.named("wake C")
    assert not places.ask(C, c)
    places.leave(A)
    places.withdraw(B, b)
    assert calls == ["wake B", "wake C"]
    assert places.ask(C, c)


def test_a_request_is_taken_back_when_nobody_waits_any_more() -> None:
    places, calls = RunnerPlaces(1), Calls()
    assert places.ask(A, calls.named("wake A"))
    places.spare(A, calls.named("A gives up"))
    b = calls.named("wake B")
    assert not places.ask(B, b)
    assert places.is_asked(A)
    places.withdraw(B, b)
    assert not places.is_asked(A)
    assert not places.ask(B, b)
    assert places.is_asked(A), "asked anew"
    assert calls == ["A gives up", "A gives up"]


def test_too_many_that_run_already_are_brought_down_to_the_limit() -> None:
    places, calls = RunnerPlaces(1), Calls()
    places.spare(A, calls.named("A gives up"))
    assert calls == []
    places.spare(B, calls.named("B gives up"))
    assert calls == ["A gives up"], "the longer idle"


class House:
    """Rooms that want runners at random, and do what they are asked to."""

    def __init__(self, limit: int) -> None:
        self.places = RunnerPlaces(limit)
        self.working: set[RoomId] = set()
        self.idle: set[RoomId] = set()
        self.wanting: list[RoomId] = []
        self.served: Counter[RoomId] = Counter()
        self._asked: set[RoomId] = set()

    def want(self, room: RoomId) -> None:
        if room not in self.working and room not in self.wanting:
            self.wanting.append(room)

    def finish(self, room: RoomId) -> None:
        if room in self.working:
            self.working.discard(room)
            self.idle.add(room)
            self.places.spare(room, lambda: self._asked.add(room))

    def settle(self) -> None:
        for gone in self._asked & self.idle:
            self.idle.discard(gone)
            self.places.leave(gone)
        self._asked.clear()
        for room in list(self.wanting):
            if self.places.ask(room, _nothing):
                self.wanting.remove(room)
                self.idle.discard(room)
                self.working.add(room)
                self.served[room] += 1


def _nothing() -> None:
    """Who waits asks again by itself here."""


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_whatever_happens_no_more_run_than_may_and_nobody_is_forgotten(limit: int) -> None:
    chance = random.Random(7)
    rooms = [RoomId(f"!{number}:test") for number in range(9)]
    house = House(limit)
    for _ in range(3000):
        room = chance.choice(rooms)
        if chance.random() < 0.6:
            house.finish(room)
        else:
            house.want(room)
        house.settle()
        assert len(house.working | house.idle) <= limit
    assert len(house.served) == len(rooms)
    assert max(house.served.values()) < 2 * min(house.served.values())
