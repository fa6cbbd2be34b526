"""How a measurement that starts an orchestrator begins and ends."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any


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
