"""Write the tables of docs/security/audit.md from orchestrator.core.isolation_controls.

python -m scripts.isolation_page
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.isolation_controls import CIS_RUNTIME, CONTROLS
from orchestrator.core.isolation_installation import INSTALLATION_CONTROLS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "security" / "audit.md"
START, END = "<!-- tables: scripts/isolation_page.py -->\n", "<!-- end of tables -->\n"


def render_tables() -> str:
    """Everything between the two marks."""
    runner = [(f"`{c.id}`", c.title, "; ".join(c.required_by)) for c in CONTROLS]
    once = [(f"`{id_}`", title, by) for id_, title, by, _ in INSTALLATION_CONTROLS]
    items = [
        (number, item.title, _answer(item.controls, item.reason))
        for number, item in CIS_RUNTIME.items()
    ]
    return "\n".join(
        (
            "### Of every live runner\n",
            _table(("control", "what must hold", "required by"), runner),
            "### Once\n",
            _table(("control", "what must hold", "required by"), once),
            "### CIS Docker Benchmark 1.6.0, section 5\n",
            _table(("item", "about", "checked by"), items),
        )
    )


def replace_tables(page: str) -> str:
    """The page with the tables as they are now.

    Raises:
        ValueError: a mark is missing.
    """
    before, _, rest = page.partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        msg = "the page has lost its marks"
        raise ValueError(msg)
    return f"{before}{START}\n{render_tables()}\n{END}{after}"


def _answer(controls: Sequence[str], reason: str) -> str:
    names = ", ".join(f"`{name}`" for name in controls)
    return "; ".join(part for part in (names, reason) if part)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(replace_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
