"""A real Synapse as a child process, and plain HTTP users on it, for the Matrix adapter's tests.

Message limits are the stock ones; accounts made here are exempt unless a test asks otherwise.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import yaml

SERVER_NAME = "test.example"
_SECRET = "registration-secret-of-a-test-server"
_PLENTY = {"per_second": 1000, "burst_count": 1000}


@dataclass(frozen=True)
class SynapseServer:
    """A running Synapse."""

    base_url: str
    directory: Path

    def log_tail(self) -> str:
        """The end of what it printed."""
        return (self.directory / "synapse.out").read_text(errors="replace")[-4000:]


@contextmanager
def run_synapse(directory: Path, *, start_timeout_s: float = 60.0) -> Iterator[SynapseServer]:
    """Start Synapse on a free port and wait for it; it is killed at exit."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = directory / "homeserver.yaml"
    config.write_text(yaml.safe_dump(_config(directory, port)))
    (directory / "log.yaml").write_text(yaml.safe_dump(_log_config()))
    with (directory / "synapse.out").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "synapse.app.homeserver", "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
        )
        server = SynapseServer(f"http://127.0.0.1:{port}", directory)
        try:
            _wait_ready(server, process, start_timeout_s)
            yield server
        finally:
            process.kill()
            process.wait(10)


class MatrixUser:
    """A person with a plain HTTP client."""

    def __init__(
        self, http: aiohttp.ClientSession, user_id: str, token: str, device_id: str
    ) -> None:
        self.http = http
        self.user_id = user_id
        self.token = token
        self.device_id = device_id

    async def ask(
        self, method: str, path: str, body: Any = None, *, ok: bool = True, **query: str
    ) -> Any:
        """One request below /_matrix/client/v3 (or an absolute path)."""
        url = path if path.startswith("/_") else f"/_matrix/client/v3{path}"
        async with self.http.request(
            method,
            url,
            json=body,
            params=query,
            headers={"Authorization": f"Bearer {self.token}"},
        ) as answer:
            data = await answer.json()
            assert not ok or answer.status == 200, (answer.status, data)
            return data

    async def create_room(self, *invite: str, encrypted: bool = False, **options: Any) -> str:
        """A private room."""
        state = [
            {
                "type": "m.room.encryption",
                "state_key": "",
                "content": {"algorithm": "m.megolm.v1.aes-sha2"},
            }
        ]
        body = {
            "preset": "private_chat",
            "invite": list(invite),
            "initial_state": state if encrypted else [],
            **options,
        }
        return str((await self.ask("POST", "/createRoom", body))["room_id"])

    async def say(self, room_id: str, text: str, *, txn: str | None = None) -> str:
        """A text message."""
        content = {"msgtype": "m.text", "body": text}
        return await self.send(room_id, "m.room.message", content, txn=txn)

    async def send(self, room_id: str, kind: str, content: Any, *, txn: str | None = None) -> str:
        """Any event."""
        txn = txn or f"t{time.monotonic_ns()}"
        path = f"/rooms/{quote(room_id)}/send/{kind}/{txn}"
        return str((await self.ask("PUT", path, content))["event_id"])

    async def messages(self, room_id: str, limit: int = 100) -> list[Any]:
        """The last events of a room, oldest first."""
        path = f"/rooms/{quote(room_id)}/messages"
        chunk: list[Any] = (await self.ask("GET", path, dir="b", limit=str(limit)))["chunk"]
        return chunk[::-1]


@asynccontextmanager
async def open_user(
    server: SynapseServer, name: str, *, limited: bool = False, admin: bool = False
) -> AsyncIterator[MatrixUser]:
    """Register an account (password: `pw-NAME`) and log it in."""
    user_id = await register(server, name, limited=limited, admin=admin)
    async with aiohttp.ClientSession(server.base_url) as http:
        token, device_id = await _log_in(http, user_id, f"pw-{name}")
        yield MatrixUser(http, user_id, token, device_id)


async def register(
    server: SynapseServer, name: str, *, limited: bool = False, admin: bool = False
) -> str:
    """Register an account (password: `pw-NAME`), exempt from the message limit unless `limited`."""
    async with aiohttp.ClientSession(server.base_url) as http:
        await _register(http, name, admin=admin)
        if not limited:
            await _register(http, "root", admin=True)
            token, _ = await _log_in(http, f"@root:{SERVER_NAME}", "pw-root")
            path = f"/_synapse/admin/v1/users/@{name}:{SERVER_NAME}/override_ratelimit"
            async with http.post(
                path,
                json={"messages_per_second": 0, "burst_count": 0},
                headers={"Authorization": f"Bearer {token}"},
            ) as answer:
                assert answer.status == 200, await answer.text()
    return f"@{name}:{SERVER_NAME}"


async def _register(http: aiohttp.ClientSession, name: str, *, admin: bool) -> None:
    path = "/_synapse/admin/v1/register"
    async with http.get(path) as answer:
        nonce = (await answer.json())["nonce"]
    role = "admin" if admin else "notadmin"
    mac = hmac.new(
        _SECRET.encode(), "\0".join((nonce, name, f"pw-{name}", role)).encode(), hashlib.sha1
    )
    body = {
        "nonce": nonce,
        "username": name,
        "password": f"pw-{name}",
        "admin": admin,
        "mac": mac.hexdigest(),
        "inhibit_login": True,
    }
    async with http.post(path, json=body) as answer:
        data = await answer.json()
        assert answer.status == 200 or data["errcode"] == "M_USER_IN_USE", data


async def _log_in(http: aiohttp.ClientSession, user_id: str, password: str) -> tuple[str, str]:
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user_id},
        "password": password,
    }
    async with http.post("/_matrix/client/v3/login", json=body) as answer:
        data = await answer.json()
        assert answer.status == 200, data
        return data["access_token"], data["device_id"]


async def eventually(check: Any, *, within_s: float = 15.0) -> Any:
    """Wait until `check()` (sync or async) gives something true; returns it."""
    async with asyncio.timeout(within_s):
        while True:
            result = check()
            result = await result if asyncio.iscoroutine(result) else result
            if result:
                return result
            await asyncio.sleep(0.02)


def _wait_ready(server: SynapseServer, process: subprocess.Popen[bytes], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        assert process.poll() is None, server.log_tail()
        try:
            with urllib.request.urlopen(f"{server.base_url}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(server.log_tail())


def _config(directory: Path, port: int) -> dict[str, Any]:
    return {
        "server_name": SERVER_NAME,
        "listeners": [
            {
                "port": port,
                "bind_addresses": ["127.0.0.1"],
                "type": "http",
                "tls": False,
                "resources": [{"names": ["client"], "compress": False}],
            }
        ],
        "database": {"name": "sqlite3", "args": {"database": str(directory / "homeserver.db")}},
        "media_store_path": str(directory / "media"),
        "signing_key_path": str(directory / "signing.key"),
        "log_config": str(directory / "log.yaml"),
        "pid_file": str(directory / "homeserver.pid"),
        "federation_domain_whitelist": [],
        "trusted_key_servers": [],
        "report_stats": False,
        "enable_registration": False,
        "registration_shared_secret": _SECRET,
        "macaroon_secret_key": "macaroon-secret-of-a-test-server",
        "form_secret": "form-secret-of-a-test-server",
        "bcrypt_rounds": 4,
        "presence": {"enabled": False},
        "caches": {"global_factor": 0.05},
        "rc_login": {"address": _PLENTY, "account": _PLENTY, "failed_attempts": _PLENTY},
        "rc_registration": _PLENTY,
        "rc_joins": {"local": _PLENTY, "remote": _PLENTY},
        "rc_invites": {"per_room": _PLENTY, "per_user": _PLENTY, "per_issuer": _PLENTY},
    }


def _log_config() -> dict[str, Any]:
    return {
        "version": 1,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "plain"}},
        "root": {"level": "WARNING", "handlers": ["out"]},
        "disable_existing_loggers": False,
    }
