"""What `orchestrator doctor` found: one line a check, and what mends it. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check came out."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    """It works, and something about it is worth a look."""
    FAIL = "fail"
    """`orchestrator up` would not start, or would not do what it is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. `mend` is what to do about it, as a command where there is one."""

    name: str
    verdict: Verdict
    found: str
    mend: str | None = None


def passed(name: str, found: str) -> Check:
    """It is as it should be."""
    return Check(name=name, verdict=Verdict.PASS, found=found)


def warned(name: str, found: str, mend: str) -> Check:
    """It works for now."""
    return Check(name=name, verdict=Verdict.WARN, found=found, mend=mend)


def failed(name: str, found: str, mend: str) -> Check:
    """It must be mended."""
    return Check(name=name, verdict=Verdict.FAIL, found=found, mend=mend)


def is_healthy(checks: Sequence[Check]) -> bool:
    """Whether none failed."""
    return all(check.verdict is not Verdict.FAIL for check in checks)


def render_text(checks: Sequence[Check]) -> str:
    """For people: what failed stands out, what mends it is below it."""
    width = max((len(check.name) for check in checks), default=0)
    lines: list[str] = []
    for check in checks:
        mark = check.verdict.upper() if check.verdict is Verdict.FAIL else check.verdict
        lines.append(f"{mark}  {check.name:<{width}}  {check.found}")
        if check.mend is not None:
            lines.append(f"      {'':<{width}}  → {check.mend}")
    count = {verdict: sum(c.verdict is verdict for c in checks) for verdict in Verdict}
    lines.append(
        f"{count[Verdict.PASS]} passed, {count[Verdict.WARN]} to look at, "
        f"{count[Verdict.FAIL]} failed"
    )
    return "\n".join(lines)


def render_json(checks: Sequence[Check]) -> str:
    """For programs."""
    return json.dumps(
        {"healthy": is_healthy(checks), "checks": [asdict(check) for check in checks]}, indent=2
    )
