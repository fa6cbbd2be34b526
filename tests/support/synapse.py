"""A real Synapse in a container, for tests that want one that they can limit, stop and cut off.

The port stays the same over restarts, on 127.0.0.1. Data lives as long as the container.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import docker
import yaml
from docker.models.containers import Container
from testcontainers.core.container import DockerContainer

from tests.support.containers import session_labels
from tests.support.port import free_port
from tests.support.synapse_image import ensure_synapse_image

SERVER_NAME = "synapse.test"
_READY_TIMEOUT_S = 90.0
_HTTP_TIMEOUT_S = 30.0
# Far above what a test sends; logins and registrations included.
_RAISED = {"per_second": 1000, "burst_count": 1000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user of the tests' Synapse."""

    user_id: str
    password: str


class SynapseServer:
    """A running Synapse. `stop`, `kill`, `pause` and back are for tests of what happens then."""

    def __init__(self, container: Container, port: int, shared_secret: str) -> None:
        self.container = container
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self.server_name = SERVER_NAME
        self.shared_secret = shared_secret

    def register(
        self, localpart: str | None = None, *, password: str | None = None, admin: bool = False
    ) -> Account:
        """Make an account with the shared secret; a free name unless one is given."""
        local = localpart or f"u{secrets.token_hex(5)}"
        chosen = password or secrets.token_urlsafe(16)
        path = "/_synapse/admin/v1/register"
        nonce = self.request("GET", path)["nonce"]
        text = "\0".join((nonce, local, chosen, "admin" if admin else "notadmin"))
        mac = hmac.new(self.shared_secret.encode(), text.encode(), hashlib.sha1).hexdigest()
        body = {"nonce": nonce, "username": local, "password": chosen, "admin": admin}
        self.request("POST", path, {**body, "mac": mac, "inhibit_login": True})
        return Account(user_id=f"@{local}:{self.server_name}", password=chosen)

    def unlimit(self, user_id: str) -> None:
        """Lift the limit of messages for one account, as an administrator can."""
        admin = self.register(admin=True)
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": admin.user_id},
            "password": admin.password,
        }
        token = self.request("POST", "/_matrix/client/v3/login", login)["access_token"]
        path = f"/_synapse/admin/v1/users/{quote(user_id)}/override_ratelimit"
        body = {"messages_per_second": 0, "burst_count": 0}
        self.request("POST", path, body, token=token)

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, token: str = ""
    ) -> dict[str, Any]:
        """One blocking request, with its JSON answer; urllib's HTTPError for a refusal."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.base_url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S) as answer:
            parsed: dict[str, Any] = json.load(answer)
        return parsed

    def stop(self) -> None:
        """End it properly."""
        self.container.stop(timeout=10)

    def kill(self) -> None:
        """End it as a power failure does."""
        self.container.kill()

    def start(self) -> None:
        """Start it again, and wait until it answers."""
        self.container.start()
        self.wait_ready()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self.container.pause()

    def unpause(self) -> None:
        """Let it go on."""
        self.container.unpause()

    def wait_ready(self) -> None:
        """Wait until it answers.

        Raises:
            TimeoutError: after 90 s, with its log.
        """
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                self.request("GET", "/_matrix/client/versions")
            except (OSError, ValueError):
                time.sleep(0.1)
            else:
                return
        log = self.container.logs(tail=40).decode("utf-8", "replace")
        raise TimeoutError(f"Synapse did not answer within {_READY_TIMEOUT_S} s\n{log}")


@contextmanager
def run_synapse(
    *, stock_limits: bool, only_messages: bool = False, **settings: Any
) -> Iterator[SynapseServer]:
    """A Synapse for as long as the context lasts.

    Args:
        stock_limits: keep Synapse's own rate limits (0.2 messages/s, burst 10), as a stock
            homeserver has them; otherwise they are raised out of the way.
        only_messages: with `stock_limits`, keep those of messages alone: a test that makes many
            rooms would wait for minutes to make them.
        settings: more keys of the configuration file.
    """
    client = docker.from_env()
    try:
        image = ensure_synapse_image(client)
    finally:
        client.close()
    port = free_port()
    shared_secret = secrets.token_hex(16)
    limits = {} if stock_limits and not only_messages else _raised_limits()
    if stock_limits:
        limits.pop("rc_message", None)
    config = _render_config(port, shared_secret, {**limits, **settings})
    seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    container = DockerContainer(image)
    # The type names an int; what is given here goes to the engine, which takes an address, too.
    container.ports = {"8008/tcp": ("127.0.0.1", port)}  # type: ignore[dict-item]
    container.with_kwargs(labels=session_labels(), mem_limit="512m")
    container.with_copy_into_container(config.encode(), "/config/homeserver.yaml")
    container.with_copy_into_container(_LOG_CONFIG.encode(), "/config/log.yaml")
    container.with_copy_into_container(f"ed25519 a_test {seed}\n".encode(), "/config/signing.key")
    try:
        with container:
            server = SynapseServer(container.get_wrapped_container(), port, shared_secret)
            server.wait_ready()
            yield server
    finally:
        container.get_docker_client().client.close()


def _render_config(port: int, shared_secret: str, settings: dict[str, Any]) -> str:
    config: dict[str, Any] = {
        "server_name": SERVER_NAME,
        "public_baseurl": f"http://127.0.0.1:{port}/",
        "listeners": [
            {
                "port": 8008,
                "bind_addresses": ["0.0.0.0"],
                "type": "http",
                "tls": False,
                "resources": [{"names": ["client"], "compress": False}],
            }
        ],
        "database": {"name": "sqlite3", "args": {"database": "/data/homeserver.db"}},
        "media_store_path": "/data/media",
        "signing_key_path": "/config/signing.key",
        "log_config": "/config/log.yaml",
        "federation_domain_whitelist": [],
        "trusted_key_servers": [],
        "report_stats": False,
        "registration_shared_secret": shared_secret,
        "macaroon_secret_key": secrets.token_hex(16),
        "form_secret": secrets.token_hex(16),
    }
    return yaml.safe_dump(config | settings)


def _raised_limits() -> dict[str, Any]:
    login = {"address": _RAISED, "account": _RAISED, "failed_attempts": _RAISED}
    return {
        "rc_message": _RAISED,
        "rc_login": login,
        "rc_registration": _RAISED,
        "rc_joins": {"local": _RAISED, "remote": _RAISED},
        "rc_invites": {"per_room": _RAISED, "per_user": _RAISED, "per_issuer": _RAISED},
    }


_LOG_CONFIG = """\
version: 1
formatters: {plain: {format: "%(asctime)s %(levelname)s %(name)s %(message)s"}}
handlers: {stdout: {class: logging.StreamHandler, stream: ext://sys.stdout, formatter: plain}}
root: {level: WARNING, handlers: [stdout]}
disable_existing_loggers: false
"""
