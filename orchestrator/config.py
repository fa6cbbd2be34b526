"""The operator's configuration: read, validated, frozen.

Secrets never stand in the file: they come from the environment, or from the file that NAME_FILE
names. Every mistake is one line: the key's path and what was expected.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError

from orchestrator.config_file import read_yaml
from orchestrator.config_problem import describe_problem
from orchestrator.config_types import LoopbackAddress, Seconds, Section, UserPattern
from orchestrator.core.memory_pressure import PressureLimits
from orchestrator.core.role import Role, Roles
from orchestrator.errors import ConfigError
from orchestrator.model import UserId
from orchestrator.room_profile import RoomProfile

# Below the directory that it is started in.
DEFAULT_STATE_DIR = Path("state")
DEFAULT_UPSTREAM = "https://api.anthropic.com"


class MatrixConfig(Section):
    """The homeserver and the agent's account there."""

    homeserver: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/.*)?$")]
    user_id: UserPattern
    encryption: Literal["required", "supported", "off"] = "supported"
    autojoin: Literal["allowed_users", "never"] = "allowed_users"


class AnthropicConfig(Section):
    """Where the Messages API is."""

    upstream: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/.*)?$")] = DEFAULT_UPSTREAM


class PowerLevels(Section):
    """The least power level in a room that makes somebody what they are here; null: none does."""

    admin: Annotated[int, Field(ge=1)] | None = None
    """From this level on somebody is an admin in the room."""
    approver: Annotated[int, Field(ge=1)] | None = None
    """From this level on somebody may decide what agents ask for."""
    user: Annotated[int, Field(ge=0)] | None = None
    """From this level on somebody may run turns."""


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


class MemoryPressureConfig(Section):
    """When idle rooms rest early because the host has too little memory; either is enough."""

    # What systemd has as MemoryPressureThresholdSec=, from which on a service should give back what
    # it can do without: 200 ms of 2 s.
    stalled_percent: Annotated[float, Field(gt=0, le=100)] | None = 10
    """Of the last 10 s, in which something waited for memory (PSI, `some avg10`)."""
    # Where earlyoom begins to kill.
    available_percent: Annotated[float, Field(gt=0, lt=100)] | None = 10
    """Of the memory, less than which is available (`MemAvailable`, or of a limit of the host)."""

    def limits(self) -> PressureLimits:
        """The same as a value of the core."""
        return PressureLimits(
            stalled_percent=self.stalled_percent, available_percent=self.available_percent
        )


class DockerConfig(Section):
    """The engine's side."""

    image: str | None = None
    runtime: str | None = None
    disk_quota: Literal["auto", "image", "measured"] = "auto"
    """How `limits.disk` is kept: a file system of its own for each room, or by measuring."""
    max_runners: Annotated[int, Field(ge=1, le=10000)] | None = None
    """So many runners run at once; who comes later waits for an idle one. None: no limit."""
    # With 2 processors more are not sooner done, and fewer are later (`python -m bench.starts`).
    max_starts: Annotated[int, Field(ge=1, le=1000)] = 8
    """So many of them start at once; the others wait in the order of asking."""
    memory_pressure: MemoryPressureConfig | None = MemoryPressureConfig()
    """None: idle rooms rest by time alone."""
    prewarm: Annotated[int, Field(ge=0, le=64)] = 0
    """So many runners are made ahead, for rooms to come."""


class AgentConfig(Section):
    """A Matrix account plus what makes it an agent of its own."""

    user_id: UserPattern | None = None
    model: str | None = None
    system_prompt: str | None = None


class ObservabilityConfig(Section):
    """Metrics, the status page and logs."""

    metrics: Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$")] | None = "127.0.0.1:9464"
    metrics_by_room: bool = False
    """Whether each room's memory, CPU, processes and disk are among them, by its name here."""
    status: LoopbackAddress | None = None
    """Where the status page is; it needs the token STATUS_TOKEN."""
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
    """By name: a model, a prompt, and the account of one that runs elsewhere."""
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


class StatusTokens(Section):
    """What opens the status page: who has `admin` may act there, too."""

    read: SecretStr
    admin: SecretStr | None = None


# Of random letters and digits 95 bits.
_LEAST_TOKEN_CHARS = 16


class Secrets(Section):
    """What comes from the environment, each at most one way."""

    matrix_access_token: SecretStr | None = None
    matrix_password: SecretStr | None = None
    matrix_admin_token: SecretStr | None = None
    """Of a server admin, for `orchestrator matrix` alone."""
    anthropic_api_key: SecretStr | None = None
    claude_code_oauth_token: SecretStr | None = None
    status_token: SecretStr | None = None
    """Shows the status page."""
    status_admin_token: SecretStr | None = None
    """May act there, too."""

    def require_api_credential(self) -> None:
        """Check that there is a credential for the API.

        Raises:
            ConfigError: there is none; names the variables to set.
        """
        if self.anthropic_api_key is None and self.claude_code_oauth_token is None:
            raise ConfigError(
                ["no credential for the API: set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN"]
            )

    def status_tokens(self, observability: ObservabilityConfig) -> StatusTokens | None:
        """What opens the status page; None where it is not switched on.

        Raises:
            ConfigError: it is, and there is no token, or one that could be guessed.
        """
        if observability.status is None:
            return None
        given = {"STATUS_TOKEN": self.status_token, "STATUS_ADMIN_TOKEN": self.status_admin_token}
        problems = [
            f"{name}: expected {_LEAST_TOKEN_CHARS} characters or more, for instance what "
            "`openssl rand -hex 16` prints"
            for name, token in given.items()
            if token is not None and len(token.get_secret_value()) < _LEAST_TOKEN_CHARS
        ]
        if self.status_token is None:
            problems.append(
                "observability.status needs a token: set STATUS_TOKEN or STATUS_TOKEN_FILE, or "
                "observability.status to null"
            )
        elif self.status_token == self.status_admin_token:
            problems.append("STATUS_TOKEN and STATUS_ADMIN_TOKEN are the same: expected two")
        if problems or self.status_token is None:
            raise ConfigError(problems)
        return StatusTokens(read=self.status_token, admin=self.status_admin_token)

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
            self.status_token,
            self.status_admin_token,
        )
        return [s.get_secret_value() for s in held if s is not None]


def load_config(path: Path, *, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and validate a file. `overrides` are laid over what it says, key by key.

    Raises:
        ConfigError: one line per mistake.
    """
    data = read_yaml(path)
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
        config = Config.model_validate(merged)
    except ValidationError as e:
        problems = [
            describe_problem(source, err, Config)
            for err in e.errors(include_input=False, include_url=False)
        ]
        raise ConfigError(sorted(set(problems))) from None
    if unknown := [f"{source}: {line}" for line in _unknown_agents(config)]:
        raise ConfigError(unknown)
    return config


def _unknown_agents(config: Config) -> Iterator[str]:
    """A line for each profile that names an agent which `agents` does not have."""
    known = ", ".join(config.agents)
    for place, profile in (("defaults", config.defaults), *config.rooms.items()):
        # What is set in `defaults` is in each room's profile, too, and is said once.
        is_own = profile is config.defaults or profile.agent != config.defaults.agent
        if "agent" in profile.model_fields_set and profile.agent not in config.agents and is_own:
            where = place if profile is config.defaults else f"rooms.{place}"
            yield f"{where}.agent: expected one that stands below agents: {known}"


def given_upstream(environ: Mapping[str, str]) -> str:
    """Where the API is without a file: as the environment says, or the default."""
    return (environ.get("ANTHROPIC_BASE_URL") or DEFAULT_UPSTREAM).rstrip("/")


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
