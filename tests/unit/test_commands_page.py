"""The page of commands says what the table says, and each command is carried out by something."""

from __future__ import annotations

import pytest

from orchestrator.core.command import COMMANDS, Command, CommandName, parse_command, render_help
from orchestrator.core.command_table import Group, Permission
from orchestrator.rooms.commands.table import HANDLERS
from scripts.commands_page import PAGE, build_page


def test_the_page_is_what_the_table_makes() -> None:
    assert PAGE.read_text() == build_page(), "run: python -m scripts.commands_page"


@pytest.mark.parametrize("name", CommandName)
def test_each_command_is_described_carried_out_and_its_examples_are_commands(
    name: CommandName,
) -> None:
    assert name in HANDLERS
    spec = COMMANDS[name]
    assert spec.summary[0].islower()
    assert not spec.summary.endswith(".")
    assert not spec.details or spec.details.endswith(".")
    for example in spec.examples:
        parsed = parse_command(example)
        assert isinstance(parsed, Command)
        assert parsed.name is name


def test_the_help_shows_what_somebody_may_use_and_nothing_else() -> None:
    for_readers = render_help({Permission.READ})
    assert "`!status`" in for_readers
    assert "`!cancel`" not in for_readers
    assert "`!invite-agent`" not in render_help({Permission.READ, Permission.RUN})
    everything = render_help()
    assert all(f"**{group}**" in everything for group in {s.group for s in COMMANDS.values()})
    assert len({spec.group for spec in COMMANDS.values()} - set(Group)) == 0
