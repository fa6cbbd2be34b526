"""The pages about security name files, tests and pages that exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "SECURITY.md", *sorted((ROOT / "docs" / "security").glob("*.md"))]


@cache
def _tests() -> tuple[frozenset[str], str]:
    """The names of all test files, and their texts."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return frozenset(file.name for file in files), "\n".join(f.read_text() for f in files)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_is_there(page: Path) -> None:
    text, (known, everything) = page.read_text(), _tests()
    for name in set(re.findall(r"test_[a-z0-9_]+\.py", text)):
        assert name in known, name
    for name in set(re.findall(r"::(test_[a-z0-9_]+)(?![a-z0-9_…])", text)):
        assert f"def {name}(" in everything, name


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = (ROOT / "docs" / "security" / "README.md").read_text()
    for page in PAGES[1:]:
        assert page.name == "README.md" or f"({page.name})" in contents, page.name
