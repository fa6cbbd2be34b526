"""What differs between two configurations, and when that takes effect."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config import parse_config
from orchestrator.config_watch import changes_between
from orchestrator.core.config_diff import Effect, find_changes

BASE: dict[str, Any] = {
    "matrix": {"homeserver": "https://m.example.org", "user_id": "@claude:example.org"}
}
OPS = "#ops:example.org"


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, Effect]]:
    old, new = (parse_config({**BASE, **one}, source="c") for one in (before, after))
    return [(".".join(change.path), change.effect) for change in changes_between(old, new)]


def test_nothing_differs_where_nothing_does() -> None:
    assert changes({}, {"defaults": {"timeout_s": 300}}) == []


@pytest.mark.parametrize(
    ("section", "path", "effect"),
    [
        ({"defaults": {"timeout_s": 9}}, "defaults.timeout_s", Effect.AT_ONCE),
        ({"access": {"users": ["@*:a"]}}, "access.users", Effect.AT_ONCE),
        ({"gateway": {"quiet_s": 1}}, "gateway.quiet_s", Effect.AT_ONCE),
        ({"defaults": {"limits": {"memory": "1g"}}}, "defaults.limits.memory", Effect.RUNNER),
        ({"defaults": {"limits": {"disk": "1g"}}}, "defaults.limits.disk", Effect.AT_ONCE),
        ({"defaults": {"project": {"hooks": True}}}, "defaults.project.hooks", Effect.RUNNER),
        ({"docker": {"runtime": "runsc"}}, "docker.runtime", Effect.RUNNER),
        ({"docker": {"max_runners": 3}}, "docker.max_runners", Effect.AT_ONCE),
        ({"docker": {"max_starts": 3}}, "docker.max_starts", Effect.AT_ONCE),
        ({"defaults": {"permissions": "bypass"}}, "defaults.permissions", Effect.CLI),
        ({"defaults": {"model": "opus"}}, "defaults.model", Effect.CLI),
        ({"defaults": {"system_prompt": "x"}}, "defaults.system_prompt", Effect.CONVERSATION),
        ({"state_dir": "/srv/x"}, "state_dir", Effect.RESTART),
        (
            {"matrix": {"homeserver": "https://b", "user_id": "@claude:example.org"}},
            "matrix.homeserver",
            Effect.RESTART,
        ),
    ],
)
def test_each_key_has_its_effect(section: dict[str, Any], path: str, effect: Effect) -> None:
    assert changes({}, section) == [(path, effect)]


def test_what_a_room_has_from_the_defaults_is_named_once() -> None:
    room = {"rooms": {OPS: {"timeout_s": 9}}}
    found = changes(room, {**room, "defaults": {"ceiling_s": 60}})
    assert found == [("defaults.ceiling_s", Effect.AT_ONCE)]


def test_a_rooms_own_change_is_named_with_its_room_whatever_dots_are_in_it() -> None:
    before, after = ({"rooms": {OPS: {"limits": {"memory": m}}}} for m in ("1g", "2g"))
    assert changes(before, {**after, "defaults": {"limits": {"memory": "3g"}}}) == [
        ("defaults.limits.memory", Effect.RUNNER),
        (f"rooms.{OPS}.limits.memory", Effect.RUNNER),
    ]


@pytest.mark.parametrize("is_added", [True, False])
def test_a_room_that_is_named_or_no_more_differs_from_the_defaults(*, is_added: bool) -> None:
    named = {"rooms": {OPS: {"limits": {"memory": "1g"}, "timeout_s": 300}}}
    found = changes({}, named) if is_added else changes(named, {})
    assert found == [(f"rooms.{OPS}.limits.memory", Effect.RUNNER)]


def test_a_change_reads_as_a_line() -> None:
    (change,) = find_changes({"defaults": {"model": None}}, {"defaults": {"model": "opus"}})
    assert str(change) == (
        'defaults.model: – → "opus" '
        "(from the next turn on: the CLI is started anew, the conversation goes on)"
    )
