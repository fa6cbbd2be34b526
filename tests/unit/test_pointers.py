"""What a text of the program points to is there, and says what it was pointed to for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.engine_facts import ADVISORIES, Advisory

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("orchestrator", "cli", "runner-image", "scripts", "bench", "compose", ".ci")
# `docs/decisions/0014` names a decision by its number.
POINTER = re.compile(r"(?<![\w./-])(docs/[\w./-]*\w|[A-Z][A-Z_]+\.md)")
# Of a workspace, for the CLI; of another's package.
NOT_OURS = {"CLAUDE.md", "LICENSE.md"}
MEND = re.compile(r'"see (docs/[\w/.-]+\.md)"')


def _sources() -> Iterator[Path]:
    yield from (ROOT / "Makefile", ROOT / "pyproject.toml")
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*")):
            if path.is_file() and path.suffix != ".pyc" and "node_modules" not in path.parts:
                yield path


def _pointers(path: Path) -> set[str]:
    return set(POINTER.findall(path.read_text(encoding="utf-8", errors="replace"))) - NOT_OURS


def _is_there(pointer: str, beside: Path) -> bool:
    if re.fullmatch(r"docs/decisions/\d{4}", pointer):
        return len(list((ROOT / "docs" / "decisions").glob(f"{pointer[-4:]}-*.md"))) == 1
    return (ROOT / pointer).exists() or (beside.parent / pointer).exists()


def test_every_file_that_is_pointed_to_is_there() -> None:
    found = {path: _pointers(path) for path in _sources()}
    assert sum(map(len, found.values())) > 40
    lost = [
        f"{path.relative_to(ROOT)}: {pointer}"
        for path, pointers in found.items()
        for pointer in sorted(pointers)
        if not _is_there(pointer, path)
    ]
    assert lost == []


def test_a_pointer_to_nothing_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        '"see docs/nowhere.md, docs/decisions/9999, NOTHING.md or docs/architecture.md."'
    )
    lost = {pointer for pointer in _pointers(path) if not _is_there(pointer, path)}
    assert lost == {"docs/nowhere.md", "docs/decisions/9999", "NOTHING.md"}


@pytest.mark.parametrize("advisory", ADVISORIES, ids=lambda one: one.names)
def test_where_the_doctor_sends_people_for_an_advisory_it_is_named(advisory: Advisory) -> None:
    source = (ROOT / "orchestrator" / "doctor" / "engine.py").read_text(encoding="utf-8")
    pages = set(MEND.findall(source))
    assert pages
    for page in pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        for name in advisory.names.split(", "):
            assert name in text, page
