"""Tokens, sessions, and how many tries there are."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pydantic import SecretStr

from orchestrator.config import StatusTokens
from orchestrator.status.guard import Guard, Level, TooManyTriesError, is_form_of

READ, ADMIN = "r" * 16, "a" * 16


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def guard_of(clock: Clock, *, admin: str | None = ADMIN) -> Guard:
    secret = None if admin is None else SecretStr(admin)
    return Guard(StatusTokens(read=SecretStr(READ), admin=secret), clock=clock)


def test_each_token_is_good_for_its_own() -> None:
    guard = guard_of(Clock())
    assert guard.level_of(READ) is Level.READ
    assert guard.level_of(ADMIN) is Level.ADMIN
    assert guard.level_of("\ud800") is None
    assert guard_of(Clock(), admin=None).level_of(ADMIN) is None


def test_right_tokens_cost_nothing_and_wrong_ones_come_back_with_time() -> None:
    clock = Clock()
    guard = guard_of(clock)
    for _ in range(100):
        assert guard.level_of(READ) is Level.READ
    for _ in range(6):
        assert guard.level_of("wrong") is None
    with pytest.raises(TooManyTriesError):
        guard.level_of(READ)
    clock.now += 10
    assert guard.level_of(READ) is Level.READ
    assert guard.level_of("wrong") is None
    with pytest.raises(TooManyTriesError):
        guard.level_of("wrong")
    clock.now += 100_000
    assert [guard.level_of("wrong") for _ in range(6)] == [None] * 6
    with pytest.raises(TooManyTriesError):
        guard.level_of("wrong")


def test_a_session_ends_with_its_time_and_when_its_owner_says_so() -> None:
    clock = Clock()
    guard = guard_of(clock)
    one, other = guard.begin(Level.READ), guard.begin(Level.ADMIN)
    assert guard.find(one.name) == one
    assert guard.find("") is None
    guard.end(one)
    guard.end(one)
    assert guard.find(one.name) is None
    assert guard.find(other.name) == other
    clock.now += 12 * 3600
    assert guard.find(other.name) is None


def test_sessions_are_few_and_the_oldest_goes() -> None:
    guard = guard_of(Clock())
    sessions = [guard.begin(Level.READ) for _ in range(33)]
    assert guard.find(sessions[0].name) is None
    assert all(guard.find(session.name) for session in sessions[1:])
    assert len({session.csrf for session in sessions}) == 33


def test_a_form_is_of_its_own_session_alone() -> None:
    guard = guard_of(Clock())
    one, other = guard.begin(Level.ADMIN), guard.begin(Level.ADMIN)
    assert is_form_of(one, one.csrf)
    assert not is_form_of(one, other.csrf)
    assert not is_form_of(one, "")


def test_nothing_of_a_token_is_in_what_is_printed() -> None:
    guard = guard_of(Clock())
    assert READ not in repr(guard)
