"""What is said once and not kept: bounded, and gone when it is written."""

from __future__ import annotations

from shim import frames, limits
from shim.aside import Aside

LINE = b"x" * 60_000


def test_it_comes_out_once_in_order_and_is_gone() -> None:
    aside = Aside()
    for n in range(5):
        aside.add(b"%d\n" % n)
    assert aside.take_unsent(4) == b"0\n1\n"
    assert aside.take_unsent(1000) == b"2\n3\n4\n"
    assert not aside.has_unsent()
    assert aside.take_unsent(1000) == b""


def test_who_waits_for_room_is_told_when_there_is_some_again() -> None:
    aside, told = Aside(), []
    aside.call_when_room(lambda: told.append(aside.has_room()))
    while aside.has_room():
        aside.add(LINE)
    aside.take_unsent(len(LINE))
    assert told == [True]
    aside.take_unsent(len(LINE))
    assert told == [True]


def test_a_new_attach_begins_with_none_of_it() -> None:
    aside, told = Aside(), []
    aside.call_when_room(lambda: told.append(aside.has_room()))
    aside.add(LINE * (limits.ASIDE_BYTES // len(LINE) + 1))
    aside.clear()
    assert told == [True]
    assert not aside.has_unsent()


def test_memory_is_given_back_once_after_much_of_it() -> None:
    aside = Aside()
    for _ in range(limits.BURST_BYTES // len(LINE) + 1):
        aside.add(LINE)
    assert not aside.take_emptied()
    while aside.has_unsent():
        aside.take_unsent(limits.CHUNK_BYTES)
    assert aside.take_emptied()
    assert not aside.take_emptied()


def test_its_frames_are_those_of_output_without_a_number() -> None:
    pieces = frames.aside_lines("files", b"y" * 600_000)
    parsed = [frames.parse(piece) for piece in pieces]
    assert "".join(str(piece["d"]) for piece in parsed) == "y" * 600_000
    assert [piece.get("more", False) for piece in parsed] == [True] * (len(parsed) - 1) + [False]
    assert {(piece["t"], piece["s"]) for piece in parsed} == {("aside", "files")}
    assert all(len(piece) <= limits.MAX_FRAME_BYTES for piece in pieces)
