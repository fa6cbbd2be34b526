"""Who may do what in a room: by the operator's lists, by the room's power levels, or by both. Pure.

A role is a set of permissions; somebody has those of all roles that anything gives them. Rules: an
account of an agent never decides and never administers, whatever a list or a room says; where a
room's levels are not known, they give nothing.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from orchestrator.core.command import Permission

Permissions = frozenset[Permission]
NOTHING: Permissions = frozenset()
# Room versions whose creators stand above every level; names that nobody knows are newer ones.
_FIRST_WITH_CREATORS = 12
_CREATOR_LEVEL = 100
# Levels in a content that one would have to look through; a room has some hundred at most.
_MAX_LISTED = 10_000


class Role(StrEnum):
    """What the operator calls people."""

    READER = "reader"
    USER = "user"
    APPROVER = "approver"
    ADMIN = "admin"


PERMISSIONS: Mapping[Role, Permissions] = MappingProxyType(
    {
        Role.READER: frozenset({Permission.READ}),
        Role.USER: frozenset({Permission.READ, Permission.RUN}),
        Role.APPROVER: frozenset({Permission.READ, Permission.DECIDE}),
        Role.ADMIN: frozenset(Permission),
    }
)
_NOT_FOR_AGENTS: Permissions = frozenset({Permission.DECIDE, Permission.ADMINISTER})


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomPower:
    """A room's power levels, as its state has them."""

    creators: frozenset[str] = frozenset()
    are_creators_above: bool = False
    """Room version 12 and later: no level is as high as a creator's."""
    users: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    users_default: int = 0

    def level(self, user_id: str) -> float:
        """Somebody's level here."""
        if self.are_creators_above and user_id in self.creators:
            return float("inf")
        return self.users.get(user_id, self.users_default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which people have which role, in every room or by a room's levels."""

    by_name: Mapping[Role, Sequence[str]]
    """Patterns as in a shell."""
    by_level: Mapping[Role, int] = field(default_factory=lambda: MappingProxyType({}))
    """The least level that gives the role; a role that is not in it is given by none."""
    agents: Collection[str] = ()
    """The accounts of agents, this one's included."""

    def of(self, user_id: str, power: RoomPower | None) -> Permissions:
        """What somebody may do in a room with these levels; None: they are not known."""
        found = set[Permission]()
        for role, patterns in self.by_name.items():
            if any(fnmatch.fnmatchcase(user_id, pattern) for pattern in patterns):
                found |= PERMISSIONS[role]
        for role, least in self.by_level.items():
            if power is not None and power.level(user_id) >= least:
                found |= PERMISSIONS[role]
        return frozenset(found - _NOT_FOR_AGENTS if user_id in self.agents else found)

    def names_any(self, permission: Permission) -> bool:
        """Whether anybody can have it, an agent left out."""
        for role in Role:
            if permission not in PERMISSIONS[role]:
                continue
            if role in self.by_level or set(self.by_name.get(role, ())) - set(self.agents):
                return True
        return False


def parse_power(
    creation: Mapping[str, object] | None, creator: str | None, levels: Mapping[str, object] | None
) -> RoomPower:
    """A room's levels out of the contents of its `m.room.create` and `m.room.power_levels`.

    Without the latter its creator has 100, and everybody else 0. What is not as Matrix has it
    gives nobody anything.
    """
    is_new = _is_new_version((creation or {}).get("room_version", "1"))
    creators = {creator} if creator else set[str]()
    if is_new:
        creators |= _user_ids((creation or {}).get("additional_creators"))
    if levels is None:
        users = {} if is_new else dict.fromkeys(creators, _CREATOR_LEVEL)
        return RoomPower(
            creators=frozenset(creators), are_creators_above=is_new, users=MappingProxyType(users)
        )
    listed = levels.get("users")
    known = list(listed.items())[:_MAX_LISTED] if isinstance(listed, dict) else []
    users = {user: n for user, value in known if (n := _level(value)) is not None}
    return RoomPower(
        creators=frozenset(creators),
        are_creators_above=is_new,
        users=MappingProxyType(users),
        users_default=_level(levels.get("users_default")) or 0,
    )


def _is_new_version(version: object) -> bool:
    """Of versions that are no number (experiments) nobody stands above all levels."""
    return (
        isinstance(version, str)
        and version.isdecimal()
        and (len(version) < 5 and int(version) >= _FIRST_WITH_CREATORS)
    )


def _level(value: object) -> int | None:
    """Old rooms have levels as text."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and len(value) < 20:
        try:
            return int(value)
        except ValueError:
            return None
    return None


def _user_ids(value: object) -> set[str]:
    return {user for user in value if isinstance(user, str)} if isinstance(value, list) else set()


def name_who_may(permission: Permission) -> str:
    """For a sentence: who has it."""
    return _WHO[permission]


_WHO: Mapping[Permission, str] = MappingProxyType(
    {
        Permission.READ: "readers, users, approvers and admins",
        Permission.RUN: "users and admins",
        Permission.DECIDE: "approvers and admins",
        Permission.ADMINISTER: "admins",
    }
)
