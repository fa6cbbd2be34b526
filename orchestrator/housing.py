"""Where rooms live on this host: directories, a door to the egress gateway, a specification."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.config import Config
from orchestrator.core.cli_policy import render_policy
from orchestrator.core.disk import DiskUsage
from orchestrator.core.egress_rules import parse_rule
from orchestrator.core.id_plan import IdPlan, RoomIds
from orchestrator.core.proxy_env import build_proxy_env
from orchestrator.core.room_secret import RoomSecret
from orchestrator.core.sandbox import SandboxSpec, spec_hash
from orchestrator.core.surrogate import make_surrogates
from orchestrator.disks import RoomDisks, takes_nothing
from orchestrator.egress.authority import load_or_make_authority
from orchestrator.egress.credential import room_placeholder
from orchestrator.egress.door import RoomDoor
from orchestrator.egress.gateway import EgressGateway
from orchestrator.egress.interceptor import TlsInterceptor
from orchestrator.egress.trust import (
    find_public_roots,
    remove_trust,
    trust_environment,
    write_trust,
)
from orchestrator.errors import PreconditionError
from orchestrator.model import InstallationId, RoomSlug, UserId
from orchestrator.private_file import write_private
from orchestrator.room_profile import RoomProfile
from orchestrator.room_secret import RoomSecrets
from orchestrator.room_spec import build_room_spec
from orchestrator.rooms.kit import Quarters
from orchestrator.runners.ownership import note_first_uid
from orchestrator.runners.taken_place import note_taken_place
from orchestrator.runners.workdir import (
    RoomDirs,
    prepare_policy_dir,
    prepare_room_dirs,
    remove_room_dir,
)
from orchestrator.store.api import RoomRow, SpareRow

_KEY_BYTES = 32
# Far more than a fresh one takes: rooms that there are need it first.
_SPACE_FOR_SPARES = 512 << 20


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
        room_secrets: RoomSecrets,
        ids: IdPlan,
        disks: RoomDisks,
    ) -> None:
        self._config = config
        self._root = disks.root
        self._disks = disks
        self._installation = installation
        self._image_id = image_id
        self._egress = egress
        self._room_secrets = room_secrets
        self._ids = ids
        self._former = note_first_uid(state_dir, installation, ids.host_uid)
        self._key = _load_or_make_key(state_dir / "placeholder.key")

    async def prepare(self, room: RoomRow, *, generation: int, is_vacant: bool = False) -> Quarters:
        """The room's directories, its open door, and the specification of its runner. Idempotent.

        Raises:
            PreconditionError: the directories can't be made, or are not what they should be; or the
                room's disk can't be used.
            EgressError: the door can't be opened.
        """
        ids = self._ids.ids(room.index)
        profile = self._config.profile(room.room_id, room.alias, room.former)
        await asyncio.to_thread(note_taken_place, self._root, room)
        dirs = await self._prepare_dirs(room, profile, ids, is_vacant=is_vacant)
        held = self._secrets(profile, room.slug)
        trust = await asyncio.to_thread(self._prepare_trust, profile, dirs.egress, ids.host_gid)
        door = self._door(room.slug, profile, ids, dirs, held)
        await self._egress.open_door(door)
        spec = self._spec(room, ids, dirs, generation)
        return Quarters(
            spec=spec,
            spec_hash=spec_hash(spec),
            placeholder=door.placeholder,
            is_subscription=self._egress.is_subscription,
            environment=(
                *build_proxy_env(),
                *trust,
                *((secret.name, secret.surrogate) for secret in held),
            ),
        )

    async def prepare_spare(self, spare: SpareRow, *, is_vacant: bool = False) -> SandboxSpec:
        """The directories for a room to come, and its runner as `defaults` want it. Idempotent.

        There is no door: the room's first `prepare` opens it, with the room's profile.

        Raises:
            PreconditionError: as `prepare`.
        """
        room, ids = spare.as_room, self._ids.ids(spare.index)
        dirs = await self._prepare_dirs(room, self._config.defaults, ids, is_vacant=is_vacant)
        return self._spec(room, ids, dirs, spare.generation)

    async def has_space(self) -> bool:
        """Whether the host's disk has room for what nobody has asked for yet."""
        free = (await asyncio.to_thread(shutil.disk_usage, self._root.parent)).free
        return free >= _SPACE_FOR_SPARES

    async def clear(self, slug: RoomSlug) -> None:
        """Remove the place of a spare that no room has taken. Idempotent.

        Raises:
            PreconditionError: it can't be removed; says why.
        """
        await self._disks.release(slug)
        await asyncio.to_thread(remove_room_dir, self._root / slug)

    async def disk_usage(self, room: RoomRow) -> DiskUsage | None:
        """What the room's workspace and home hold, as far as it can be known."""
        profile = self._config.profile(room.room_id, room.alias, room.former)
        return await self._disks.usage(room.slug, profile.limits.disk)

    async def known_disks(self, rooms: Sequence[RoomRow]) -> Mapping[RoomSlug, DiskUsage]:
        """What the rooms' workspaces and homes hold, mounted or not, without counting any."""
        profile = self._config.profile
        return await self._disks.known(
            {
                room.slug: profile(room.room_id, room.alias, room.former).limits.disk
                for room in rooms
            }
        )

    async def is_full(self, home: Path) -> bool:
        """Whether a program that writes its first small file there would fail."""
        return await asyncio.to_thread(takes_nothing, home)

    async def vacate(self, slug: RoomSlug) -> None:
        """Let go of what a room's place holds on the host while no container of it runs."""
        await self._disks.release(slug)

    def spent_micro_usd(self, slug: RoomSlug) -> int:
        """What a room's requests to the API have cost today (UTC)."""
        return self._egress.spent_micro_usd(slug)

    def person_micro_usd(self, person: UserId) -> int:
        """What was spent for somebody today (UTC), in all rooms."""
        return self._egress.person_micro_usd(person)

    def _spec(self, room: RoomRow, ids: RoomIds, dirs: RoomDirs, generation: int) -> SandboxSpec:
        return build_room_spec(
            room,
            config=self._config,
            installation=self._installation,
            image=self._image_id,
            ids=ids,
            dirs=dirs,
            generation=generation,
        )

    async def _prepare_dirs(
        self, room: RoomRow, profile: RoomProfile, ids: RoomIds, *, is_vacant: bool
    ) -> RoomDirs:
        """The room's disk and the directories on it, with the owners that this engine needs."""
        folder, uid, gid = self._root / room.slug, ids.host_uid, ids.host_gid
        disk = await self._disks.ensure(
            room.slug, limit_bytes=profile.limits.disk, uid=uid, is_vacant=is_vacant
        )
        former = frozenset(first + room.index for first in self._former)
        dirs = await asyncio.to_thread(
            prepare_room_dirs, folder, uid=uid, gid=gid, disk=disk, former=former
        )
        policy = render_policy(profile.project.policy())
        await asyncio.to_thread(prepare_policy_dir, folder, policy)
        return dirs

    def _door(
        self,
        slug: RoomSlug,
        profile: RoomProfile,
        ids: RoomIds,
        dirs: RoomDirs,
        held: tuple[RoomSecret, ...],
    ) -> RoomDoor:
        """The room's way out, as its profile is now."""
        return RoomDoor(
            slug=slug,
            directory=dirs.egress,
            uid=ids.peer_uid,
            gid=ids.host_gid,
            placeholder=room_placeholder(self._installation, slug, self._key),
            user_tag=hashlib.sha256(f"{self._installation}/{slug}".encode()).hexdigest(),
            proxy=profile.egress.policy(),
            secrets=held,
            api=profile.api.policy(),
            budget_micro_usd=profile.budget.micro_usd_per_day,
        )

    def _secrets(self, profile: RoomProfile, slug: RoomSlug) -> tuple[RoomSecret, ...]:
        """What the door puts in the place of which surrogates."""
        values = self._room_secrets.of(profile)
        made = make_surrogates(values, key=self._key, installation=self._installation, slug=slug)
        return tuple(
            RoomSecret(
                name=name,
                surrogate=made[name],
                value=value,
                hosts=tuple(parse_rule(host) for host in profile.secrets[name].hosts),
            )
            for name, value in values.items()
        )

    def _prepare_trust(
        self, profile: RoomProfile, directory: Path, gid: int
    ) -> tuple[tuple[str, str], ...]:
        """The CA's files where the room has hosts that are intercepted; none elsewhere."""
        ca = self._egress.certificate_pem
        if not profile.egress.intercept or ca is None:
            remove_trust(directory)
            return ()
        write_trust(directory, gid=gid, ca=ca, roots=find_public_roots())
        return trust_environment(ca)


def open_interceptor(config: Config, state_dir: Path) -> TlsInterceptor | None:
    """For all hosts that any room has intercepted; no CA is made until one has.

    Raises:
        PreconditionError: the CA's file can't be made or used.
    """
    profiles = (config.defaults, *config.rooms.values())
    hosts = {host for profile in profiles for host in profile.egress.intercept}
    if not hosts:
        return None
    return TlsInterceptor(load_or_make_authority(state_dir, map(parse_rule, hosts)))


def _load_or_make_key(path: Path) -> bytes:
    """The secret that the rooms' placeholders are derived from; 0600, made at first use.

    Raises:
        PreconditionError: it can't be read or made, or is damaged.
    """
    try:
        if not path.exists():
            write_private(path, secrets.token_bytes(_KEY_BYTES))
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
