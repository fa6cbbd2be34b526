"""How a measurement that starts an orchestrator begins and ends."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from loguru import logger

from tests.support.claude_cli import ensure_claude_cli
from tests.support.runner_engine import ensure_runner_image


def need_root() -> None:
    """End the program, in words, where nobody can start an orchestrator."""
    if os.geteuid() != 0:
        sys.exit("This starts an orchestrator, which needs root. Run it as root.")


def run_to_end(work: Coroutine[Any, Any, None], *, limit_s: float) -> None:
    """Run it; a hang (the work bounds itself by `limit_s`) and a Ctrl-C end in words."""
    try:
        asyncio.run(work)
    except TimeoutError:
        sys.exit(f"This did not end in time ({limit_s:.0f} s in all), and was stopped.")
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing that this started is left.")


def run_with_cli(run: Callable[[str, Path], Coroutine[Any, Any, None]], *, limit_s: float) -> None:
    """Run what needs the runner's image (its id) and the CLI; making them leaves stdout alone."""
    need_root()
    logger.remove()
    with redirect_stdout(sys.stderr):
        image, claude = ensure_runner_image(), ensure_claude_cli()
    run_to_end(run(image, claude), limit_s=limit_s)
