"""The daemon, again and again: with each new configuration, until something else ends it.

Rule: a configuration that the daemon does not start with is given up, and the one before it is
taken again; an error that comes later is an error.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from loguru import logger

from orchestrator.daemon import Plan, Say, run_daemon
from orchestrator.errors import AiAgentChatError, first_error


def serve(plan: Plan, make_plan: Callable[[], Plan], say: Say) -> None:
    """Run until a signal other than SIGHUP, or a failure.

    Args:
        plan: what to begin with.
        make_plan: reads the configuration and the secrets as they are now.
        say: tells whoever started it.

    Raises:
        AiAgentChatError: as `run_daemon`.
    """
    before: Plan | None = None
    while True:
        if plan.file is not None:
            # Until the daemon listens for it.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        by = _run(plan, say, falls_back=before is not None)
        if by is None and before is not None:
            plan, before = before, None
        elif by is not signal.SIGHUP:
            return
        else:
            new = _read(make_plan)
            plan, before = (plan, None) if new is None else (new, plan)


def _run(plan: Plan, say: Say, *, falls_back: bool) -> signal.Signals | None:
    """How it ended; None: it did not start, which is no end where one can fall back."""
    is_open = False

    def note_opened() -> None:
        nonlocal is_open
        is_open = True

    ended: signal.Signals | None = None
    try:
        with asyncio.Runner() as runner:
            ended = runner.run(run_daemon(plan, say, note_opened))
            if plan.file is not None:
                # The loop's end would give the signal its default back, which is the process's end.
                runner.get_loop().remove_signal_handler(signal.SIGHUP)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
    except* AiAgentChatError as errors:
        if is_open or not falls_back:
            raise
        logger.bind(action="config.reload").error(
            f"it does not start with the new configuration, and the old one is taken again: "
            f"{first_error(errors)}"
        )
    return ended


def _read(make_plan: Callable[[], Plan]) -> Plan | None:
    """What is said now; None: it is not usable, and nothing is to be fallen back from."""
    try:
        return make_plan()
    except AiAgentChatError as e:
        logger.bind(action="config.reload").error(
            f"the configuration is not usable, and the old one stays: {e}"
        )
        return None
