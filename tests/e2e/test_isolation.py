"""What the code inside a room's runner can see, tried with the CLI's own tools."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.embedded.messages_model import ToolUse
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser, body_of
from tests.support.orchestrator import API_KEY

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

CANARY = "canary-of-room-b-5b2c91"
# As a shell word that is the same to grep, but not in the conversation that the CLI keeps.
HALVES = f"{CANARY[:9]}''{CANARY[9:]}"


async def run_in(
    installation: Installation, person: MatrixUser, room: str, name: str, command: str
) -> str:
    """Let the room's agent run a command; what it printed."""
    call = ToolUse(name="Bash", input={"command": command, "description": name})
    installation.api.when(f"run {name}", [call])
    await person.send(room, f"run {name}")
    done = f"end-of-{name}"
    answer = await person.wait_for_text(room, done, sender=installation.agent.user_id)
    return body_of(answer)


async def test_a_room_sees_nothing_but_itself(installation: Installation) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person("alice")
    bob = await installation.person("bob")
    room_a = await installation.room(alice, name="a")
    room_b = await installation.room(bob, name="b")
    plant = f"echo {CANARY} > secret; echo {CANARY} > ~/secret; echo {CANARY} > /tmp/secret; "
    plant += f"(exec -a {CANARY} sleep 300) & echo end-of-plant"
    await asyncio.gather(
        run_in(installation, bob, room_b, "plant", plant),
        run_in(installation, alice, room_a, "warm", "echo end-of-warm"),
    )

    async def see(name: str, command: str) -> str:
        return await run_in(installation, alice, room_a, name, f"{command}; echo end-of-{name}")

    # No way out: loopback only, no route, no name resolution.
    assert await see("links", "echo links: $(ls /sys/class/net)") == (
        "The tool said: links: lo\nend-of-links"
    )
    routes = await see("routes", "tail -n +2 /proc/net/route | wc -l")
    assert "said: 0" in routes
    lookup = await see("names", "getent hosts example.org || echo unresolved")
    assert "unresolved" in lookup
    direct = "curl -sS -m 3 --noproxy '*' http://192.0.2.1/ 2>&1 || echo unreachable"
    assert "unreachable" in await see("direct", direct)
    proxied = await see("proxied", "curl -sS -m 3 http://192.0.2.1/ 2>&1")
    assert "192.0.2.1 may not be reached from this room" in proxied

    # Nothing of the other room: files, processes, sockets.
    files = await see(
        "files", f"grep -rl {HALVES} / --exclude-dir=proc --exclude-dir=sys 2>/dev/null | wc -l"
    )
    assert "said: 0" in files
    processes = await see(
        "processes", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'b-5b2c9[1]'"
    )
    assert "said: 0" in processes
    sockets = await see("sockets", "find / -xdev -type s 2>/dev/null; ls /run/egress")
    assert sockets.count("egress.sock") == 1
    assert "docker.sock" not in sockets

    # No credential: not in an environment, a file, a command line or this process's memory.
    spread = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'"
    environment = await see("environment", spread)
    assert API_KEY not in environment
    assert "sk-ant-" in environment, "the placeholder is there, so the real one would be seen"
    marker = API_KEY[20:45]
    held = await see(
        "held",
        f"grep -rl '{marker[:12]}''{marker[12:]}' /home /tmp /run /workspace 2>/dev/null | wc -l",
    )
    # Its own command line stands in the conversation that the CLI keeps, in two halves.
    assert "said: 0" in held

    # The upstream sees the real one, and never a placeholder.
    messages = [r for r in installation.api.requests if r.path.startswith("/v1/messages")]
    assert messages
    assert {request.headers.get("x-api-key") for request in messages} == {API_KEY}
    assert CANARY not in "".join(alice.texts(room_a, sender=installation.agent.user_id))
    assert API_KEY not in orchestrator.log
    assert API_KEY.encode() not in (orchestrator.state_dir / "state.sqlite3").read_bytes()


async def test_the_runner_has_no_privilege_and_its_own_identity(installation: Installation) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person("alice")
    room = await installation.room(alice)
    command = (
        "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t\\n' '  '; "
        "id -u; whoami; touch /x 2>&1; stat -c %a /workspace; "
        "find / -xdev -perm /6000 2>/dev/null | wc -l; echo end-of-identity"
    )
    said = await run_in(installation, alice, room, "identity", command)

    for expected in ("CapEff: 0000000000000000", "CapBnd: 0000000000000000", "NoNewPrivs: 1"):
        assert expected in said
    assert "Seccomp: 2" in said
    uid, name, read_only, mode, setuid = said.splitlines()[-6:-1]
    assert int(uid.split()[-1]) > 600_100_000
    assert name == "agent"
    assert "Read-only file system" in read_only
    assert (mode, setuid) == ("700", "0")
