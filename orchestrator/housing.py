"""Where rooms live on this host: directories, a door to the egress gateway, a specification."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import secrets
from pathlib import Path

from orchestrator.config import Config
from orchestrator.core.disk import DiskUsage
from orchestrator.core.egress_rules import parse_rule
from orchestrator.core.naming import room_uid, runner_name
from orchestrator.core.proxy_policy import ProxyPolicy
from orchestrator.core.sandbox import SandboxSpec, spec_hash
from orchestrator.disks import RoomDisks
from orchestrator.egress.credential import room_placeholder
from orchestrator.egress.door import RoomDoor
from orchestrator.egress.gateway import EgressGateway
from orchestrator.errors import PreconditionError
from orchestrator.model import InstallationId, RoomSlug
from orchestrator.room_profile import EgressConfig
from orchestrator.rooms.kit import Quarters
from orchestrator.runners.workdir import prepare_room_dirs
from orchestrator.store.api import RoomRow

_KEY_BYTES = 32


class HostHousing:
    """Makes a room's place.

    Invariant: what a room has depends on the room's row and the host only.
    """

    def __init__(
        self,
        *,
        config: Config,
        state_dir: Path,
        installation: InstallationId,
        image_id: str,
        egress: EgressGateway,
        disks: RoomDisks,
    ) -> None:
        self._config = config
        self._root = disks.root
        self._disks = disks
        self._installation = installation
        self._image_id = image_id
        self._egress = egress
        self._key = _load_or_make_key(state_dir / "placeholder.key")

    async def prepare(self, room: RoomRow, *, generation: int, is_vacant: bool = False) -> Quarters:
        """The room's directories, its open door, and the specification of its runner. Idempotent.

        Raises:
            PreconditionError: the directories can't be made, or are not what they should be; or the
                room's disk can't be used.
            EgressError: the door can't be opened.
        """
        uid = room_uid(self._installation, room.index)
        folder = self._root / room.slug
        profile = self._config.profile(room.room_id, room.alias, room.former)
        disk = await self._disks.ensure(
            room.slug, limit_bytes=profile.limits.disk, uid=uid, is_vacant=is_vacant
        )
        dirs = await asyncio.to_thread(prepare_room_dirs, folder, uid=uid, gid=uid, disk=disk)
        placeholder = room_placeholder(self._installation, room.slug, self._key)
        tag = hashlib.sha256(f"{self._installation}/{room.slug}".encode()).hexdigest()
        await self._egress.open_door(
            RoomDoor(
                slug=room.slug,
                directory=dirs.egress,
                uid=uid,
                gid=uid,
                placeholder=placeholder,
                user_tag=tag,
                proxy=_proxy_policy(profile.egress),
            )
        )
        spec = SandboxSpec(
            name=runner_name(self._installation, room.slug),
            installation=self._installation,
            slug=room.slug,
            generation=generation,
            image=self._image_id,
            uid=uid,
            gid=uid,
            workspace=dirs.workspace,
            home=dirs.home,
            egress_dir=dirs.egress,
            limits=profile.limits.limits(),
            runtime=self._config.docker.runtime,
        )
        return Quarters(
            spec=spec,
            spec_hash=spec_hash(spec),
            placeholder=placeholder,
            is_subscription=self._egress.is_subscription,
        )

    async def disk_usage(self, room: RoomRow) -> DiskUsage | None:
        """What the room's workspace and home hold, as far as it can be known."""
        profile = self._config.profile(room.room_id, room.alias, room.former)
        return await self._disks.usage(room.slug, profile.limits.disk)

    async def vacate(self, slug: RoomSlug) -> None:
        """Let go of what a room's place holds on the host while no container of it runs."""
        await self._disks.release(slug)


def _proxy_policy(egress: EgressConfig) -> ProxyPolicy:
    return ProxyPolicy(
        allow=tuple(parse_rule(rule) for rule in egress.allow),
        internal=tuple(ipaddress.ip_network(network) for network in egress.internal),
        hosts={name: ipaddress.ip_address(address) for name, address in egress.hosts.items()},
        intercept=tuple(parse_rule(rule) for rule in egress.intercept),
        asks=egress.ask,
        connections=egress.connections,
        bytes_per_s=egress.bytes_per_second,
        bytes_per_day=egress.bytes_per_day,
        idle_s=egress.idle_s,
    )


def _load_or_make_key(path: Path) -> bytes:
    """The secret that the rooms' placeholders are derived from; 0600, made at first use.

    Raises:
        PreconditionError: it can't be read or made, or is damaged.
    """
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
    except OSError as e:
        msg = f"{path} can't be used: {e.strerror}"
        raise PreconditionError(msg) from e
    if len(key) != _KEY_BYTES:
        msg = (
            f"{path} is damaged: expected {_KEY_BYTES} bytes. Remove it; runners are then replaced."
        )
        raise PreconditionError(msg)
    return key


def _make_key(path: Path) -> None:
    """Whole or not at all: a kill in between must not leave half a key behind."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
