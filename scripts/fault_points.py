"""Print the table of fault points, for docs/reliability.md.

python -m scripts.fault_points
"""

from __future__ import annotations

from orchestrator.faultpoint import FaultPoint


def render_table() -> str:
    """One row for each point, in the order in which a message meets them."""
    rows = [f"| `{point.value}` | {point.where} |" for point in FaultPoint]
    return "\n".join(["| point | what is done, and what is not |", "|---|---|", *rows])


if __name__ == "__main__":
    print(render_table())
