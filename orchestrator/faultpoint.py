"""Places in the code at which a test can end the process, as a power failure would.

Every step that must survive a crash has a name here and calls `reach` when it gets there; every
transaction that changes something is reached by the name of the method that it belongs to, right
before and right after its commit. Nothing happens there, unless whoever started the process set

    AIAGENTCHAT_FAULT=NAME[:OCCURRENCE]   send itself SIGKILL there, the first time or a later one
    AIAGENTCHAT_FAULT_TRACE=FILE          append a line for each place that is reached: the
                                          monotonic time in seconds, a space, the name

Safe in production: nothing but these two variables arms a point, and only who starts the process
can set them; neither a room, nor a message, nor the configuration reaches them. All that the first
can do is what any SIGKILL does, and that loses nothing; the second writes names of places, no data.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

FAULT = "AIAGENTCHAT_FAULT"
TRACE = "AIAGENTCHAT_FAULT_TRACE"


class FaultPoint(StrEnum):
    """The named points, in the order in which a message meets them. `where` says what is done."""

    where: str

    def __new__(cls, name: str, where: str) -> FaultPoint:
        """A name for the environment, and a clause for people."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.where = where
        return member

    SYNC_RECEIVED = "sync:received", "an answer of /sync was read, nothing of it is stored"
    SYNC_COMMITTED = "sync:committed", "the answer is stored, nobody has looked at it"
    SYNC_FOLLOWED = "sync:followed", "the answer is stored and everybody who waits for it was woken"
    INBOX_TAKEN = "inbox:taken", "an item of the inbox was read and is about to be handled"
    INBOX_HANDLED = "inbox:handled", "an item was handled (or waits in a window), the next is not"
    INBOX_MARK = "inbox:mark", "what an item asked for was done, that it is done is not stored"
    INVITE_ANSWERED = "invite:answered", "an invitation was answered, and is not marked so"
    COMMAND_TAKEN = "command:taken", "a room command is about to take effect"
    COMMAND_ANSWERED = "command:answered", "a command's answer is stored with its mark, not sent"
    WINDOW_JOINED = "window:joined", "a message waits in its sender's window, in memory alone"
    WINDOW_CLOSING = "window:closing", "a sender's burst is over, and is no turn yet"
    WINDOW_CLOSED = "window:closed", "the burst is a turn, and nobody was woken to run it"
    RETIRE_BEGUN = "retire:begun", "the agent is no longer in a room, whose turns have not ended"
    RETIRE_ENDED = "retire:ended", "the turns of a room that was left have ended, its runner runs"
    RUNNER_COUNTED = "runner:counted", "a container has a number and does not exist"
    RUNNER_CREATED = "runner:created", "a container was created and is not started"
    RUNNER_STARTED = "runner:started", "a container was started and is not attached to"
    RUNNER_ATTACHED = "runner:attached", "the runner has answered the greeting"
    SESSION_STORED = "session:stored", "a session's id is stored, its process is not started"
    SESSION_OPENED = "session:opened", "the runner was told to start a session's process"
    COPY_TAKEN = "copy:taken", "the workspace was copied before a turn, which is not stored"
    COPY_STORED = "copy:stored", "a turn has its copy, and was not offered"
    OFFER_STORING = "offer:storing", "a turn is about to be marked as offered"
    OFFER_STORED = "offer:stored", "a turn is marked as offered, and was not written to the runner"
    OFFER_WRITTEN = "offer:written", "a turn was written to the runner, which has not answered"
    APPLIED_RECEIVED = "applied:received", "the runner has the turn, which is not stored"
    APPLIED_STORED = "applied:stored", "it is stored that the runner has the turn"
    OUTPUT_TAKEN = "output:taken", "text of the answer was taken in, and lives in memory alone"
    OUTPUT_FLUSHING = "output:flushing", "text is about to become messages"
    OUTPUT_FLUSHED = "output:flushed", "text is stored as messages, its frames not acknowledged"
    OUTPUT_ACKED = "output:acked", "frames were acknowledged to the runner"
    END_STORING = "end:storing", "a turn's end is known and not stored"
    END_STORED = "end:stored", "a turn's end is stored, its frames are not acknowledged"
    END_ACKED = "end:acked", "a turn's end is stored and acknowledged"
    OUTBOX_TAKEN = "outbox:taken", "a message is about to be sent, no attempt is recorded"
    OUTBOX_UPLOADED = "outbox:uploaded", "a message's file was uploaded, its address is not stored"
    OUTBOX_ATTEMPT = "outbox:attempt", "an attempt is recorded, and has not left"
    OUTBOX_SENT = "outbox:sent", "the homeserver has a message, which is not marked as sent"
    OUTBOX_MARKED = "outbox:marked", "a message is marked as sent"
    OUTBOX_REFUSED = "outbox:refused", "a message was refused for good, and the room not told"
    OUTBOX_TOLD = "outbox:told", "the room was told of a refusal that is not marked"


class _Armed:
    """What this process was asked to do. Invariant: one thread at a time counts and writes."""

    def __init__(self, fault: str | None, trace: int | None) -> None:
        name, _, count = (fault or "").rpartition(":")
        is_counted = bool(name) and count.isdecimal()
        self._name = name if is_counted else fault
        self._left = int(count) if is_counted else 1
        self._trace = trace
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<_Armed {self._name} left={self._left}>"

    def reach(self, name: str) -> None:
        """Note it; the process ends here when it is the one that was asked for."""
        with self._lock:
            if self._trace is not None:
                os.write(self._trace, f"{time.monotonic():.3f} {name}\n".encode())
            if name == self._name:
                self._left -= 1
                if self._left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)


_armed: _Armed | None = None


def arm(environment: Mapping[str, str]) -> None:
    """Arm what the environment asks for, once, before anything is started; else do nothing.

    Raises:
        OSError: the trace can't be written.
    """
    global _armed
    fault, file = environment.get(FAULT), environment.get(TRACE)
    if not fault and not file:
        _armed = None
        return
    trace = None
    if file:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        trace = os.open(Path(file), flags, 0o600)
    _armed = _Armed(fault, trace)


def reach(point: FaultPoint) -> None:
    """The process is here. Inert unless armed."""
    if _armed is not None:
        _armed.reach(point)


def reach_commit(work: object, side: str) -> None:
    """A transaction is right before or after its commit (`side`); `work` is its function."""
    if _armed is not None:
        _armed.reach(commit_point(work, side))


def commit_point(work: object, side: str) -> str:
    """`commit:Table.method:before` or `:after`, by the function's place in the code."""
    name = getattr(work, "__qualname__", type(work).__qualname__)
    return f"commit:{name.partition('.<locals>')[0]}:{side}"
