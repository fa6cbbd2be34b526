"""What every room's worker is given, once, by the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.config import Config
from orchestrator.core.allowance import Allowance
from orchestrator.core.approval import Deciders
from orchestrator.core.attachment import Attachment
from orchestrator.core.chunking import encrypted_limit
from orchestrator.core.disk import DiskUsage
from orchestrator.core.egress_rules import HostRule, Target
from orchestrator.core.sandbox import SandboxSpec
from orchestrator.gateway.courtesy import Courtesies
from orchestrator.model import EventId, JsonObject, RoomId, RoomSlug, TxnId, UserId
from orchestrator.ports import RunnerBackend
from orchestrator.rooms.live_answer import Lives
from orchestrator.rooms.outgoing import build_turn_notice_rows
from orchestrator.rooms.places import RunnerPlaces
from orchestrator.rooms.starts import RunnerStarts
from orchestrator.store.api import RoomRow, SpareRow, TurnRow
from orchestrator.store.copy_files import CopyFiles
from orchestrator.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarters:
    """A room's place on this host: how its runner is made, and its key to the egress gateway."""

    spec: SandboxSpec
    spec_hash: str
    placeholder: str
    is_subscription: bool = False
    """Whether it stands for a subscription's token, and not for an API key."""
    environment: tuple[tuple[str, str], ...] = ()
    """More variables for the CLI: the way through the proxy, surrogates of secrets. No secret."""


class Housing(Protocol):
    """Makes a room's directories and its door to the egress gateway."""

    async def prepare(self, room: RoomRow, *, generation: int, is_vacant: bool = False) -> Quarters:
        """Idempotent: what exists is left as it is, unless no container of the room does.

        Raises:
            PreconditionError: the directories can't be made.
        """
        ...

    async def prepare_spare(self, spare: SpareRow, *, is_vacant: bool = False) -> SandboxSpec:
        """The same for a room to come, as far as it does not depend on the room: without a door.

        Raises:
            PreconditionError: the directories can't be made.
        """
        ...

    async def has_space(self) -> bool:
        """Whether the host's disk has room for what nobody has asked for yet."""
        ...

    async def clear(self, slug: RoomSlug) -> None:
        """Remove the place of a spare that no room has taken. Idempotent.

        Raises:
            PreconditionError: it can't be removed.
        """
        ...

    async def disk_usage(self, room: RoomRow) -> DiskUsage | None:
        """What the room's workspace and home hold; None: not known now."""
        ...

    async def known_disks(self, rooms: Sequence[RoomRow]) -> Mapping[RoomSlug, DiskUsage]:
        """What is known of them without counting, of hibernated rooms, too."""
        ...

    async def is_full(self, home: Path) -> bool:
        """Whether a program that writes its first small file there would fail."""
        ...

    async def vacate(self, slug: RoomSlug) -> None:
        """The room's container has been stopped for good: nothing of it stays mounted."""
        ...


class Doors(Protocol):
    """The rooms' ways out, as far as what is granted in a room changes them."""

    def set_grants(self, slug: RoomSlug, rules: Sequence[HostRule]) -> None:
        """Replace what was granted in a room, for new connections; its door may be closed."""
        ...

    def set_allowance(self, slug: RoomSlug, allowance: Allowance) -> None:
        """Replace what a room may spend, for new requests; its door may be closed."""
        ...

    def set_payers(self, slug: RoomSlug, people: Sequence[UserId]) -> None:
        """Say for whom a room's requests are from now on."""
        ...

    def listen_for_denied_hosts(self, listener: Callable[[RoomSlug, Target], None]) -> None:
        """Tell this listener of each refused host from now on; it must not block."""
        ...


class SendAside(Protocol):
    """Sends a courtesy past the outbox."""

    def __call__(
        self,
        room_id: RoomId,
        event_type: str,
        content: JsonObject,
        txn_id: TxnId,
        *,
        is_wanted: Callable[[], bool] = ...,
    ) -> Awaitable[bool]:
        """As `OutboxSender.send_aside` says."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """Shared by all workers; nothing in it belongs to one room."""

    config: Config
    store: Store
    backend: RunnerBackend
    housing: Housing
    doors: Doors
    courtesies: Courtesies
    notify_outbox: Callable[[], None]
    may_show_progress: Callable[[RoomId], Awaitable[bool]]
    """Whether the account can spare a message for what a running turn has said so far."""
    deciders: Deciders
    """Who may decide what an agent asks for."""
    wall_clock: Callable[[], float]
    """Unix time, for what is stored."""
    version: str
    send_rate_per_s: Callable[[], float | None] = lambda: None
    """What the account may send, as far as is known; None: no limit met yet."""
    spent_micro_usd: Callable[[RoomSlug], int] = lambda _: 0
    """What a room's requests to the API have cost today (UTC)."""
    person_micro_usd: Callable[[UserId], int] = lambda _: 0
    """What was spent for somebody today (UTC), in all rooms."""
    send_aside: SendAside
    """Sends a courtesy past the outbox; as `OutboxSender.send_aside` says."""
    download: Callable[[Attachment], Awaitable[bytes]]
    """A file from the homeserver, in clear; as `MatrixClient.download_file` says."""
    find_event: Callable[[RoomId, EventId], Awaitable[JsonObject | None]]
    """An event of a room, in clear; as `MatrixClient.find_event` says."""
    copies: CopyFiles
    """The rooms' workspaces as they were before their turns."""
    places: RunnerPlaces = field(default_factory=lambda: RunnerPlaces(None))
    """How many runners run at once."""
    starts: RunnerStarts = field(default_factory=lambda: RunnerStarts(None))
    """How many of them start at once."""
    lives: Lives = field(default_factory=Lives)
    """What running turns show of themselves."""
    invite: Callable[[RoomId, UserId], Awaitable[None]]
    """Invites to a room; as `ports.Homeserver` says."""

    async def tell(self, turn: TurnRow, topic: str, text: str) -> None:
        """Say something of a turn in its room, once a topic. Only the store's errors come out."""
        limit = self.config.gateway.max_event_bytes
        rows = build_turn_notice_rows(turn, topic, text, max_event_bytes=limit)
        await self.store.outbox.add(rows, now=self.wall_clock())
        self.notify_outbox()

    async def event_limit(self, room_id: RoomId) -> int:
        """The most bytes that a message's content may have in this room."""
        room = await self.store.rooms.get(room_id)
        limit = self.config.gateway.max_event_bytes
        return encrypted_limit(limit) if room is not None and room.encrypted else limit
