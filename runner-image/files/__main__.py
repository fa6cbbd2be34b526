"""A room's files for the orchestrator: a request a line on stdin, answers a line each on stdout.

Runs as the room's own uid in the room's own container, and is the room's word: a room can kill it
or lie in its place, about its own files. Rules: no link is followed, in no part of a path; a file
is replaced all or nothing. docs/protocol.md has the lines. Python's standard library alone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
import sys
import threading
import zlib

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from io import FileIO
    from typing import Any

_BATCH_ENTRIES = 2000
_PIECE_BYTES = 512 * 1024
_THUMBNAIL = ("/usr/bin/python3", "-I", "-S", "/opt/aiagentchat/thumbnail")
# Its processor time has a limit of its own; this ends it where it only waits.
_THUMBNAIL_S = 8.0
_PART = ".aiagentchat-"
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):  # noqa: N818 -- an answer, and no error
    """What was asked for can't be had; `code` says why."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


def _at_once(work: Callable[[], None]) -> None:
    work()


class Files:
    """Answers requests about the trees below `roots`."""

    def __init__(
        self,
        roots: dict[str, str],
        say: Callable[[dict[str, Any]], None],
        beside: Callable[[Callable[[], None]], None] = _at_once,
    ) -> None:
        """What takes long and touches nothing is done `beside` the rest; `say` must allow that."""
        self._roots = roots
        self._say = say
        self._beside = beside
        self._parts: dict[str, tuple[int, int, str]] = {}

    def answer(self, request: dict[str, Any]) -> None:
        """Do it, and say what came of it."""
        if request["op"] == "thumbnail":
            self._beside(lambda: self._answer(request))
        else:
            self._answer(request)

    def _answer(self, request: dict[str, Any]) -> None:
        end: dict[str, Any] = {"id": request["id"], "end": True}
        try:
            getattr(self, f"_do_{request['op']}")(request)
        except Refused as refused:
            end["error"] = refused.code
        except OSError as error:
            end["error"] = _code(error)
        except (RecursionError, ValueError):
            end["error"] = "failed"
        self._say(end)

    def forget_parts(self) -> None:
        """Whatever was begun to be written is not."""
        for part in list(self._parts):
            self._drop_part(part)

    # Requests.

    def _do_list(self, request: dict[str, Any]) -> None:
        root, limit = self._roots[request["root"]], int(request["limit"])
        batch: list[list[Any]] = []
        entries = _walk(root, _parts(request["path"]), recursive=request["recursive"])
        for count, entry in enumerate(entries, start=1):
            batch.append(entry)
            if count > limit:
                code = "many"
                raise Refused(code)
            if len(batch) >= _BATCH_ENTRIES:
                self._send(request, json.dumps(batch).encode())
                batch.clear()
        if batch:
            self._send(request, json.dumps(batch).encode())

    def _do_read(self, request: dict[str, Any]) -> None:
        for index, path in enumerate(request["paths"]):
            try:
                self._read_one(request, index, path)
            except Refused as refused:
                self._say({"id": request["id"], "i": index, "error": refused.code})
            except OSError as error:
                self._say({"id": request["id"], "i": index, "error": _code(error)})

    def _read_one(self, request: dict[str, Any], index: int, path: str) -> None:
        limit = int(request["max_bytes"])
        with self._plain_file(request["root"], path) as (file, size):
            if size > limit:
                if not request.get("tail"):
                    code = "large"
                    raise Refused(code)
                file.seek(size - limit)
            left = limit + 1
            while True:
                piece = file.read(min(_PIECE_BYTES, left)) or b""
                left -= len(piece)
                if left <= 0 and not request.get("tail"):
                    code = "large"  # it grew meanwhile
                    raise Refused(code)
                self._send(request, piece, i=index, more=bool(piece) and left > 0)
                if not piece or left <= 0:
                    return

    def _do_thumbnail(self, request: dict[str, Any]) -> None:
        numbers = [int(request[key]) for key in ("width", "height", "most_bytes")]
        with self._plain_file(request["root"], request["path"]) as (file, size):
            if size > int(request["max_bytes"]):
                code = "large"
                raise Refused(code)
            made = make_thumbnail(file, *numbers)
        if made is None:
            code = "kind"
            raise Refused(code)
        self._send(request, made)

    def _do_write(self, request: dict[str, Any]) -> None:
        part = str(request["part"])
        with self._parent(request["root"], request["path"], make=True) as (folder, name):
            if part not in self._parts:
                temporary = f"{_PART}{os.urandom(8).hex()}"
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(temporary, flags, 0o600, dir_fd=folder)
                self._parts[part] = (fd, os.dup(folder), temporary)
            fd, at, temporary = self._parts[part]
            try:
                data = memoryview(zlib.decompress(base64.b64decode(request["z"])))
                while data:
                    data = data[os.write(fd, data) :]
                if request["more"]:
                    return
                os.fchmod(fd, int(request["mode"]) & 0o7777)
                _make_way(folder, name)
                os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=folder)
            except BaseException:
                self._drop_part(part)
                raise
            self._drop_part(part)

    def _do_link(self, request: dict[str, Any]) -> None:
        with self._parent(request["root"], request["path"], make=True) as (folder, name):
            _make_way(folder, name)
            temporary = f"{_PART}{os.urandom(8).hex()}"
            os.symlink(request["target"], temporary, dir_fd=folder)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)

    def _do_mkdir(self, request: dict[str, Any]) -> None:
        with self._parent(request["root"], request["path"], make=True) as (folder, name):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=folder)
            fd = os.open(name, _DIRECTORY | os.O_PATH, dir_fd=folder)
            try:
                _chmod(fd, int(request["mode"]) & 0o7777)
            finally:
                os.close(fd)

    def _do_remove(self, request: dict[str, Any]) -> None:
        try:
            with self._parent(request["root"], request["path"]) as (folder, name):
                _remove(folder, name)
        except FileNotFoundError:
            return

    # What they share.

    def _send(self, request: dict[str, Any], data: bytes, **more: object) -> None:
        packed = base64.b64encode(zlib.compress(data, 1)).decode("ascii")
        self._say({"id": request["id"], "z": packed, **more})

    def _drop_part(self, part: str) -> None:
        fd, folder, temporary = self._parts.pop(part)
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        os.close(fd)
        os.close(folder)

    @contextlib.contextmanager
    def _plain_file(self, root: str, path: str) -> Iterator[tuple[FileIO, int]]:
        """A file to be read, and its size."""
        with self._parent(root, path) as (folder, name):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=folder)
        with os.fdopen(fd, "rb", buffering=0) as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                code = "kind"
                raise Refused(code)
            yield file, found.st_size

    @contextlib.contextmanager
    def _parent(self, root: str, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder of a path, and its last part."""
        *parents, name = _parts(path)
        fd = _open_folder(self._roots[root], parents, make=make)
        try:
            yield fd, name
        finally:
            os.close(fd)


def make_thumbnail(
    image: FileIO, width: int, height: int, most_bytes: int, *, argv: Sequence[str] = _THUMBNAIL
) -> bytes | None:
    """A small picture of it, by a program that may break at it; None where none comes in time."""
    import select
    import subprocess
    import time

    command = [*argv, str(width), str(height), str(most_bytes)]
    until, made, is_whole = time.monotonic() + _THUMBNAIL_S, bytearray(), False
    with subprocess.Popen(  # noqa: S603 -- numbers, and a program of the image
        command, stdin=image, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd="/"
    ) as child:
        out = child.stdout.fileno() if child.stdout is not None else -1
        try:
            while len(made) <= most_bytes and not is_whole:
                left = until - time.monotonic()
                if left <= 0 or not select.select([out], [], [], left)[0]:
                    break
                piece = os.read(out, _PIECE_BYTES)
                made += piece
                is_whole = not piece
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=max(0.0, until - time.monotonic()) if is_whole else 0)
        finally:
            child.kill()
    return bytes(made) if is_whole and made and child.returncode == 0 else None


def _parts(path: str) -> list[str]:
    parts = path.split("/") if path else []
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        code = "outside"
        raise Refused(code)
    return parts


def _open_folder(root: str, parts: list[str], *, make: bool = False) -> int:
    fd = os.open(root, _DIRECTORY | os.O_PATH)
    for part in parts:
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=fd)
            below = os.open(part, _DIRECTORY | os.O_PATH, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _walk(root: str, start: list[str], *, recursive: bool) -> Iterator[list[Any]]:
    """Entries of a tree. A folder that can't be looked into is an entry without any below it."""
    waiting = [start]
    while waiting:
        parts = waiting.pop()
        try:
            entries = list(_look_into(root, parts))
        except OSError:
            if parts == start:
                raise
            continue
        for entry in entries:
            yield entry
            if recursive and entry[1] == "directory":
                waiting.append(entry[0].split("/"))


def _look_into(root: str, parts: list[str]) -> Iterator[list[Any]]:
    folder = _open_folder(root, parts)
    try:
        fd = os.open(".", _DIRECTORY | os.O_RDONLY, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        with os.scandir(fd) as found:
            for entry in found:
                with contextlib.suppress(FileNotFoundError):
                    yield _describe(fd, entry.name, [*parts, entry.name])
    finally:
        os.close(fd)


def _describe(folder: int, name: str, parts: list[str]) -> list[Any]:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    kind, target = "other", None
    if stat.S_ISREG(found.st_mode):
        kind = "file"
    elif stat.S_ISDIR(found.st_mode):
        kind = "directory"
    elif stat.S_ISLNK(found.st_mode):
        kind, target = "link", os.readlink(name, dir_fd=folder)
    mode = stat.S_IMODE(found.st_mode)
    return ["/".join(parts), kind, found.st_size, found.st_mtime_ns, mode, target]


def _make_way(folder: int, name: str) -> None:
    """What is renamed to this name can't take a folder's place."""
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            code = "kind"
            raise Refused(code)


def _remove(folder: int, name: str) -> None:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=folder)
        return
    path = os.open(name, _DIRECTORY | os.O_PATH, dir_fd=folder)
    try:
        if found.st_mode & 0o700 != 0o700:
            _chmod(path, 0o700)
        fd = os.open(".", _DIRECTORY | os.O_RDONLY, dir_fd=path)
        try:
            for below in os.listdir(fd):  # noqa: PTH208 -- by descriptor
                _remove(fd, below)
        finally:
            os.close(fd)
    finally:
        os.close(path)
    os.rmdir(name, dir_fd=folder)


def _chmod(path_fd: int, mode: int) -> None:
    """Of a folder that may not be readable: only its descriptor names it, and no link."""
    os.chmod(f"/proc/self/fd/{path_fd}", mode)  # noqa: PTH101 -- as above


def _code(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return "gone"
        case NotADirectoryError() | IsADirectoryError():
            return "kind"
        case PermissionError():
            return "denied"
    names = {40: "link", 28: "full", 122: "full", 27: "full", 36: "outside"}
    return names.get(error.errno or 0, "failed")


def main() -> None:
    """Serve until the end of stdin."""
    os.umask(0)
    out, saying, one = sys.stdout.buffer, threading.Lock(), threading.Lock()

    def say(line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"
        with saying:
            out.write(data)
            out.flush()

    def beside(work: Callable[[], None]) -> None:
        """One at a time: each may take much memory."""

        def in_turn() -> None:
            with one:
                work()

        threading.Thread(target=in_turn, daemon=True).start()

    roots = {"workspace": "/workspace", "home": os.environ.get("HOME", "/home/agent")}
    files = Files(roots, say, beside)
    try:
        for line in sys.stdin.buffer:
            files.answer(json.loads(line))
    finally:
        files.forget_parts()


if __name__ == "__main__":
    main()
