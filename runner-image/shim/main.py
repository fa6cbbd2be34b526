"""Puts the parts together, turns the loop, and ends it: SIGTERM, or the end of stdin."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from shim import hardening, identity, limits
from shim.aside import Aside
from shim.downlink import Downlink
from shim.forwarder import Forwarder
from shim.reactor import READ, Reactor
from shim.room import Room
from shim.spool import Spool
from shim.uplink import Uplink

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable

_STDIN, _STDOUT, _STDERR = 0, 1, 2

EXIT_OK = 0
EXIT_NOT_STARTED = 1
EXIT_NO_WIRE = 3
"""The engine closed stdin or stdout: nobody could ever reach us again."""

_DEFAULT_PORT = "8317"
_DEFAULT_EGRESS = "/run/egress/egress.sock"


class Shim:
    """Ends in steps: grace for the CLIs, then kill and reap, then flush; each has a bound."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._spool = Spool()
        aside = Aside()
        self._uplink = Uplink(reactor, _STDOUT, self._spool, aside, self._wire_ended)
        self._room = Room(reactor, self._spool, aside, self._uplink)
        self._downlink = Downlink(self._room)
        self._exit_code = EXIT_OK
        self._step: Callable[[], bool] | None = None
        self._step_ends_at = 0.0
        self._signals = _open_signals()
        os.set_blocking(_STDIN, False)
        reactor.want(_STDIN, READ, self._stdin_readable)
        reactor.want(self._signals, READ, self._signalled)

    def run(self) -> int:
        """Turn until it is over; the exit code."""
        while not self._advance():
            self._uplink.flush()
            self._reactor.turn()
        return self._exit_code

    def _stdin_readable(self, _ready: int) -> None:
        try:
            data = os.read(_STDIN, limits.CHUNK_BYTES)
        except BlockingIOError:
            return
        if data:
            self._downlink.feed(data)
        else:
            self._wire_ended()

    def _signalled(self, _ready: int) -> None:
        numbers = os.read(self._signals, limits.CHUNK_BYTES)
        if signal.SIGCHLD in numbers:
            self._room.reap()
        if signal.SIGTERM in numbers:
            if self._step is None:
                self._stop(EXIT_OK)
            else:
                self._step_ends_at = 0.0  # a second one: skip the grace

    def _wire_ended(self) -> None:
        self._reactor.drop(_STDIN)
        if self._step is None:
            say("stdin or stdout was closed; stopping")
            self._stop(EXIT_NO_WIRE)

    def _stop(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._room.stop()
        self._enter(self._has_wound_down, limits.STOP_GRACE_S)

    def _enter(self, step: Callable[[], bool], bound_s: float) -> None:
        self._step = step
        self._step_ends_at = self._reactor.now() + bound_s
        self._reactor.call_later(bound_s, lambda: None)  # wakes the loop when time is up

    def _advance(self) -> bool:
        """One step further, if this one is done or has taken too long; True at the end."""
        if self._step is None or not (self._step() or self._reactor.now() >= self._step_ends_at):
            return False
        if self._step == self._has_wound_down:
            self._room.kill(None)
            self._enter(self._is_reaped, limits.STOP_REAP_S)
        elif self._step == self._is_reaped:
            self._enter(self._uplink.is_drained, limits.STOP_FLUSH_S)
        else:
            return True
        return self._advance()

    def _has_wound_down(self) -> bool:
        return self._room.is_over()

    def _is_reaped(self) -> bool:
        return self._room.is_over()


def main() -> int:
    """Run as the main process of a runner; the exit code."""
    os.set_blocking(_STDERR, False)
    try:
        hardening.forbid_inspection()
        hardening.adopt_orphans()
        reactor = Reactor()
        port = int(os.environ.get("AIAGENTCHAT_FORWARD_PORT", _DEFAULT_PORT))
        egress = os.environ.get("AIAGENTCHAT_EGRESS_SOCKET", _DEFAULT_EGRESS)
        Forwarder(reactor, port, egress)
        shim = Shim(reactor)
    except (OSError, ValueError) as error:
        say(f"can't start: {error}; stdin must be a pipe that stays open, and the port free")
        return EXIT_NOT_STARTED
    if not identity.write_identity(os.environ.get("AIAGENTCHAT_NSS_DIR", identity.NSS_DIR)):
        say("the name of this uid could not be written; whoami and ssh won't know it")
    return shim.run()


def say(text: str) -> None:
    """Tell the engine's log, if it listens; never the wire."""
    with contextlib.suppress(OSError):
        os.write(_STDERR, f"shim: {text}\n".encode())


def _open_signals() -> int:
    """A descriptor that gives the number of each signal that this process handles."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    # The kernel does not deliver to PID 1 what it has no handler for; Python's own would be one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return reading


if __name__ == "__main__":
    sys.exit(main())
