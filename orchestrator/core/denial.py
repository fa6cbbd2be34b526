"""Hosts that rooms' runners were refused: which of them to ask about, and when.

A runner can ask for a thousand names a second. So each room has a small memory, a host is in it
once however often it is refused, and only a few new questions leave it in a minute. What finds no
place is forgotten: it is refused all the same.

Time is a parameter (Unix time); nothing here waits.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.core.address import is_internal, is_public
from orchestrator.core.egress_rules import Target, is_address
from orchestrator.core.proxy_policy import IpNetwork
from orchestrator.model import RoomSlug, TurnId, UserId

MAX_HOSTS = 32
"""Refused hosts that are remembered of a room, the latest ones."""
QUESTIONS_PER_MINUTE = 3
"""New questions in one room; more would fill it faster than a person reads."""
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the room's runner was doing: the tools by its own word, the rest by ours."""

    tools: tuple[str, ...] = ()
    turn_id: TurnId | None = None
    asker: UserId | None = None


@dataclass(slots=True, kw_only=True)
class Denial:
    """A refused host of a room."""

    slug: RoomSlug
    target: Target
    wanted: Wanted
    count: int = 1
    last_at: float = 0.0
    quiet_until: float = 0.0
    """Before that nothing new can come of it."""


@dataclass(slots=True)
class _Room:
    hosts: OrderedDict[Target, Denial] = field(default_factory=OrderedDict)
    due: deque[Target] = field(default_factory=deque)
    asked_at: deque[float] = field(default_factory=lambda: deque(maxlen=QUESTIONS_PER_MINUTE))

    def next_at(self) -> float:
        """When the next question may leave."""
        is_full = len(self.asked_at) == QUESTIONS_PER_MINUTE
        return self.asked_at[0] + _MINUTE_S if is_full else 0.0


class Denials:
    """Invariant: a room has at most MAX_HOSTS hosts, and one is due at most once."""

    def __init__(self) -> None:
        self._rooms: dict[RoomSlug, _Room] = {}
        self._due: OrderedDict[RoomSlug, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Denials rooms={len(self._rooms)} due={len(self._due)}>"

    def note(
        self, slug: RoomSlug, target: Target, *, wanted: Callable[[], Wanted], now: float
    ) -> bool:
        """A host was refused; whether somebody should look (`take_due`).

        `wanted` is called only where the host is about to be asked about: finding out costs more.
        """
        room = self._rooms.setdefault(slug, _Room())
        known = room.hosts.get(target)
        if known is None:
            known = Denial(slug=slug, target=target, wanted=Wanted(), count=0)
            room.hosts[target] = known
            self._forget_oldest(room)
            if target not in room.hosts:
                return False
        known.count += 1
        known.last_at = now
        room.hosts.move_to_end(target)
        if now < known.quiet_until or target in room.due:
            return False
        known.wanted = wanted()
        room.due.append(target)
        self._due[slug] = None
        return True

    def take_due(self, now: float) -> Denial | None:
        """One to ask about; None: none, or not yet. Rooms take turns."""
        for slug in list(self._due):
            room = self._rooms[slug]
            if room.next_at() > now:
                continue
            denial = room.hosts[room.due.popleft()]
            del self._due[slug]
            if room.due:
                self._due[slug] = None
            return denial
        return None

    def settle(self, denial: Denial, *, quiet_until: float, asked_at: float | None = None) -> None:
        """It was looked at; with `asked_at` the room was written to, which counts."""
        denial.quiet_until = quiet_until
        if asked_at is not None and denial.slug in self._rooms:
            self._rooms[denial.slug].asked_at.append(asked_at)

    def next_deadline(self) -> float | None:
        """When `take_due` has something; None: as long as nothing is noted, never."""
        return min((self._rooms[slug].next_at() for slug in self._due), default=None)

    def wake(self, slug: RoomSlug | None = None) -> None:
        """Something was decided in the room (None: in any): its hosts may be asked about again."""
        for name in self._rooms if slug is None else self._rooms.keys() & {slug}:
            for denial in self._rooms[name].hosts.values():
                denial.quiet_until = 0.0

    def drop(self, slug: RoomSlug) -> None:
        """The room is no longer ours; nothing of it is remembered."""
        self._rooms.pop(slug, None)
        self._due.pop(slug, None)

    def recent(self, slug: RoomSlug) -> Sequence[Denial]:
        """The refused hosts that are remembered, the latest first."""
        room = self._rooms.get(slug)
        return tuple(reversed(room.hosts.values())) if room is not None else ()

    def _forget_oldest(self, room: _Room) -> None:
        """What waits to be asked about stays: names that come after it must not push it out."""
        if len(room.hosts) <= MAX_HOSTS:
            return
        oldest = next((t for t in room.hosts if t not in room.due), None)
        # All of them wait: the newcomer goes.
        gone = next(reversed(room.hosts)) if oldest is None else oldest
        del room.hosts[gone]


def is_worth_asking(target: Target, *, internal: Iterable[IpNetwork], never: Iterable[str]) -> bool:
    """Whether a grant would change anything, and may be given at all.

    An address that is not public stays refused, whoever allows it; and a tunnel to the Messages API
    (`never`) would lead past the gateway that looks at what goes there.
    """
    if target.host in never or target.host == "localhost" or target.host.endswith(".localhost"):
        return False
    if not is_address(target.host):
        return True
    address = ipaddress.ip_address(target.host)
    return is_public(address) or is_internal(address, internal)
