"""Every action that is logged is on the page, and each line has one."""

from __future__ import annotations

import re

import pytest

from scripts.logs_page import PAGE, build_page, find_lines


def test_the_page_is_what_the_code_logs() -> None:
    assert PAGE.read_text() == build_page(), "run: python -m scripts.logs_page"


def test_every_line_has_an_action_and_a_text() -> None:
    lines = list(find_lines())
    assert len(lines) > 150
    for line in lines:
        assert re.fullmatch(r"[a-z….][a-z_….]*", line.action), line
        assert line.text.strip(), line


@pytest.mark.parametrize(
    "row",
    [
        "| `errand.…` | INFO | done |",  # a name is put in
        "| `disk.make` | WARNING |",  # bound before, and given to a name
        "| `egress_failed` | WARNING |",  # through the gateway's pace
        "| `control_open` | INFO | control socket open |",  # given with the call
    ],
)
def test_each_way_to_name_an_action_is_followed(row: str) -> None:
    assert row in build_page()
