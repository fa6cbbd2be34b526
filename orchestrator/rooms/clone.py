"""`!clone URL [FOLDER]`: a repository, fetched by the runner's git over the room's own way out.

The address is one that `core.clone_url` let through. Whether its host may be reached decides the
egress gateway; where it refuses, the room is asked as for anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid

from orchestrator.core.cli_command import HOME, WORKSPACE
from orchestrator.core.clone_url import CloneOrder, CloneProblem, parse_clone
from orchestrator.core.texts import workspace as texts
from orchestrator.errors import FileRefusedError, RunnerError
from orchestrator.model import TurnOutcome
from orchestrator.rooms.connection import CLONE, Connection, Item, LinkLost
from orchestrator.rooms.copies import files_of
from orchestrator.rooms.errand import Answer, ErrandWork, fail, refuse
from orchestrator.rooms.room_runner import TROUBLE
from orchestrator.runners.event import CliStderr, Refused, SessionExited
from orchestrator.runners.link import RunnerLink

_MOST_S = 600.0
_STOP_S = 10.0
# People wonder after some 20 s, and don't want to read of it every minute.
_TELL_AT_S = (20.0, 120.0, 300.0)
_BEGUN = "begun:"
_KEPT_CHARS = 2000
# What git says of a proxy that answers 403 to its CONNECT.
_REFUSED = re.compile(r"(?:CONNECT tunnel failed|HTTP code|error:)[^\n]*\b403\b", re.IGNORECASE)
# One line of progress replaces the other.
_LINE_ENDS = re.compile(r"[\r\n]+")


async def clone(work: ErrandWork) -> Answer:
    """Fetch it, as the argument says."""
    order = parse_clone(work.errand.argument)
    if isinstance(order, CloneProblem):
        return refuse(texts.clone_hint(order))
    connection = await work.connect()
    files = files_of(connection)
    is_begun = work.errand.progress == f"{_BEGUN}{order.folder}"
    if is_begun:
        # Of an earlier life: nobody knows how far it came.
        await _stop(connection)
        await files.remove(order.folder)
    elif any(entry.path == order.folder for entry in await files.list()):
        return refuse(texts.clone_exists(order.folder))
    await work.note_progress(f"{_BEGUN}{order.folder}")
    try:
        return await _fetch(work, order, connection)
    except BaseException:
        # Cancelled, too: what is there in part is not left there.
        with contextlib.suppress(FileRefusedError, *TROUBLE):
            await _discard(connection, order)
        raise


async def _fetch(work: ErrandWork, order: CloneOrder, connection: Connection) -> Answer:
    ear = _GitEar()
    connection.listeners.add(ear.hear)
    try:
        await _start(work, order, await connection.ready())
        code = await _wait(work, ear)
    finally:
        connection.listeners.discard(ear.hear)
    if code == 0:
        return Answer(text=texts.cloned(order.url, order.folder))
    await _discard(connection, order)
    if code is None:
        return Answer(text=texts.clone_too_slow(_MOST_S), outcome=TurnOutcome.TIMED_OUT)
    if _REFUSED.search(ear.said):
        return fail(texts.clone_refused(order.host))
    return fail(texts.clone_failed(ear.last_words))


async def _start(work: ErrandWork, order: CloneOrder, link: RunnerLink) -> None:
    quarters = work.runner.quarters
    if quarters is None:
        raise RunnerError("the runner has no place yet")
    argv = ["/usr/bin/git", "-c", "protocol.allow=never", "-c", "protocol.https.allow=always"]
    argv += ["-c", "credential.helper=", "-c", "core.hooksPath=/dev/null"]
    argv += ["clone", "--progress", "--", order.url, order.folder]
    await link.open_session(
        f"{CLONE}:{uuid.uuid4()}",
        CLONE,
        argv=argv,
        env={
            **dict(quarters.environment),
            "HOME": HOME,
            "LANG": "C.UTF-8",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/true",
            "GIT_LFS_SKIP_SMUDGE": "1",
        },
        cwd=WORKSPACE,
    )


async def _wait(work: ErrandWork, ear: _GitEar) -> int | None:
    """Git's exit code; None where it met its time."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number, at_s in enumerate((*_TELL_AT_S, _MOST_S)):
        done, _ = await asyncio.wait([ear.ended], timeout=max(0.0, started + at_s - loop.time()))
        if done:
            return ear.ended.result()
        if at_s < _MOST_S:
            await work.tell(number, texts.clone_progress(ear.last_words or "no word of git yet"))
    return None


async def _discard(connection: Connection, order: CloneOrder) -> None:
    await _stop(connection)
    await files_of(connection).remove(order.folder)


async def _stop(connection: Connection) -> None:
    """End git and all that it started; it may have ended."""
    if CLONE not in connection.side_sessions:
        return
    ear = _GitEar()
    connection.listeners.add(ear.hear)
    try:
        link = await connection.ready()
        await link.signal_session(f"{CLONE}:{uuid.uuid4()}", CLONE, "terminate")
        await asyncio.wait([ear.ended], timeout=_STOP_S)
    finally:
        connection.listeners.discard(ear.hear)


class _GitEar:
    """What git says, and how it ends."""

    def __init__(self) -> None:
        self.said = ""
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<_GitEar {self.last_words!r}>"

    @property
    def last_words(self) -> str:
        """Its last line."""
        lines = [line for line in _LINE_ENDS.split(self.said) if line.strip()]
        return lines[-1] if lines else ""

    def hear(self, item: Item) -> None:
        """Whatever the runner says."""
        match item:
            case CliStderr() if item.session == CLONE:
                self.said = (self.said + item.text)[-_KEPT_CHARS:]
            case SessionExited() if item.session == CLONE and not self.ended.done():
                self.ended.set_result(1 if item.code is None else item.code)
            case Refused() if item.command_id.startswith(f"{CLONE}:") and not self.ended.done():
                self.said = item.why
                self.ended.set_result(1)
            case LinkLost() if not self.ended.done():
                self.ended.set_exception(RunnerError("the connection to the runner was lost"))
            case _:
                pass
