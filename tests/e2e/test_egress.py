"""The configuration's hosts, from a room's tool to a site and back: one room of two is named."""

from __future__ import annotations

import secrets
import sqlite3

import pytest

from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser
from tests.support.messages_api import ToolUse
from tests.support.tls_site import open_site

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

_ADDRESS = "127.0.0.77"


async def _fetch(installation: Installation, person: MatrixUser, room: str, url: str) -> str:
    """What curl, as a tool of the room's agent, says of a URL."""
    said = f"end-of-{secrets.token_hex(4)}"
    call = ToolUse(name="Bash", input={"command": f"curl -sS -m 20 {url} 2>&1; echo {said}"})
    installation.api.when(f"fetch {said}", [call])
    await person.send(room, f"fetch {said}")
    answer = await person.wait_for_text(room, said, sender=installation.agent.user_id)
    return str(answer["content"]["body"])


async def test_a_named_room_reaches_its_host_another_does_not_and_the_day_is_in_the_database(
    installation: Installation,
) -> None:
    alice = await installation.person("alice")
    agent = installation.agent.user_id
    named, other = [await alice.create_room(agent, name=name) for name in ("named", "other")]
    async with open_site(address=_ADDRESS) as site:
        host = f"site.example.org:{site.port}"
        egress = {
            "allow": [host],
            "hosts": {"site.example.org": _ADDRESS},
            "internal": [f"{_ADDRESS}/32"],
        }
        orchestrator = await installation.configure(rooms={named: {"egress": egress}})
        await orchestrator.start()
        for room in (named, other):
            await alice.wait_for_member(room, agent)
        assert "reach" in await _fetch(installation, alice, named, f"http://{host}/a?secret-word")
        assert site.connections == 1
        refused = await _fetch(installation, alice, other, f"http://{host}/")
        assert f"{host} may not be reached from this room" in refused
        inside = await _fetch(installation, alice, named, f"http://{_ADDRESS}:{site.port}/")
        assert "may not be reached from this room" in inside
        assert site.connections == 1
    await orchestrator.stop()
    with sqlite3.connect(f"file:{orchestrator.state_dir}/state.sqlite3?mode=ro", uri=True) as db:
        ((slug, used),) = db.execute("SELECT slug, bytes FROM egress_days").fetchall()
        (rows,) = db.execute("SELECT count(*) FROM rooms WHERE slug = ?", (slug,)).fetchall()
    assert rows == (1,)
    # What was reserved and not used was given back at the end.
    assert 100 < used < 10_000
    assert "secret-word" not in orchestrator.log
