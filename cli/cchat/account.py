"""Who `cchat` is on Matrix: from the environment, the embedded homeserver, or `cchat login`.

The first that is there is taken:

1. CCHAT_HOMESERVER with CCHAT_USER_ID and CCHAT_PASSWORD, or with CCHAT_ACCESS_TOKEN; each secret
   also as a file, NAME_FILE;
2. STATE_DIR/embedded.json, which the embedded homeserver writes;
3. what `cchat login` stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from cchat.session import load_session
from orchestrator.errors import ConfigError, PreconditionError

_HomeserverUrl = Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$")]
_UserId = Annotated[str, Field(pattern=r"^@[^:\s]+:\S+$")]
_SECRETS = ("CCHAT_PASSWORD", "CCHAT_ACCESS_TOKEN")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A Matrix account and how to get a session of it.

    With a password a session is made once and kept in `session_path`; a token is used as it is.
    """

    homeserver: str
    """Without a slash at its end."""
    user_id: str | None
    """None: the homeserver says whose token it is."""
    password: SecretStr | None = None
    access_token: SecretStr | None = None
    session_path: Path | None = None
    agent_user_id: str | None = None
    embedded_in: Path | None = None
    """The state directory whose orchestrator runs this homeserver, if one does."""
    login_hint: str = "Type: cchat login"
    """What to do when the homeserver refuses the credentials."""


class _Environment(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    CCHAT_HOMESERVER: _HomeserverUrl
    CCHAT_USER_ID: _UserId | None = None
    CCHAT_AGENT_USER_ID: _UserId | None = None
    CCHAT_PASSWORD: SecretStr | None = None
    CCHAT_ACCESS_TOKEN: SecretStr | None = None


class _Embedded(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    homeserver: _HomeserverUrl
    user_id: _UserId
    password: SecretStr
    agent_user_id: _UserId | None = None


def find_account(state_dir: Path, environ: Mapping[str, str], home: Path) -> Account | None:
    """The account to use, or None where nothing is set up.

    Raises:
        ConfigError: one line per mistake in the environment.
        PreconditionError: a file of ours can't be read.
    """
    return (
        account_of_environment(environ, home)
        or account_of_embedded(state_dir)
        or account_of_login(environ, home)
    )


def account_of_environment(environ: Mapping[str, str], home: Path) -> Account | None:
    """The account that CCHAT_… names; None where none of them is set."""
    values = {name: environ[name] for name in _Environment.model_fields if environ.get(name)}
    problems: list[str] = []
    for name in _SECRETS:
        _add_from_file(name, values, environ, problems)
    if not values and not problems:
        return None
    problems += _missing(values)
    try:
        found = _Environment.model_validate(values) if not problems else None
    except ValidationError as e:
        problems = [f"{error['loc'][0]}: {_expected(error['loc'][0])}" for error in e.errors()]
        found = None
    if found is None:
        raise ConfigError(problems)
    return _of_environment(found, environ, home)


def account_of_embedded(state_dir: Path) -> Account | None:
    """The user's account on the embedded homeserver of a state directory, if there is one."""
    path = state_dir / "embedded.json"
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        msg = f"{path} can't be read ({e.strerror}). Run cchat as the orchestrator's user."
        raise PreconditionError(msg) from e
    try:
        found = _Embedded.model_validate_json(raw)
    except ValidationError as e:
        msg = f"{path} is damaged. Restart the orchestrator with: make up"
        raise PreconditionError(msg) from e
    return Account(
        homeserver=found.homeserver.rstrip("/"),
        user_id=found.user_id,
        password=found.password,
        session_path=state_dir / "embedded" / "cchat-session.json",
        agent_user_id=found.agent_user_id,
        embedded_in=state_dir,
        login_hint=f"Restart the orchestrator: it writes {path} anew. Command: make up",
    )


def account_of_login(environ: Mapping[str, str], home: Path) -> Account | None:
    """The account that `cchat login` stored, if it did."""
    path = login_path(environ, home)
    session = load_session(path)
    if session is None:
        return None
    return Account(
        homeserver=session.homeserver,
        user_id=session.user_id,
        access_token=session.access_token,
        agent_user_id=session.agent_user_id,
        login_hint="Log in again with: cchat login",
    )


def login_path(environ: Mapping[str, str], home: Path) -> Path:
    """Where `cchat login` stores its session."""
    return _config_dir(environ, home) / "cchat.json"


def _config_dir(environ: Mapping[str, str], home: Path) -> Path:
    base = environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification: a relative path there is to be ignored.
    root = Path(base) if base.startswith("/") else home / ".config"
    return root / "aiagentchat"


def _of_environment(found: _Environment, environ: Mapping[str, str], home: Path) -> Account:
    homeserver = found.CCHAT_HOMESERVER.rstrip("/")
    key = hashlib.sha256(f"{homeserver}|{found.CCHAT_USER_ID}".encode()).hexdigest()[:16]
    has_token = found.CCHAT_ACCESS_TOKEN is not None
    return Account(
        homeserver=homeserver,
        user_id=found.CCHAT_USER_ID,
        password=found.CCHAT_PASSWORD,
        access_token=found.CCHAT_ACCESS_TOKEN,
        session_path=None if has_token else _config_dir(environ, home) / f"session-{key}.json",
        agent_user_id=found.CCHAT_AGENT_USER_ID,
        login_hint=f"Check {'CCHAT_ACCESS_TOKEN' if has_token else 'CCHAT_PASSWORD'}.",
    )


def _add_from_file(
    name: str, values: dict[str, str], environ: Mapping[str, str], problems: list[str]
) -> None:
    file = environ.get(f"{name}_FILE")
    if not file:
        return
    if name in values:
        problems.append(f"{name}: set it or {name}_FILE, not both")
        return
    try:
        value = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        problems.append(f"{name}_FILE: {file} cannot be read: {type(e).__name__}")
        return
    if value:
        values[name] = value
    else:
        problems.append(f"{name}_FILE: {file} is empty")


def _missing(values: Mapping[str, str]) -> list[str]:
    problems = []
    if "CCHAT_HOMESERVER" not in values:
        problems.append("CCHAT_HOMESERVER: is missing; the other CCHAT_ variables need it")
    if "CCHAT_ACCESS_TOKEN" in values:
        if "CCHAT_PASSWORD" in values:
            problems.append("CCHAT_PASSWORD: set it or CCHAT_ACCESS_TOKEN, not both")
        return problems
    if "CCHAT_PASSWORD" not in values:
        problems.append("CCHAT_PASSWORD: set it or CCHAT_ACCESS_TOKEN (or one of them with _FILE)")
    if "CCHAT_USER_ID" not in values:
        problems.append("CCHAT_USER_ID: is missing; a login with a password needs it")
    return problems


def _expected(name: object) -> str:
    if name == "CCHAT_HOMESERVER":
        return "expected an address such as https://matrix.example.org"
    return "expected a user id such as @alice:example.org"
