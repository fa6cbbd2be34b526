"""What the rooms need from the outside, as protocols; adapters live in `matrix` and `runners`.

Every method may be cancelled unless its docstring says otherwise; every method bounds its own waits
and raises only errors of `orchestrator.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from orchestrator.core.sandbox import SandboxSpec
from orchestrator.model import (
    EventId,
    InstallationId,
    JsonObject,
    JsonValue,
    RoomId,
    RoomSlug,
    RunnerState,
    TxnId,
    UserId,
)


class Homeserver(Protocol):
    """The agent's account on its homeserver, as far as rooms and the sender need it."""

    async def send_event(
        self, room_id: RoomId, event_type: str, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        """Send one event; encrypted where the room is. Idempotent by `txn_id` within the device.

        One attempt, bounded in time; never sleeps for a rate limit.

        Raises:
            RateLimitedError: with the wait that the homeserver named.
            HomeserverUnreachableError: no answer, or a 5xx; the event may have been accepted.
            RequestRefusedError: for good.
        """
        ...

    async def upload_file(self, room_id: RoomId, data: bytes, *, mimetype: str) -> JsonObject:
        """Upload a file for a room; sealed where the room is encrypted.

        One attempt, bounded in time. Not idempotent: a second one leaves an orphan.

        Returns:
            What an event's content needs to name the file: `url`, or `file` with the keys to it.

        Raises:
            RateLimitedError: with the wait that the homeserver named.
            HomeserverUnreachableError: no answer, or a 5xx.
            RequestRefusedError: for good; M_TOO_LARGE when it is larger than the homeserver takes.
        """
        ...

    async def set_typing(self, room_id: RoomId, *, typing: bool) -> None:
        """Show or hide the typing notice (for 30 s). Failures are swallowed: it is a courtesy."""
        ...

    async def mark_read(self, room_id: RoomId, event_id: EventId) -> None:
        """Send the read receipt. Failures are swallowed: it is a courtesy."""
        ...

    async def join(self, room_id: RoomId) -> None:
        """Accept an invitation. Idempotent.

        Raises:
            HomeserverUnreachableError: try again.
            RequestRefusedError: the invitation is void.
        """
        ...

    async def invite(self, room_id: RoomId, user_id: UserId) -> None:
        """Invite an account to a room.

        Raises:
            RateLimitedError: with the wait that the homeserver named.
            HomeserverUnreachableError: try again.
            RequestRefusedError: for good; M_FORBIDDEN where it is there already, too.
        """
        ...

    async def state_event(self, room_id: RoomId, event_type: str) -> JsonObject | None:
        """The room's own state event of a type, whole; None where there is none.

        Raises:
            RateLimitedError: with the wait that the homeserver named.
            HomeserverUnreachableError: try again.
            RequestRefusedError: for good.
        """
        ...

    async def resolve_alias(self, alias: str) -> RoomId | None:
        """The room that an alias (`#name:server`) stands for; None where it stands for none.

        Raises:
            HomeserverUnreachableError: try again.
        """
        ...

    async def leave(self, room_id: RoomId) -> None:
        """Leave, or decline an invitation. Idempotent; same errors as `join`."""
        ...


class ByteStream(Protocol):
    """A duplex byte stream to the main process of a runner: its stdin and its stdout."""

    async def read(self) -> bytes:
        """The next bytes of stdout, at most 64 KiB; b"" at the end. Cancel-safe: loses nothing.

        Raises:
            WireClosedError: the connection failed.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Write all of it, waiting for the other side. After a cancel the stream is unusable.

        Raises:
            WireClosedError: the connection failed or ended.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerInfo:
    """What the engine knows of one runner of this installation."""

    name: str
    slug: RoomSlug
    generation: int
    spec_hash: str
    state: RunnerState
    container_id: str
    started_at: str | None = None
    exit_code: int | None = None
    oom_killed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerStats:
    """One sample of what a runner uses."""

    memory_bytes: int
    memory_limit_bytes: int
    cpu_total_s: float
    pids: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerEvent:
    """Something happened to a runner of this installation: `start`, `die`, `oom` or `destroy`."""

    name: str
    slug: RoomSlug
    kind: str
    exit_code: int | None = None


class RunnerBackend(Protocol):
    """A container engine, in neutral words. Touches nothing that lacks this installation's label.

    Every call raises EngineUnavailableError (no engine) or EngineRequestError (it failed, or did
    not answer within 60 s) besides what is named below.
    """

    installation: InstallationId

    async def ensure(self, spec: SandboxSpec) -> RunnerInfo:
        """Create the runner unless one of that name exists; never starts or changes it. Idempotent.

        Raises:
            ImageMissingError: the spec's image is not there.
        """
        ...

    async def start(self, name: str) -> None:
        """Start it; nothing happens when it runs. Raises RunnerGoneError when it does not exist."""
        ...

    async def stop(self, name: str, *, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`. Idempotent; a missing runner is a stopped one."""
        ...

    async def remove(self, name: str) -> None:
        """Kill and remove it. Idempotent. Its working directory stays."""
        ...

    async def inspect(self, name: str) -> RunnerInfo | None:
        """The runner, or None."""
        ...

    async def list(self) -> Sequence[RunnerInfo]:
        """All runners of this installation, whatever their state."""
        ...

    def watch(self) -> AsyncIterator[RunnerEvent]:
        """Events from now on, until cancelled; reconnects by itself, so events can be missed."""
        ...

    async def count_tasks(self, name: str) -> int:
        """How many processes and threads it has. Raises RunnerGoneError when it does not run."""
        ...

    async def stats(self, name: str) -> RunnerStats:
        """One sample. Raises RunnerGoneError when it does not run."""
        ...

    def attach(self, name: str) -> AbstractAsyncContextManager[ByteStream]:
        """Attach to stdin and stdout of the running main process; detaches at exit, ends nothing.

        Only what is printed after the attach is seen. Raises RunnerGoneError when it does not run.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One entry of a workspace, as its runner says: the room's own word, not to be relied on."""

    path: str
    """Relative to the workspace, with `/`; never absolute, never with `..`."""
    kind: str
    """`file`, `directory`, `link` or `other`."""
    size_bytes: int
    modified_ns: int
    mode: int
    target: str | None = None
    """Of a link, where it points."""


class Workspace(Protocol):
    """A room's workspace, through its runner: as the room's own uid, never through a link.

    Whatever it says is the room's word: a runner can lie about its own files, and about no others.
    Every call is bounded in time and size, and raises RunnerError (no runner, or it does not
    answer) or FileRefusedError (no such file, a link, too large, outside: says which).
    """

    async def list(self, path: str = "", *, recursive: bool = False) -> Sequence[FileEntry]:
        """What is there, sorted by path; of a whole tree with `recursive`."""
        ...

    async def read(self, path: str, *, max_bytes: int) -> bytes:
        """A regular file's content."""
        ...

    async def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Make or replace a regular file, all or nothing; makes the directories above it."""
        ...

    async def link(self, path: str, target: str) -> None:
        """Make or replace a symbolic link."""
        ...

    async def make_directory(self, path: str, *, mode: int = 0o755) -> None:
        """Idempotent; makes those above it."""
        ...

    async def remove(self, path: str) -> None:
        """A file, a link, or a directory with all in it; what is not there is removed."""
        ...


class Encryption(Protocol):
    """End-to-end encryption of the agent's device. Input is hostile; nothing here raises for it."""

    async def handle_to_device(self, raw: str) -> Sequence[RoomId]:
        """Take in one to-device event; returns the rooms for which a key arrived with it."""
        ...

    async def handle_device_lists(self, raw: str) -> None:
        """Take in one `device_lists` object."""
        ...

    async def handle_state(self, room_id: RoomId, raw: str) -> None:
        """Take in a state event of a room: encryption switched on, members come and gone."""
        ...

    async def decrypt(self, raw: str, room_id: RoomId) -> str:
        """The event in clear, as JSON with type, content, sender and event_id.

        Raises:
            UndecryptableError: the key is missing (it may still arrive), or the event is malformed.
        """
        ...
