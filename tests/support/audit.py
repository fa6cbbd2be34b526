"""`orchestrator audit messages`, as an operator types it: the judge of tests that break things."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.orchestrator import ORCHESTRATOR, clean_environment

_AUDIT_S = 120.0
_POLL_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What the command said. `report` is its JSON where it was asked for and came to one."""

    code: int
    out: str
    err: str
    report: Mapping[str, Any]

    def problems(self, event_id: str | None = None) -> list[str]:
        """The names of what is wrong, with one event or at all."""
        return [
            f["problem"]
            for f in self.report["findings"]
            if event_id is None or f["event_id"] == event_id
        ]


async def audit_messages(
    state_dir: Path, *options: str, as_json: bool = True, env: Mapping[str, str] | None = None
) -> Audit:
    """Run it once, to its end."""
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR,
        "audit",
        "messages",
        "--state-dir",
        str(state_dir),
        *(["--json"] if as_json else []),
        *options,
        env={**clean_environment(), **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(_AUDIT_S):
        out, err = await process.communicate()
    code = process.returncode
    assert code is not None
    report = json.loads(out) if as_json and code in (0, 1) and out else {}
    return Audit(code=code, out=out.decode(), err=err.decode(), report=report)


async def wait_settled(state_dir: Path, *options: str, timeout_s: float = 60) -> Audit:
    """Audit until nothing is in hand; the last report, clean or not.

    Raises:
        AssertionError: something was still in hand at the end of the time.
    """
    last: Audit | None = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                last = await audit_messages(state_dir, *options)
                assert last.code in (0, 1), last.err
                if not last.report["in_hand"]:
                    return last
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise AssertionError(f"still in hand: {last.out if last else 'never looked'}") from None
