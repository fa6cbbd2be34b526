"""The programs that people use in a runner, through the proxy: real runner, real door, real TLS."""

from __future__ import annotations

import contextlib
import functools
import http.server
import ipaddress
import json
import shlex
import ssl
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.core.cli_command import build_cli_argv, build_cli_env
from orchestrator.core.egress_rules import Target, parse_rule
from orchestrator.core.proxy_env import build_proxy_env
from orchestrator.core.proxy_policy import IpAddress, ProxyPolicy
from orchestrator.core.sandbox import SandboxSpec
from orchestrator.egress.gateway import EgressGateway, ProxyMeans, RoomDoor, open_egress
from orchestrator.model import Permissions, SessionId
from orchestrator.runners.docker_backend import DockerBackend
from tests.support.egress import PLACEHOLDER, REAL_KEY, ApiKey, SecretStr
from tests.support.package_site import make_package_site
from tests.support.runner_engine import (
    ensure_runner_image,
    open_clean_backend,
    prepare,
    room_spec,
)
from tests.support.scripted_api import Reply, ScriptedApi, open_scripted_api, text, tool_use
from tests.support.tls_site import make_authority

pytestmark = [
    pytest.mark.docker,
    pytest.mark.filterwarnings("ignore:It is recommended to use web.AppKey"),
]

HOST, DENIED = "site.example.org", "other.example.org"
COMMAND_S = 120


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


@contextlib.contextmanager
def serve_files(root: Path, context: ssl.SSLContext | None) -> Iterator[int]:
    handler = functools.partial(_Quiet, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A running runner with a door whose rules name one site."""

    spec: SandboxSpec
    backend: DockerBackend
    gateway: EgressGateway
    api: ScriptedApi
    denied: list[Target]
    https: str
    http: str

    async def run(self, script: str, **more: str) -> tuple[int, str]:
        """Exit code and output of a script that runs as the room's user, as the CLI's tools do."""
        environment = {
            "PATH": "/home/agent/.local/bin:/usr/local/bin:/usr/bin:/bin",
            **dict(build_proxy_env()),
            **build_cli_env(PLACEHOLDER),
            **dict.fromkeys(_TRUST, "/workspace/ca.pem"),
            **more,
        }
        api = self.backend.engine.api
        made = await self.backend.engine.call(
            api.exec_create,
            self.spec.name,
            ["timeout", str(COMMAND_S), "bash", "-c", script],
            environment=environment,
        )
        output = await self.backend.engine.call_within(COMMAND_S + 10, api.exec_start, made["Id"])
        state = await self.backend.engine.call(api.exec_inspect, made["Id"])
        return int(state["ExitCode"]), output.decode(errors="replace")


_TRUST = ("CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE")


@pytest.fixture(scope="module")
def image() -> str:
    return ensure_runner_image()


@pytest.fixture
async def room(image: str, tmp_path: Path) -> AsyncIterator[Room]:
    authority = make_authority(tmp_path)
    root = tmp_path / "site"
    root.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        https = stack.enter_context(serve_files(root, authority.server_context(HOST)))
        http_port = stack.enter_context(serve_files(root, None))
        make_package_site(root, f"https://{HOST}:{https}")
        api = await stack.enter_async_context(open_scripted_api())
        backend = await stack.enter_async_context(open_clean_backend())
        spec = prepare(room_spec(tmp_path, backend.installation, image))
        gateway = await stack.enter_async_context(
            open_egress(
                upstream=api.base_url,
                credential=ApiKey(SecretStr(REAL_KEY)),
                means=ProxyMeans(lookup=_everything_here),
            )
        )
        denied: list[Target] = []
        gateway.listen_for_denied_hosts(lambda _slug, target: denied.append(target))
        await gateway.open_door(_door(spec, https, http_port))
        (spec.workspace / "ca.pem").write_bytes(authority.file.read_bytes())
        (spec.workspace / "ca.pem").chmod(0o644)
        await backend.ensure(spec)
        await backend.start(spec.name)
        room = Room(
            spec=spec,
            backend=backend,
            gateway=gateway,
            api=api,
            denied=denied,
            https=f"https://{HOST}:{https}",
            http=f"http://{HOST}:{http_port}",
        )
        # Until the shim listens.
        await room.run(
            "curl -s --noproxy '*' --retry 60 --retry-connrefused --retry-delay 1 "
            "http://127.0.0.1:8317/"
        )
        yield room


def _everything_here(_host: str) -> tuple[IpAddress, ...]:
    return (ipaddress.ip_address("127.0.0.1"),)


def _door(spec: SandboxSpec, *ports: int) -> RoomDoor:
    return RoomDoor(
        slug=spec.slug,
        directory=spec.egress_dir,
        uid=spec.uid,
        gid=spec.gid,
        placeholder=PLACEHOLDER,
        user_tag="t",
        proxy=ProxyPolicy(
            allow=tuple(parse_rule(f"{HOST}:{port}") for port in ports),
            internal=(ipaddress.ip_network("127.0.0.1/32"),),
        ),
    )


# Name, script, and what its output must have. {d} is a host that is not allowed.
_REFUSED = f"{DENIED} may not be reached from this room"
PROGRAMS: list[tuple[str, str, list[str]]] = [
    ("curl over TLS", "curl -sS {https}/page.html", ["harvest-word"]),
    ("curl in clear", "curl -sS {http}/page.html", ["harvest-word"]),
    ("curl, refused in clear", "curl -sS http://{d}/", [_REFUSED]),
    ("curl, refused over TLS", "curl -sS https://{d}/", ["CONNECT tunnel failed, response 403"]),
    ("git over TLS", "git clone -q {https}/repo.git a && cat a/README", ["cloned"]),
    ("git in clear", "git clone -q {http}/repo.git b && cat b/README", ["cloned"]),
    ("git, refused in clear", "git clone http://{d}/x.git", [f"remote: {_REFUSED}"]),
    ("git, refused over TLS", "git clone https://{d}/x.git", ["CONNECT tunnel failed"]),
    (
        "pip download",
        "pip download --no-deps -i {https}/simple/ harvest",
        ["Successfully downloaded harvest"],
    ),
    (
        "pip install",
        "pip install --no-deps -i {https}/simple/ harvest && python3 -c "
        "'import harvest; print(harvest.WORD)'",
        ["harvest-word"],
    ),
    (
        "pip, refused",
        "pip download --retries 1 -i https://{d}/simple harvest",
        [f"Tunnel connection failed: 403 Forbidden: {_REFUSED}"],
    ),
    ("npm view", "npm --registry {https}/npm view harvest description", ["harvest-word"]),
    ("npm pack", "npm --registry {https}/npm pack harvest", ["harvest-1.0.0.tgz"]),
    (
        "npm, refused",
        "npm --fetch-retries 0 --registry https://{d}/npm view harvest",
        [f"403 Forbidden: {_REFUSED}"],
    ),
    ("apt over TLS", "update {https}", ["Get:4", "Packages [91 B]"]),
    ("apt in clear", "update {http}", ["Get:4", "Packages [91 B]"]),
    ("apt, refused", "update https://{d}", [f"HTTP/1.1 403 Forbidden: {_REFUSED}"]),
    (
        "Python",
        "python3 -c \"import urllib.request as u; print(u.urlopen('{https}/page.html').read())\"",
        ["harvest-word"],
    ),
    (
        "Python, refused",
        "python3 -c \"import urllib.request as u; u.urlopen('https://{d}/')\"",
        [f"Tunnel connection failed: 403 Forbidden: {_REFUSED}"],
    ),
    ("past the proxy there is nothing", "curl -sS --noproxy '*' {https}/", ["not resolve host"]),
]
_PRELUDE = r"""
mkdir -p /tmp/work && cd /tmp/work
update() {
  mkdir -p lists/partial cache/archives/partial
  echo "deb [trusted=yes arch=amd64] $1/apt stable main" > s.list
  apt-get -o Dir::Etc::SourceList=$PWD/s.list -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State::Lists=$PWD/lists -o Dir::Cache=$PWD/cache -o APT::Sandbox::User= \
    -o Acquire::https::CaInfo=/workspace/ca.pem -o Acquire::Retries=0 update
}
"""


async def test_every_program_reaches_what_is_allowed_and_shows_why_the_rest_is_not(
    room: Room,
) -> None:
    wrong: dict[str, str] = {}
    for name, script, wanted in PROGRAMS:
        filled = script.format(https=room.https, http=room.http, d=DENIED)
        _, output = await room.run(f"{_PRELUDE}\n{filled}")
        if not all(part in output for part in wanted):
            wrong[name] = output
    assert not wrong, json.dumps(wrong, indent=1)
    assert {target.host for target in room.denied} == {DENIED}


async def test_the_clis_own_fetch_goes_through_the_proxy_and_asks_nobody_else(room: Room) -> None:
    allowed = await _fetch(room, f"{room.https}/page.html")
    assert allowed["is_error"] is None
    assert "harvest-word" in json.dumps(room.api.requests)
    assert room.denied == []
    refused = await _fetch(room, f"https://{DENIED}/page.html")
    assert refused == {"is_error": True, "content": "proxy refused the connection"}
    assert [str(target) for target in room.denied] == [DENIED]
    # The requests to the API went to it directly, and with the real key.
    stats = room.gateway.stats(room.spec.slug)
    assert stats.requests_allowed == len(room.api.requests)
    assert stats.proxy.allowed == 1


async def test_without_leave_the_cli_has_no_fetch(room: Room) -> None:
    answer = await _fetch(room, f"{room.https}/page.html", web_fetch=False)
    assert answer["is_error"] is True
    assert room.gateway.stats(room.spec.slug).proxy.allowed == 0


async def _fetch(room: Room, url: str, *, web_fetch: bool = True) -> dict[str, object]:
    """What the tool answers to a model that calls it."""
    call = tool_use("WebFetch", {"url": url, "prompt": "what does it say?"})
    room.api.replies.extend(
        [Reply(blocks=(call,), stop_reason="tool_use"), Reply(blocks=(text("done"),))]
    )
    argv = build_cli_argv(
        session_id=SessionId(str(uuid.uuid4())),
        resume=False,
        permissions=Permissions.BYPASS,
        web_fetch=web_fetch,
    )
    line = json.dumps({"type": "user", "message": {"role": "user", "content": "fetch it"}})
    code, output = await room.run(f"echo {shlex.quote(line)} | {shlex.join(argv)}")
    assert code == 0, output
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    (answer,) = [line["message"]["content"][0] for line in lines if line["type"] == "user"]
    return {"is_error": answer.get("is_error"), "content": answer["content"]}
