"""A socket that speaks as the engine does, and passes on what `requests` and `container` allow.

One request on a connection: the answer ends it. The engine is asked first whose a container is, and
then by the container's id. A refusal is an answer of the engine's form, and a line in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from loguru import logger

from orchestrator.core.egress_http import END_OF_HEAD, MAX_HEAD_BYTES
from orchestrator.core.sandbox import LABEL_INSTALLATION
from orchestrator.errors import (
    EngineRequestError,
    EngineUnavailableError,
    ImageMissingError,
    PreconditionError,
    RunnerGoneError,
)
from orchestrator.model import JsonObject
from orchestrator.private_socket import private_listener
from orchestrator.runners.engine import Engine
from orchestrator.runners.engine_http import CALL_S, explain_unreachable, open_connection
from orchestrator.runners.image import IMAGE_NAME
from orchestrator.runners.probe import LABEL_PROBE
from orchestrator.socket_proxy.build import (
    MAX_BUILD_BYTES,
    check_pull,
    is_own_name,
    remake_build,
)
from orchestrator.socket_proxy.container import Bounds, NewContainer, RefusedError, judge_creation
from orchestrator.socket_proxy.pin import Pin
from orchestrator.socket_proxy.requests import (
    MAX_JSON_BYTES,
    Asked,
    Head,
    Passed,
    add_label,
    find_installation,
    judge,
    parse_body,
    parse_head,
    takes_files,
)

_HEAD_S: Final = 10.0
_BODY_S: Final = 60.0
_CHUNK_BYTES: Final = 64 << 10
# Each room's runner keeps two (its stream, now and then a question); a wrong client fills its own.
_MAX_CONNECTIONS: Final = 1024
_ANSWER_HEAD_BYTES: Final = 64 << 10
_SWITCHING: Final = b" 101 "
_HINT: Final = "Mend the directory, or name another place with --socket."

_log = logger.bind(component="socket_proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one proxy serves."""

    socket: Path
    """Where it listens; the directory is its own, and holds the pinned installation, too."""
    bounds: Bounds
    images: frozenset[str] = frozenset()
    """References of runner images besides our own name."""


@asynccontextmanager
async def open_socket_proxy(plan: Plan, engine: Engine) -> AsyncIterator[None]:
    """Serve `plan.socket` for as long as the context lasts; connections end with it.

    Raises:
        PreconditionError: the socket can't be made; says why.
    """
    proxy = _Proxy(plan, engine)
    await asyncio.to_thread(_make_folder, plan.socket.parent)
    with private_listener(plan.socket, what="The engine's socket", hint=_HINT) as listener:
        server = await asyncio.start_unix_server(proxy.serve, sock=listener, limit=MAX_HEAD_BYTES)
        try:
            _log.bind(action="socket_proxy.open", socket=str(plan.socket)).info(
                "the socket is open"
            )
            yield
        finally:
            server.close()
            await proxy.end()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        msg = f"{path} can't be made: {e.strerror or e}. {_HINT}"
        raise PreconditionError(msg) from e


class _OverError(Exception):
    """One side of an exchange has ended it."""


class _Proxy:
    def __init__(self, plan: Plan, engine: Engine) -> None:
        self._plan = plan
        self._engine = engine
        self._pin = Pin(plan.socket.parent)
        self._tasks: set[asyncio.Task[None]] = set()

    async def end(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its request to its end."""
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= _MAX_CONNECTIONS:
            writer.close()
            return
        self._tasks.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # whoever asked has gone, is too slow, or says too much
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = "?"
        try:
            async with asyncio.timeout(_HEAD_S):
                head = parse_head(await reader.readuntil(END_OF_HEAD))
            asked = f"{head.method} {head.path[:200]}"
            body = await _read_body(reader, head)
            passed = judge(Asked(head=head, body=body))
            passed = await self._own(passed, body)
            _log.bind(action="socket_proxy.pass", asked=asked).debug("passed on")
            await self._relay(passed, head, reader, writer)
        except RefusedError as e:
            _log.bind(action="socket_proxy.refuse", asked=asked, why=str(e)[:500]).warning(
                "not passed on to the engine"
            )
            await _say(writer, 403, f"aiagentchat's socket proxy: {e}"[:1000])
        except RunnerGoneError:
            await _say(writer, 404, "No such container of this installation")
        except ImageMissingError:
            # The engine's own words: its client knows by them that it is about an image.
            await _say(writer, 404, "No such image of this installation")
        except (EngineRequestError, EngineUnavailableError) as e:
            await _say(writer, 502, str(e)[:1000])

    async def _own(self, passed: Passed, body: JsonObject) -> Passed:
        """The request with its subject's id, once that is the installation's."""
        if passed.creates:
            made = judge_creation(body, passed.creates, self._plan.bounds)
            await self._check_new(made)
            return replace(passed, body=made.body)
        if passed.labels:
            filters = passed.query.get("filters", "")
            named = find_installation(filters)
            pinned = self._pin.read() if named is None else self._pin.check(named)
            # Before there is one, nothing has its label.
            narrowed = add_label(filters, pinned or "none", passed.labels)
            return replace(passed, query={**passed.query, "filters": narrowed})
        if passed.pulls:
            await asyncio.to_thread(check_pull, passed.query)
        api = self._engine.api
        if passed.exec_id:
            found = await self._engine.call(api.exec_inspect, passed.exec_id)
            await self._find(str(found["ContainerID"]))
            return replace(passed, path=passed.path.format(id=passed.exec_id))
        if passed.image:
            image_id = await self._find_image(passed.image)
            return replace(passed, path=passed.path.format(id=image_id))
        if passed.container:
            container = await self._find(passed.container)
            if passed.starts:
                # The engine mounts now, and follows what has come there since.
                mounts = container["HostConfig"].get("Mounts") or ()
                await self._check_folders(Path(mount["Source"]) for mount in mounts)
            return replace(passed, path=passed.path.format(id=container["Id"]))
        return passed

    async def _find(self, reference: str) -> Mapping[str, Any]:
        """What the engine says of a container of the installation.

        Raises:
            RunnerGoneError: there is none, or it is somebody else's.
        """
        found: Mapping[str, Any] = await self._engine.call(
            self._engine.api.inspect_container, reference
        )
        labels = found["Config"]["Labels"] or {}
        pinned = self._pin.read()
        if pinned is None or pinned not in {
            labels.get(LABEL_INSTALLATION),
            labels.get(LABEL_PROBE),
        }:
            raise RunnerGoneError
        return found

    async def _find_image(self, reference: str) -> str:
        """The id of a runner's image, or of its base.

        Raises:
            ImageMissingError: there is none, or all its names are somebody else's.
        """
        found = await self._engine.call(self._engine.api.inspect_image, reference)
        image_id, names = str(found["Id"]), found.get("RepoTags") or ()
        # Without a name: one that was built anew, while a runner still has it.
        is_old = not names and reference == image_id
        is_own = is_old or await asyncio.to_thread(lambda: any(map(is_own_name, names)))
        if is_own or await self._is_allowed(image_id):
            return image_id
        raise ImageMissingError

    async def _check_new(self, made: NewContainer) -> None:
        self._pin.check(made.installation)
        found = await self._engine.call(self._engine.api.inspect_image, made.image)
        is_runners = any(n.startswith(f"{IMAGE_NAME}:") for n in found.get("RepoTags") or ())
        if not is_runners and not await self._is_allowed(made.image):
            msg = f"the image is none of {IMAGE_NAME}:…; the option --image allows another"
            raise RefusedError(msg)
        await self._check_folders(made.folders)

    async def _check_folders(self, folders: Iterable[Path]) -> None:
        for folder in folders:
            await asyncio.to_thread(check_folder, folder, self._plan.bounds.state_dir)

    async def _is_allowed(self, image: str) -> bool:
        for reference in self._plan.images:
            with contextlib.suppress(ImageMissingError):
                found = await self._engine.call(self._engine.api.inspect_image, reference)
                if found["Id"] == image:
                    return True
        return False

    async def _relay(
        self,
        passed: Passed,
        head: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        content = b"" if passed.body is None else json.dumps(passed.body).encode()
        if passed.builds:
            files = await _read_exactly(reader, head.content_length)
            content = await asyncio.to_thread(remake_build, passed.query, files)
        async with open_connection(self._engine.address, _ANSWER_HEAD_BYTES) as (ours, theirs):
            with contextlib.suppress(ConnectionError):  # its answer says why, or that it has gone
                theirs.write(_head(passed, len(content)) + content)
                await theirs.drain()
            if passed.upgrades:
                await self._relay_stream(ours, theirs, reader, writer)
            else:
                # The answer alone: a second request on this connection would not have been judged.
                await _first_of(self._relay_answer(ours, writer), _until_gone(reader))

    async def _relay_stream(
        self,
        ours: asyncio.StreamReader,
        theirs: asyncio.StreamWriter,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        # What is read of our client belongs to the stream: so nobody sees here that it has gone.
        answer = await self._read_answer(ours, CALL_S)
        if _SWITCHING in answer.split(b"\r\n", 1)[0]:
            writer.write(answer)
            # Until either side ends: our client never ends its half alone.
            await _first_of(_pump(reader, theirs), _pump(ours, writer))
        else:
            writer.write(_closing(answer))
            await _first_of(_pump(ours, writer), _until_gone(reader))

    async def _relay_answer(self, ours: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # A stop takes its grace, an event its time: without a bound, as long as somebody waits.
            answer = await self._read_answer(ours, None)
        except EngineUnavailableError as e:
            await _say(writer, 502, str(e)[:1000])
        else:
            writer.write(_closing(answer))
            await _pump(ours, writer)

    async def _read_answer(self, ours: asyncio.StreamReader, limit_s: float | None) -> bytes:
        """The head of the engine's answer.

        Raises:
            EngineUnavailableError: it has gone without one, or takes too long.
        """
        try:
            async with asyncio.timeout(limit_s):
                return await ours.readuntil(END_OF_HEAD)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as e:
            raise explain_unreachable(self._engine.address, e) from e


def check_folder(folder: Path, root: Path) -> None:
    """That it is a directory below `root`, and no part of the way there is a link. Blocks.

    It may be replaced between this look and the engine's: docs/security/engine-socket.md.

    Raises:
        RefusedError: it is not.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        here = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in folder.relative_to(root).parts:
                there = os.open(part, flags, dir_fd=here)
                os.close(here)
                here = there
        finally:
            os.close(here)
    except (OSError, ValueError) as e:
        msg = f"{folder} is no directory below {root} that is reached without links"
        raise RefusedError(msg) from e


async def _read_body(reader: asyncio.StreamReader, head: Head) -> JsonObject:
    """A JSON body; empty where it is a build's files, which stay where they are."""
    if takes_files(head):
        if head.content_length > MAX_BUILD_BYTES:
            msg = f"the files have more than {MAX_BUILD_BYTES} bytes"
            raise RefusedError(msg)
        return {}
    if head.content_length > MAX_JSON_BYTES:
        msg = f"the body has more than {MAX_JSON_BYTES} bytes"
        raise RefusedError(msg)
    return parse_body(await _read_exactly(reader, head.content_length))


async def _read_exactly(reader: asyncio.StreamReader, length: int) -> bytes:
    async with asyncio.timeout(_BODY_S):
        return await reader.readexactly(length)


def _head(passed: Passed, length: int) -> bytes:
    lines = [f"{passed.method} {passed.target} HTTP/1.1", "Host: docker"]
    if passed.upgrades:
        lines += ["Connection: Upgrade", "Upgrade: tcp"]
    elif not passed.builds:
        # With files it stays open: runners/engine_http.py says why.
        lines.append("Connection: close")
    kind = "application/x-tar" if passed.builds else "application/json"
    lines += [f"Content-Type: {kind}", f"Content-Length: {length}", "", ""]
    return "\r\n".join(lines).encode("ascii")


def _closing(head: bytes) -> bytes:
    """The head of an answer behind which nothing follows on this connection."""
    first, *lines = head.removesuffix(END_OF_HEAD).split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith((b"connection:", b"keep-alive:"))]
    return b"\r\n".join([first, *kept, b"Connection: close", b"", b""])


async def _say(writer: asyncio.StreamWriter, status: int, message: str) -> None:
    body = json.dumps({"message": message}).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body)
    await writer.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()


async def _until_gone(reader: asyncio.StreamReader) -> None:
    """Until whoever asked hangs up; what they say besides is thrown away."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(_CHUNK_BYTES):
            pass


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Until one of them is done; the others are given up."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(_then_over(work), name="socket_proxy:relay")
    except* _OverError:
        pass


async def _then_over(work: Coroutine[Any, Any, None]) -> NoReturn:
    await work
    raise _OverError
