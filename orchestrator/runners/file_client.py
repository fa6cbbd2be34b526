"""A room's files through a program in its runner: `ports.Workspace` over lines of a session.

The program (runner-image/files) is one more session of the shim, so it needs no frames of its own:
its lines are said once and not kept, so that they need no acknowledgement: what a turn has yet to
take in holds none up. Rules: whoever reads the link's events passes them to `hear`; an answer is
matched by an id that no earlier life has used; all that comes is parsed, and bounded before it is
unpacked; a program counts as silent only while somebody listens.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import json
import secrets
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from orchestrator.core.workspace_copy import MAX_ENTRIES, CopyEntry, is_inside, parse_listed
from orchestrator.errors import FileRefusedError, RunnerError, WireProtocolError
from orchestrator.model import JsonValue
from orchestrator.ports import FileEntry
from orchestrator.runners.event import AsideLine, CliLine, LineCut, Refused, SessionExited, UpEvent
from orchestrator.runners.link import RunnerLink

SESSION: Final = "files"
"""The name of the program's session; no CLI has it."""
ARGV: Final = ("/usr/bin/python3", "-I", "-S", "/opt/aiagentchat/files")
_ANSWER_S: Final = 20.0
"""Of silence between two lines of an answer. A list of 50,000 entries takes the program 0.5 s."""
_LOOK_S: Final = 1.0
_MOST_UNPACKED_BYTES: Final = 16 << 20
# An input line has 8 MiB at most; a piece of a file is sent as base64 of what compresses or not.
PIECE_BYTES: Final = 1 << 20
# What was said and nobody has looked at. Requests are made for 8 MiB, or for one larger file, which
# is taken as fast as a disk writes.
_MOST_WAITING_CHARS: Final = 64 << 20

Root = Literal["workspace", "home"]
_REASONS: Final[Mapping[str, str]] = {
    "gone": "there is no such file",
    "link": "it is a link, or behind one",
    "kind": "it is not a plain file",
    "large": "it is too large",
    "outside": "that is outside the workspace",
    "many": f"more than {MAX_ENTRIES:,} files",
    "denied": "its permissions don't allow it",
    "full": "the room's disk is full",
    "failed": "it could not be done",
}


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    id: Annotated[str, StringConstraints(max_length=64)]
    z: str | None = None
    i: int | None = None
    more: bool = False
    end: bool = False
    error: Annotated[str, StringConstraints(max_length=20)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some of a file; `refused`: there is none (any more), and why."""

    path: str
    data: bytes
    is_last: bool
    refused: FileRefusedError | None = None


class FileClient:
    """Invariant: each open request has a queue here, and a failed client answers no request."""

    def __init__(self, link: RunnerLink, *, is_live: bool) -> None:
        self._link = link
        self._is_live = is_live
        self._opening = asyncio.Lock()
        self._life = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._open: dict[str, asyncio.Queue[_Line | RunnerError]] = {}
        self._waiting_chars = 0

    def __repr__(self) -> str:
        return f"<FileClient live={self._is_live} open={len(self._open)}>"

    def hear(self, event: UpEvent) -> bool:
        """Take in an event of the link; whether it was one of the program's."""
        if isinstance(event, Refused) and event.command_id.startswith(f"files:{self._life}:"):
            self._is_live = False
            self._fail(RunnerError("the runner could not start the program for its files"))
            return False
        if getattr(event, "session", None) != SESSION:
            return False
        match event:
            case CliLine():
                self._take(event.line)
            case LineCut():
                self._fail(WireProtocolError(_TOO_LONG))
            case SessionExited():
                self._is_live = False
                self._fail(RunnerError("the program for the room's files ended"))
        return True

    def hear_aside(self, event: AsideLine) -> None:
        """Take in a line of a session that is not kept."""
        if event.session != SESSION:
            return
        if event.line is None:
            self._fail(WireProtocolError(_TOO_LONG))
        else:
            self._take(event.line)

    def lose(self, error: RunnerError) -> None:
        """The link failed."""
        self._is_live = False
        self._fail(error)

    # The port...

    async def list(self, path: str = "", *, recursive: bool = False) -> Sequence[FileEntry]:
        """As the port says."""
        return [
            FileEntry(
                path=entry.path,
                kind=entry.kind,
                size_bytes=entry.size_bytes,
                modified_ns=entry.modified_ns,
                mode=entry.mode,
                target=entry.target,
            )
            for entry in await self.entries(path, recursive=recursive)
        ]

    async def read(self, path: str, *, max_bytes: int) -> bytes:
        """As the port says."""
        gathered = bytearray()
        async for piece in self.pieces([path], max_bytes=max_bytes):
            if piece.refused is not None:
                raise piece.refused
            gathered += piece.data
        return bytes(gathered)

    async def thumbnail(
        self, path: str, *, width: int, height: int, most_bytes: int, max_bytes: int
    ) -> bytes:
        """A small picture of an image of at most `max_bytes`, as the room makes it.

        Raises:
            FileRefusedError: there is none of it, or it is no image.
            RunnerError: as for `read`.
        """
        request: dict[str, JsonValue] = {
            "root": "workspace",
            "path": _checked(path),
            "width": width,
            "height": height,
            "most_bytes": most_bytes,
            "max_bytes": max_bytes,
        }
        made = bytearray()
        async with self._request("thumbnail", request) as lines:
            async for line in lines:
                made += _unpack(line.z)
                if len(made) > most_bytes:
                    raise WireProtocolError(_NONSENSE)
        return bytes(made)

    async def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """As the port says."""
        starts = range(0, max(1, len(data)), PIECE_BYTES)
        pieces = (data[start : start + PIECE_BYTES] for start in starts)
        await self.write_pieces(path, pieces, mode=mode)

    async def link(self, path: str, target: str) -> None:
        """As the port says."""
        await self._ask("link", path=_checked(path), target=target)

    async def make_directory(self, path: str, *, mode: int = 0o755) -> None:
        """As the port says; a directory that is there gets the mode."""
        await self._ask("mkdir", path=_checked(path), mode=mode)

    async def remove(self, path: str) -> None:
        """As the port says."""
        await self._ask("remove", path=_checked(path))

    # And what copies need...

    async def write_pieces(self, path: str, pieces: Iterable[bytes], *, mode: int) -> None:
        """As `write`, of pieces of at most PIECE_BYTES; one at least. The iterator may block."""
        part, iterator = secrets.token_hex(8), iter(pieces)
        piece = await asyncio.to_thread(next, iterator, b"")
        more = True
        while more:
            following = await asyncio.to_thread(next, iterator, None)
            more = following is not None
            packed = base64.b64encode(zlib.compress(piece, 1)).decode("ascii")
            await self._ask("write", path=_checked(path), part=part, mode=mode, z=packed, more=more)
            piece = following or b""

    async def entries(self, path: str = "", *, recursive: bool = True) -> Sequence[CopyEntry]:
        """What is there, sorted by path; MAX_ENTRIES at most."""
        found: dict[str, CopyEntry] = {}
        request: dict[str, JsonValue] = {
            "root": "workspace",
            "path": _checked(path) if path else "",
            "recursive": recursive,
            "limit": MAX_ENTRIES,
        }
        async with self._request("list", request) as lines:
            async for line in lines:
                for row in _rows(_unpack(line.z)):
                    entry = _parse(row)
                    found[entry.path] = entry
                if len(found) > MAX_ENTRIES:
                    raise FileRefusedError(_REASONS["many"])
        return [found[key] for key in sorted(found)]

    async def pieces(
        self, paths: Sequence[str], *, max_bytes: int, root: Root = "workspace", tail: bool = False
    ) -> AsyncIterator[Piece]:
        """Each file's content in pieces, in order; `max_bytes` is of one file.

        Ask for as much at once as may wait in memory. With `tail` the end of a longer file.
        """
        request: dict[str, JsonValue] = {
            "root": root,
            "paths": [_checked(path) for path in paths],
            "max_bytes": max_bytes,
            "tail": tail,
        }
        async with self._request("read", request) as lines:
            index = taken = 0
            async for line in lines:
                if index >= len(paths) or line.i != index:
                    raise WireProtocolError(_NONSENSE)
                data = b"" if line.error is not None else _unpack(line.z)
                taken += len(data)
                if taken > max_bytes + 1:
                    raise WireProtocolError(_NONSENSE)
                refused = None if line.error is None else _refusal(line.error)
                is_last = refused is not None or not line.more
                yield Piece(path=paths[index], data=data, is_last=is_last, refused=refused)
                if is_last:
                    index, taken = index + 1, 0

    # How it is asked...

    async def _ask(self, op: str, **request: JsonValue) -> None:
        async with self._request(op, {"root": "workspace", **request}) as lines:
            async for _ in lines:
                pass

    @asynccontextmanager
    async def _request(
        self, op: str, request: Mapping[str, JsonValue]
    ) -> AsyncIterator[AsyncIterator[_Line]]:
        await self._ensure_open()
        name = f"{self._life}-{next(self._numbers)}"
        queue = self._open[name] = asyncio.Queue()
        try:
            line = json.dumps({"id": name, "op": op, **request}, allow_nan=False)
            await self._link.send_line(f"files:{self._life}:{name}", SESSION, line)
            yield self._answers(queue)
        finally:
            del self._open[name]
            if not self._open:
                self._waiting_chars = 0

    async def _answers(self, queue: asyncio.Queue[_Line | RunnerError]) -> AsyncIterator[_Line]:
        while True:
            line = await self._next(queue)
            if isinstance(line, RunnerError):
                raise line
            self._waiting_chars -= len(line.z or "")
            if line.end:
                if line.error is not None:
                    raise _refusal(line.error)
                return
            yield line

    async def _next(self, queue: asyncio.Queue[_Line | RunnerError]) -> _Line | RunnerError:
        """The next line, however long it stands behind others that wait to be taken in."""
        silent_s = 0.0
        while silent_s < _ANSWER_S:
            try:
                async with asyncio.timeout(_LOOK_S):
                    return await queue.get()
            except TimeoutError:
                silent_s += _LOOK_S if self._link.is_listening else 0.0
        msg = "the program for the room's files does not answer"
        raise RunnerError(msg)

    async def _ensure_open(self) -> None:
        async with self._opening:
            if not self._is_live:
                self._is_live = True
                await self._link.open_session(
                    f"files:{self._life}:open{next(self._numbers)}",
                    SESSION,
                    argv=ARGV,
                    env={"HOME": "/home/agent"},
                    cwd="/workspace",
                    is_kept=False,
                )

    def _take(self, text: str) -> None:
        try:
            line = _Line.model_validate_json(text)
        except (ValidationError, ValueError, RecursionError):
            self._fail(WireProtocolError(_NONSENSE))
            return
        queue = self._open.get(line.id)
        if queue is None:
            return  # of an earlier life, or given up
        self._waiting_chars += len(line.z or "")
        if self._waiting_chars > _MOST_WAITING_CHARS:
            self._fail(WireProtocolError("the runner says more of its files than was asked for"))
        else:
            queue.put_nowait(line)

    def _fail(self, error: RunnerError) -> None:
        for queue in self._open.values():
            queue.put_nowait(error)


_TOO_LONG: Final = "the runner's answer about its files is too long"
_NONSENSE: Final = "the program for the room's files said something that is no answer"


def _refusal(code: str) -> FileRefusedError:
    return FileRefusedError(_REASONS.get(code, _REASONS["failed"]))


def _checked(path: str) -> str:
    if not is_inside(path):
        raise FileRefusedError(_REASONS["outside"])
    return path


def _unpack(packed: str | None) -> bytes:
    """What was packed, unless it is more than anything that we ask for."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(
            base64.b64decode(packed or "", validate=True), _MOST_UNPACKED_BYTES
        )
    except (zlib.error, binascii.Error, ValueError):
        raise WireProtocolError(_NONSENSE) from None
    if not unpacker.eof:
        raise WireProtocolError(_NONSENSE)
    return data


def _rows(data: bytes) -> Sequence[Sequence[object]]:
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError):
        raise WireProtocolError(_NONSENSE) from None
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise WireProtocolError(_NONSENSE)
    return rows


def _parse(row: Sequence[object]) -> CopyEntry:
    try:
        return parse_listed(row)
    except (ValueError, TypeError):
        raise WireProtocolError(_NONSENSE) from None
