"""The shim as PID 1 of its own namespace with a uid of its own, and what that uid can do to it.

Needs root (for a new PID namespace and another uid) and the system's Python, as in the image.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.runners.link import CliLine, RunnerLink, SessionExited
from tests.support.shim import (
    SHIM,
    ShimProcess,
    answers,
    collect_until,
    descendants,
    exited,
    open_shim,
    says,
    status_kib,
    until,
)

PYTHON = Path("/usr/bin/python3")
UID = 0x4000_0000

pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or not PYTHON.exists(), reason="needs root and the system's Python"
)

# Each attempt on PID 1, by a process of the same uid: the error it met, or "done".
ATTACK = """
import ctypes, json, os, signal
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    if libc.syscall(number, *args) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def attempt(do):
    try:
        do()
    except OSError as error:
        return error.strerror
    return "done"
X86 = os.uname().machine == "x86_64"
print(json.dumps({
    "stdout": attempt(lambda: open("/proc/1/fd/1", "wb").write(b"{}\\n")),
    "fds": attempt(lambda: os.listdir("/proc/1/fd")),
    "memory": attempt(lambda: open("/proc/1/mem", "rb")),
    "maps": attempt(lambda: open("/proc/1/maps").read()),
    "environ": attempt(lambda: open("/proc/1/environ").read()),
    "cwd": attempt(lambda: os.readlink("/proc/1/cwd")),
    "ptrace": attempt(lambda: call(101 if X86 else 117, 16, 1, 0, 0)),
    "pidfd_getfd": attempt(lambda: call(438, os.pidfd_open(1), 1, 0)),
    "oom": attempt(lambda: open("/proc/1/oom_score_adj", "w").write("1000")),
    "own": attempt(lambda: open("/proc/self/mem", "rb")),
}), flush=True)
for number in set(signal.valid_signals()) - {signal.SIGTERM}:
    os.kill(1, number)
print("signalled", flush=True)
import time; time.sleep(600)
"""


@pytest.fixture
async def shim(tmp_path: Path) -> AsyncIterator[ShimProcess]:
    with tempfile.TemporaryDirectory(prefix="shim-") as folder:
        Path(folder).chmod(0o755)
        shutil.copytree(SHIM, f"{folder}/shim", ignore=shutil.ignore_patterns("__pycache__"))
        command = [
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"),
            *(str(PYTHON), "-I", "-S", f"{folder}/shim"),
        ]
        async with open_shim(tmp_path, command=command) as process:
            yield process


async def start(link: RunnerLink, session: str, code: str) -> None:
    await link.open_session(
        f"open:{session}", session, argv=[str(PYTHON), "-I", "-S", "-c", code], env={}, cwd="/"
    )


async def test_its_own_uid_can_neither_look_into_it_nor_stop_it(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await start(link, "main", ATTACK)
        events = await collect_until(link, says("signalled"))
        report = next(event for event in events if isinstance(event, CliLine))
        met = json.loads(report.line)
        assert met.pop("own") == "done"
        assert set(met.values()) <= {"Permission denied", "Operation not permitted"}, met
        assert await link.ping() < 5


async def test_its_own_uid_can_end_it_only_where_everyone_sees(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await start(link, "main", "import os, time; os.kill(1, 15); time.sleep(600)")
        end = (await collect_until(link, exited("main")))[-1]
        assert isinstance(end, SessionExited)
    await shim.process.wait()
    assert shim.process.returncode == 0


async def test_kill_leaves_no_process_in_the_room(shim: ShimProcess) -> None:
    storm = (
        "import os, time\nprint('up', flush=True)\nend = time.time() + 20\n"
        "while time.time() < end:\n    if os.fork(): os._exit(0)\n"
        "    os.setsid()\n    time.sleep(0.001)"
    )
    async with shim.link() as link:
        await start(link, "main", "import os, time; os.fork(); time.sleep(600)")
        await collect_until(link, answers("open:main"))
        await start(link, "storm", storm)
        await collect_until(link, exited("storm"))
        await link.signal_session("kill", "main", "kill")
        end = (await collect_until(link, exited("main")))[-1]
        assert isinstance(end, SessionExited)
        assert end.signal == signal.SIGKILL
        await until(lambda: len(descendants(shim.pid)) == 1)  # PID 1 itself


async def test_it_is_small(shim: ShimProcess) -> None:
    async with shim.link() as link:
        await link.ping()
        (pid,) = descendants(shim.pid)
        assert status_kib(pid, "VmRSS") < 20 * 1024
