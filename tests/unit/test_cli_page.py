"""The page of the commands says what the commands say."""

from __future__ import annotations

from scripts.cli_page import PAGE, build_page


def test_the_page_is_what_the_commands_make() -> None:
    assert PAGE.read_text() == build_page(), "run: python -m scripts.cli_page"


def test_both_commands_and_all_of_what_they_do_are_on_it() -> None:
    page = PAGE.read_text()
    for command in (
        *("orchestrator up", "orchestrator init", "orchestrator doctor", "orchestrator gc"),
        *("orchestrator config diff", "orchestrator audit messages", "orchestrator restore"),
        *("cchat send", "cchat tail", "cchat rooms", "cchat runners", "cchat login"),
    ):
        assert f"`{command}`" in page, command
