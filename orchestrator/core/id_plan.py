"""The numbers that a room has: in its runner, on its files here, and at its door. Pure.

An engine with user namespaces shows a runner other ids than the host has. Rules: a room's ids are
its own within the installation, never 0 on either side, and derived from the room's index alone;
what the engine really does is measured once at the start (`Seen`), and whatever doesn't add up is
refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.core.naming import ROOMS_PER_INSTALLATION, digest_number, room_uid
from orchestrator.model import InstallationId

# The ids of a narrow map's rooms: above what distributions give to people and to services (up to
# about 1,000 and 10,000), below 65,534 (nobody).
_NARROW_FIRST: Final = ROOMS_PER_INSTALLATION
_NARROW_SLOTS: Final = 2
# Where the map goes on behind the usual 65,536 ids, there.
_WIDE_FIRST: Final = 1 << 16
_MAX_SLOTS: Final = 1 << 15
# A map without a user namespace: all ids but the one that means "none".
_ALL_IDS: Final = (1 << 32) - 1
_MAP_FIELDS: Final = 3

PROBE_UID: Final = _NARROW_FIRST
"""As whom the start's probe runs: in every map that can hold the rooms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRange:
    """`count` ids from `inside` on are, seen from here, those from `outside` on."""

    inside: int
    outside: int
    count: int

    def outside_of(self, number: int, room: int = 1) -> int | None:
        """What `number` is here, if it and all of the `room - 1` ids behind it are mapped."""
        if self.inside <= number and number + room <= self.inside + self.count:
            return self.outside + number - self.inside
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a throw-away container of uid and gid PROBE_UID did, as this process saw it."""

    uid_map: str
    """/proc/self/uid_map as read inside; its numbers are those of the parent namespace."""
    gid_map: str
    file_uid: int
    """The owner, here, of a file that it made."""
    file_gid: int
    peer_uid: int
    """Who connected to a socket of ours, by SO_PEERCRED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomIds:
    """One room's numbers. `uid` is its gid, too, in the runner; the rest is as seen from here."""

    uid: int
    host_uid: int
    host_gid: int
    peer_uid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IdPlan:
    """Where the rooms' numbers begin; the n-th room has the n-th number behind each."""

    uid: int
    host_uid: int
    host_gid: int
    peer_uid: int | None = None
    """Set where a runtime's own process connects for every runner (gVisor's gofer: 0)."""

    def ids(self, index: int) -> RoomIds:
        """The numbers of the room with this index.

        Raises:
            ValueError: past ROOMS_PER_INSTALLATION rooms.
        """
        if not 0 <= index < ROOMS_PER_INSTALLATION:
            msg = f"an installation has at most {ROOMS_PER_INSTALLATION} rooms"
            raise ValueError(msg)
        host_uid = self.host_uid + index
        return RoomIds(
            uid=self.uid + index,
            host_uid=host_uid,
            host_gid=self.host_gid + index,
            peer_uid=host_uid if self.peer_uid is None else self.peer_uid,
        )


def plain_ids(installation: InstallationId) -> IdPlan:
    """An engine without user namespaces: the same numbers on both sides."""
    first = room_uid(installation, 0)
    return IdPlan(uid=first, host_uid=first, host_gid=first)


def judge_ids(installation: InstallationId, seen: Seen, *, own_process: bool) -> IdPlan:
    """The numbers for an engine on which the probe saw this.

    `own_process`: the runtime is known to run what is inside as a process of its own uid (runc,
    crun); then nobody else may be at the door.

    Raises:
        ValueError: the maps are too narrow or make no sense, or what was seen contradicts them.
    """
    uids = _as_seen_here(parse_id_map(seen.uid_map), seen.file_uid, "uid")
    gids = _as_seen_here(parse_id_map(seen.gid_map), seen.file_gid, "gid")
    if _is_whole(uids) and _is_whole(gids):
        first = room_uid(installation, 0)
    else:
        first = _first_of_map(installation, min(_width(uids), _width(gids)))
    return IdPlan(
        uid=first,
        host_uid=_outside_of_rooms(uids, first, "uid"),
        host_gid=_outside_of_rooms(gids, first, "gid"),
        peer_uid=_peer_of_all(seen, own_process=own_process),
    )


def parse_id_map(text: str) -> tuple[IdRange, ...]:
    """The lines of /proc/PID/uid_map: inside, outside, count.

    Raises:
        ValueError: it is empty or no such table.
    """
    ranges = []
    for line in text.strip().splitlines():
        fields = line.split()
        if len(fields) != _MAP_FIELDS or not all(f.isascii() and f.isdecimal() for f in fields):
            msg = f"the runner's id map makes no sense: {line[:80]!r}"
            raise ValueError(msg)
        inside, outside, count = map(int, fields)
        ranges.append(IdRange(inside=inside, outside=outside, count=count))
    if not ranges:
        msg = "the runner has no id map"
        raise ValueError(msg)
    return tuple(ranges)


def _as_seen_here(ranges: Sequence[IdRange], owner: int, what: str) -> Sequence[IdRange]:
    """The map in this process's numbers; `owner` is what PROBE_UID was seen as."""
    if owner in {r.outside_of(PROBE_UID) for r in ranges}:
        return ranges
    if owner == PROBE_UID and any(r.outside_of(PROBE_UID) is not None for r in ranges):
        # We are in the engine's own user namespace (a rootless one): no translation for us.
        return [IdRange(inside=r.inside, outside=r.inside, count=r.count) for r in ranges]
    msg = (
        f"a file that the runner made as {what} {PROBE_UID} belongs to {what} {owner} here, which"
        " its id map does not say"
    )
    raise ValueError(msg)


def _is_whole(ranges: Sequence[IdRange]) -> bool:
    return any(r.inside == r.outside == 0 and r.count >= _ALL_IDS for r in ranges)


def _width(ranges: Sequence[IdRange]) -> int:
    """How many ids from 0 on are mapped without a gap."""
    width = 0
    for r in sorted(ranges, key=lambda r: r.inside):
        if r.inside > width:
            break
        width = max(width, r.inside + r.count)
    return width


def _first_of_map(installation: InstallationId, width: int) -> int:
    """Where the rooms begin: one of as many places as the map has, by the installation's id."""
    first = _WIDE_FIRST
    slots = min((width - first) // ROOMS_PER_INSTALLATION, _MAX_SLOTS)
    if slots < 1:
        first = _NARROW_FIRST
        slots = min((width - first) // ROOMS_PER_INSTALLATION, _NARROW_SLOTS)
    if slots < 1:
        needed = _NARROW_FIRST + ROOMS_PER_INSTALLATION
        msg = f"the engine maps {width} ids; the rooms need {needed} at least (see /etc/subuid)"
        raise ValueError(msg)
    return first + digest_number(installation) % slots * ROOMS_PER_INSTALLATION


def _outside_of_rooms(ranges: Sequence[IdRange], first: int, what: str) -> int:
    """Where the rooms' range begins here: in one piece, or else not at all."""
    for r in ranges:
        outside = r.outside_of(first, ROOMS_PER_INSTALLATION)
        if outside is not None:
            if outside <= 0:
                break
            return outside
    msg = f"the engine does not map the rooms' {what}s from {first} on in one piece"
    raise ValueError(msg)


def _peer_of_all(seen: Seen, *, own_process: bool) -> int | None:
    if seen.peer_uid == seen.file_uid:
        return None
    if own_process:
        msg = f"uid {seen.peer_uid} connected for the runner, expected {seen.file_uid}"
        raise ValueError(msg)
    return seen.peer_uid
