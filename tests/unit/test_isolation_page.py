"""docs/security/audit.md: its tables are the program's."""

from __future__ import annotations

from scripts.isolation_page import PAGE, replace_tables


def test_the_tables_of_the_page_are_those_of_the_program() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert replace_tables(page) == page, "run: python -m scripts.isolation_page"
