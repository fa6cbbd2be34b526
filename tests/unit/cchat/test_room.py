"""Which room is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from cchat.chat import RoomNames
from cchat.error import Exit, UsageError, exit_of_error, exit_of_outcome
from cchat.room import full_alias, match_name
from cchat.wait import parse_retry_after_s
from orchestrator.errors import (
    AiAgentChatError,
    ConfigError,
    ControlError,
    LoginRefusedError,
    NotRunningError,
    RateLimitedError,
)
from orchestrator.model import TurnOutcome

ROOMS = [
    RoomNames(room_id="!1:hs", name="Demo room", alias="#demo:hs"),
    RoomNames(room_id="!2:hs", name="Ops", alias=None),
    RoomNames(room_id="!3:hs", name="ops", alias=None),
    RoomNames(room_id="!4:hs"),
    RoomNames(room_id="!5:hs", name="twin"),
    RoomNames(room_id="!6:hs", name="twin"),
]


@pytest.mark.parametrize(
    ("typed", "alias"),
    [
        ("demo", "#demo:hs"),
        ("#demo", "#demo:hs"),
        ("#demo:other", "#demo:other"),
        ("demo:other:8448", "#demo:other:8448"),
        ("two words", None),
        ("#", None),
        ("", None),
    ],
)
def test_an_alias_is_completed_with_our_own_server(typed: str, alias: str | None) -> None:
    assert full_alias(typed, "@me:hs") == alias


@pytest.mark.parametrize(
    ("typed", "room_id"),
    [
        ("Demo room", "!1:hs"),
        ("demo ROOM", "!1:hs"),
        ("demo", "!1:hs"),
        ("#demo:hs", "!1:hs"),
        ("Ops", "!2:hs"),
        ("ops", "!3:hs"),
    ],
)
def test_an_exact_name_goes_before_one_in_other_capitals(typed: str, room_id: str) -> None:
    assert match_name(ROOMS, typed) == room_id


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("twin", "!5:hs, !6:hs"),
        ("OPS", "!2:hs, !3:hs"),
        ("dmeo", "Did you mean: #demo:hs"),
        ("zzzzzzzz", "Rooms that you are in"),
    ],
)
def test_what_fits_none_or_several_is_refused_with_names_to_type(typed: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        match_name(ROOMS, typed)


def test_in_no_named_room_that_is_said() -> None:
    with pytest.raises(UsageError, match="no room that has a name"):
        match_name([ROOMS[3]], "demo")


def test_every_outcome_has_an_exit_code_of_its_own() -> None:
    codes = [exit_of_outcome(outcome) for outcome in TurnOutcome]
    assert len(set(codes)) == len(codes)
    assert exit_of_outcome("done") is Exit.OK
    assert exit_of_outcome("invented later") is Exit.FAILED


def test_no_error_has_the_exit_code_of_an_outcome() -> None:
    outcomes = {exit_of_outcome(outcome) for outcome in TurnOutcome}
    errors = [
        UsageError(),
        ConfigError(["x"]),
        ControlError(),
        LoginRefusedError(),
        RateLimitedError(1.0),
        AiAgentChatError(),
    ]
    assert not outcomes & {exit_of_error(error) for error in errors}


def test_no_orchestrator_is_3() -> None:
    assert exit_of_error(NotRunningError(Path("/state"))) == 3


@pytest.mark.parametrize(
    ("header", "raw", "wait_s"),
    [
        ("3", b"{}", 3.0),
        ("3", b'{"retry_after_ms": 9000}', 3.0),
        (None, b'{"retry_after_ms": 1500}', 1.5),
        (None, b"{}", 5.0),
        (None, b"", 5.0),
        (None, b"[]", 5.0),
        (None, b'{"retry_after_ms": "soon"}', 5.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", b"{}", 5.0),
        ("inf", b"{}", 5.0),
        ("nan", b"{}", 5.0),
        ("-5", b"{}", 0.0),
        (None, b'{"retry_after_ms": 1' + b"0" * 400 + b"}", 5.0),
    ],
)
def test_the_wait_after_a_limit_is_read_from_the_header_first(
    header: str | None, raw: bytes, wait_s: float
) -> None:
    assert parse_retry_after_s(header, raw) == wait_s
