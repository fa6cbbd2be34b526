"""A child program that commits numbered rows while libfiu makes one system call fail.

It runs under libfiu's preloaded wrappers, and drives the real store. For each N it begins a new
database, lets the N-th call of the given kind fail (and some after it), commits rows meanwhile, and
says `committed N ROW` for each row once the store said that it is on disk. Whoever started it
compares that with the file: a row that was said and isn't there is lost.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from loguru import logger

from orchestrator.errors import StoreError
from orchestrator.model import EventId, RoomId
from orchestrator.store import database as database_module
from orchestrator.store.api import InboxKind, NewInboxRow
from orchestrator.store.opening import empty_log
from orchestrator.store.store import open_store

PRELOAD = (Path("/usr/lib/fiu/fiu_run_preload.so"), Path("/usr/lib/fiu/fiu_posix_preload.so"))
ROWS = 8
KILL = "kill"
"""Instead of an errno: the process dies at the call, as by a power switch."""


class FailPoint:
    """Lets calls of one kind fail: from the `first` on, `times` of them."""

    def __init__(self, name: str, code: int | None) -> None:
        self._name = name.encode()
        self._code = code
        self._first = self._last = 0
        self.calls = 0
        self._fiu = ctypes.CDLL("libfiu.so.0")
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.POINTER(ctypes.c_int),
            ctypes.c_void_p,
            ctypes.c_uint,
        )
        self._callback = kind(self._decide)

    def __repr__(self) -> str:
        return f"<FailPoint {self._name.decode()} calls={self.calls}>"

    @contextmanager
    def armed(self, first: int, times: int) -> Iterator[None]:
        """Count from here on."""
        self.calls, self._first, self._last = 0, first, first + times - 1
        info = ctypes.c_void_p(self._code or 0)
        self._fiu.fiu_enable_external(self._name, 1, info, 0, self._callback)
        try:
            yield
        finally:
            self._fiu.fiu_disable(self._name)

    def _decide(self, *_: object) -> int:
        self.calls += 1
        fails = self._first <= self.calls <= self._last
        if fails and self._code is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return int(fails)


def row(number: int) -> NewInboxRow:
    """The row of that number; some pages of it, so that a commit is more than one call."""
    return NewInboxRow(
        kind=InboxKind.TIMELINE,
        room_id=RoomId("!room:test"),
        event_id=EventId(f"${number}"),
        raw="x" * 6000,
    )


async def commit_rows(folder: Path, point: FailPoint, n: int, times: int) -> None:
    """One database, with the N-th call failing while it is used."""
    async with open_store(folder) as store:
        with point.armed(n, times):
            for number in range(ROWS):
                await store.inbox.commit_sync([row(number)], f"s{number}", now=1.0)
                say(f"committed {n} {number}")
                if number == ROWS // 2:
                    # A checkpoint in the middle: the file itself is written, too.
                    await store.database.run(lambda db: None)
                    empty_log(store.database._connection)
        say(f"calls {n} {point.calls}")


async def open_again(folder: Path, point: FailPoint, n: int, times: int) -> None:
    """One database with rows in it, with the N-th call failing while it is opened."""
    async with open_store(folder) as store:
        for number in range(ROWS):
            await store.inbox.commit_sync([row(number)], f"s{number}", now=1.0)
            say(f"committed {n} {number}")
        # As a kill leaves it: with a log.
        shutil.copytree(folder, folder / "left")
    with point.armed(n, times):
        async with open_store(folder / "left"):
            say(f"opened {n} 0")
    say(f"calls {n} {point.calls}")


def say(line: str) -> None:
    """One line, out at once, and by a call that does not fail."""
    os.writev(1, [f"{line}\n".encode()])


def main() -> None:
    """FOLDER use|open NAME ERRNO|kill FIRST LAST STEP TIMES."""
    folder, phase, name, code = Path(sys.argv[1]), *sys.argv[2:5]
    first, last, step, times = map(int, sys.argv[5:9])
    database_module.FIRST_WAIT_S = database_module.MAX_WAIT_S = 0.001
    logger.remove()
    work = commit_rows if phase == "use" else open_again
    point = FailPoint(name, None if code == KILL else int(code))
    for n in range(first, last + 1, step):
        (folder / str(n)).mkdir(parents=True)
        try:
            asyncio.run(work(folder / str(n), point, n, times))
        except StoreError as e:
            say(f"error {n} {type(e).__name__}")
        except Exception as e:  # noqa: BLE001 - what this looks for
            say(f"untyped {n} {type(e).__name__}")


def has_libfiu() -> bool:
    """Whether Debian's libfiu0 and fiu-utils are installed."""
    return all(path.exists() for path in PRELOAD) and shutil.which("fiu-run") is not None


def preloading() -> Mapping[str, str]:
    """The environment of the child."""
    return {**os.environ, "LD_PRELOAD": " ".join(map(str, PRELOAD)), "PYTHONPATH": ".:cli"}


if __name__ == "__main__":
    main()
