"""Room commands: what is one, and what is said to a mistyped one."""

from __future__ import annotations

import pytest

from orchestrator.core.command import (
    Command,
    CommandName,
    UnknownCommand,
    parse_command,
    render_help,
)


@pytest.mark.parametrize("name", list(CommandName))
def test_every_command_is_parsed_and_stands_in_the_help(name: CommandName) -> None:
    assert parse_command(f" !{name.upper()}  some words ") == Command(
        name=name, argument="some words"
    )
    assert f"`!{name}`" in render_help()


@pytest.mark.parametrize(
    ("text", "nearest"), [("!stauts", "status"), ("!cancle", "cancel"), ("!xyzzy", None)]
)
def test_an_unknown_command_comes_with_the_nearest_name(text: str, nearest: str | None) -> None:
    assert parse_command(text) == UnknownCommand(name=text[1:], nearest=nearest)


@pytest.mark.parametrize("text", ["hello", "", "!", "!!", "!?", "a !help", "! help", "!1", "!=x"])
def test_other_text_is_no_command(text: str) -> None:
    assert parse_command(text) is None
