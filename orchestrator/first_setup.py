"""`orchestrator init`: a configuration that works, each answer tried out before it is written.

Rules: a secret is never an argument and never in the configuration, but in a file of its own
(0600); nothing that is there is written over; an answer that fails is asked for again, where
somebody is there to be asked.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import aiohttp
import yaml
from pydantic import SecretStr

from orchestrator.config import DEFAULT_UPSTREAM, parse_config
from orchestrator.core.diagnosis import Check, Verdict, failed, passed
from orchestrator.doctor.homeserver import check_address, check_password
from orchestrator.doctor.messages_api import check_messages_api
from orchestrator.egress.credential import ApiKey, Credential, OAuthToken
from orchestrator.errors import AiAgentChatError, ConfigError, PreconditionError
from orchestrator.model import UserId
from orchestrator.private_file import write_private
from orchestrator.synapse_admin import register_account

CONFIG_NAME = "config.yaml"
ENVIRONMENT_NAME = "aiagentchat.env"
_USER_ID = re.compile(r"@[a-z0-9._=/+-]+:[^\s:]+(:\d+)?")
_OAUTH_PREFIX = "sk-ant-oat"
_DISCOVERY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was said on the command line or in the environment; None: to be asked for."""

    folder: Path
    homeserver: str | None = None
    user_id: str | None = None
    password: SecretStr | None = None
    registration_secret: SecretStr | None = None
    admin: str | None = None
    credential: SecretStr | None = None
    upstream: str = DEFAULT_UPSTREAM


@dataclass(frozen=True, slots=True)
class Terminal:
    """Somebody to ask; `ask` is None where nobody is there."""

    say: Callable[[str], None]
    ask: Callable[[str, bool], str] | None
    """With the question, and whether the answer must not be seen."""


class FirstSetup:
    """Asks, checks, writes. Invariant: nothing is written before every answer has passed."""

    def __init__(self, given: Given, terminal: Terminal) -> None:
        self._given = given
        self._terminal = terminal

    def __repr__(self) -> str:
        return f"<FirstSetup {self._given.folder}>"

    async def run(self) -> list[Path]:
        """The files that were written, the configuration first.

        Raises:
            ConfigError: an answer is missing or not usable, and nobody is there to be asked.
            PreconditionError: a file is there already, or can't be written.
        """
        _require_new(self._given.folder)
        given, homeserver = self._given, ""

        async def try_homeserver(answer: str) -> Check:
            nonlocal homeserver
            homeserver = await find_homeserver(answer)
            return (await check_address(homeserver, wall=time.time))[0]

        await self._settle("--homeserver", "Homeserver", given.homeserver, try_homeserver)
        user_id = UserId(
            await self._settle("--user-id", "The agent's account", given.user_id, _check_user_id)
        )
        password = await self._password(homeserver, user_id)
        admin = await self._settle("--admin", "Your own account", given.admin, _check_user_id)
        credential = await self._settle(
            "ANTHROPIC_API_KEY",
            "Anthropic API key, or token of `claude setup-token`",
            _reveal(given.credential),
            lambda answer: check_messages_api(given.upstream, as_credential(SecretStr(answer))),
            is_secret=True,
        )
        config = _render_config(homeserver, user_id, UserId(admin), given.upstream)
        if password is None:
            password = await self._register(homeserver, user_id)
        return _write(given.folder, config, password, SecretStr(credential))

    async def _register(self, homeserver: str, user_id: UserId) -> SecretStr:
        """Make the account, last of all: nobody else knows its password before it is written."""
        secret, password = self._given.registration_secret, SecretStr(token_urlsafe(24))
        assert secret is not None  # noqa: S101 - without one the password was asked for
        try:
            await register_account(homeserver, user_id, password, secret=secret, name="Claude")
        except AiAgentChatError as e:
            raise ConfigError([f"{user_id} could not be registered: {e}"]) from e
        self._terminal.say(f"registered {user_id}")
        return password

    async def _password(self, homeserver: str, user_id: UserId) -> SecretStr | None:
        """Of an account that is there; None: of one that is made at the end."""
        if self._given.registration_secret is not None:
            return None
        answer = await self._settle(
            "MATRIX_PASSWORD",
            f"Password of {user_id}",
            _reveal(self._given.password),
            lambda text: check_password(homeserver, user_id, SecretStr(text)),
            is_secret=True,
        )
        return SecretStr(answer)

    async def _settle(
        self,
        name: str,
        question: str,
        given: str | None,
        check: Callable[[str], Awaitable[Check]],
        *,
        is_secret: bool = False,
    ) -> str:
        """An answer that passes; asked for again until one does."""
        ask = self._terminal.ask
        answer = given
        while True:
            if answer is None:
                if ask is None:
                    raise ConfigError([f"{name}: not given, and there is no terminal to ask at"])
                answer = ask(question, is_secret).strip()
            found = await check(answer)
            if found.verdict is not Verdict.FAIL:
                self._terminal.say(f"{found.verdict}  {found.found}")
                return answer
            if ask is None:
                raise ConfigError([f"{name}: {found.found}. To mend it: {found.mend}"])
            self._terminal.say(f"FAIL  {found.found}\n      → {found.mend}")
            answer = None


async def find_homeserver(answer: str) -> str:
    """The client API's address: as it was given, or as the server's name says where it is."""
    if answer.startswith(("http://", "https://")):
        return answer.rstrip("/")
    url = f"https://{answer}/.well-known/matrix/client"
    timeout = aiohttp.ClientTimeout(total=_DISCOVERY_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url) as found:
            data: Any = await found.json(content_type=None)
        base = data["m.homeserver"]["base_url"]
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
        return f"https://{answer}"
    return str(base).rstrip("/")


def as_credential(secret: SecretStr) -> Credential:
    """A subscription's token is told from an API key by its beginning."""
    is_token = secret.get_secret_value().startswith(_OAUTH_PREFIX)
    return OAuthToken(secret) if is_token else ApiKey(secret)


async def _check_user_id(answer: str) -> Check:
    if _USER_ID.fullmatch(answer) is None:
        return failed("account", f"{answer!r} is no Matrix id", "like this: @claude:example.org")
    return passed("account", answer)


def _render_config(homeserver: str, user_id: UserId, admin: UserId, upstream: str) -> str:
    """As a file; read back before it is written, so that it is valid."""
    data: dict[str, Any] = {
        "matrix": {"homeserver": homeserver, "user_id": user_id},
        "access": {"admins": [admin], "users": []},
        "defaults": {"permissions": "ask"},
    }
    if upstream != DEFAULT_UPSTREAM:
        data["anthropic"] = {"upstream": upstream}
    parse_config(data, source=CONFIG_NAME)
    return (
        "# Every key, with its default: docs/config.example.yaml. Secrets don't stand here.\n"
        '# Whoever else may run turns: access.users, for instance "@*:example.org".\n'
        + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    )


def _require_new(folder: Path) -> None:
    for name in (CONFIG_NAME, ENVIRONMENT_NAME, "secrets"):
        if (folder / name).exists():
            msg = f"{folder / name} is there already. Move it away, or name another --folder."
            raise PreconditionError(msg)


def _write(folder: Path, config: str, password: SecretStr, credential: SecretStr) -> list[Path]:
    is_token = isinstance(as_credential(credential), OAuthToken)
    variable = "CLAUDE_CODE_OAUTH_TOKEN" if is_token else "ANTHROPIC_API_KEY"
    held = {"MATRIX_PASSWORD": password, variable: credential}
    secrets = folder / "secrets"
    files = {secrets / name.lower(): value.get_secret_value() for name, value in held.items()}
    lines = [f"{name}_FILE={path}" for name, path in zip(held, files, strict=True)]
    files[folder / ENVIRONMENT_NAME] = "\n".join(lines)
    files = {folder / CONFIG_NAME: config.rstrip("\n"), **files}
    try:
        secrets.mkdir(mode=0o700, parents=True)
        for path, text in files.items():
            write_private(path, f"{text}\n".encode())
    except OSError as e:
        msg = f"{folder} can't be written: {e.strerror}. Mend its rights, or name another --folder."
        raise PreconditionError(msg) from e
    return list(files)


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def set_up(given: Given, terminal: Terminal) -> list[Path]:
    """As `FirstSetup.run`, for a program that is not asynchronous."""
    return asyncio.run(FirstSetup(given, terminal).run())
