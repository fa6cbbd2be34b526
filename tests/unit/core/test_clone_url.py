"""What is fetched is an https address, and nothing that git could take for something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.clone_url import CloneOrder, CloneProblem, parse_clone
from orchestrator.core.command_table import COMMANDS, CommandName
from orchestrator.core.texts.workspace import clone_hint


@pytest.mark.parametrize(
    ("argument", "folder"),
    [
        ("https://git.example.org/team/tool.git", "tool"),
        ("https://git.example.org/team/tool", "tool"),
        ("https://git.example.org/team/tool/", "tool"),
        ("<https://git.example.org:8443/team/tool>", "tool"),
        ("https://git.example.org/team/tool other", "other"),
    ],
)
def test_an_address_is_taken_with_its_folder(argument: str, folder: str) -> None:
    order = parse_clone(argument)
    assert isinstance(order, CloneOrder)
    assert (order.host, order.folder) == ("git.example.org", folder)


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("", CloneProblem.FORM),
        ("tool", CloneProblem.FORM),
        ("https://git.example.org", CloneProblem.FORM),
        ("https://git.example.org/", CloneProblem.FORM),
        ("https://git.example.org/a b c", CloneProblem.FORM),
        ("https://git.example.org/a?x=1", CloneProblem.FORM),
        ("https://git.example.org/../a", CloneProblem.FORM),
        ("https://git.example.org:99999/a", CloneProblem.FORM),
        ("https://me:secret@git.example.org/a", CloneProblem.CREDENTIALS),
        ("http://git.example.org/a", CloneProblem.SCHEME),
        ("ssh://git@git.example.org/a", CloneProblem.SCHEME),
        ("file:///etc", CloneProblem.SCHEME),
        ("ext::sh -c id", CloneProblem.FORM),
        ("--upload-pack=id", CloneProblem.FORM),
        ("git@github.com:a/b.git", CloneProblem.FORM),
        ("https://git.example.org/a --config=x", CloneProblem.NAME),
        ("https://git.example.org/a ../b", CloneProblem.NAME),
        ("https://git.example.org/a .git", CloneProblem.NAME),
        ("https://git.example.org/a/.git", CloneProblem.NAME),
        ("https://git.example.org/-a", CloneProblem.NAME),
    ],
)
def test_anything_else_is_told_apart(argument: str, problem: CloneProblem) -> None:
    assert parse_clone(argument) is problem


@given(st.text(max_size=60))
def test_no_text_becomes_an_option_or_leads_out_of_the_workspace(text: str) -> None:
    for argument in (text, f"https://git.example.org/{text}", f"https://a.org/b {text}"):
        order = parse_clone(argument)
        if isinstance(order, CloneOrder):
            assert order.url.startswith("https://")
            assert order.url.isascii()
            assert "/" not in order.folder
            assert order.folder[0] not in ".-"


def test_what_the_help_and_the_hint_show_is_what_is_taken() -> None:
    spec = COMMANDS[CommandName.CLONE]
    orders = [parse_clone(example.partition(" ")[2]) for example in spec.examples]
    folders = [order.folder for order in orders if isinstance(order, CloneOrder)]
    assert folders == ["project", "other"]
    assert spec.usage == "URL [FOLDER]"
    assert "project [FOLDER]`" in clone_hint(CloneProblem.FORM)
