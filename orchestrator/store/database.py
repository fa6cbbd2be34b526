"""The database file: one connection, used by one thread, one transaction at a time.

Rules: every write is one `BEGIN IMMEDIATE … COMMIT`; what `run` returned has been fsynced
(`synchronous=FULL`: in WAL mode, NORMAL may roll back the last commits at a power loss); a disk
that takes nothing is waited out here and nowhere else; only `opening` and `copying` open the file
besides.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from loguru import logger

from orchestrator.errors import AiAgentChatError, PreconditionError, StoreFullError
from orchestrator.faultpoint import reach_commit
from orchestrator.store.failure import StoreTrouble, describe_trouble, translated
from orchestrator.store.opening import empty_log, open_file

T = TypeVar("T")

# While nothing can be written: soon after the first failure, and not often while it lasts.
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 5.0


class Database:
    """Runs functions on the connection, each in its own transaction, in the order of the calls.

    Invariant: `trouble` is set from the first write that the disk refused to the next that it took.
    """

    def __init__(
        self, connection: sqlite3.Connection, executor: ThreadPoolExecutor, directory: Path
    ) -> None:
        self._connection = connection
        self._executor = executor
        self._directory = directory
        self._trouble_since = 0.0
        self._waited_s = 0.0
        self.trouble: StoreTrouble | None = None

    def __repr__(self) -> str:
        return f"<Database {self._directory} trouble={self.trouble is not None}>"

    @property
    def waited_s(self) -> float:
        """For how long in all nothing could be written; what waited for it was not at fault."""
        if self.trouble is None:
            return self._waited_s
        return self._waited_s + asyncio.get_running_loop().time() - self._trouble_since

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction; it is committed and on disk when this returns.

        While the disk is full, or takes no writes, this waits and tries again, until it works or
        the caller is cancelled: a failed transaction has changed nothing, so that nothing is
        acknowledged that isn't stored. What only reads works on a full disk, too: it takes the
        write lock, which costs no disk (docs/decisions/0014).

        Not cancel-safe in one respect: a transaction that has begun is finished also when the
        caller is cancelled; every caller's repeat must be harmless. `work` may run several times.

        Raises:
            StoreCorruptError: the file is damaged.
            StoreError: any other failure of the database; nothing was changed.
        """
        wait_s = FIRST_WAIT_S
        while True:
            try:
                result, has_written = await asyncio.get_running_loop().run_in_executor(
                    self._executor, _in_transaction, self._connection, work
                )
            except StoreFullError as e:
                self._note_trouble(e)
            else:
                if has_written and self.trouble is not None:
                    await self._note_well()
                return result
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, MAX_WAIT_S)

    def _note_trouble(self, error: StoreFullError) -> None:
        now = asyncio.get_running_loop().time()
        is_new = self.trouble is None
        since = time.time() if self.trouble is None else self.trouble.since
        self.trouble = describe_trouble(error, self._directory, since=since)
        if is_new:
            self._trouble_since = now
            logger.bind(
                action="store.full", free_bytes=self.trouble.free_bytes, why=str(error.__cause__)
            ).error("the database can't be written; everything waits until it can")

    async def _note_well(self) -> None:
        self._waited_s = self.waited_s
        self.trouble = None
        lasted_s = asyncio.get_running_loop().time() - self._trouble_since
        logger.bind(action="store.well", lasted_s=round(lasted_s, 1)).warning(
            "the database is written again"
        )
        # What failed attempts left in the log must not be taken for damage after a crash.
        await asyncio.get_running_loop().run_in_executor(
            self._executor, empty_log, self._connection
        )


@asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """Open or create the file, check it, and bring it to this version's schema.

    Raises:
        StoreTooNewError: a newer version wrote it; it is left as it is.
        StoreCorruptError: it is damaged, another program's, or gone; all is left as it is, and the
            text names what to restore.
        StoreFullError, StoreError: it can't be opened or written.
    """
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
    try:
        connection = await loop.run_in_executor(executor, open_file, path)
        try:
            yield Database(connection, executor, path.parent)
        finally:
            await asyncio.shield(loop.run_in_executor(executor, connection.close))
    finally:
        executor.shutdown(wait=True)


@contextmanager
def hold_state_dir(state_dir: Path) -> Iterator[None]:
    """Create the directory (0700) and hold its lock, so that only one orchestrator uses it.

    A lock that a dead process left holds nothing: the kernel let it go.

    Raises:
        PreconditionError: another orchestrator holds it, or it can't be created.
        StoreFullError: there is no room for it.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        state_dir.chmod(0o700)
        descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise _state_dir_error(state_dir, e) from e
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "?"
            msg = (
                f"another orchestrator (process {holder}) uses {state_dir}. "
                "Stop it, or name another directory with --state-dir."
            )
            raise PreconditionError(msg) from e
        try:
            # Of one length, over the last one: a file that is there needs no more of the disk.
            os.pwrite(descriptor, f"{os.getpid():<19}\n".encode(), 0)
        except OSError as e:
            raise _state_dir_error(state_dir, e) from e
        yield
    finally:
        os.close(descriptor)


def _state_dir_error(state_dir: Path, error: OSError) -> AiAgentChatError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        msg = f"the disk of the state directory {state_dir} is full. Free some space, then start."
        return StoreFullError(msg)
    return PreconditionError(
        f"the state directory {state_dir} can't be used: {error.strerror}. "
        "Make room or mend its rights, or name another one with --state-dir."
    )


def _in_transaction(
    connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]
) -> tuple[T, bool]:
    """What `work` gave, and whether it has written anything."""
    with translated(None):
        connection.execute("BEGIN IMMEDIATE")
        before = connection.total_changes
        try:
            result = work(connection)
            has_changes = connection.total_changes > before
            if has_changes:
                reach_commit(work, "before")
            connection.execute("COMMIT")
            if has_changes:
                reach_commit(work, "after")
        except BaseException:
            # Some failures (a full disk) have rolled back already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result, has_changes
