"""A secret of one room, in every place that a room has, is looked for in all that another can see.

Also in what the host keeps of it outside the room's own rows: logs at their most talkative, the
control socket, the metrics, what the engine tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sqlite3
from dataclasses import dataclass, field

import aiohttp
import docker
import pytest

from orchestrator.embedded.messages_model import ToolUse
from tests.e2e.conftest import Installation, installation
from tests.support.matrix_user import MatrixUser, body_of
from tests.support.port import free_port

__all__ = ["installation"]
pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

PLACES = (
    "prompt",
    "answer",
    "file",
    "file-name",
    "home",
    "tmp",
    "shm",
    "argument",
    "environment",
    "tool-output",
    "stderr",
    "abstract-socket",
    "queue",
    "request-path",
    "request-header",
)


@dataclass(frozen=True, slots=True)
class Canaries:
    """One unguessable word for each place."""

    words: dict[str, str] = field(
        default_factory=lambda: {place: f"cnry{secrets.token_hex(12)}" for place in PLACES}
    )

    def __getitem__(self, place: str) -> str:
        return self.words[place]

    def found_in(self, text: str | bytes) -> set[str]:
        """The places whose word is there."""
        data = text.encode() if isinstance(text, str) else text
        return {place for place, word in self.words.items() if word.encode() in data}


def _inspect_all() -> str:
    with contextlib.closing(docker.from_env()) as client:
        return json.dumps([container.attrs for container in client.containers.list(all=True)])


async def run_in(
    installation: Installation, person: MatrixUser, room: str, name: str, command: str
) -> str:
    """Let the room's agent run a command; what it printed."""
    call = ToolUse(name="Bash", input={"command": command, "description": name})
    installation.api.when(f"run {name}", [call])
    await person.send(room, f"run {name}")
    answer = await person.wait_for_text(room, f"end-of-{name}", sender=installation.agent.user_id)
    return body_of(answer)


def plant(canaries: Canaries) -> str:
    """Leaves a canary in each place that a command can reach."""
    c = canaries
    return f"""
echo {c["file"]} > secret; echo x > {c["file-name"]}; echo {c["home"]} > ~/secret
echo {c["tmp"]} > /tmp/secret; echo {c["shm"]} > /dev/shm/secret; echo {c["stderr"]} >&2
(exec -a {c["argument"]} env LEFT={c["environment"]} sleep 250 >/dev/null 2>&1) &
curl -s -m 5 -H 'x-left: {c["request-header"]}' http://127.0.0.1:8317/{c["request-path"]}
python3 - > /dev/null 2>&1 <<'END' &
import socket, time
server = socket.socket(socket.AF_UNIX); server.bind("\\0{c["abstract-socket"]}"); server.listen()
open("/dev/shm/{c["queue"]}", "w").write("x")
time.sleep(250)
END
sleep 1; echo {c["tool-output"]}; echo end-of-plant"""


# As the other room's code would look: the words' beginning only, in two halves, so that it does not
# find itself.
LOOK = """
w=cnr''y
grep -rlI "$w" / --exclude-dir=proc --exclude-dir=sys 2>/dev/null | wc -l
find / /workspace /home/agent /tmp /dev/shm -xdev -name "*$w*" 2>/dev/null | wc -l
cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c "$w"
cat /proc/net/unix | grep -c "$w"; ls /dev/shm /dev/mqueue /tmp | grep -c "$w"
echo end-of-look"""


async def test_no_canary_of_a_room_is_in_what_another_room_or_the_hosts_logs_can_show(
    installation: Installation,
) -> None:
    canaries, port = Canaries(), free_port()
    orchestrator = await installation.configure(
        observability={"log_level": "TRACE", "log_format": "json", "metrics": f"127.0.0.1:{port}"}
    )
    await orchestrator.start()
    alice, bob = await installation.person("alice"), await installation.person("bob")
    room_a = await installation.room(alice, name="a")
    room_b = await installation.room(bob, name="b")
    await asyncio.gather(
        run_in(installation, alice, room_a, "plant", plant(canaries)),
        run_in(installation, bob, room_b, "warm", "echo end-of-warm"),
    )
    installation.api.when("keep", f"kept {canaries['answer']}")
    await alice.send(room_a, f"keep {canaries['prompt']}")
    await alice.wait_for_text(room_a, "kept", sender=installation.agent.user_id)

    # The canaries are where they were put, or nothing below would say anything.
    shown = "\n".join(alice.texts(room_a, sender=installation.agent.user_id))
    assert {"tool-output", "answer", "stderr"} <= canaries.found_in(shown)
    own = await run_in(
        installation, alice, room_a, "own", LOOK.replace("end-of-look", "end-of-own")
    )
    counts = [int(line) for line in own.split() if line.isdigit()]
    assert len(counts) == 5
    assert all(counts), own

    # What the other room's code, people and API requests can see.
    seen = await run_in(installation, bob, room_b, "look", LOOK)
    assert [int(line) for line in seen.split() if line.isdigit()] == [0] * 5, seen
    events = json.dumps(await bob.messages(room_b))
    assert canaries.found_in(events) == set()
    requests_of_b = [
        request for request in installation.api.requests if b"run look" in bytes(request.body)
    ]
    assert requests_of_b
    assert canaries.found_in(b"".join(bytes(request.body) for request in requests_of_b)) == set()

    # What the host keeps outside the rooms.
    runners = json.dumps(
        [runner.model_dump(mode="json") for runner in await orchestrator.runners()]
    )
    engine = await asyncio.to_thread(_inspect_all)
    async with aiohttp.ClientSession() as http:
        answer = await http.get(f"http://127.0.0.1:{port}/metrics")
        metrics = await answer.text()
    for name, text in {
        "log": orchestrator.log,
        "control socket": runners,
        "engine": engine,
        "metrics": metrics,
    }.items():
        assert text, name
        assert canaries.found_in(text) == set(), name
    with sqlite3.connect(orchestrator.state_dir / "state.sqlite3") as database:
        rows = database.execute(
            "SELECT content FROM outbox WHERE room_id = ?", (room_b,)
        ).fetchall()
        rows += database.execute("SELECT prompt FROM turns WHERE room_id = ?", (room_b,)).fetchall()
    assert rows
    assert canaries.found_in(repr(rows)) == set()
