"""What an audit of isolation has read of a live runner, as values. Pure data, and who said it.

Rule: the engine's record says how a runner was meant to be; the host's kernel says how it is, and a
room can't change its answers; what was heard from inside is the room's own word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.sandbox import SandboxOptions, SandboxSpec
from orchestrator.model import JsonValue

Limit = tuple[int, int]
"""Soft and hard; -1 means that there is none."""
UNLIMITED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMount:
    """One mount of the engine's record."""

    kind: str
    source: str
    target: str
    writable: bool
    propagation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """What the engine says it made; the values of `host` and `config` are its own JSON."""

    container_id: str
    name: str
    pid: int
    is_paused: bool
    image: str
    apparmor: str
    log_path: str
    host: Mapping[str, JsonValue]
    config: Mapping[str, JsonValue]
    networks: tuple[str, ...]
    ports: tuple[str, ...]
    mounts: tuple[EngineMount, ...]
    foreign_execs: tuple[str, ...]
    """Commands that the engine runs in it besides an audit's probe."""
    probes: frozenset[int]
    """Processes of such probes."""
    image_config: Mapping[str, JsonValue]
    """The image's own Config: entry point, environment, labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thread of a process in the runner, as the host's kernel has it."""

    pid: int
    tid: int
    parent: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: int
    """All five sets, joined."""
    no_new_privileges: bool
    seccomp: int
    """0: none, 1: strict, 2: a filter."""
    namespaces: Mapping[str, str]
    cgroups: frozenset[str]
    oom_score_adj: int
    limits: Mapping[str, Limit]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of the runner's mountinfo."""

    target: str
    root: str
    kind: str
    options: frozenset[str]
    super_options: frozenset[str]
    is_shared: bool
    """What is mounted there on one side appears on the other: `shared:` or `master:`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupLimits:
    """What the kernel holds the runner to; None where this host's kernel has no such file."""

    version: int
    memory_bytes: int | None
    swap_bytes: int | None
    """Besides the memory."""
    pids: int | None
    nano_cpus: int | None
    cpu_shares: int | None
    devices: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMap:
    """How the runner's ids are seen from here: (first inside, first here, how many)."""

    ranges: tuple[tuple[int, int, int], ...]

    def here(self, number: int) -> int:
        """What an id of the runner's is here; -1 for one that it does not have."""
        for inside, outside, count in self.ranges:
            if inside <= number < inside + count:
                return outside + number - inside
        return -1


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """One file of the host, looked at without following a symlink at any step."""

    path: str
    kind: str
    """directory, file, socket, symlink, missing, other."""
    uid: int = -1
    gid: int = -1
    mode: int = 0
    identity: tuple[int, int] = (0, 0)
    """Device and inode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomFolders:
    """A room's places on the host."""

    parents: tuple[FileFacts, ...]
    """STATE_DIR and every directory from there to the mounted ones, without these."""
    sources: Mapping[str, FileFacts]
    """By the target that it is mounted at."""
    doors: tuple[FileFacts, ...]
    """Everything in the egress directory."""
    listener: int | None = None
    """The process that listens at the door; None: nobody does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What the host's kernel says of one runner."""

    tasks: tuple[Task, ...]
    mounts: tuple[Mount, ...]
    interfaces: tuple[str, ...]
    uids: IdMap
    gids: IdMap
    cgroup: CgroupLimits
    changes: tuple[str, ...] | None
    """Paths of the root file system that differ from the image; the engine's mount points too.

    None: the kernel does not say.
    """
    own_paths: frozenset[str]
    """Of the masked and read-only paths, those that this kernel has."""
    mounted: Mapping[str, tuple[int, int]]
    """By target: device and inode of what is really there, seen from the host."""
    setuid: tuple[str, ...]
    """Files of the root file system that would change their user's identity."""
    settings: FileFacts
    settings_digest: str | None
    leaks: tuple[str, ...]
    """Where a secret of the operator's was found; the secret's name, never its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What a program said that ran inside as the room's user: the room's word."""

    was_asked: bool = True
    problem: str | None = None
    """Why there is no answer."""
    allowed_calls: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    reached: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    uids: tuple[int, ...] = ()
    gids: tuple[int, ...] = ()
    settings_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What is the same for all runners."""

    namespaces: Mapping[str, str]
    """The host's own, by kind."""
    has_apparmor: bool
    """As the engine says, which has it only where the kernel does."""
    has_swap: bool
    orchestrator: int | None = None
    """The process that answers on the control socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The policy for one runner. `settings_digest`: of the CLI's managed settings, where known."""

    spec: SandboxSpec
    options: SandboxOptions
    ulimits: Mapping[str, int]
    """As the engine is told them."""
    settings_digest: str | None = None
    others: frozenset[str] = field(default_factory=frozenset)
    """Namespaces and mount sources of the other live runners."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerEvidence:
    """Everything about one live runner. `kernel` is None where the host can't see its processes."""

    engine: EngineRecord
    kernel: Kernel | None
    folders: RoomFolders
    inside: Inside
    host: Host
