"""Who may do what: by lists, by a room's power levels, by both; agents and room versions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.command import Permission
from orchestrator.core.role import NOTHING, PERMISSIONS, Role, Roles, RoomPower, parse_power

ADMIN, MOD, BOB, AGENT = "@admin:a.org", "@mod:a.org", "@bob:b.org", "@reviewer:a.org"
LEVELS = {Role.ADMIN: 100, Role.APPROVER: 50, Role.USER: 0}
NAMED = {Role.ADMIN: ["@root:a.org"], Role.USER: ["@*:a.org"], Role.READER: ["@*:b.org"]}


def power(**content: Any) -> RoomPower:
    return parse_power({"room_version": "11"}, ADMIN, content)


def test_each_list_gives_its_role_and_admins_everything() -> None:
    roles = Roles(by_name=NAMED)
    assert roles.of("@root:a.org", None) == frozenset(Permission)
    assert roles.of("@x:a.org", None) == PERMISSIONS[Role.USER]
    assert roles.of(BOB, None) == {Permission.READ}
    assert roles.of("@x:a.org.evil", None) == NOTHING


def test_a_rooms_levels_add_to_the_lists_and_give_nothing_unless_the_operator_says_so() -> None:
    levels = power(users={ADMIN: 100, MOD: 50}, users_default=0)
    by_both = Roles(by_name={Role.READER: [BOB]}, by_level=LEVELS)
    assert by_both.of(ADMIN, levels) == frozenset(Permission)
    assert by_both.of(MOD, levels) == PERMISSIONS[Role.USER] | PERMISSIONS[Role.APPROVER]
    assert by_both.of(BOB, levels) == PERMISSIONS[Role.USER]
    assert Roles(by_name={}).of(ADMIN, levels) == NOTHING
    assert by_both.of(ADMIN, None) == NOTHING, "levels that are not known give nothing"


def test_without_an_event_of_levels_the_creator_alone_has_any() -> None:
    bare = parse_power({"room_version": "10"}, ADMIN, None)
    assert (bare.level(ADMIN), bare.level(BOB)) == (100, 0)


def test_creators_stand_above_all_levels_from_room_version_12_on_and_not_before() -> None:
    creation = {"room_version": "12", "additional_creators": [MOD, 7]}
    new = parse_power(creation, ADMIN, {"users": {BOB: 100}})
    assert new.level(ADMIN) == new.level(MOD) == float("inf")
    assert new.level(BOB) == 100
    for version in ("11", "1", "org.matrix.experiment", 12, None):
        old = parse_power({**creation, "room_version": version}, ADMIN, {"users": {}})
        assert old.level(ADMIN) == old.level(MOD) == 0, version


@pytest.mark.parametrize(
    "content",
    [
        {"users": [ADMIN]},
        {"users": {ADMIN: True}},
        {"users": {ADMIN: "much"}},
        {"users": {ADMIN: None}, "users_default": [100]},
        {"users": {ADMIN: 99.5}},
        {"users": {ADMIN: "9" * 5000}},
    ],
)
def test_malformed_levels_give_nobody_anything(content: Any) -> None:
    assert power(**content).level(ADMIN) == 0


def test_old_rooms_have_levels_as_text() -> None:
    assert power(users={ADMIN: "100"}).level(ADMIN) == 100


@given(st.sampled_from([ADMIN, MOD, BOB, AGENT]), st.integers(-100, 200))
def test_an_agents_account_never_decides_nor_administers(user: str, level: int) -> None:
    roles = Roles(by_name={Role.ADMIN: ["@*:*"]}, by_level=LEVELS, agents={user})
    found = roles.of(user, power(users={user: level}))
    assert found == {Permission.READ, Permission.RUN}


def test_whether_anybody_can_decide_leaves_agents_out() -> None:
    assert not Roles(by_name={Role.USER: ["@*:*"]}).names_any(Permission.DECIDE)
    agents = Roles(by_name={Role.APPROVER: [AGENT]}, agents={AGENT})
    assert not agents.names_any(Permission.DECIDE)
    assert Roles(by_name={}, by_level={Role.APPROVER: 50}).names_any(Permission.DECIDE)
