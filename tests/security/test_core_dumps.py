"""A crash in a runner: no core file, and no handler of the host's is started for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hostile_room import open_rooms
from tests.support.runner_engine import ensure_runner_image

pytestmark = [pytest.mark.docker, pytest.mark.faults, pytest.mark.timeout(120)]

PATTERN = Path("/proc/sys/kernel/core_pattern")

# Ways to die with a core dump, and to want one first: each in a child of its own.
CRASHES = """
import resource
SET, PRLIMIT, CORE = [160, 164], [302, 261], 4
zero = (ctypes.c_ulong * 2)(0, 0)
at = ctypes.addressof(zero)
tricks = {
    "plainly": lambda: 0,
    "setrlimit": lambda: call(SET, CORE, at),
    "setrlimit, upper half set": lambda: call(SET, 1 << 32 | CORE, at),
    "prlimit": lambda: call(PRLIMIT, 0, CORE, at, 0),
    "prlimit, upper half set": lambda: call(PRLIMIT, 0, 1 << 32 | CORE, at, 0),
    "prlimit by pid": lambda: call(PRLIMIT, os.getpid(), CORE, at, 0),
    "the library": lambda: attempt(resource.setrlimit, CORE, (0, 0)),
    "dumpable": lambda: call([157, 167], 4, 1, 0, 0, 0),
}
found = {}
for name, trick in tricks.items():
    for number in (signal.SIGABRT, signal.SIGSEGV):
        child = os.fork()
        if child == 0:
            try:
                trick()
            except BaseException:
                pass
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            time.sleep(5)
        status = os.waitpid(child, 0)[1]
        if os.WCOREDUMP(status) or os.WTERMSIG(status) != number:
            found[f"{name} {number}"] = status
places = (".", "/tmp", os.environ["HOME"])
found["files"] = [name for place in places for name in os.listdir(place) if "core" in name]
found["limit"] = resource.getrlimit(CORE)
print(json.dumps(found))
"""


@pytest.fixture
def handler_log(tmp_path: Path) -> Iterator[Path]:
    """A handler of core dumps on the host, as systemd-coredump is one; what it was told."""
    log, handler = tmp_path / "handled", tmp_path / "handler"
    handler.write_text(f'#!/bin/sh\necho "$@" >> {log}\ncat > /dev/null\n')
    handler.chmod(0o755)
    before = PATTERN.read_text()
    pattern = f"|{handler} %u %P"
    if os.geteuid() != 0 or len(pattern) > 127:
        pytest.skip("only root can set a handler, whose path must be short")
    PATTERN.write_text(pattern)
    try:
        yield log
    finally:
        PATTERN.write_text(before)


async def test_a_crash_starts_no_handler_on_the_host_and_leaves_no_core_file(
    tmp_path: Path, image: str, handler_log: Path
) -> None:
    async with open_rooms(tmp_path, image) as rooms:
        found = await rooms.first.attack(CRASHES)
        uid = rooms.first.spec.uid
    assert found == {"files": [], "limit": [1, 1]}
    # Others on this host may crash meanwhile; their uids are others.
    handled = handler_log.read_text().splitlines() if handler_log.exists() else []
    assert [line for line in handled if line.split()[0] == str(uid)] == []


@pytest.fixture(scope="session")
def image() -> str:
    return ensure_runner_image()
