"""Where rooms live on this host: directories, a door to the egress gateway, a specification."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import secrets
from pathlib import Path

from orchestrator.config import Config
from orchestrator.core.api_policy import ApiPolicy, build_policy
from orchestrator.core.budget import micro_usd
from orchestrator.core.cli_policy import render_policy
from orchestrator.core.disk import DiskUsage
from orchestrator.core.egress_rules import parse_rule
from orchestrator.core.id_plan import IdPlan
from orchestrator.core.proxy_env import build_proxy_env
from orchestrator.core.proxy_policy import ProxyPolicy
from orchestrator.core.room_secret import RoomSecret
from orchestrator.core.sandbox import spec_hash
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
from orchestrator.model import InstallationId, RoomSlug
from orchestrator.private_file import write_private
from orchestrator.room_profile import ApiConfig, BudgetConfig, EgressConfig, RoomProfile
from orchestrator.room_secret import RoomSecrets
from orchestrator.room_spec import build_room_spec
from orchestrator.rooms.kit import Quarters
from orchestrator.runners.ownership import note_first_uid
from orchestrator.runners.workdir import prepare_policy_dir, prepare_room_dirs
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
        uid, gid = ids.host_uid, ids.host_gid
        former = frozenset(first + room.index for first in self._former)
        folder = self._root / room.slug
        profile = self._config.profile(room.room_id, room.alias, room.former)
        disk = await self._disks.ensure(
            room.slug, limit_bytes=profile.limits.disk, uid=uid, is_vacant=is_vacant
        )
        dirs = await asyncio.to_thread(
            prepare_room_dirs, folder, uid=uid, gid=gid, disk=disk, former=former
        )
        placeholder = room_placeholder(self._installation, room.slug, self._key)
        tag = hashlib.sha256(f"{self._installation}/{room.slug}".encode()).hexdigest()
        policy = render_policy(profile.project.policy())
        await asyncio.to_thread(prepare_policy_dir, folder, policy)
        held = self._secrets(profile, room.slug)
        trust = await asyncio.to_thread(self._prepare_trust, profile, dirs.egress, gid)
        await self._egress.open_door(
            RoomDoor(
                slug=room.slug,
                directory=dirs.egress,
                uid=ids.peer_uid,
                gid=gid,
                placeholder=placeholder,
                user_tag=tag,
                proxy=_proxy_policy(profile.egress),
                secrets=held,
                api=_api_policy(profile.api),
                budget_micro_usd=_budget(profile.budget),
            )
        )
        spec = build_room_spec(
            room,
            config=self._config,
            installation=self._installation,
            image=self._image_id,
            ids=ids,
            dirs=dirs,
            generation=generation,
        )
        return Quarters(
            spec=spec,
            spec_hash=spec_hash(spec),
            placeholder=placeholder,
            is_subscription=self._egress.is_subscription,
            environment=(
                *build_proxy_env(),
                *trust,
                *((secret.name, secret.surrogate) for secret in held),
            ),
        )

    async def disk_usage(self, room: RoomRow) -> DiskUsage | None:
        """What the room's workspace and home hold, as far as it can be known."""
        profile = self._config.profile(room.room_id, room.alias, room.former)
        return await self._disks.usage(room.slug, profile.limits.disk)

    async def is_full(self, home: Path) -> bool:
        """Whether a program that writes its first small file there would fail."""
        return await asyncio.to_thread(takes_nothing, home)

    async def vacate(self, slug: RoomSlug) -> None:
        """Let go of what a room's place holds on the host while no container of it runs."""
        await self._disks.release(slug)

    def spent_micro_usd(self, slug: RoomSlug) -> int:
        """What a room's requests to the API have cost today (UTC)."""
        return self._egress.spent_micro_usd(slug)

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


def _proxy_policy(egress: EgressConfig) -> ProxyPolicy:
    return ProxyPolicy(
        allow=tuple(parse_rule(rule) for rule in egress.allow),
        internal=egress.networks,
        hosts={name: ipaddress.ip_address(address) for name, address in egress.hosts.items()},
        intercept=tuple(parse_rule(rule) for rule in egress.intercept),
        asks=egress.ask,
        connections=egress.connections,
        bytes_per_s=egress.bytes_per_second,
        bytes_per_day=egress.bytes_per_day,
        idle_s=egress.idle_s,
    )


def _api_policy(api: ApiConfig) -> ApiPolicy:
    return build_policy(
        server_tools=api.server_tools,
        betas=api.betas,
        fields=api.fields,
        max_body_bytes=api.max_body,
    )


def _budget(budget: BudgetConfig) -> int | None:
    return None if budget.usd_per_day is None else micro_usd(budget.usd_per_day)


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
