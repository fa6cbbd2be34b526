"""What the tests of compose/ share: its folder, its files, the tools that look at them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.metrics.figures import Figures, RoomDisk, RoomUse
from orchestrator.model import RunnerState, TurnOutcome

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose"
_TOOL_S = 120.0


def load(name: str) -> Any:
    """One of its files."""
    return yaml.safe_load((COMPOSE / name).read_text(encoding="utf-8"))


def services() -> dict[str, dict[str, Any]]:
    """Those of compose.yaml, by name."""
    found: dict[str, dict[str, Any]] = load("compose.yaml")["services"]
    return found


def alert_rules() -> list[dict[str, Any]]:
    """Those of alerts.yml."""
    return [rule for group in load("alerts.yml")["groups"] for rule in group["rules"]]


def tool(name: str) -> str:
    """The program's path; the test is skipped where there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(
    *command: str, cwd: Path = COMPOSE, timeout_s: float = _TOOL_S, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, with these variables beside our own."""
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def figures() -> Figures:
    """Some, of every kind."""
    return Figures(
        turns={TurnOutcome.DONE: 3},
        outbox_oldest_s=12.5,
        runners={RunnerState.RUNNING: 1},
        sync_connected=True,
        by_room=(RoomUse(room="a", memory_bytes=1, cpu_total_s=1, processes=1),),
        disks=(RoomDisk(room="a", used_bytes=1, limit_bytes=2),),
    )
