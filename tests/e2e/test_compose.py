"""compose/ as its README says, for real: a message is answered through it, and a fault rings."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.support.compose_site import SERVER_NAME, ComposeSite, compose_site
from tests.support.matrix_user import open_matrix_user
from tests.support.messages_api import open_scripted_api
from tests.support.synapse import Account

pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.timeout(2400)]
AGENT = f"@claude:{SERVER_NAME}"
WATCHED = ("orchestrator", "prometheus", "alertmanager")
TURNS = 'query?query=aiagentchat_turns_total{outcome="done"}'
# Of what it takes to scrape, to find that it stays away (`for: 2m`), and to gather (`group_wait`).
_ALERT_S = 300.0
# A container with the host in it; PostgreSQL's password, by its container; the engine's volumes.
_INTRUDER = """
import http.client, json, socket
host = json.dumps({"Image": "x", "HostConfig": {"Privileged": True, "Binds": ["/:/host"]}})
for method, path, body in (
    ("POST", "/v1.41/containers/create?name=x", host),
    ("GET", "/v1.41/containers/NAME/json", None),
    ("GET", "/v1.41/volumes", None),
):
    client = http.client.HTTPConnection("localhost")
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.connect("/run/engine/docker.sock")
    client.request(method, path, body)
    print(client.getresponse().status)
"""
_SETTINGS = """
observability: {metrics: "0.0.0.0:9464"}
docker: {disk_quota: measured}
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ComposeSite]:
    with compose_site(tmp_path, project=f"aiagentchat-test-{secrets.token_hex(4)}") as site:
        yield site


async def test_a_message_is_answered_and_a_fault_is_told(site: ComposeSite) -> None:
    await up(site, "synapse")
    person = await asyncio.to_thread(register, site, "you")
    host = site.gateway()
    async with (
        open_scripted_api() as api,
        open_way(host, urlsplit(api.base_url).port or 0) as upstream,
        open_receiver(host) as receiver,
        open_matrix_user(site.homeserver, person) as you,
    ):
        await asyncio.to_thread(set_up, site, person, upstream, receiver.address)
        await up(site, *WATCHED)
        room = await you.create_room(AGENT, direct=True)
        await you.wait_for_member(room, AGENT)
        await you.send(room, "hello")
        await you.wait_for_text(room, "You said: hello", timeout_s=120)
        await wait_until(lambda: value(site, TURNS) == "1", 90)

        await asyncio.to_thread(check_engine, site)

        await asyncio.to_thread(site.compose, "stop", "orchestrator")
        await you.send(room, "is anybody there?")
        async with asyncio.timeout(_ALERT_S):
            told = await receiver.alerts.get()
        assert told["status"] == "firing"
        assert told["commonLabels"]["alertname"] == "OrchestratorDown"
        assert "orchestrator doctor" in told["commonAnnotations"]["runbook"]

        await up(site, *WATCHED)
        await you.wait_for_text(room, "You said: is anybody there?", timeout_s=120)
        await wait_until(lambda: value(site, "query?query=ALERTS") is None, 90)


async def up(site: ComposeSite, *names: str) -> None:
    """Start them, and wait until each says that it is well."""
    await asyncio.to_thread(site.compose, "up", "--detach", "--wait", *names)


def register(site: ComposeSite, name: str) -> Account:
    """An account, by the README's own command."""
    password = secrets.token_urlsafe(16)
    command = ("register_new_matrix_user", "-c", "/config/homeserver.yaml")
    given = ("--user", name, "--password", password, "--no-admin", "http://127.0.0.1:8008")
    site.compose("exec", "-T", "synapse", *command, *given)
    return Account(user_id=f"@{name}:{SERVER_NAME}", password=password)


def set_up(site: ComposeSite, person: Account, upstream: str, receiver: str) -> None:
    """The configuration, by `setup`, and whom Alertmanager tells."""
    site.compose(
        *("run", "--rm", "--no-TTY"),
        *("--env", f"ANTHROPIC_BASE_URL={upstream}", "--env", "ANTHROPIC_API_KEY=sk-ant-test"),
        *("setup", "init", "--folder", "/etc/aiagentchat"),
        *("--homeserver", "http://synapse:8008", "--user-id", AGENT, "--admin", person.user_id),
    )
    config = site.folder / "config" / "config.yaml"
    config.write_text(config.read_text() + _SETTINGS)
    alerts = site.folder / "alertmanager.yml"
    told = f"  - name: nobody\n    webhook_configs: [{{url: '{receiver}'}}]\n"
    alerts.write_text(alerts.read_text().replace("  - name: nobody\n", told))


def check_engine(site: ComposeSite) -> None:
    """That the orchestrator works without the engine's socket, and can't make more of its own."""
    inside = ("exec", "-T", "orchestrator")
    listed = site.compose(*inside, "sh", "-c", "ls /var/run/docker.sock /run/engine 2>&1 || true")
    assert "cannot access '/var/run/docker.sock'" in listed
    assert "docker.sock" in listed.split("/run/engine", 1)[1]
    assert "not passed on to the engine" not in site.compose("logs", "--no-log-prefix", "engine")
    program = _INTRUDER.replace("NAME", f"{site.project}-postgres-1")
    said = site.compose(*inside, "/opt/aiagentchat/bin/python", "-I", "-c", program)
    assert said.split() == ["403", "404", "403"], said
    log = site.compose("logs", "--no-log-prefix", "engine")
    assert log.count("not passed on to the engine") == 2, log


def value(site: ComposeSite, query: str) -> str | None:
    """What Prometheus has for an expression of one series; None for nothing."""
    found = site.fetch("prometheus", f"http://127.0.0.1:9090/api/v1/{query}")["data"]["result"]
    return found[0]["value"][1] if found else None


async def wait_until(is_met: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(is_met):
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(1)


class Receiver:
    """What Alertmanager tells comes here."""

    def __init__(self) -> None:
        self.alerts: asyncio.Queue[Any] = asyncio.Queue()
        self.address = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.alerts.put_nowait(await request.json())
        return web.Response()


@asynccontextmanager
async def open_receiver(host: str) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/", receiver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0).start()
        receiver.address = f"http://{host}:{runner.addresses[0][1]}/"
        yield receiver
    finally:
        await runner.cleanup()


@asynccontextmanager
async def open_way(host: str, port: int) -> AsyncIterator[str]:
    """A way from the project's network to a port of this host's loopback; its address."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one side is gone
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    tasks: list[asyncio.Task[None]] = []
    async with asyncio.TaskGroup() as group:

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.append(group.create_task(serve(reader, writer)))

        async with await asyncio.start_server(connected, host, 0) as server:
            try:
                yield f"http://{host}:{server.sockets[0].getsockname()[1]}"
            finally:
                for task in tasks:
                    task.cancel()
