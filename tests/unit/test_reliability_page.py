"""docs/reliability.md: each of its rows names a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from scripts.fault_points import render_table

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
_COLUMNS = 6
_TEST = re.compile(r"`([\w/.-]+\.py)::(\w+)`")


def rows() -> list[list[str]]:
    """The cells of each row of the tables of faults (those with six columns), heads left out."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]
        is_head = cells[0] == "fault" or set(cells[0]) <= {"-"}
        if len(cells) == _COLUMNS and not is_head:
            found.append(cells)
    return found


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_every_fault_names_tests_that_exist() -> None:
    missing = []
    for cells in rows():
        named = _TEST.findall(cells[-1])
        if not named:
            missing.append(f"{cells[0]}: no test")
        for path, function in named:
            file = ROOT / path
            if not file.is_file() or function not in functions(file):
                missing.append(f"{cells[0]}: {path}::{function}")
    assert missing == []


def test_no_fault_is_listed_twice_and_each_says_what_the_room_sees() -> None:
    listed = rows()
    assert len(listed) >= 40
    faults = [cells[0] for cells in listed]
    assert sorted(faults) == sorted(set(faults))
    assert all(cell for cells in listed for cell in cells)


def test_the_steps_of_a_message_are_those_of_the_program() -> None:
    assert render_table() in PAGE.read_text(encoding="utf-8"), "run: python -m scripts.fault_points"
