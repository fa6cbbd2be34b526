"""Every Nth write, fsync and read of the database fails, or is the last one: no commit is lost."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.store.store import open_store
from tests.support.failing_disk import KILL, ROWS, has_libfiu, preloading

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        not has_libfiu(), reason="NO LIBFIU: type apt-get install libfiu0 fiu-utils (as root)"
    ),
]
WRITE, SYNC = "posix/io/rw/pwrite", "posix/io/sync/fdatasync"
TRUNCATE, READ = "posix/io/rw/ftruncate", "posix/io/rw/pread"
# How many calls of each kind `commit_rows` makes, and `open_again`; both a little more.
CALLS = {
    ("use", WRITE): 170,
    ("use", SYNC): 20,
    ("use", TRUNCATE): 4,
    ("use", READ): 6,
    ("open", WRITE): 50,
    ("open", SYNC): 8,
    ("open", TRUNCATE): 4,
    ("open", READ): 260,
}
FAULTS = [
    ("use", WRITE, errno.ENOSPC),
    ("use", WRITE, errno.EIO),
    ("use", SYNC, errno.EIO),
    ("use", SYNC, errno.ENOSPC),
    ("use", TRUNCATE, errno.EIO),
    ("use", READ, errno.EIO),
    ("open", WRITE, errno.ENOSPC),
    ("open", SYNC, errno.EIO),
    ("open", READ, errno.EIO),
]


class Said:
    """What a child said of its databases."""

    def __init__(self, output: str) -> None:
        self.committed: defaultdict[int, list[int]] = defaultdict(list)
        self.errors: dict[int, str] = {}
        self.untyped: list[str] = []
        self.calls: dict[int, int] = {}
        for line in output.splitlines():
            kind, n, what = line.split()
            match kind:
                case "committed":
                    self.committed[int(n)].append(int(what))
                case "error":
                    self.errors[int(n)] = what
                case "calls":
                    self.calls[int(n)] = int(what)
                case "untyped":
                    self.untyped.append(line)


def sweep(
    folder: Path,
    phase: str,
    name: str,
    code: int | str,
    *,
    first: int,
    last: int,
    step: int,
    times: int,
) -> Said:
    arguments = [str(folder), phase, name, str(code), *map(str, (first, last, step, times))]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.failing_disk", *arguments],
        env=preloading(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode in (0, -9), done.stderr[-2000:]
    return Said(done.stdout)


def check(folder: Path, said: list[int]) -> list[int]:
    """The rows that are there; each that was said is, once, and the file is sound."""
    with closing(sqlite3.connect(folder / "state.sqlite3")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = [int(r[0][1:]) for r in db.execute("SELECT event_id FROM inbox ORDER BY seq")]
        (token,) = db.execute("SELECT value FROM meta WHERE key = 'sync_token'").fetchone() or (
            None,
        )
    assert found == list(range(len(found)))
    assert len(found) >= len(said)
    # At most the commit that was under way: it failed, and was on disk all the same.
    assert len(found) <= len(said) + 1
    assert token == (f"s{found[-1]}" if found else None)
    return found


def check_all(
    folder: Path, phase: str, name: str, code: int, *, step: int, times: int, reads: bool
) -> None:
    last = CALLS[phase, name]
    said = sweep(folder, phase, name, code, first=1, last=last, step=step, times=times)
    assert said.untyped == []
    assert said.calls, "no database was used to its end"
    assert said.calls[max(said.calls)] <= last, "the sweep ends too early"
    for n in range(1, last + 1, step):
        where = folder / str(n)
        if phase == "open":
            # Refused or not: the next start finds everything.
            assert said.committed[n] == list(range(ROWS))
            where = where / "left"
        elif not reads:
            assert n not in said.errors, "a disk that takes no write is waited out"
            assert said.committed[n] == list(range(ROWS))
        check(where, said.committed[n])


@pytest.mark.parametrize(("phase", "name", "code"), FAULTS)
def test_no_commit_is_lost_when_calls_fail(
    tmp_path: Path, phase: str, name: str, code: int
) -> None:
    step = max(1, CALLS[phase, name] // 8)
    check_all(tmp_path, phase, name, code, step=step, times=3, reads=name == READ)


@pytest.mark.parametrize("name", [WRITE, SYNC])
def test_no_commit_is_lost_when_it_is_killed_at_a_call(tmp_path: Path, name: str) -> None:
    kill_at(tmp_path, name, step=CALLS["use", name] // 5)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("times", [1, 2, 10])
@pytest.mark.parametrize(("phase", "name", "code"), FAULTS)
def test_no_commit_is_lost_whichever_call_fails(
    tmp_path: Path, phase: str, name: str, code: int, times: int
) -> None:
    check_all(tmp_path, phase, name, code, step=1, times=times, reads=name == READ)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", [WRITE, SYNC, TRUNCATE])
def test_no_commit_is_lost_whichever_call_is_the_last_one(tmp_path: Path, name: str) -> None:
    kill_at(tmp_path, name, step=1)


def kill_at(folder: Path, name: str, *, step: int) -> None:
    for n in range(1, CALLS["use", name] + 1, step):
        said = sweep(folder, "use", name, KILL, first=n, last=n, step=1, times=1)
        asyncio.run(start_again(folder / str(n)))
        check(folder / str(n), said.committed[n])


async def start_again(folder: Path) -> None:
    """The next start takes nothing of it for damage."""
    async with open_store(folder):
        pass
