"""What a room's place has: surrogates and the CA's certificate, and never a secret."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from orchestrator.config import Config, parse_config
from orchestrator.core.id_plan import plain_ids
from orchestrator.disks import RoomDisks
from orchestrator.egress.gateway import ApiKey, EgressGateway, ProxyMeans, open_egress
from orchestrator.egress.trust import BUNDLE_NAME, CA_NAME, trust_environment
from orchestrator.errors import PreconditionError
from orchestrator.housing import HostHousing, open_interceptor
from orchestrator.model import InstallationId, RoomId, RoomSlug
from orchestrator.room_secret import load_room_secrets
from orchestrator.rooms.kit import Quarters
from orchestrator.store.api import RoomRow

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="rooms' directories need root")

VALUE = "ghp_Zq3vXw8Yt5Rb2Nm7Kj4Hg6Fd9Sa1Po0Iu3Q"
HERE = InstallationId("0123456789abcdef")
EGRESS = {"allow": ["api.test"], "intercept": ["api.test"]}


def configured(**profile: Any) -> Config:
    data = {
        "matrix": {"homeserver": "https://m.example", "user_id": "@c:m.example"},
        "rooms": {"!a:b": profile},
    }
    return parse_config(data, source="c.yaml")


SECRET = {"secrets": {"T": {"hosts": ["api.test"]}}}


def row(room: str = "!a:b", slug: str = "room-a", index: int = 0) -> RoomRow:
    return RoomRow(
        room_id=RoomId(room),
        slug=RoomSlug(slug),
        index=index,
        joined=True,
        encrypted=False,
        name=None,
        alias=None,
        joined_members=2,
    )


@dataclass
class Site:
    housing: HostHousing
    egress: EgressGateway
    state: Path

    async def prepare(self, room: RoomRow | None = None) -> Quarters:
        return await self.housing.prepare(room or row(), generation=1)


@contextlib.asynccontextmanager
async def open_site(state: Path, config: Config) -> AsyncIterator[Site]:
    state.mkdir(exist_ok=True)
    means = ProxyMeans(interceptor=open_interceptor(config, state))
    async with open_egress(
        upstream="http://127.0.0.1:9", credential=ApiKey(SecretStr("k" * 20)), means=means
    ) as egress:
        housing = HostHousing(
            config=config,
            state_dir=state,
            installation=HERE,
            image_id="sha256:0",
            egress=egress,
            room_secrets=load_room_secrets(config, {"T": VALUE}),
            ids=plain_ids(HERE),
            disks=RoomDisks(root=state / "rooms", kind="measured"),
        )
        yield Site(housing, egress, state)


async def test_a_room_has_a_surrogate_that_is_the_same_after_a_restart(tmp_path: Path) -> None:
    found: list[Quarters] = []
    for _ in range(2):
        async with open_site(tmp_path / "state", configured(egress=EGRESS, **SECRET)) as site:
            found += [await site.prepare()]
    first, second = (dict(quarters.environment) for quarters in found)
    assert first == second
    assert first["T"].startswith("ghp_")
    assert len(first["T"]) == len(VALUE)
    assert VALUE not in repr(found)


async def test_neither_the_specification_nor_its_hash_knows_of_a_secret(tmp_path: Path) -> None:
    hashes = set()
    for profile in ({}, {"egress": EGRESS}, {"egress": EGRESS, **SECRET}):
        async with open_site(tmp_path / "state", configured(**profile)) as site:
            quarters = await site.prepare()
            hashes.add(quarters.spec_hash)
            shown = json.dumps(dataclasses.asdict(quarters), default=str)
            assert VALUE not in shown
    assert len(hashes) == 1


async def test_a_room_without_the_secret_has_no_variable_of_its_name(tmp_path: Path) -> None:
    async with open_site(tmp_path / "state", configured(egress=EGRESS, **SECRET)) as site:
        other = await site.prepare(row("!c:d", "room-c", 1))
        assert "T" not in dict(other.environment)
        assert not set(dict(trust_environment(b""))) & set(dict(other.environment))


async def test_the_ca_is_readable_for_the_rooms_group_where_something_is_intercepted(
    tmp_path: Path,
) -> None:
    async with open_site(tmp_path / "state", configured(egress=EGRESS)) as site:
        quarters = await site.prepare()
        assert site.egress.certificate_pem is not None
        assert set(trust_environment(site.egress.certificate_pem)) <= set(quarters.environment)
        for name in (CA_NAME, BUNDLE_NAME):
            held = (quarters.spec.egress_dir / name).lstat()
            assert (held.st_uid, held.st_gid) == (0, quarters.spec.gid)
            assert stat.S_IMODE(held.st_mode) == 0o640
        ca = (quarters.spec.egress_dir / CA_NAME).read_bytes()
        bundle = (quarters.spec.egress_dir / BUNDLE_NAME).read_bytes()
        assert ca == site.egress.certificate_pem
        assert bundle.endswith(ca)
        assert bundle.count(b"BEGIN CERTIFICATE") > 1
        assert b"PRIVATE" not in bundle


async def test_the_ca_is_taken_away_where_nothing_is_intercepted_any_more(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with open_site(state, configured(egress=EGRESS)) as site:
        directory = (await site.prepare()).spec.egress_dir
        assert (directory / CA_NAME).exists()
    async with open_site(state, configured()) as site:
        quarters = await site.prepare()
        assert not set(dict(trust_environment(b""))) & set(dict(quarters.environment))
        assert sorted(entry.name for entry in directory.iterdir()) == ["egress.sock"]


async def test_other_intercepted_hosts_are_another_environment(tmp_path: Path) -> None:
    # A CLI that runs is then started anew: it has read the CA's certificate once.
    found = set()
    for host in ("api.test", "api.test", "other.test"):
        egress = {"allow": [host], "intercept": [host]}
        async with open_site(tmp_path / "state", configured(egress=egress)) as site:
            found.add((await site.prepare()).environment)
    assert len(found) == 2


async def test_no_ca_is_made_where_nothing_is_intercepted(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with open_site(state, configured()) as site:
        assert site.egress.certificate_pem is None
        await site.prepare()
    assert not (state / "authority.pem").exists()


async def test_a_changed_value_opens_the_door_anew(tmp_path: Path) -> None:
    config = configured(egress=EGRESS, **SECRET)
    async with open_site(tmp_path / "state", config) as site:
        await site.prepare()
        before = site.egress._doors[RoomSlug("room-a")]
        await site.prepare()
        assert site.egress._doors[RoomSlug("room-a")] is before
        site.housing._room_secrets = load_room_secrets(config, {"T": VALUE[::-1]})
        await site.prepare()
        assert site.egress._doors[RoomSlug("room-a")] is not before


async def test_a_damaged_ca_stops_the_start_with_words(tmp_path: Path) -> None:
    (tmp_path / "authority.pem").write_text("nothing")
    (tmp_path / "authority.pem").chmod(0o600)
    with pytest.raises(PreconditionError, match="is damaged"):
        open_interceptor(configured(egress=EGRESS), tmp_path)
