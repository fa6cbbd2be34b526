"""The audit log: who asked, who decided, what was run, what left; `STATE_DIR/audit/`, 0600.

A line is a JSON object that names the one before by its digest (`core.hash_chain`), written when it
happens, in one call; a kill loses none that was written, a loss of power those of the last moments.
Lines come from the log: whatever is bound with `audit`, secrets hidden as there; with AUDIT_ONLY
(`orchestrator.log`) they stand here alone. It is only
added to; at 16 MiB the file gets a number, and the chain goes on in the next one.

What a room's CLI says that it runs is the room's own word.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from orchestrator.core.hash_chain import (
    GENESIS,
    TORN,
    Chain,
    chain_line,
    check_chain,
    digest_of,
)
from orchestrator.errors import PreconditionError
from orchestrator.log import render_json
from orchestrator.model import JsonValue

if TYPE_CHECKING:
    from loguru import Message

AUDIT_DIR = "audit"
CURRENT_NAME = "audit.jsonl"
# Some 50,000 lines: a month of a busy installation.
MAX_BYTES = 16 << 20
# Several of the longest lines: a line of the log has some 20 fields of 4,096 characters at most.
_TAIL_BYTES = 1 << 20


class AuditLog:
    """Invariant: the file ends with a whole line, whose digest is `_before`."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        """Continue the log of the folder, or begin one. Raises OSError."""
        self._folder = folder
        self._max_bytes = max_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = self._open()
        end = _read_end(folder)
        self._before, self._number = end.before, end.number
        if end.is_open:
            os.write(self._descriptor, b"\n")
        if end.is_torn:
            self.write({"action": TORN})

    def close(self) -> None:
        """Bring it to the disk. Idempotent."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def write(self, fields: Mapping[str, JsonValue]) -> None:
        """Add a line. Raises OSError: the line is not there, and the next one follows the last."""
        size = os.fstat(self._descriptor).st_size
        if size >= self._max_bytes:
            self._rotate()
            size = 0
        line = chain_line(fields, number=self._number + 1, before=self._before)
        data = f"{line}\n".encode()
        if os.write(self._descriptor, data) != len(data):
            os.ftruncate(self._descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._before, self._number = digest_of(line), self._number + 1

    def _rotate(self) -> None:
        self.close()
        number = len(_numbered(self._folder)) + 1
        (self._folder / CURRENT_NAME).rename(self._folder / f"audit-{number:06}.jsonl")
        self._descriptor = self._open()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._folder / CURRENT_NAME, flags, 0o600)


@contextmanager
def open_audit_log(state_dir: Path) -> Iterator[None]:
    """Keep the audit log for as long as the context lasts.

    A line that the disk does not take is told in the log, once until one is taken again.

    Raises:
        PreconditionError: it can't be opened.
    """
    try:
        log = AuditLog(state_dir / AUDIT_DIR)
    except OSError as e:
        msg = (
            f"the audit log in {state_dir / AUDIT_DIR} can't be written: {e.strerror}. "
            "Make room or mend its rights."
        )
        raise PreconditionError(msg) from e
    fails = False

    def write(message: Message) -> None:
        nonlocal fails
        try:
            log.write(json.loads(render_json(message.record)))
            fails = False
        except OSError as e:
            if not fails:
                fails = True
                logger.bind(action="audit.failed", error=type(e).__name__).error(
                    "a line of the audit log could not be written"
                )

    handler = logger.add(
        write,
        level=0,
        filter=lambda record: "audit" in record["extra"],
        format="{message}",
        catch=False,
        backtrace=False,
        diagnose=False,
    )
    try:
        yield
    finally:
        logger.remove(handler)
        log.close()


def verify(state_dir: Path, *, expected: str | None = None) -> Chain:
    """Follow the whole chain; blocks for as long as reading takes.

    `expected`: a digest that one of its lines must have.

    Raises:
        PreconditionError: there is no audit log, or it can't be read.
    """
    files = _files(state_dir / AUDIT_DIR)
    if not files:
        msg = (
            f"there is no audit log in {state_dir / AUDIT_DIR}: nothing has run there yet. "
            "Start the orchestrator, or name its directory with --state-dir."
        )
        raise PreconditionError(msg)
    chain = Chain()
    for path in files:
        try:
            with path.open(encoding="utf-8", errors="replace") as lines:
                whole = (line.rstrip("\n") for line in lines)
                chain = check_chain(whole, chain, expected=expected)
        except OSError as e:
            msg = f"{path} can't be read: {e.strerror}"
            raise PreconditionError(msg) from e
        if chain.problem is not None:
            return replace(chain, problem=f"{path.name}: {chain.problem}")
    return chain


def _files(folder: Path) -> Sequence[Path]:
    """In the order of the chain."""
    current = folder / CURRENT_NAME
    return [*_numbered(folder), *([current] if current.exists() else [])]


def _numbered(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("audit-*.jsonl"))


@dataclass(frozen=True, slots=True)
class _End:
    """`is_open`: the file's last line has no end; `is_torn`: and it is no whole line."""

    before: str = GENESIS
    number: int = 0
    is_open: bool = False
    is_torn: bool = False


def _read_end(folder: Path) -> _End:
    for path in reversed(_files(folder)):
        *lines, rest = _read_tail(path).decode("utf-8", "replace").split("\n")
        if not lines and not rest:
            continue
        last = rest or lines[-1]
        numbers = (_number_of(line) for line in reversed([*lines, rest]))
        number = next((number for number in numbers if number is not None), 0)
        is_torn = bool(rest) and _number_of(rest) is None
        return _End(digest_of(last), number, is_open=bool(rest), is_torn=is_torn)
    return _End()


def _read_tail(path: Path) -> bytes:
    """The last lines, the first of them perhaps in part."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read()


def _number_of(line: str) -> int | None:
    try:
        number = json.loads(line)["number"]
    except (ValueError, KeyError, TypeError):
        return None
    return number if isinstance(number, int) else None
