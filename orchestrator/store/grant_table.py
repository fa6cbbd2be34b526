"""The table `grants`: what somebody allowed a room to reach, until when, and who took it back.

Rules: a row is never deleted and its first values never change, but for the end of its time, which
moves back with a clock that was set back (`begin_life`): an hour is an hour of running, whatever
the clock says. A grant that was revoked is never live again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.egress_rules import HostRule, Target, parse_rule
from orchestrator.core.grant import Grant, names_same
from orchestrator.model import RoomId, UserId
from orchestrator.store.database import Database

BY_SYSTEM = "-"
"""Who revoked it, where no person did: its room was left or replaced, or a copy was restored."""
_COLUMNS = "grant_id, room_id, rule, granted_by, granted_at, expires_at"
_LIVE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGrant:
    """What is allowed, by whom, and until when (None: for good)."""

    rule: HostRule
    granted_by: UserId
    expires_at: float | None
    approval_id: str | None = None


class GrantTable:
    """What rooms may reach besides their configuration."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin_life(self, *, now: float) -> Sequence[RoomId]:
        """A clock that was set back since gives no grant more time than it had. Idempotent.

        What was left of it when it was last seen (at most SEEN_EVERY_S before the end of that
        life) is left of it now. Returns the rooms in which anything holds.
        """

        def work(db: sqlite3.Connection) -> list[RoomId]:
            db.execute(
                "UPDATE grants SET expires_at = expires_at - (seen_at - :now), seen_at = :now "
                "WHERE revoked_at IS NULL AND expires_at IS NOT NULL AND seen_at > :now",
                {"now": now},
            )
            query = f"SELECT DISTINCT room_id FROM grants WHERE {_LIVE}"  # noqa: S608 - constants
            return [RoomId(room_id) for (room_id,) in db.execute(query, {"now": now})]

        return await self._database.run(work)

    async def live(self, room_id: RoomId, *, now: float) -> Sequence[Grant]:
        """What holds in a room now, the oldest first."""
        return await self._database.run(lambda db: live_grants(db, room_id, now=now))

    async def note_seen(self, *, now: float) -> None:
        """Those that hold for a time are still live."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                f"UPDATE grants SET seen_at = max(seen_at, :now) WHERE {_LIVE} "  # noqa: S608 - constants
                "AND expires_at IS NOT NULL",
                {"now": now},
            )

        await self._database.run(work)


def live_grants(db: sqlite3.Connection, room_id: RoomId, *, now: float) -> list[Grant]:
    """What holds in a room now, within the caller's transaction."""
    query = f"SELECT {_COLUMNS} FROM grants WHERE room_id = :room AND {_LIVE} ORDER BY grant_id"  # noqa: S608 - constants
    return [_grant(*values) for values in db.execute(query, {"room": room_id, "now": now})]


def insert_grant(db: sqlite3.Connection, room_id: RoomId, new: NewGrant, *, now: float) -> Grant:
    """Add a grant; one that says the same until another time ends in its favour."""
    for old in live_grants(db, room_id, now=now):
        if old.rule == new.rule:
            _revoke(db, old, by=new.granted_by, now=now)
    cursor = db.execute(
        "INSERT INTO grants "
        "(room_id, rule, granted_by, granted_at, expires_at, seen_at, approval_id) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?4, ?6)",
        (room_id, str(new.rule), new.granted_by, now, new.expires_at, new.approval_id),
    )
    return Grant(
        grant_id=cursor.lastrowid or 0,
        room_id=room_id,
        rule=new.rule,
        granted_by=new.granted_by,
        granted_at=now,
        expires_at=new.expires_at,
    )


def revoke_grants(
    db: sqlite3.Connection, room_id: RoomId, named: HostRule | None, *, by: str, now: float
) -> list[Grant]:
    """Take back what holds of what is named (None: all of it); returns that."""
    held = live_grants(db, room_id, now=now)
    found = [g for g in held if named is None or names_same(named, g.rule)]
    for grant in found:
        _revoke(db, grant, by=by, now=now)
    return found


def last_revoked_at(
    db: sqlite3.Connection, room_id: RoomId, target: Target, *, since: float
) -> float | None:
    """When a person last took back a grant that covered the target, if that was since then."""
    query = (
        "SELECT rule, revoked_at FROM grants WHERE room_id = ? AND revoked_at > ? "
        "AND revoked_by <> ?"
    )
    rows = db.execute(query, (room_id, since, BY_SYSTEM)).fetchall()
    return max((at for rule, at in rows if parse_rule(rule).covers(target)), default=None)


def revoke_all_grants(db: sqlite3.Connection, *, now: float) -> None:
    """After a restore: what was taken back since the copy must not hold again."""
    db.execute(
        "UPDATE grants SET revoked_by = ?, revoked_at = ? WHERE revoked_at IS NULL",
        (BY_SYSTEM, now),
    )


def _revoke(db: sqlite3.Connection, grant: Grant, *, by: str, now: float) -> None:
    db.execute(
        "UPDATE grants SET revoked_by = ?, revoked_at = ? "
        "WHERE grant_id = ? AND revoked_at IS NULL",
        (by, now, grant.grant_id),
    )


def _grant(
    grant_id: int,
    room_id: str,
    rule: str,
    granted_by: str,
    granted_at: float,
    expires_at: float | None,
) -> Grant:
    return Grant(
        grant_id=grant_id,
        room_id=RoomId(room_id),
        rule=parse_rule(rule),
        granted_by=UserId(granted_by),
        granted_at=granted_at,
        expires_at=expires_at,
    )
