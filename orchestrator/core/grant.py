"""What was granted in a room, and until when.

Time is the store's (`SteadyClock`: it does not jump while the process lives). Between two lives a
clock may be set back: what it has then seen of the grant counts (`seen_at`), and the rest of its
time begins at the start; see `store.grant_table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.egress_rules import DEFAULT_PORTS, HostRule, Scheme, Target, parse_rule
from orchestrator.model import RoomId, RoomSlug, UserId

HOUR_S = 3600.0
SEEN_EVERY_S = 60.0
"""How often it is stored that a grant is still live: so much a clock that was set back can add."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A host that a room may reach because somebody allowed it; never deleted."""

    grant_id: int
    room_id: RoomId
    rule: HostRule
    granted_by: UserId
    granted_at: float
    expires_at: float | None
    """None: for good."""

    def is_live(self, now: float) -> bool:
        """Whether its time is not over; revoked ones are not read at all."""
        return self.expires_at is None or now < self.expires_at


class GrantBook:
    """What holds in which room, and when it ends. Pure: time is a parameter.

    Invariant: each room that was ever put down is in it, with what it may reach, if anything.
    """

    def __init__(self) -> None:
        self._held: dict[RoomSlug, tuple[Grant, ...]] = {}

    def __repr__(self) -> str:
        return f"<GrantBook {sum(map(len, self._held.values()))} grants>"

    def put(self, slug: RoomSlug, grants: Sequence[Grant]) -> None:
        """What holds in a room, instead of what held."""
        self._held[slug] = tuple(grants)

    def of_room(self, room_id: RoomId) -> tuple[Grant, ...]:
        """What holds because it was granted in this room."""
        return tuple(g for held in self._held.values() for g in held if g.room_id == room_id)

    def take_room(self, room_id: RoomId) -> list[RoomSlug]:
        """Forget what was granted in a room; the names under which it held."""
        names = [s for s, held in self._held.items() if any(g.room_id == room_id for g in held)]
        for slug in names:
            self._held[slug] = ()
        return names

    def rules(self, slug: RoomSlug, now: float) -> tuple[HostRule, ...]:
        """What the room may reach now because somebody allowed it."""
        held = self._held.get(slug, ())
        return tuple(dict.fromkeys(grant.rule for grant in held if grant.is_live(now)))

    def next_deadline(self) -> float | None:
        """When the first grant ends, if one does (Unix time)."""
        ends = (g.expires_at for held in self._held.values() for g in held)
        return min((end for end in ends if end is not None), default=None)

    def take_due(self, now: float) -> list[tuple[RoomSlug, Grant]]:
        """The grants whose time is over; they are forgotten here."""
        due = [(s, g) for s, held in self._held.items() for g in held if not g.is_live(now)]
        for slug in {slug for slug, _ in due}:
            self._held[slug] = tuple(g for g in self._held[slug] if g.is_live(now))
        return due


def build_subject(target: Target) -> str:
    """A target as an approval's subject: its scheme, host and port, always all three."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{target.scheme} {host}:{target.port}"


def parse_subject(subject: str) -> Target:
    """The target of a subject.

    Raises:
        ValueError: it was not written by `build_subject`.
    """
    scheme, _, place = subject.partition(" ")
    rule = parse_rule(place)
    if rule.port is None or rule.subdomains:
        msg = f"not a subject: {subject!r}"
        raise ValueError(msg)
    return Target(host=rule.host, port=rule.port, scheme=Scheme(scheme))


def rule_for(target: Target) -> HostRule:
    """The least rule that covers the target: this host and this port, and nothing below it."""
    return HostRule(host=target.host, subdomains=False, port=target.port)


def names_same(rule: HostRule, other: HostRule) -> bool:
    """Whether what a person names (`rule`) means the other: the host, and the port where one is.

    A rule without a port covers the usual ones, so it is meant by each of those.
    """
    ports = DEFAULT_PORTS.values() if other.port is None else (other.port,)
    return rule.host == other.host and (rule.port is None or rule.port in ports)


def is_usual_port(target: Target) -> bool:
    """Whether the port goes without saying."""
    return target.port == DEFAULT_PORTS[target.scheme]
