"""A CLI in memory that behaves as docs/cli-facts.md says, scripted by prompt.

Its lines have the shapes of tests/recorded; `tests/unit/rooms/test_room_runner.py` compares them.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from files.__main__ import Files
from tests.support.memory_shim import CliProcess

Script = Callable[["Turn"], Coroutine[Any, Any, None]]


class ExitNow(Exception):  # noqa: N818 - how a script ends its process
    """The process ends by itself."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


@dataclass(slots=True)
class MemoryClaude:
    """What outlives a process: conversations on disk, and what the test wants to happen."""

    scripts: dict[str, Script] = field(default_factory=dict)
    """By a word that the prompt holds; without one the prompt is echoed."""
    conversations: dict[str, list[str]] = field(default_factory=dict)
    """Session id → uuids of the messages that it has seen."""
    asked: list[str] = field(default_factory=list)
    """Every prompt that was worked on, in order."""
    images: list[tuple[str, bytes]] = field(default_factory=list)
    """Kind and bytes of every image that the model was shown."""
    compacted: list[str] = field(default_factory=list)
    """Every `/compact` that had something to do."""
    started: list[list[str]] = field(default_factory=list)
    """The command line of every process."""
    on_start: Callable[[CliProcess], int | None] = lambda _: None
    """Gives an exit code to end at once with."""

    looks_for_s: float = 0.0
    """How long it looks for a session that is to be resumed, before it says that there is none."""
    files: Path = Path("/nonexistent")
    """Below it the workspace and the home of the one room whose files are looked at."""
    files_wait_s: float = 0.0
    """How long the program for the room's files takes for each request."""
    clones: dict[str, int] = field(default_factory=dict)
    """Addresses that git knows, with its exit code."""
    clone_s: float = 0.0
    """How long git takes."""

    async def __call__(self, process: CliProcess) -> int:
        if process.argv[-1] == "/opt/aiagentchat/files":
            return await self._serve_files(process)
        if process.argv[0] == "/usr/bin/git":
            return await self._clone(process)
        self.started.append(process.argv)
        if (code := self.on_start(process)) is not None:
            return code
        argv = process.argv
        if "--resume" in argv:
            session = argv[argv.index("--resume") + 1]
            if session not in self.conversations:
                await process.read()
                await asyncio.sleep(self.looks_for_s)
                process.write(unknown_session(session))
                process.complain(f"No conversation found with session ID: {session}")
                return 1
            if "--fork-session" in argv:
                seen = self.conversations[session]
                session = argv[argv.index("--session-id") + 1]
                self.conversations[session] = list(seen)
        else:
            session = argv[argv.index("--session-id") + 1]
            if session in self.conversations:
                process.complain(f"Error: Session ID {session} is already in use.")
                return 1
        return await self._serve(process, session)

    @property
    def workspace(self) -> Path:
        """The room's workspace."""
        return self.files / "workspace"

    async def _serve_files(self, process: CliProcess) -> int:
        """The real program, on the test's own directories."""
        roots = {"workspace": str(self.workspace), "home": str(self.files / "home")}
        for root in roots.values():
            Path(root).mkdir(parents=True, exist_ok=True)
        files = Files(roots, lambda line: process.write(json.dumps(line)))
        while (line := await process.read()) is not None:
            await asyncio.sleep(self.files_wait_s)
            files.answer(json.loads(line))
        files.forget_parts()
        return 0

    async def _clone(self, process: CliProcess) -> int:
        url, folder = process.argv[-2:]
        await asyncio.sleep(self.clone_s)
        code = self.clones.get(url, 128)
        if code == 0:
            (self.workspace / folder).mkdir(parents=True)
            (self.workspace / folder / "README").write_text("cloned")
        else:
            process.complain(f"fatal: unable to access '{url}'")
        return code

    def _rewind(self, process: CliProcess, session: str, message: dict[str, Any]) -> None:
        target = message["request"]["target_message_uuid"]
        seen = self.conversations.get(session, [])
        is_known = target in seen
        if is_known:
            del seen[seen.index(target) :]
        answer = {"rewound": is_known, **({} if is_known else {"reason": "target_not_found"})}
        response = {"subtype": "success", "request_id": message["request_id"], "response": answer}
        process.write(json.dumps({"type": "control_response", "response": response}))

    async def _serve(self, process: CliProcess, session: str) -> int:
        waiting: list[dict[str, Any]] = []
        while True:
            line = None if waiting else await process.read()
            if line is None and not waiting:
                if process.is_deaf:
                    await asyncio.Event().wait()
                return 0
            message = waiting.pop(0) if line is None else json.loads(line)
            if message.get("request", {}).get("subtype") == "rewind_conversation":
                self._rewind(process, session, message)
            if message["type"] == "user" and self._compact(process, session, message):
                continue
            if message["type"] == "user":
                try:
                    waiting += await self._turn(process, session, message)
                except ExitNow as end:
                    return end.code

    def _compact(self, process: CliProcess, session: str, message: dict[str, Any]) -> bool:
        content = words_of(message)
        if not content.startswith("/compact"):
            return False
        turn = Turn(process, session, message["uuid"], content)
        if not self.conversations.get(session):
            turn.text("Error: No messages to compact")
        else:
            self.compacted.append(content)
            metadata = {"trigger": "manual", "pre_tokens": 9892, "post_tokens": 2445}
            turn.line(type="system", subtype="compact_boundary", compact_metadata=metadata)
        turn.result("")
        return True

    async def _turn(
        self, process: CliProcess, session: str, message: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """One turn; the messages that came meanwhile and were not taken in."""
        uuid, prompt = message["uuid"], words_of(message)
        self.images += images_of(message)
        seen = self.conversations.setdefault(session, [])
        turn = Turn(process, session, uuid, prompt)
        if uuid in seen:
            turn.lifecycle("completed")
            return []
        seen.append(uuid)
        self.asked.append(prompt)
        turn.lifecycle("queued")
        turn.lifecycle("started")
        script = next((s for word, s in self.scripts.items() if word in prompt), echo)
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(turn.listen(), name="claude listens")
                work = group.create_task(turn.work(script), name="claude works")
                turn.task = work
                await asyncio.wait([work])
                listening.cancel()
        except* ExitNow as ends:
            raise _first(ends) from None
        seen += [one["uuid"] for one in turn.taken_in]
        self.asked += [one["message"]["content"] for one in turn.taken_in]
        return turn.came


class Turn:
    """One turn from inside; what scripts are given."""

    def __init__(self, process: CliProcess, session: str, uuid: str, prompt: str) -> None:
        self.process = process
        self.session = session
        self.uuid = uuid
        self.prompt = prompt
        self.task: asyncio.Task[None] | None = None
        self.ignores_interrupt = False
        self.answers: dict[str, dict[str, Any]] = {}
        self.came: list[dict[str, Any]] = []
        """Messages that came while it ran."""
        self.taken_in: list[dict[str, Any]] = []
        self._answered = asyncio.Event()
        self._interrupted = False

    async def work(self, script: Script) -> None:
        """The script, and its end."""
        try:
            await script(self)
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            self.line(
                type="result",
                subtype="error_during_execution",
                is_error=True,
                terminal_reason="aborted_streaming",
                errors=[],
                user_message_uuids=[self.uuid],
            )
            self.lifecycle("cancelled")

    async def listen(self) -> None:
        """Control lines on stdin while the turn runs."""
        while True:
            line = await self.process.read()
            if line is None:
                if not self.process.is_deaf:
                    self._interrupt()
                continue
            message = json.loads(line)
            if message["type"] == "user":
                self.came.append(message)
                lifecycle = {"command_uuid": message["uuid"], "state": "queued"}
                self.line(type="command_lifecycle", **lifecycle)
            elif message["type"] == "control_response":
                response = message["response"]
                self.answers[response["request_id"]] = response
                self._answered.set()
            elif not self.ignores_interrupt:
                self._interrupt()

    def _interrupt(self) -> None:
        if self.task is not None and not self._interrupted:
            self._interrupted = True
            self.task.cancel()

    def line(self, **values: Any) -> None:
        """Print a line."""
        self.process.write(json.dumps({**values, "session_id": self.session}))

    def lifecycle(self, state: str) -> None:
        """Print where the message is."""
        self.line(type="command_lifecycle", command_uuid=self.uuid, state=state)

    def text(self, text: str) -> None:
        """Print a text block."""
        content = [{"type": "text", "text": text}]
        self.line(type="assistant", message={"content": content}, parent_tool_use_id=None)

    def take_in(self) -> list[str]:
        """A tool's result: what came is read by the model now. Its words."""
        taken, self.came = self.came, []
        self.taken_in += taken
        return [one["message"]["content"] for one in taken]

    def result(self, text: str = "", **values: Any) -> None:
        """Print the result, and that the message is done with."""
        usual = {"subtype": "success", "is_error": False, "terminal_reason": "completed"}
        uuids = [self.uuid, *(one["uuid"] for one in self.taken_in)]
        self.line(**{**usual, **values}, result=text, type="result", user_message_uuids=uuids)
        self.lifecycle("completed")

    async def ask(
        self, tool: str, request_id: str, given: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        """Ask for a permission, and wait for the answer."""
        given = {"command": "x"} if given is None else given
        request = {"subtype": "can_use_tool", "tool_name": tool, "input": given, **more}
        self.line(type="control_request", request_id=request_id, request=request)
        return await self.wait_answer(request_id)

    async def wait_answer(self, request_id: str) -> dict[str, Any]:
        """Wait until a request is answered."""
        while request_id not in self.answers:
            self._answered.clear()
            await self._answered.wait()
        return self.answers[request_id]


def words_of(message: dict[str, Any]) -> str:
    """The text of a message of the user."""
    content = message["message"]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def images_of(message: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Kind and bytes of its images."""
    content = message["message"]["content"]
    parts = [] if isinstance(content, str) else content
    sources = [part["source"] for part in parts if part["type"] == "image"]
    return [(one["media_type"], base64.b64decode(one["data"])) for one in sources]


async def echo(turn: Turn) -> None:
    """The usual turn."""
    await asyncio.sleep(0.1)
    turn.text(f"You said: {turn.prompt}")
    turn.result(f"You said: {turn.prompt}")


def unknown_session(session: str) -> str:
    """What `--resume` of an unknown session prints."""
    return json.dumps(
        {
            "type": "result",
            "subtype": "error_during_execution",
            "is_error": True,
            "session_id": session,
            "errors": [f"No conversation found with session ID: {session}"],
        }
    )


def _first(ends: BaseExceptionGroup[ExitNow]) -> ExitNow:
    for error in ends.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError
