"""The real shim as a real process, spoken to by the real client: docs/protocol.md as tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.errors import WireClosedError, WireProtocolError
from orchestrator.model import Epoch, Seq
from orchestrator.runners import wire
from orchestrator.runners.link import (
    Applied,
    AsideLine,
    CliStderr,
    LineCut,
    RunnerLink,
    SessionExited,
    SessionStarted,
    UpEvent,
)
from tests.support.shim import (
    ShimProcess,
    answers,
    collect_until,
    exited,
    frame_line,
    is_alive,
    lines_of,
    open_shim,
    refusal,
    says,
    start_python,
    status_kib,
    until,
)

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
SLEEP = "import time; print('up', flush=True); time.sleep(600)"
# Prints the numbers up to its argument, then makes the file named by its second.
COUNT = (
    "import sys\nfor n in range(int(sys.argv[1])): print(n)\n"
    "sys.stdout.flush()\nif len(sys.argv) > 2: open(sys.argv[2], 'w').close()"
)


@pytest.fixture
async def shim(tmp_path: Path) -> AsyncIterator[ShimProcess]:
    async with open_shim(tmp_path) as process:
        yield process


@pytest.mark.parametrize("chunk_bytes", [1, 7, 4096, 65536])
async def test_a_session_is_heard_whatever_pieces_its_frames_come_in(
    shim: ShimProcess, chunk_bytes: int
) -> None:
    async with shim.link(chunk_bytes=chunk_bytes) as link:
        await start_python(link, "main", ECHO)
        await link.send_line("in:1", "main", 'hällo "\\ \x00 \U0001f600')
        await link.close_session("close", "main")
        events = await collect_until(link, exited("main"))
    assert lines_of(events) == ['hällo "\\ \x00 \U0001f600']
    assert [event.q for event in events] == list(range(1, len(events) + 1))
    started = [event for event in events if isinstance(event, SessionStarted)]
    assert len(started) == 1
    assert events[-1] == SessionExited(q=events[-1].q, session="main", code=0, signal=None)


async def test_what_was_not_acknowledged_is_said_again_after_a_new_attach(
    shim: ShimProcess,
) -> None:
    async with shim.link() as link:
        await start_python(link, "main", COUNT, args=["1000"])
        first = await collect_until(link, says("299"))
        epoch, acked = link.epoch, first[-1].q
        await link.ping()  # it came behind the acknowledgements
    async with shim.link(epoch=epoch, acked=acked) as link:
        assert not link.is_new_epoch
        second = await collect_until(link, exited("main"))
    assert second[0].q == acked + 1
    assert lines_of(first + second) == [str(n) for n in range(1000)]


async def test_what_is_said_while_nobody_is_attached_is_kept(
    shim: ShimProcess, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    async with shim.link() as link:
        epoch = link.epoch
        await start_python(link, "main", COUNT, args=["2000", str(done)])
        await collect_until(link, answers("open:main"), ack=False)
    await until(done.exists)
    async with shim.link(epoch=epoch) as link:
        events = await collect_until(link, exited("main"))
    assert events[0].q == 1
    assert lines_of(events) == [str(n) for n in range(2000)]


async def test_an_orchestrator_that_knows_nothing_gets_all_that_is_kept(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await start_python(link, "main", COUNT, args=["10"])
        await collect_until(link, says("4"))
        await link.ping()
    async with shim.link(epoch=None) as link:
        assert link.is_new_epoch
        assert link.welcome.first > 1
        events = await collect_until(link, exited("main"))
    assert lines_of(events) == ["5", "6", "7", "8", "9"]


async def test_what_was_acknowledged_is_gone_and_asking_for_it_is_an_error(
    shim: ShimProcess,
) -> None:
    async with shim.link() as link:
        await start_python(link, "main", COUNT, args=["5"])
        await collect_until(link, exited("main"))
        await link.ping()
        epoch = link.epoch
    with pytest.raises(WireProtocolError, match="is the next to store"):
        async with shim.link(epoch=epoch, acked=2):
            pass


async def test_the_welcome_tells_the_state_of_each_session(shim: ShimProcess) -> None:
    async with shim.link() as link:
        assert link.welcome.sessions == {}
        await start_python(link, "ended", "raise SystemExit(7)")
        await collect_until(link, exited("ended"))
        await start_python(link, "running", SLEEP)
        await collect_until(link, says("up"))
    async with shim.link() as link:
        sessions = link.welcome.sessions
    assert (sessions["ended"].state, sessions["ended"].code) == ("exited", 7)
    assert sessions["running"].is_running
    assert is_alive(sessions["running"].pid)


async def test_a_command_is_applied_once_however_often_it_is_offered(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await start_python(link, "main", ECHO)
        await link.send_line("turn:1", "main", "only once")
        await collect_until(link, says("only once"))
    async with shim.link() as link:
        await start_python(link, "main", ECHO)
        await link.send_line("turn:1", "main", "only once")
        await link.send_line("turn:2", "main", "the next")
        events = await collect_until(link, says("the next"))
    assert lines_of(events) == ["the next"]
    dups = [event.command_id for event in events if isinstance(event, Applied) and event.duplicate]
    assert dups == ["open:main", "turn:1"]


async def test_half_a_frame_of_a_dead_client_does_not_harm_the_next(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await start_python(link, "main", ECHO)
        await collect_until(link, answers("open:main"))
    await shim.write(b'{"n":3,"t":"input","id":"torn","s":"main","line":"half of a li')
    async with shim.link() as link:
        await link.send_line("in:1", "main", "whole")
        events = await collect_until(link, says("whole"))
    assert lines_of(events) == ["whole"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe\n",
        b"{" * 10_000 + b"\n",
        b"x" * (2 * wire.MAX_FRAME_BYTES) + b"\n",
        frame_line(n=1, t="close", id="c", s="main"),
        frame_line(n=99, t="close", id="c", s="main"),
        frame_line(n=2, t="reboot", id="c", s="main"),
        frame_line(n=2, t="ack", q=10**6),
    ],
    ids=["bytes", "depth", "oversized", "repeat", "gap", "unknown", "ack ahead"],
)
async def test_a_broken_attach_is_told_so_and_the_next_one_works(
    shim: ShimProcess, garbage: bytes
) -> None:
    async with shim.link() as link:
        await start_python(link, "main", ECHO)
        await collect_until(link, answers("open:main"))
        await shim.write(garbage)
        with pytest.raises(WireClosedError, match="ended this attach"):
            await collect_until(link, lambda _event: False)
        with pytest.raises(WireClosedError):
            await link.send_line("in:0", "main", "ignored")
    async with shim.link() as link:
        await link.send_line("in:1", "main", "heard")
        assert lines_of(await collect_until(link, says("heard"))) == ["heard"]


async def test_another_version_is_told_which_one_it_has(shim: ShimProcess) -> None:
    async with shim.attach() as stream:
        await stream.write(frame_line(t="hello", v=2, nonce="n", epoch=None, ack=0))
        async with asyncio.timeout(10):
            answer = json.loads(await stream.read())
    assert answer == {"t": "welcome", "v": 1, "nonce": "n"}


async def test_a_second_client_takes_over_and_the_first_is_told(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await shim.write(wire.render_hello("other", epoch=None, acked=Seq(0)))
        with pytest.raises(WireClosedError, match="another client"):
            await collect_until(link, lambda _event: False)


async def test_a_line_at_the_limit_arrives_and_one_above_it_is_cut(shim: ShimProcess) -> None:
    code = (
        "import sys\nn = int(sys.argv[1])\n"
        "sys.stdout.write('a' * n + '\\n' + '{\"type\":\"user\"' + 'b' * n + '\\nafter\\n')"
    )
    async with shim.link() as link:
        await start_python(link, "main", code, args=[str(wire.MAX_LINE_BYTES)])
        events = await collect_until(link, exited("main"))
    assert lines_of(events) == ["a" * wire.MAX_LINE_BYTES, "after"]
    (cut,) = [event for event in events if isinstance(event, LineCut)]
    assert cut.size_bytes == wire.MAX_LINE_BYTES + len('{"type":"user"')
    assert cut.head.startswith('{"type":"user"b')


async def test_an_endless_line_costs_no_memory_and_breaks_nothing(shim: ShimProcess) -> None:
    code = "import sys\nfor _ in range(1000): sys.stdout.write('x' * 100_000)\nprint()\nprint('on')"
    async with shim.link() as link:
        await start_python(link, "main", code)
        events = await collect_until(link, exited("main"))
    assert lines_of(events) == ["on"]
    assert [event.size_bytes for event in events if isinstance(event, LineCut)] == [100_000_000]
    assert status_kib(shim.pid, "VmHWM") < 40 * 1024


async def test_bytes_that_are_not_utf8_are_replaced_and_the_last_line_needs_no_end(
    shim: ShimProcess,
) -> None:
    code = "import sys; sys.stdout.buffer.write(b'\\xff\\xc3\\n\\x00\\nrest')"
    async with shim.link() as link:
        await start_python(link, "main", code)
        events = await collect_until(link, exited("main"))
    assert lines_of(events) == ["��", "\0", "rest"]


async def test_output_that_nobody_acknowledges_stops_the_cli_and_nothing_else(
    shim: ShimProcess, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    code = COUNT.replace("print(n)", "print(str(n).zfill(1000))")
    async with shim.link() as link:
        await start_python(link, "main", code, args=["20000", str(done)])
        seen: list[UpEvent] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(collect(link, seen))
            await until(lambda: len(seen) > 7000)
            await asyncio.sleep(0.3)
            assert await link.ping() < 5
            assert len(seen) < 9000  # 8 MiB, at 1,000 bytes and their cost each
            assert shim.resident_kib() < 40 * 1024
            assert not done.exists()
            await link.ack(seen[-1].q)
            await until(lambda: len(seen) > 14_000)
            await link.ack(seen[-1].q)
    assert done.exists()
    assert lines_of(seen) == [str(n).zfill(1000) for n in range(20_000)]


async def test_a_session_that_is_not_kept_needs_no_acknowledgement_and_no_room_in_the_spool(
    shim: ShimProcess,
) -> None:
    flood = "while True: print('x' * 1000)"
    # As base64 of a file: longer than a frame, and in all twice of what may be unacknowledged.
    print_long = "import sys\nfor n in range(24): print(str(n).zfill(700_000))"
    asides: list[str | None] = []
    async with shim.link() as link:
        await start_python(link, "flood", flood)
        await start_python(link, "files", print_long, is_kept=False)
        events = await collect_until(link, exited("files"), ack=False, asides=asides)
        while len(asides) < 24:  # what is numbered may overtake the last of them
            await collect_aside(link, asides)
    assert asides == [str(n).zfill(700_000) for n in range(24)]
    assert lines_of(events, "files") == []
    assert len(lines_of(events, "flood")) * 1000 > wire.SPOOL_BYTES / 2, "it was full meanwhile"


async def collect_aside(link: RunnerLink, asides: list[str | None]) -> None:
    async with asyncio.timeout(10):
        async for event in link.events():
            if isinstance(event, AsideLine):
                asides.append(event.line)
                break


async def test_what_is_not_kept_waits_in_its_program_while_nobody_reads(
    shim: ShimProcess, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    code = (
        "import sys\nfor n in range(12): print('x' * 1_000_000)\n"
        "sys.stdout.flush()\nopen(sys.argv[1], 'w').close()"
    )
    async with shim.attach() as stream:  # nobody reads it
        await stream.write(wire.render_hello("n", epoch=None, acked=Seq(0)))
        argv = [sys.executable, "-c", code, str(done)]
        frame = {"n": 1, "t": "open", "id": "o", "s": "files", "argv": argv, "env": {}, "cwd": "/"}
        await stream.write(frame_line(**frame, kept=False))
        await asyncio.sleep(1)
        assert not done.exists()
        assert shim.resident_kib() < 40 * 1024
    async with shim.link() as link:
        events = await collect_until(link, exited("files"))
        assert done.exists()
        assert lines_of(events) == []


async def test_a_new_attach_hears_whole_lines_of_what_is_not_kept(shim: ShimProcess) -> None:
    code = "import itertools\nfor n in itertools.count(): print(str(n).zfill(600_000), flush=True)"
    seen: list[str | None] = []
    async with shim.link() as link:
        await start_python(link, "files", code, is_kept=False)
        for _ in range(3):
            await collect_aside(link, seen)
        epoch = link.epoch
    for _ in range(5):
        async with shim.link(epoch=epoch) as link:
            for _ in range(3):
                await collect_aside(link, seen)
    numbers = [int((line or "x").lstrip("0") or 0) for line in seen]
    assert all(line is not None and len(line) == 600_000 for line in seen)
    assert numbers == sorted(set(numbers)), "none twice, none out of its place"


async def collect(link: RunnerLink, seen: list[UpEvent]) -> None:
    """Events up to the end of a session, without acknowledging any."""
    async for event in link.events():
        assert not isinstance(event, AsideLine)
        seen.append(event)
        if isinstance(event, SessionExited):
            break


async def test_the_shim_acts_while_its_output_is_not_read(
    shim: ShimProcess, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    code = "import sys\nfor line in sys.stdin: open(line.strip(), 'w').close()"
    async with shim.attach() as stream:  # nobody reads it
        await stream.write(wire.render_hello("n", epoch=None, acked=Seq(0)))
        flood = [sys.executable, "-c", "while True: print('x' * 1000)"]
        listen = [sys.executable, "-c", code]
        for n, (name, argv) in enumerate([("flood", flood), ("quiet", listen)], start=1):
            await stream.write(
                frame_line(n=n, t="open", id=name, s=name, argv=argv, env={}, cwd="/")
            )
        await asyncio.sleep(0.5)
        await stream.write(frame_line(n=3, t="input", id="i", s="quiet", line=str(touched)))
        await until(touched.exists)
        assert shim.resident_kib() < 40 * 1024


async def test_a_flood_of_stderr_is_limited_and_counted(shim: ShimProcess) -> None:
    code = "import sys\nsys.stderr.write('e' * 3_000_000)\nprint('alive')"
    async with shim.link() as link:
        await start_python(link, "main", code)
        events = await collect_until(link, exited("main"))
    assert lines_of(events) == ["alive"]
    stderr = [event for event in events if isinstance(event, CliStderr)]
    passed = sum(len(event.text) for event in stderr)
    assert 60_000 < passed < 200_000
    assert passed + sum(event.dropped_bytes for event in stderr) == 3_000_000


async def test_several_sessions_keep_their_lines_apart_and_in_order(shim: ShimProcess) -> None:
    code = "import sys\nfor n in range(500): print(sys.argv[1], n, 'x' * 2000)"
    names = ["a", "b", "c", "d"]
    async with shim.link() as link:
        for name in names:
            await start_python(link, name, code, args=[name])
        over: set[str] = set()

        def is_last(event: UpEvent) -> bool:
            if isinstance(event, SessionExited):
                over.add(event.session)
            return over == set(names)

        events = await collect_until(link, is_last)
    for name in names:
        assert lines_of(events, name) == [f"{name} {n} {'x' * 2000}" for n in range(500)]


async def test_a_session_can_be_opened_again_when_it_has_ended(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await start_python(link, "main", SLEEP, command_id="one")
        await collect_until(link, says("up"))
        await start_python(link, "main", SLEEP, command_id="two")
        assert await refusal(link, "two") == "the session is running"
        await link.signal_session("kill", "main", "kill")
        await collect_until(link, exited("main"))
        await start_python(link, "main", SLEEP, command_id="two")  # refused is not applied
        await collect_until(link, says("up"))


async def test_a_long_input_arrives_whole(shim: ShimProcess) -> None:
    code = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.readline()).hexdigest())"
    line = "ü\U0001f600" * 1_000_000
    async with shim.link() as link:
        await start_python(link, "main", code)
        await link.send_line("in", "main", line)
        events = await collect_until(link, exited("main"))
    assert lines_of(events) == [hashlib.sha256(line.encode() + b"\n").hexdigest()]


async def test_each_shim_has_an_epoch_of_its_own(tmp_path: Path) -> None:
    epochs: set[Epoch] = set()
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with open_shim(folder) as shim, shim.link() as link:
            epochs.add(link.epoch)
    assert len(epochs) == 2
