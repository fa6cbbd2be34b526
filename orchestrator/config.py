"""The operator's configuration: read, validated, frozen.

Secrets never stand in the file: they come from the environment, or from the file that NAME_FILE
names. Every mistake is one line: the key's path and what was expected.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, SecretStr, ValidationError

from orchestrator.config_problem import describe_problem
from orchestrator.config_types import Seconds, Section, UserPattern
from orchestrator.core.role import Role, Roles
from orchestrator.errors import ConfigError
from orchestrator.model import UserId
from orchestrator.room_profile import RoomProfile

# Below the directory that it is started in.
DEFAULT_STATE_DIR = Path("state")


class MatrixConfig(Section):
    """The homeserver and the agent's account there."""

    homeserver: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/.*)?$")]
    user_id: UserPattern
    encryption: Literal["required", "supported", "off"] = "supported"
    autojoin: Literal["allowed_users", "never"] = "allowed_users"


class AnthropicConfig(Section):
    """Where the Messages API is."""

    upstream: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/.*)?$")] = (
        "https://api.anthropic.com"
    )


class PowerLevels(Section):
    """The least power level in a room that makes somebody what they are here; null: none does."""

    admin: Annotated[int, Field(ge=1)] | None = None
    approver: Annotated[int, Field(ge=1)] | None = None
    user: Annotated[int, Field(ge=0)] | None = None


class AccessConfig(Section):
    """Who may do what; patterns as in a shell, `@*:example.org`."""

    admins: tuple[UserPattern, ...] = ()
    users: tuple[UserPattern, ...] = ()
    approvers: tuple[UserPattern, ...] = ()
    """May grant what an agent asks for; admins always may, agents never."""
    readers: tuple[UserPattern, ...] = ()
    """May ask how things stand, and no more."""
    power_levels: PowerLevels | None = None
    """Roles by a room's power levels, besides those by name: the room's own word on its people."""

    def is_allowed(self, user_id: str) -> bool:
        """Whether the user may run turns; admins always may."""
        return any(fnmatch.fnmatchcase(user_id, p) for p in (*self.admins, *self.users))

    def roles(self, agents: Collection[str]) -> Roles:
        """The same as a value of the core; `agents` are the accounts of agents."""
        named = {
            Role.ADMIN: self.admins,
            Role.APPROVER: self.approvers,
            Role.USER: self.users,
            Role.READER: self.readers,
        }
        least = self.power_levels or PowerLevels()
        levels = {Role.ADMIN: least.admin, Role.APPROVER: least.approver, Role.USER: least.user}
        return Roles(
            by_name=named,
            by_level={role: level for role, level in levels.items() if level is not None},
            agents=agents,
        )


class GatewayConfig(Section):
    """How messages become turns, and output becomes messages."""

    inbound_window_s: Seconds = 2.0
    quiet_s: Seconds = 0.25
    outbound_window_s: Seconds = 2.0
    # 65,536 is Matrix's limit for a whole event; the rest is left to the envelope. An encrypted
    # room gets three quarters, at most 45,000: on Synapse a sealed body of 48,339 bytes passed.
    max_event_bytes: Annotated[int, Field(ge=4096, le=60000)] = 55000
    max_answer_messages: Annotated[int, Field(ge=1, le=100)] = 3
    max_queued_turns: Annotated[int, Field(ge=1, le=10000)] = 20
    # A person who pastes a log line by line sends some 40 messages; one who types, 10 a minute.
    sender_burst: Annotated[int, Field(ge=1, le=100000)] = 60
    sender_per_minute: Annotated[int, Field(ge=1, le=100000)] = 30


class DockerConfig(Section):
    """The engine's side."""

    image: str | None = None
    runtime: str | None = None
    disk_quota: Literal["auto", "image", "measured"] = "auto"
    """How `limits.disk` is kept: a file system of its own for each room, or by measuring."""
    prewarm: Annotated[int, Field(ge=0, le=64)] = 0


class AgentConfig(Section):
    """A Matrix account plus what makes it an agent of its own."""

    user_id: UserPattern | None = None
    model: str | None = None
    system_prompt: str | None = None


class ObservabilityConfig(Section):
    """Metrics and logs."""

    metrics: Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$")] | None = "127.0.0.1:9464"
    log_format: Literal["json", "text"] = "json"
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class BackupsConfig(Section):
    """Copies of the database, made beside its use."""

    every_h: Annotated[float, Field(ge=0.1, le=24 * 365)] = 24
    keep: Annotated[int, Field(ge=1, le=1000)] = 7


class Config(Section):
    """The whole file."""

    matrix: MatrixConfig
    state_dir: Path = DEFAULT_STATE_DIR
    anthropic: AnthropicConfig = AnthropicConfig()
    access: AccessConfig = AccessConfig()
    gateway: GatewayConfig = GatewayConfig()
    docker: DockerConfig = DockerConfig()
    defaults: RoomProfile = RoomProfile()
    rooms: dict[Annotated[str, Field(pattern=r"^[#!][^\s]+$")], RoomProfile] = Field(
        default_factory=dict
    )
    agents: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")], AgentConfig] = Field(
        default_factory=lambda: {"claude": AgentConfig()}
    )
    observability: ObservabilityConfig = ObservabilityConfig()
    backups: BackupsConfig | None = BackupsConfig()

    @property
    def agent_accounts(self) -> frozenset[UserId]:
        """The accounts of all agents that this file names, this installation's own included."""
        others = (agent.user_id for agent in self.agents.values())
        return frozenset({self.matrix.user_id, *(o for o in others if o is not None)})

    @property
    def roles(self) -> Roles:
        """Who may do what."""
        return self.access.roles(self.agent_accounts)

    def profile(self, room_id: str, alias: str | None, former: Sequence[str] = ()) -> RoomProfile:
        """The profile of a room, by its id first, then by its canonical alias.

        A room goes on with the profile of the one that it replaced (`former`, the latest first).
        """
        for known in (room_id, *former):
            if known in self.rooms:
                return self.rooms[known]
        return self.rooms.get(alias or "", self.defaults)


class Secrets(Section):
    """What comes from the environment, each at most one way."""

    matrix_access_token: SecretStr | None = None
    matrix_password: SecretStr | None = None
    matrix_admin_token: SecretStr | None = None
    """Of a server admin, for `orchestrator matrix` alone."""
    anthropic_api_key: SecretStr | None = None
    claude_code_oauth_token: SecretStr | None = None

    def require_api_credential(self) -> None:
        """Check that there is a credential for the API.

        Raises:
            ConfigError: there is none; names the variables to set.
        """
        if self.anthropic_api_key is None and self.claude_code_oauth_token is None:
            raise ConfigError(
                ["no credential for the API: set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN"]
            )

    def require_admin_token(self) -> SecretStr:
        """The admin's token.

        Raises:
            ConfigError: there is none; names the variables to set.
        """
        if self.matrix_admin_token is None:
            raise ConfigError(
                [
                    "no admin's token: set MATRIX_ADMIN_TOKEN or MATRIX_ADMIN_TOKEN_FILE to the "
                    "access token of a server admin of the homeserver"
                ]
            )
        return self.matrix_admin_token

    def values(self) -> list[str]:
        """Every secret held, for the log's redaction filter."""
        held = (
            self.matrix_access_token,
            self.matrix_password,
            self.matrix_admin_token,
            self.anthropic_api_key,
            self.claude_code_oauth_token,
        )
        return [s.get_secret_value() for s in held if s is not None]


# Their names are settled and they are validated, but nothing acts on them yet.
_NOT_BUILT: Mapping[type[BaseModel], tuple[str, ...]] = {
    DockerConfig: ("prewarm",),
    RoomProfile: (
        "max_parallel_turns",
        "idle_stop_s",
        "hibernate_s",
    ),
}
# What asks for nothing: a file may say that it wants none of it.
_OFF = (None, 0, (), "final")


def not_built(config: Config) -> list[str]:
    """The keys that the file sets and this version does not act on, by path, in order.

    Somebody who sets a budget must not believe that it is kept.
    """
    found = _not_built(config.model_copy(update={"rooms": {}}), "")
    # A room's profile starts from `defaults`; what is named there is not named again.
    known = {path.removeprefix("defaults.") for path in found}
    for room, profile in config.rooms.items():
        mine = _not_built(profile, "")
        found += [f"rooms.{room}.{path}" for path in mine if path not in known]
    return sorted(found)


def _not_built(section: BaseModel, prefix: str) -> list[str]:
    found: list[str] = []
    for name in section.model_fields_set:
        value, path = getattr(section, name), f"{prefix}{name}"
        if name in _NOT_BUILT.get(type(section), ()):
            found += [] if value in _OFF else [path]
            continue
        for key, part in value.items() if isinstance(value, dict) else ((None, value),):
            if isinstance(part, BaseModel):
                found += _not_built(part, f"{path}." if key is None else f"{path}.{key}.")
    return found


def load_config(path: Path, *, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and validate a file. `overrides` are laid over what it says, key by key.

    Raises:
        ConfigError: one line per mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise ConfigError([f"{path}: cannot be read: {e.strerror}"]) from e
    except UnicodeDecodeError as e:
        raise ConfigError([f"{path}: expected UTF-8 text"]) from e
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        # An alias of YAML begins with the star of `*.example.org`.
        is_alias = getattr(e, "context", None) == "while scanning an alias"
        hint = "; what begins with * needs quotes" if is_alias else ""
        raise ConfigError(
            [f"{path}: {where}expected YAML: {getattr(e, 'problem', e)}{hint}"]
        ) from e
    except RecursionError as e:
        raise ConfigError([f"{path}: nested too deeply"]) from e
    if not isinstance(data, dict):
        raise ConfigError([f"{path}: expected a mapping with the key 'matrix' at least"])
    return parse_config(_merge(data, overrides or {}), source=str(path))


def parse_config(data: Mapping[str, Any], *, source: str) -> Config:
    """Validate data; a room's profile starts from `defaults`.

    Raises:
        ConfigError: one line per mistake.
    """
    merged = dict(data)
    defaults, rooms = merged.get("defaults"), merged.get("rooms")
    if rooms is None:
        merged.pop("rooms", None)
    elif isinstance(rooms, dict) and isinstance(defaults, dict | None):
        merged["rooms"] = {k: _merge(defaults or {}, v) for k, v in rooms.items()}
    try:
        return Config.model_validate(merged)
    except ValidationError as e:
        problems = [
            describe_problem(source, err, Config)
            for err in e.errors(include_input=False, include_url=False)
        ]
        raise ConfigError(sorted(set(problems))) from None


def load_secrets(environ: Mapping[str, str] = os.environ) -> Secrets:
    """The secrets from NAME or from the file that NAME_FILE names.

    Raises:
        ConfigError: both ways used for one secret, or an unreadable or empty file.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for field in Secrets.model_fields:
        try:
            value = read_secret(field.upper(), environ)
        except ConfigError as e:
            problems += e.problems
            continue
        if value:
            found[field] = value
    if problems:
        raise ConfigError(problems)
    return Secrets.model_validate(found)


def read_secret(name: str, environ: Mapping[str, str]) -> str | None:
    """The text in NAME or in the file that NAME_FILE names; None where neither is set.

    Raises:
        ConfigError: both are set, or the file can't be read or is empty; one line.
    """
    value, file = environ.get(name), environ.get(f"{name}_FILE")
    if value and file:
        raise ConfigError([f"{name}: set it or {name}_FILE, not both"])
    if not file:
        return value or None
    try:
        value = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError([f"{name}_FILE: {file} cannot be read: {type(e).__name__}"]) from e
    if not value:
        raise ConfigError([f"{name}_FILE: {file} is empty"])
    return value


def _merge(base: Any, over: Any) -> Any:  # noqa: ANN401 - raw YAML, validated right after
    if not isinstance(base, dict) or not isinstance(over, dict):
        return base if over is None else over
    return {**base, **{k: _merge(base[k], v) if k in base else v for k, v in over.items()}}
