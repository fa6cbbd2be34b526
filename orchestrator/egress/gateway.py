"""The egress gateway: opens and closes the rooms' doors, and is the package's public face.

```
 runner ─ 127.0.0.1 ─ shim ─ egress.sock ─┤ door ├─ connection ─ policy ─ upstream ─ Messages API
                                            one for each room            (credential added here)
```

The allow-listed way to other hosts is a second kind of request on the same socket (`proxy`): one
connection, one target, and nothing of ours is added.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from loguru import logger

from orchestrator.core.allowance import Allowance
from orchestrator.core.egress_rules import HostRule, Target
from orchestrator.egress.credential import ApiKey, Credential, OAuthToken, room_placeholder
from orchestrator.egress.door import Door, DoorStats, OnDeniedHost, RoomDoor
from orchestrator.egress.inspector import Inspector, open_inspector
from orchestrator.egress.ledger import Ledger, MemoryLedger
from orchestrator.egress.listener import raise_file_limit
from orchestrator.egress.proxy import ProxyMeans
from orchestrator.egress.upstream import Upstream
from orchestrator.errors import EgressError
from orchestrator.model import RoomSlug, UserId

__all__ = [
    "ApiKey",
    "Credential",
    "DoorStats",
    "EgressGateway",
    "Ledger",
    "OAuthToken",
    "ProxyMeans",
    "RoomDoor",
    "open_egress",
    "room_placeholder",
]

_log = logger.bind(component="egress")


class EgressGateway:
    """All doors. Invariant: one open door for a slug, and its task runs in the gateway's group."""

    def __init__(
        self,
        upstream: Upstream,
        inspector: Inspector,
        means: ProxyMeans,
        ledger: Ledger,
        group: asyncio.TaskGroup,
    ) -> None:
        self._upstream = upstream
        self._inspector = inspector
        self._means = means
        self._ledger = ledger
        self._group = group
        self._doors: dict[RoomSlug, Door] = {}
        self._grants: dict[RoomSlug, tuple[HostRule, ...]] = {}
        self._allowances: dict[RoomSlug, Allowance] = {}
        self._payers: dict[RoomSlug, tuple[UserId, ...]] = {}
        self._on_denied_host: OnDeniedHost | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"EgressGateway({self._upstream}, doors={sorted(self._doors)})"

    @property
    def is_subscription(self) -> bool:
        """Whether the credential is a subscription's token, and not an API key."""
        return self._upstream.is_subscription

    @property
    def certificate_pem(self) -> bytes | None:
        """The CA that rooms with intercepted hosts have to trust; None: nothing is intercepted."""
        interceptor = self._means.interceptor
        return None if interceptor is None else interceptor.certificate_pem

    async def open_door(self, door: RoomDoor) -> None:
        """Listen for this room. Idempotent: an open door of the same room and values stays.

        One with other values, or whose socket file was removed, is closed first and opened anew.
        The runner may be up: it mounts the directory, so it finds the new socket under the same
        name.

        Raises:
            EgressError: the directory is not there, or the gateway is closing.
        """
        while (held := self._doors.get(door.slug)) is not None:
            if held.room == door and held.is_current():
                return
            await self._close(held)
        if self._is_closed:
            msg = "the egress gateway is closing"
            raise EgressError(msg)
        opened = Door(
            door,
            upstream=self._upstream,
            inspector=self._inspector,
            means=self._means,
            ledger=self._ledger,
            on_denied_host=self._note_denied_host,
        )
        opened.grants = self._grants.get(door.slug, ())
        opened.purse.payers = self._payers.get(door.slug, ())
        if (allowance := self._allowances.get(door.slug)) is not None:
            opened.purse.allowance = allowance
        self._doors[door.slug] = opened
        self._group.create_task(opened.serve(), name=f"egress:{door.slug}:door")
        _log.info("a door was opened", action="egress_open", room=door.slug)

    def listen_for_denied_hosts(self, listener: OnDeniedHost) -> None:
        """Tell this listener of each refused host from now on; there is one."""
        self._on_denied_host = listener

    def set_grants(self, slug: RoomSlug, rules: Sequence[HostRule]) -> None:
        """Replace what was granted in a room, for new connections; its door may be closed."""
        self._grants[slug] = tuple(rules)
        held = self._doors.get(slug)
        if held is not None:
            held.grants = self._grants[slug]

    def set_allowance(self, slug: RoomSlug, allowance: Allowance) -> None:
        """Replace what a room may spend, for requests from now on; its door may be closed."""
        self._allowances[slug] = allowance
        held = self._doors.get(slug)
        if held is not None:
            held.purse.allowance = allowance
            held.purse.look_again()

    def set_payers(self, slug: RoomSlug, people: Sequence[UserId]) -> None:
        """Say for whom a room's requests are from now on; its door may be closed."""
        self._payers[slug] = tuple(people)
        held = self._doors.get(slug)
        if held is not None:
            held.purse.payers = self._payers[slug]

    def person_micro_usd(self, person: UserId) -> int:
        """What was spent for somebody today (UTC), in all rooms."""
        return self._ledger.person_micro_usd(person)

    def _note_denied_host(self, slug: RoomSlug, target: Target) -> None:
        if self._on_denied_host is not None:
            self._on_denied_host(slug, target)

    async def close_door(self, slug: RoomSlug) -> None:
        """Stop listening, give running answers a few seconds (DRAIN_S), close them. Idempotent."""
        held = self._doors.get(slug)
        if held is not None:
            await self._close(held)

    def stats(self, slug: RoomSlug) -> DoorStats:
        """Counts since the door was opened; all zero for a room without a door."""
        held = self._doors.get(slug)
        return DoorStats() if held is None else held.stats()

    def spent_micro_usd(self, slug: RoomSlug) -> int:
        """What a room's requests have cost today (UTC), whether its door is open or not."""
        return self._ledger.spent_micro_usd(slug)

    async def drain(self) -> None:
        """Close all doors at once; within DRAIN_S. No door can be opened any more. Idempotent."""
        self._is_closed = True
        async with asyncio.TaskGroup() as group:
            for held in list(self._doors.values()):
                group.create_task(self._close(held), name=f"egress:{held.room.slug}:close")

    async def _close(self, held: Door) -> None:
        await held.stop()
        if self._doors.get(held.room.slug) is held:
            del self._doors[held.room.slug]
            _log.info("a door was closed", action="egress_close", room=held.room.slug)


@contextlib.asynccontextmanager
async def open_egress(
    *,
    upstream: str,
    credential: Credential,
    means: ProxyMeans | None = None,
    ledger: Ledger | None = None,
) -> AsyncIterator[EgressGateway]:
    """A gateway without doors; at exit all doors are drained, for at most DRAIN_S, then closed.

    What rooms spend is written to `ledger`; without one it is remembered as long as this is open.

    The API is not contacted: whether it answers shows with the first request, and is told to the
    room.

    Raises:
        EgressError: `upstream` is not a plain http or https URL, or the credential is not ASCII.
    """
    failure: Exception | None = None
    raise_file_limit()
    api = Upstream(upstream, credential)
    async with open_inspector() as inspector, asyncio.TaskGroup() as group:
        gateway = EgressGateway(
            api, inspector, means or ProxyMeans(), ledger or MemoryLedger(), group
        )
        try:
            yield gateway
        except Exception as e:  # noqa: BLE001 (raised below: a group would wrap the caller's error)
            failure = e
        finally:
            # Before the group sees the end: it would cancel the doors first.
            await gateway.drain()
    if failure is not None:
        raise failure
