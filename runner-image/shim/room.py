"""The sessions of a room, and what commands do to them."""

from __future__ import annotations

import os

from shim import frames, limits, memory, process
from shim.session import SIGNALS, Session

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from shim.aside import Aside
    from shim.reactor import Reactor
    from shim.spool import Spool
    from shim.uplink import Uplink


class AppliedIds:
    """The commands that were applied in this life; the oldest of very many are forgotten."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def __contains__(self, command: str) -> bool:
        return command in self._ids

    def add(self, command: str) -> None:
        """Remember one."""
        self._ids[command] = None
        if len(self._ids) > limits.MAX_APPLIED_IDS:
            del self._ids[next(iter(self._ids))]


class Room:
    """Invariant: a command id is applied at most once; each command that counts gets one answer."""

    def __init__(self, reactor: Reactor, spool: Spool, aside: Aside, uplink: Uplink) -> None:
        self._reactor = reactor
        self._spool = spool
        self._aside = aside
        self._uplink = uplink
        self._epoch = os.urandom(16).hex()
        self._sessions: dict[str, Session] = {}
        self._by_pid: dict[int, Session] = {}
        self._applied = AppliedIds()
        self._is_stopping = False
        aside.call_when_room(self._resume)

    def __repr__(self) -> str:
        return f"Room({self._epoch[:8]}, {list(self._sessions.values())!r})"

    # What the downlink asks for.

    def attached(self, nonce: str, epoch: str | None, acked: int) -> None:
        """Someone is there: say who we are, then everything that they don't have."""
        if epoch == self._epoch:
            self.ack(acked)
        statuses = {name: session.status() for name, session in self._sessions.items()}
        self._uplink.greet(
            {
                "t": "welcome",
                "v": limits.VERSION,
                "nonce": nonce,
                "epoch": self._epoch,
                "first": self._spool.first,
                "next": self._spool.next_q,
                "sessions": statuses,
            }
        )

    def refused_version(self, nonce: str) -> None:
        """Someone is there who speaks another version: say ours."""
        self._uplink.note({"t": "welcome", "v": limits.VERSION, "nonce": nonce})

    def fault(self, why: str) -> None:
        """Say that the attach is ignored from here on, and why."""
        self._uplink.note({"t": "fault", "why": why})

    def ping(self, token: str) -> None:
        """Answer."""
        self._uplink.note({"t": "pong", "token": token})

    def ack(self, q: int) -> bool:
        """Forget up to `q`, and read on where there was no room; False if `q` was never sent."""
        known = self._spool.forget(q)
        if self._spool.take_emptied():
            memory.release()
        self._resume()
        return known

    def has_reserve(self) -> bool:
        """Whether a command's answers fit."""
        return self._spool.has_reserve()

    def open(
        self,
        command: str,
        session: str,
        argv: list[str],
        env: dict[str, str],
        cwd: str,
        *,
        kept: bool,
    ) -> None:
        """Start a session's process; what it prints is `kept` until it is acknowledged, or not."""
        if self._is_repeat(command):
            return
        why = self._why_not_open(session)
        if why is not None:
            self._refuse(command, why)
            return
        try:
            child = process.start(session, argv, env, cwd)
        except (OSError, ValueError) as error:
            # Python's own words, without the command or its environment.
            self._refuse(command, getattr(error, "strerror", None) or type(error).__name__)
            return
        aside = None if kept else self._aside
        started = Session(session, child, self._reactor, self._spool, self._forget_ended, aside)
        self._sessions.pop(session, None)
        self._sessions[session] = self._by_pid[child.pid] = started
        self._apply(command)
        self._spool.add_answer(frames.body({"t": "started", "s": session, "pid": child.pid}))

    def input(self, command: str, session: str, line: bytes) -> None:
        """Queue a line for a session's stdin."""
        if self._is_repeat(command):
            return
        target = self._sessions.get(session)
        backlog = sum(one.backlog_bytes for one in self._sessions.values())
        if target is None or not target.takes_input():
            self._refuse(command, "the session takes no input")
        elif backlog + len(line) > limits.MAX_INPUT_BACKLOG_BYTES:
            self._refuse(command, "too much input is waiting")
        else:
            target.write_line(line)
            self._apply(command)

    def close(self, command: str, session: str) -> None:
        """Close a session's stdin, after what is queued for it."""
        if self._is_repeat(command):
            return
        target = self._sessions.get(session)
        if target is None:
            self._refuse(command, "there is no such session")
        else:
            target.close_stdin()
            self._apply(command)

    def signal(self, command: str, session: str, how: str) -> None:
        """Interrupt the process, terminate its group, or kill all that belongs to the session."""
        if self._is_repeat(command):
            return
        target = self._sessions.get(session)
        if target is None:
            self._refuse(command, "there is no such session")
        elif how == "kill":
            self.kill(target)
            self._apply(command)
        elif not target.is_running():
            self._refuse(command, "the session has ended")
        else:
            target.signal(SIGNALS[how], group=how == "terminate")
            self._apply(command)

    # What the process itself asks for.

    def reap(self) -> None:
        """Take leave of the children that have ended, adopted ones included."""
        for pid, exit_code in process.reap():
            session = self._by_pid.pop(pid, None)
            if session is not None:
                session.on_reaped(exit_code)

    def stop(self) -> None:
        """Start nothing more, and close every stdin."""
        self._is_stopping = True
        for session in self._sessions.values():
            session.close_stdin()

    def is_over(self) -> bool:
        """Whether every session has said `exited`."""
        return all(session.is_ended for session in self._sessions.values())

    def kill(self, victim: Session | None, rounds: int = limits.MAX_KILL_ROUNDS) -> None:
        """Kill all that belongs to a session (None: everything), until a look finds nothing.

        Not what a later session of the same name has started meanwhile.
        """
        spared = [
            session
            for session in self._sessions.values()
            if session.is_running() and victim is not None and session is not victim
        ]
        names = [one.name for one in spared if victim is not None and one.name != victim.name]
        if process.kill_all_but([one.pid for one in spared], names) and rounds > 1:
            self._reactor.call_later(
                limits.KILL_ROUND_S, lambda: self.kill(victim, rounds=rounds - 1)
            )

    def _resume(self) -> None:
        for session in list(self._sessions.values()):
            session.resume()

    def _why_not_open(self, session: str) -> str | None:
        known = self._sessions.get(session)
        live = sum(not one.is_ended for one in self._sessions.values())
        if self._is_stopping:
            return "the runner is stopping"
        if known is not None and not known.is_ended:
            return "the session is running"
        if live >= limits.MAX_LIVE_SESSIONS:
            return f"{limits.MAX_LIVE_SESSIONS} sessions are running"
        return None

    def _forget_ended(self) -> None:
        ended = [name for name, session in self._sessions.items() if session.is_ended]
        for name in ended[: max(len(self._sessions) - limits.MAX_KNOWN_SESSIONS, 0)]:
            del self._sessions[name]

    def _is_repeat(self, command: str) -> bool:
        if command not in self._applied:
            return False
        self._spool.add_answer(frames.body({"t": "applied", "id": command, "dup": True}))
        return True

    def _apply(self, command: str) -> None:
        self._applied.add(command)
        self._spool.add_answer(frames.body({"t": "applied", "id": command, "dup": False}))

    def _refuse(self, command: str, why: str) -> None:
        self._spool.add_answer(frames.body({"t": "refused", "id": command, "why": why}))
