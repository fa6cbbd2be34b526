"""Write docs/states.md from the tables of orchestrator.core.lifecycle and .approval.

python -m scripts.state_diagrams
"""

from __future__ import annotations

import inspect
import sys
from enum import StrEnum
from pathlib import Path

from orchestrator.core.approval import APPROVAL_TABLE, ApprovalEvent, ApprovalState
from orchestrator.core.lifecycle import (
    RUNNER_TABLE,
    TURN_TABLE,
    RunnerAction,
    RunnerGoal,
    RunnerSight,
    TurnEvent,
)
from orchestrator.model import TurnState

PAGE = Path(__file__).resolve().parent.parent / "docs" / "states.md"

_HEAD = """\
# States

Written from the tables in `orchestrator/core/lifecycle.py` and `orchestrator/core/approval.py` by
`python -m scripts.state_diagrams`; a test compares them. Change the tables, not this page.

## A turn

What the picture has no arrow for is an error in the program (`IllegalTransitionError`) and changes
nothing. There is no arrow back from *running*: what may have been executed is never executed again.
"""

_RUNNER_HEAD = """\
## A runner

One step at a time: what the room wants of its runner (the column) and what the engine shows (the
row) give the next step; then look again. Replacing is *remove*, then *create* at the next look. An
outdated runner is one made from another specification than the one that is valid now.
"""

_APPROVAL_HEAD = """\
## A question to a room

What the room's runner wants and may not, until a person decides. The first decision stands: there
is no arrow out of any end.
"""


def render() -> str:
    """The whole page."""
    parts = [_HEAD, _turn_diagram(), _meanings(TurnEvent), _RUNNER_HEAD, _runner_table()]
    parts += [_meanings(RunnerSight), _meanings(RunnerGoal)]
    parts += [_APPROVAL_HEAD, _approval_diagram(), _meanings(ApprovalEvent)]
    return "\n".join(parts)


def _turn_diagram() -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {TurnState.QUEUED}"]
    for state, cells in TURN_TABLE.items():
        lines += [f"    {state} --> {target}: {event}" for event, target in cells.items()]
    return "\n".join([*lines, f"    {TurnState.ENDED} --> [*]", "```", ""])


def _approval_diagram() -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {ApprovalState.OPEN}"]
    for state, cells in APPROVAL_TABLE.items():
        lines += [f"    {state} --> {target}: {event}" for event, target in cells.items()]
        lines += [] if cells else [f"    {state} --> [*]"]
    return "\n".join([*lines, "```", ""])


def _runner_table() -> str:
    goals = list(RunnerGoal)
    lines = [f"| seen | {' | '.join(goals)} |", f"|---{'|---' * len(goals)}|"]
    for sight in RunnerSight:
        steps = [RUNNER_TABLE[goal][sight] for goal in goals]
        cells = ["–" if step is RunnerAction.NONE else str(step) for step in steps]
        lines.append(f"| {sight} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _meanings(kind: type[StrEnum]) -> str:
    """The sentence that stands below each member in the source."""
    source = inspect.getsource(sys.modules[kind.__module__]).split(f"class {kind.__name__}(", 1)[1]
    lines = []
    for member in kind:
        after = source.split(f'{member.name} = "{member.value}"\n', 1)[1].lstrip()
        if after.startswith('"""'):
            sentence = " ".join(after[3:].split('"""', 1)[0].split())
            lines.append(f"- **{member}**: {sentence}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")
