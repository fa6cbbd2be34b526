"""The real shim and its processes: starting, signalling, killing, reaping, ending."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.runners.event import Refused
from orchestrator.runners.link import RunnerLink, SessionExited
from shim import limits
from tests.support.shim import (
    ShimProcess,
    answers,
    collect_until,
    descendants,
    exited,
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


async def test_what_can_not_be_started_is_refused_with_the_reason(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await link.open_session("c1", "main", argv=["/no/such"], env={}, cwd="/")
        assert await refusal(link, "c1") == "No such file or directory"
        await link.open_session("c2", "main", argv=["true"], env={}, cwd="/no/such")
        assert await refusal(link, "c2") == "No such file or directory"
        await link.open_session("c3", "main", argv=["/"], env={}, cwd="/")
        assert await refusal(link, "c3") == "Permission denied"
        await link.send_line("c4", "main", "x")
        assert await refusal(link, "c4") == "the session takes no input"
        await link.signal_session("c5", "main", "kill")
        assert await refusal(link, "c5") == "there is no such session"


async def test_a_cli_that_never_reads_its_input_is_not_fed_without_bound(
    shim: ShimProcess,
) -> None:
    async with shim.link() as link:
        await start_python(link, "main", SLEEP)
        await collect_until(link, says("up"))
        for number in range(5):
            await link.send_line(f"in:{number}", "main", "x" * 4_000_000)
        assert await refusal(link, "in:4") == "too much input is waiting"


async def test_interrupt_and_terminate_reach_the_process(shim: ShimProcess) -> None:
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, lambda *_: os.write(1, b'interrupted\\n'))\n"
        "print('up', flush=True)\nwhile True: time.sleep(1)"
    )
    async with shim.link() as link:
        await start_python(link, "main", code)
        await collect_until(link, says("up"))
        await link.signal_session("c1", "main", "interrupt")
        await collect_until(link, says("interrupted"))
        await link.signal_session("c2", "main", "terminate")
        end = (await collect_until(link, exited("main")))[-1]
        assert isinstance(end, SessionExited)
        assert (end.code, end.signal) == (None, signal.SIGTERM)
        await link.signal_session("c3", "main", "terminate")
        assert await refusal(link, "c3") == "the session has ended"


# Starts descendants that hide: another session, no parent, no environment; all hold the pipes.
HIDING = """
import os, sys, time
def hide():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve(sys.executable, ["p", "-I", "-S", "-c", "import time; time.sleep(600)"], {})
        os._exit(0)
    os.wait()
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
hide()
print("up", flush=True)
"""


async def test_kill_ends_every_process_of_a_session_and_none_of_another(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await start_python(link, "other", ECHO)
        await start_python(link, "main", HIDING + "time.sleep(600)")
        await collect_until(link, says("up"))
        assert len(descendants(shim.pid)) == 4
        await link.signal_session("kill", "main", "kill")
        end = (await collect_until(link, exited("main")))[-1]
        assert isinstance(end, SessionExited)
        assert end.signal == signal.SIGKILL
        await until(lambda: len(descendants(shim.pid)) == 1)
        await link.send_line("in", "other", "I live")
        await collect_until(link, says("I live"))


async def test_what_an_ended_session_left_behind_can_be_killed(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await start_python(link, "main", HIDING)
        await collect_until(link, exited("main"))  # although others hold its pipes
        assert len(descendants(shim.pid)) == 2
        await link.signal_session("kill", "main", "kill")
        await collect_until(link, answers("kill"))
        await until(lambda: descendants(shim.pid) == [])


async def test_a_fork_storm_is_killed(shim: ShimProcess) -> None:
    code = (
        "import os, time\nprint('up', flush=True)\n"
        "end = time.time() + 20\n"
        "while time.time() < end:\n"
        "    if os.fork(): os._exit(0)\n"
        "    os.setsid()\n    time.sleep(0.001)"
    )
    async with shim.link() as link:
        await start_python(link, "main", code)
        await collect_until(link, exited("main"))
        await link.signal_session("kill", "main", "kill")
        await collect_until(link, answers("kill"))
        await until(lambda: descendants(shim.pid) == [])


async def test_everything_that_ends_is_reaped(shim: ShimProcess) -> None:
    code = HIDING.replace("time.sleep(600)", "time.sleep(0.01)")
    async with shim.link() as link:
        for number in range(5):
            await start_python(link, f"s{number}", code)
            await collect_until(link, exited(f"s{number}"))
    children = Path(f"/proc/{shim.pid}/task/{shim.pid}/children")
    await until(lambda: children.read_text() == "")


async def test_a_cli_that_closes_its_output_but_lives_is_still_running(shim: ShimProcess) -> None:
    code = "import os, time; os.write(1, b'bye\\n'); os.close(1); os.close(2); time.sleep(600)"
    async with shim.link() as link:
        await start_python(link, "main", code)
        await collect_until(link, says("bye"))
        await link.ping()
    async with shim.link() as link:
        assert link.welcome.sessions["main"].is_running


async def test_a_cli_gets_three_pipes_its_own_group_and_no_setting_of_the_shim(
    shim: ShimProcess,
) -> None:
    code = (
        "import json, os, signal\n"
        "fd = '/proc/self/fd/'\n"
        "fds = [n for n in os.listdir(fd) if os.path.exists(fd + n)]\n"
        "ours = {k: v for k, v in os.environ.items() if k.startswith('AIAGENTCHAT')}\n"
        "status = dict(l.split(':', 1) for l in open('/proc/self/status') if ':' in l)\n"
        "print(json.dumps([sorted(fds), os.getsid(0) == os.getpid(), ours, os.environ['X'],"
        " int(status['SigIgn'], 16), int(status['SigBlk'], 16),"
        " open('/proc/self/oom_score_adj').read().strip()]))"
    )
    argv = ["sh", "-c", 'exec "$0" -I -S -c "$1"', sys.executable, code]
    async with shim.link() as link:
        await link.open_session("c", "main", argv=argv, env={"X": "y"}, cwd="/")
        (line,) = lines_of(await collect_until(link, exited("main")))
    fds, leads, ours, x, ignored, blocked, oom = json.loads(line)
    assert fds == ["0", "1", "2"]
    assert leads
    assert ours == {"AIAGENTCHAT_SESSION": "main"}
    assert x == "y"
    # Python itself ignores SIGPIPE and SIGXFSZ (and posix_spawn the C library's own two, above 31).
    assert ignored & 0x7FFF_FFFF == 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert blocked == 0
    assert oom == "500"


async def test_sigterm_lets_the_cli_finish_its_sentence(shim: ShimProcess) -> None:
    code = "import sys\nprint('up', flush=True)\nsys.stdin.read()\nprint('last words')"
    async with shim.link() as link:
        await start_python(link, "main", code)
        await collect_until(link, says("up"))
        shim.process.send_signal(signal.SIGTERM)
        events = await collect_until(link, exited("main"))
    assert lines_of(events) == ["last words"]
    async with asyncio.timeout(2):
        assert await shim.process.wait() == 0


async def why_refused_at_last(link: RunnerLink) -> str:
    """Open one session after the other until one is refused: a signal may come behind a frame."""
    async with asyncio.timeout(20):
        for number in itertools.count():
            name = f"late-{number}"
            await link.open_session(name, name, argv=["true"], env={}, cwd="/")
            event = (await collect_until(link, answers(name)))[-1]
            if isinstance(event, Refused):
                return event.why
    raise AssertionError


async def test_sigterm_ends_the_stubborn_too_within_its_bound(shim: ShimProcess) -> None:
    code = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True)\nwhile True: time.sleep(1)"
    )
    async with shim.link() as link:
        await start_python(link, "main", code)
        await collect_until(link, says("up"))
        pids = descendants(shim.pid)
        shim.process.send_signal(signal.SIGTERM)
        assert await why_refused_at_last(link) == "the runner is stopping"
        end = (await collect_until(link, exited("main")))[-1]
        assert isinstance(end, SessionExited)
        assert end.signal == signal.SIGKILL
    async with asyncio.timeout(4):
        assert await shim.process.wait() == 0
    assert not any(is_alive(pid) for pid in pids)


async def test_a_second_sigterm_skips_the_grace(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await start_python(link, "main", SLEEP)
        await collect_until(link, says("up"))
        shim.process.send_signal(signal.SIGTERM)
        await why_refused_at_last(link)
        shim.process.send_signal(signal.SIGTERM)
        # Less than the grace of the first alone.
        async with asyncio.timeout(limits.STOP_GRACE_S - 0.1):
            assert await shim.process.wait() == 0


async def test_the_end_of_stdin_ends_the_shim_with_a_code_of_its_own(shim: ShimProcess) -> None:
    assert shim.process.stdin is not None
    shim.process.stdin.close()
    async with asyncio.timeout(5):
        assert await shim.process.wait() == 3
    assert "stdin or stdout was closed" in await shim.stderr()


async def test_without_a_pipe_it_says_what_is_wrong(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "runner-image/shim"),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "AIAGENTCHAT_FORWARD_PORT": "0", "AIAGENTCHAT_NSS_DIR": str(tmp_path)},
    )
    _out, err = await process.communicate()
    assert process.returncode == 1
    assert b"stdin must be a pipe" in err


async def test_the_uid_gets_a_name(shim: ShimProcess, tmp_path: Path) -> None:
    async with shim.link():
        passwd = (tmp_path / "passwd").read_text()
        group = (tmp_path / "group").read_text()
    uid, gid = os.getuid(), os.getgid()
    assert passwd == f"agent:x:{uid}:{gid}:agent:/home/agent:/bin/bash\n"
    assert group == f"agent:x:{gid}:\n"


async def test_an_idle_shim_stays_below_its_memory_bound(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await link.ping()
        assert shim.resident_kib() < 20 * 1024
        assert status_kib(shim.pid, "RssAnon") < 10 * 1024


async def test_a_kill_does_not_reach_what_takes_the_sessions_name_after_it(
    shim: ShimProcess,
) -> None:
    """A turn that was killed may be followed at once by the next one, in the same session."""
    async with shim.link() as link:
        await start_python(link, "main", SLEEP)
        await collect_until(link, says("up"))
        await link.signal_session("kill", "main", "kill")
        await collect_until(link, exited("main"))
        await start_python(link, "main", SLEEP, command_id="again")
        await collect_until(link, says("up"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):  # many times the 20 ms between two looks
                await collect_until(link, exited("main"))
