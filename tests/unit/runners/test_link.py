"""The client of one attach, against a stream that the test plays by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from orchestrator.errors import (
    RunnerError,
    WireClosedError,
    WireError,
    WireProtocolError,
    WireVersionError,
)
from orchestrator.model import Epoch, Seq
from orchestrator.ports import ByteStream
from orchestrator.runners import wire
from orchestrator.runners.link import Applied, CliLine, LinkEvent, RunnerLink, open_link
from tests.support.virtual_time import run_virtual

E1 = Epoch("e1")
ResultT = TypeVar("ResultT")


def run_in_virtual_time(scenario: Coroutine[Any, Any, ResultT]) -> ResultT:
    """As run_virtual; a timer that is due exactly now counts as due, which needs a resolution."""

    async def resolved() -> ResultT:
        vars(asyncio.get_running_loop())["_clock_resolution"] = 1e-6
        return await scenario

    return run_virtual(resolved())


class PlayedStream:
    """A shim's end of the wire: answers the hello, then says what the test tells it."""

    def __init__(self, *, before: bytes = b"", **welcome: object) -> None:
        self.down: list[dict[str, object]] = []
        self.reads = 0
        self.writes_block = False
        self._before = before
        self._welcome = {"v": 1, "epoch": "e1", "first": 1, "next": 1, "sessions": {}, **welcome}
        self._up: asyncio.Queue[bytes | WireError] = asyncio.Queue()
        self._splitter = wire.LineSplitter()
        self._told: dict[str, asyncio.Event] = {}

    async def until_told(self, kind: str) -> None:
        """Wait for a frame of this kind."""
        await self._told.setdefault(kind, asyncio.Event()).wait()

    def say(self, **frame: object) -> None:
        self.say_bytes(json.dumps(frame).encode() + b"\n")

    def say_bytes(self, data: bytes) -> None:
        for start in range(0, len(data), 65536):
            self._up.put_nowait(data[start : start + 65536])

    def end(self, error: WireError | None = None) -> None:
        self._up.put_nowait(error or b"")

    def unread(self) -> int:
        return self._up.qsize()

    async def read(self) -> bytes:
        data = await self._up.get()
        self.reads += 1
        if isinstance(data, WireError):
            raise data
        return data

    async def write(self, data: bytes) -> None:
        if self.writes_block:
            await asyncio.Event().wait()
        for line in self._splitter.feed(data):
            assert line is not None
            frame = json.loads(line)
            self.down.append(frame)
            self._told.setdefault(frame["t"], asyncio.Event()).set()
            if frame["t"] == "hello":
                self.say_bytes(self._before)
                self.say(t="welcome", nonce=frame["nonce"], **self._welcome)


class SilentStream(PlayedStream):
    """Takes everything and never answers."""

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0)


class ScreamingStream(PlayedStream):
    """Says lines without end, but never welcome."""

    async def read(self) -> bytes:
        return b'{"q":1,"d":"' + b"x" * 65_000 + b'"}\n'


@asynccontextmanager
async def linked(stream: PlayedStream, *, acked: int = 0) -> AsyncIterator[RunnerLink]:
    async with open_link(stream, epoch=E1, acked=Seq(acked)) as link:
        yield link


async def take(link: RunnerLink, count: int) -> list[LinkEvent]:
    taken: list[LinkEvent] = []
    await collect(link, taken, count)
    return taken


async def collect(link: RunnerLink, into: list[LinkEvent], count: int | None = None) -> None:
    async for event in link.events():
        into.append(event)
        if len(into) == count:
            break


def out(q: int, d: str) -> dict[str, object]:
    return {"t": "out", "q": q, "s": "main", "d": d}


def test_the_played_stream_is_a_byte_stream() -> None:
    stream: ByteStream = PlayedStream()
    assert stream


async def test_the_hello_says_what_is_stored() -> None:
    stream = PlayedStream(first=8, next=8)
    async with linked(stream, acked=7) as link:
        assert not link.is_new_epoch
        assert link.epoch == E1
    hello = stream.down[0]
    assert (hello["t"], hello["v"], hello["epoch"], hello["ack"]) == ("hello", 1, "e1", 7)


async def test_an_attach_in_the_middle_of_a_frame_finds_its_welcome() -> None:
    stream = PlayedStream(before=b'he rest of a line"}\n{"t":"pong","token":"old"}\n')
    async with linked(stream) as link:
        stream.say(**out(1, "first"))
        assert await take(link, 1) == [CliLine(q=Seq(1), session="main", line="first")]


async def test_frames_that_come_with_the_welcome_are_not_lost() -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        for q in range(1, 4):
            stream.say(**out(q, str(q)))
        assert [event.q for event in await take(link, 3)] == [1, 2, 3]


async def test_another_epoch_is_told_and_replayed_from_its_first() -> None:
    stream = PlayedStream(epoch="e2", first=5, next=6)
    async with linked(stream, acked=90) as link:
        stream.say(**out(5, "x"))
        assert link.is_new_epoch
        assert [event.q for event in await take(link, 1)] == [5]


async def test_another_version_is_refused_with_both_numbers() -> None:
    with pytest.raises(WireVersionError, match=r"version 9 .* this program 1"):
        async with linked(PlayedStream(v=9)):
            pass


async def test_a_shim_that_lost_frames_is_refused() -> None:
    with pytest.raises(WireProtocolError, match="keeps frames from 4"):
        async with linked(PlayedStream(first=4, next=9), acked=2):
            pass


def test_a_shim_that_does_not_answer_is_given_up_after_ten_seconds() -> None:
    async def scenario() -> float:
        started = asyncio.get_running_loop().time()
        with pytest.raises(WireClosedError, match="within 10 s"):
            async with linked(SilentStream()):
                pass
        return asyncio.get_running_loop().time() - started

    assert run_in_virtual_time(scenario()) == pytest.approx(10, abs=0.1)


async def test_a_shim_that_says_everything_but_welcome_is_given_up() -> None:
    with pytest.raises(WireProtocolError, match="everything but welcome"):
        async with linked(ScreamingStream()):
            pass


async def test_a_stream_that_ends_before_the_welcome_is_closed() -> None:
    stream = SilentStream()
    stream.end()
    with pytest.raises(WireClosedError, match="before its welcome"):
        async with linked(stream):
            pass


async def test_events_that_came_before_the_end_are_seen_before_the_error() -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        stream.say(**out(1, "last words"))
        stream.end()
        seen: list[LinkEvent] = []
        with pytest.raises(WireClosedError, match="stream to the runner ended"):
            await collect(link, seen)
        assert seen == [CliLine(q=Seq(1), session="main", line="last words")]


@pytest.mark.parametrize(
    "frame",
    [out(2, "gap"), {"t": "result"}, {"t": "out", "q": 1, "s": "../x", "d": ""}],
    ids=["gap", "unknown", "name"],
)
async def test_a_broken_protocol_ends_the_link(frame: dict[str, object]) -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        stream.say(**frame)
        with pytest.raises(WireProtocolError):
            await take(link, 1)
        with pytest.raises(WireProtocolError):
            await link.close_session("c", "main")


async def test_a_line_without_end_is_a_protocol_error_not_a_full_memory() -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        stream.say_bytes(b"x" * (wire.MAX_FRAME_BYTES + 1))
        with pytest.raises(WireProtocolError, match="over the limit"):
            await take(link, 1)


async def test_a_fault_ends_the_link_as_closed_so_that_it_is_tried_again() -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        stream.say(t="fault", why="frame 3 was expected")
        with pytest.raises(WireClosedError, match="ended this attach: frame 3 was expected"):
            await take(link, 1)


async def test_a_welcome_for_another_client_ends_the_link() -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        stream.say_bytes(b'{"t":"welcome","v":1,"nonce":"other","epoch":"e1"}\n')
        with pytest.raises(WireClosedError, match="another client"):
            await take(link, 1)


async def test_commands_are_counted_without_a_gap() -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        await link.open_session("c1", "main", argv=["claude"], env={"A": "b"}, cwd="/workspace")
        await link.send_line("c2", "main", "x" * 600_000)
        await link.signal_session("c3", "main", "kill")
        await link.close_session("c4", "main")
    frames = stream.down[1:]
    assert [frame["n"] for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[0]["argv"] == ["claude"]
    pieces = [frame for frame in frames if frame["t"] == "input"]
    assert len(pieces) > 1
    assert [frame.get("more", False) for frame in pieces] == [True] * (len(pieces) - 1) + [False]
    assert "".join(str(frame["line"]) for frame in pieces) == "x" * 600_000


async def test_concurrent_commands_do_not_tear_a_long_input() -> None:
    stream = PlayedStream()
    async with linked(stream) as link, asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(link.send_line(f"c{number}", "main", str(number) * 600_000))
    inputs = [str(frame["id"]) for frame in stream.down[1:]]
    assert inputs == sorted(inputs)
    assert [frame["n"] for frame in stream.down[1:]] == list(range(1, len(inputs) + 1))


@pytest.mark.parametrize(("command", "session"), [("c 1", "main"), ("", "main"), ("c", "a/b")])
async def test_an_impossible_id_or_name_is_never_sent(command: str, session: str) -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        with pytest.raises(ValueError, match=r"1 to \d+ of"):
            await link.close_session(command, session)
    assert len(stream.down) == 1


async def test_a_command_over_the_limit_leaves_the_link_in_order() -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        with pytest.raises(RunnerError, match="are allowed"):
            await link.open_session("c", "m", argv=["x" * 300_000], env={}, cwd="/")
        await link.close_session("c2", "m")
    assert stream.down[1]["n"] == 1


async def test_only_what_was_received_can_be_acknowledged() -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        stream.say(t="applied", q=1, id="c", dup=False)
        assert await take(link, 1) == [Applied(q=Seq(1), command_id="c", duplicate=False)]
        with pytest.raises(ValueError, match="frame 2 was not received"):
            await link.ack(Seq(2))
        await link.ack(Seq(1))
        await link.ack(Seq(1))
    assert [frame["q"] for frame in stream.down if frame["t"] == "ack"] == [1]


async def test_what_fills_the_spool_is_counted_until_it_is_acknowledged() -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        for q in range(1, 4):
            stream.say(**out(q, "x" * 10_000))
        await take(link, 3)
        assert 30_000 < link.unacked_bytes < 31_000
        await link.ack(Seq(2))
        assert 10_000 < link.unacked_bytes < 10_500
        await link.ack(Seq(3))
        assert link.unacked_bytes == 0


async def test_a_ping_measures_the_round_trip() -> None:
    stream = PlayedStream()
    async with linked(stream) as link, asyncio.TaskGroup() as group:
        ping = group.create_task(link.ping())
        await stream.until_told("ping")
        stream.say(t="pong", token="someone-elses")
        stream.say(t="pong", token=stream.down[1]["token"])
    assert 0 <= ping.result() < 5


def test_a_ping_without_an_answer_says_so_after_its_time() -> None:
    async def scenario() -> None:
        async with linked(PlayedStream()) as link:
            with pytest.raises(WireClosedError, match="ping within 3 s"):
                await link.ping(timeout_s=3)

    run_in_virtual_time(scenario())


async def test_a_ping_fails_at_once_when_the_stream_ends() -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        stream.end(WireClosedError("cut"))
        with pytest.raises(WireClosedError, match="cut"):
            await link.ping(timeout_s=1e9)


async def test_a_consumer_that_stops_taking_stops_the_reading() -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        for q in range(1, 101):
            stream.say(**out(q, "x" * 60_000))
        before = -1
        while before != stream.unread():
            before = stream.unread()
            for _ in range(20):
                await asyncio.sleep(0)
        assert 60 < stream.unread() < 90  # about 1 MiB of 6 MB was read
        assert [event.q for event in await take(link, 100)] == list(range(1, 101))
        assert stream.unread() == 0


def test_a_write_that_nobody_takes_is_given_up_and_ends_the_link() -> None:
    async def scenario() -> None:
        stream = PlayedStream()
        async with linked(stream) as link:
            stream.writes_block = True
            with pytest.raises(WireClosedError, match="took nothing for 30 s"):
                await link.close_session("c1", "main")
            stream.writes_block = False
            with pytest.raises(WireClosedError, match="cut short"):
                await link.close_session("c2", "main")

    run_in_virtual_time(scenario())


async def test_after_a_cancelled_write_nothing_follows_half_a_frame() -> None:
    stream = PlayedStream()
    async with linked(stream) as link:
        stream.writes_block = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await link.close_session("c1", "main")
        stream.writes_block = False
        with pytest.raises(WireClosedError, match="cut short"):
            await link.close_session("c2", "main")
    assert len(stream.down) == 1


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with linked(PlayedStream()):
            raise KeyError("mine")


async def test_leaving_the_link_leaves_no_task() -> None:
    async with linked(PlayedStream()):
        assert len(asyncio.all_tasks()) == 2
    assert len(asyncio.all_tasks()) == 1


async def test_a_cancelled_body_leaves_no_task() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0), linked(PlayedStream()) as link:
            await take(link, 1)
    assert len(asyncio.all_tasks()) == 1


async def test_a_failing_sibling_ends_the_link_and_no_task_is_left() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("sibling")

    async def hold() -> None:
        async with linked(PlayedStream()) as link:
            await take(link, 1)

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(hold())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await both()
    assert [str(error) for error in caught.value.exceptions] == ["'sibling'"]
    assert len(asyncio.all_tasks()) == 1


def test_a_room_that_says_very_much_is_read_at_a_pace() -> None:
    async def scenario() -> tuple[float, float]:
        stream = PlayedStream()
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with linked(stream) as link:
            stream.say_bytes(b"".join(empty_line(q) for q in range(1, 20_001)))
            await take(link, 20_000)
            burst_s = loop.time() - start
            stream.say_bytes(b"".join(empty_line(q) for q in range(20_001, 30_001)))
            await take(link, 10_000)
            return burst_s, loop.time() - start - burst_s

    burst_s, more_s = run_in_virtual_time(scenario())
    assert burst_s < 0.1, "a replay after a restart is read at once"
    assert more_s == pytest.approx(10, rel=0.05), "then a thousand a second"


def empty_line(q: int) -> bytes:
    return b'{"q":%d,"t":"out","s":"main","d":""}\n' % q
