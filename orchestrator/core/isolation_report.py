"""What an audit of isolation says, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.core.isolation import Judged, Result, clean
from orchestrator.model import JsonValue, RoomId


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomReport:
    """One room. `runner` is None where none lives: then its directories alone were looked at."""

    room_id: RoomId
    slug: str
    runner: str | None
    judged: tuple[Judged, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationReport:
    """Everything. `gone`: runners that ended while they were looked at."""

    rooms: tuple[RoomReport, ...]
    installation: tuple[Judged, ...]
    gone: tuple[str, ...]

    @property
    def counts(self) -> Counter[Result]:
        """How many controls came out how."""
        return Counter(judged.verdict.result for judged in self._all())

    def is_clean(self) -> bool:
        """Whether nothing failed."""
        return not self.counts[Result.FAIL]

    def _all(self) -> Iterator[Judged]:
        yield from self.installation
        for room in self.rooms:
            yield from room.judged


def render_text(report: IsolationReport) -> str:
    """A line for each control, and the counts as the last."""
    lines = ["installation", *map(_line, report.installation)]
    for room in report.rooms:
        runner = room.runner or "no live runner"
        lines += [f"{clean(room.room_id)} ({runner})", *map(_line, room.judged)]
    lines += [f"{name}: ended while it was looked at" for name in report.gone]
    counts = report.counts
    parts = ", ".join(f"{counts[result]} {result}" for result in Result)
    live = sum(room.runner is not None for room in report.rooms)
    return "\n".join([*lines, f"{live or 'no'} live runner{'s' if live > 1 else ''}: {parts}"])


def render_json(report: IsolationReport) -> str:
    """The same for programs."""
    value: JsonValue = {
        "clean": report.is_clean(),
        "counts": {str(result): report.counts[result] for result in Result},
        "installation": _values(report.installation),
        "rooms": [
            {
                "room_id": room.room_id,
                "slug": room.slug,
                "runner": room.runner,
                "controls": _values(room.judged),
            }
            for room in report.rooms
        ],
        "gone": list(report.gone),
    }
    return json.dumps(value, indent=1)


def _line(judged: Judged) -> str:
    verdict = judged.verdict
    detail = f": {verdict.detail}" if verdict.detail else ""
    by = "; ".join(judged.required_by)
    return f"  {verdict.result.upper():4} {judged.id}: {judged.title}{detail} [{by}]"


def _values(judged: Sequence[Judged]) -> list[JsonValue]:
    return [
        {
            "id": each.id,
            "title": each.title,
            "result": each.verdict.result,
            "detail": each.verdict.detail,
            "required_by": list(each.required_by),
        }
        for each in judged
    ]
