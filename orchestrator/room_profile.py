"""A room's profile: the part of the configuration that can differ from room to room."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from orchestrator.config_types import (
    Address,
    HostPattern,
    Network,
    Seconds,
    Section,
    Size,
    parse_size,
)
from orchestrator.core.allowance import LimitName
from orchestrator.core.api_policy import ApiPolicy, build_policy
from orchestrator.core.budget import micro_usd
from orchestrator.core.cli_policy import ProjectPolicy
from orchestrator.core.egress_rules import is_address, parse_host, parse_rule
from orchestrator.core.proxy_policy import IpNetwork, ProxyPolicy
from orchestrator.core.variable_name import is_reserved
from orchestrator.model import Limits, Permissions

_VARIABLE = r"^[A-Z][A-Z0-9_]{0,63}$"
_BETA = r"^[a-z0-9][a-z0-9-]{0,63}$"
_FIELD = r"^[a-z][a-z0-9_]{0,63}$"
ServerTool = Literal["web_search", "web_fetch", "code_execution", "mcp", "files", "urls"]


VariableName = Annotated[str, Field(pattern=_VARIABLE)]


def _check_name(value: str) -> str:
    host = parse_host(value)
    if host is None or is_address(host):
        msg = "expected a host name such as git.example.org"
        raise ValueError(msg)
    return host


def _check_secret_name(value: str) -> str:
    if is_reserved(value):
        msg = "a secret can't have this name: programs in the runner are steered by it"
        raise ValueError(msg)
    return value


HostName = Annotated[str, AfterValidator(_check_name)]
SecretName = Annotated[str, Field(pattern=_VARIABLE), AfterValidator(_check_secret_name)]


class LimitsConfig(Section):
    """What one runner may use."""

    memory: Size = 2 << 30
    cpus: Annotated[float, Field(gt=0, le=1024)] = 2.0
    pids: Annotated[int, Field(ge=64, le=1 << 20)] = 512
    tmp: Size = 512 << 20
    # Also the largest file (RLIMIT_FSIZE): with less the CLI is killed as it keeps its session.
    disk: Annotated[int, BeforeValidator(parse_size), Field(ge=16 << 20)] = 5 << 30
    output_bytes: Size = 100 << 20

    def limits(self) -> Limits:
        """The same as a value of the model."""
        return Limits(
            memory_bytes=self.memory,
            cpus=self.cpus,
            pids=self.pids,
            tmp_bytes=self.tmp,
            disk_bytes=self.disk,
            output_bytes=self.output_bytes,
        )


class EgressConfig(Section):
    """Hosts that a room's runner may reach besides the API, and how much of it."""

    allow: tuple[HostPattern, ...] = ()
    ask: bool = True
    """Whether a host that was refused is shown in the room, where an approver may grant it."""
    internal: tuple[Network, ...] = ()
    """Networks that are not public and may be reached all the same."""
    hosts: dict[HostName, Address] = Field(default_factory=dict)
    """Addresses of names, instead of what DNS says."""
    intercept: tuple[HostPattern, ...] = ()
    """Hosts whose TLS is opened with the installation's CA, so that secrets can be put in."""
    connections: Annotated[int, Field(ge=1, le=1024)] = 32
    bytes_per_second: Size = 16 << 20
    bytes_per_day: Size = 10 << 30
    idle_s: Seconds = 120

    @property
    def networks(self) -> tuple[IpNetwork, ...]:
        """`internal`, as values."""
        return tuple(ipaddress.ip_network(network) for network in self.internal)

    def policy(self) -> ProxyPolicy:
        """The same as a value of the core."""
        return ProxyPolicy(
            allow=tuple(parse_rule(rule) for rule in self.allow),
            internal=self.networks,
            hosts={name: ipaddress.ip_address(address) for name, address in self.hosts.items()},
            intercept=tuple(parse_rule(rule) for rule in self.intercept),
            asks=self.ask,
            connections=self.connections,
            bytes_per_s=self.bytes_per_second,
            bytes_per_day=self.bytes_per_day,
            idle_s=self.idle_s,
        )


class SecretConfig(Section):
    """A secret that a runner has in name only; its value comes from the environment."""

    hosts: Annotated[tuple[HostPattern, ...], Field(min_length=1)]
    variable: VariableName | None = None
    """The orchestrator's variable (or NAME_FILE) that holds it. None: of the secret's own name."""


class ApiConfig(Section):
    """What a room may ask of the Messages API besides plain messages; nothing by default."""

    server_tools: tuple[ServerTool, ...] = ()
    betas: tuple[Annotated[str, Field(pattern=_BETA)], ...] = ()
    fields: tuple[Annotated[str, Field(pattern=_FIELD)], ...] = ()
    max_body: Annotated[int, BeforeValidator(parse_size), Field(gt=0, le=32 << 20)] = 32 << 20

    def policy(self) -> ApiPolicy:
        """The same as a value of the core."""
        return build_policy(
            server_tools=self.server_tools,
            betas=self.betas,
            fields=self.fields,
            max_body_bytes=self.max_body,
        )


class ProjectConfig(Section):
    """What of the CLI's configuration in a workspace counts, whoever wrote it there."""

    claude_md: bool = True
    hooks: bool = False
    mcp_servers: bool = False
    permission_rules: bool = False
    environment: bool = False
    plugins: bool = False

    def policy(self) -> ProjectPolicy:
        """The same as a value of the core."""
        return ProjectPolicy(
            claude_md=self.claude_md,
            hooks=self.hooks,
            mcp_servers=self.mcp_servers,
            permission_rules=self.permission_rules,
            environment=self.environment,
            plugins=self.plugins,
        )


class FilesConfig(Section):
    """Files that people send to the agent, that it sends, and that they ask for."""

    max_size: Size = 20 << 20
    """Of one file, either way."""
    received_per_turn: Annotated[int, Field(ge=0, le=100)] = 10
    """0: none is taken."""
    sent_per_turn: Annotated[int, Field(ge=0, le=100)] = 10
    """0: the agent can send none."""


class SnapshotsConfig(Section):
    """Copies of the workspace from before each turn, for `!undo` and `!diff`."""

    keep: Annotated[int, Field(ge=0, le=100)] = 10
    """Of how many turns; 0: none."""
    max_size: Size = 256 << 20
    """A larger workspace gets none."""


class BudgetConfig(Section):
    """What a room may spend."""

    turns_per_day: Annotated[int, Field(ge=1)] | None = None
    person_usd_per_day: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    person_turns_per_day: Annotated[int, Field(ge=1)] | None = None

    usd_per_day: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    agent_turns_in_a_row: Annotated[int, Field(ge=1)] = 10

    def amounts(self) -> Mapping[LimitName, int]:
        """The limits that are set, as the core counts."""
        person = self.person_usd_per_day
        found = {
            LimitName.USD: self.micro_usd_per_day,
            LimitName.TURNS: self.turns_per_day,
            LimitName.PERSON_USD: None if person is None else micro_usd(person),
            LimitName.PERSON_TURNS: self.person_turns_per_day,
        }
        return {name: n for name, n in found.items() if n is not None}

    @property
    def micro_usd_per_day(self) -> int | None:
        """`usd_per_day`, as the gateway counts."""
        return None if self.usd_per_day is None else micro_usd(self.usd_per_day)


class RoomProfile(Section):
    """How one room works; `defaults` is one, and `rooms` names what differs."""

    agent: str = "claude"
    model: str | None = None
    system_prompt: str | None = None
    trigger: Literal["auto", "all", "mention"] = "auto"
    stream: Literal["edit", "messages", "final"] = "edit"
    """How an answer comes: as one message that grows, in parts that are complete, or at once."""
    footer: tuple[Literal["duration", "tokens", "cost"], ...] = ()
    """What stands below an answer."""
    show_thinking: bool = False
    """Whether the model's thinking is shown, and not only that it thinks."""
    while_running: Literal["queue", "steer", "interrupt"] = "queue"
    """What a message does that comes while a turn of its conversation runs."""
    max_parallel_turns: Annotated[int, Field(ge=1, le=16)] = 1
    """Of the room's main timeline and its threads together."""
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    deciders: Literal["approvers", "asker"] = "approvers"
    """Who may allow a tool: approvers, or besides them whoever asked for the turn."""
    questions: Literal["reactions", "polls"] = "reactions"
    """How the agent's questions with options are answered: with polls there is one besides."""
    greet: bool = True
    timeout_s: Seconds = 300
    ceiling_s: Seconds = 1800
    idle_stop_s: Seconds | None = 900
    """The CLI of an idle room ends after so long; its session is kept. None: never."""
    hibernate_s: Seconds | None = 7200
    """The container of an idle room stops after so long, with what runs in it. None: never."""
    permissions: Permissions = Permissions.ASK
    approval_timeout_s: Seconds = 3600
    on_interrupt: Literal["tell", "resume"] = "tell"
    on_usage_limit: Literal["tell", "wait"] = "tell"
    limits: LimitsConfig = LimitsConfig()
    egress: EgressConfig = EgressConfig()
    secrets: dict[SecretName, SecretConfig] = Field(default_factory=dict)
    api: ApiConfig = ApiConfig()
    project: ProjectConfig = ProjectConfig()
    files: FilesConfig = FilesConfig()
    snapshots: SnapshotsConfig = SnapshotsConfig()
    budget: BudgetConfig = BudgetConfig()
