"""What a runner may do: one neutral specification, what follows from it for an engine, its hash.

Rules: the strictest setting is the only one; nothing of it can be switched off, and nothing that a
room chose reaches it. An adapter applies every field of `SandboxOptions`, or makes no runner.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from orchestrator.core.cli_policy import POLICY
from orchestrator.core.hidden_paths import MASKED_PATHS, READONLY_PATHS
from orchestrator.core.seccomp import build_seccomp_profile
from orchestrator.model import InstallationId, JsonObject, Limits, RoomSlug

WORKSPACE: Final = "/workspace"
HOME: Final = "/home/agent"
EGRESS: Final = "/run/egress"
NSS: Final = "/run/nss"

LABEL_INSTALLATION: Final = "aiagentchat.installation"
LABEL_ROOM: Final = "aiagentchat.room"
LABEL_GENERATION: Final = "aiagentchat.generation"
LABEL_SPEC: Final = "aiagentchat.spec"

# One passwd and one group line; a page each.
_NSS_BYTES: Final = 64 << 10
# Docker's own default; part of the memory limit, as all of tmpfs is.
_SHM_BYTES: Final = 64 << 20
# Watchers, bundlers and JVMs open thousands; 512 processes of 8,192 stay within the memory limit.
_OPEN_FILES: Final = 8192
# One inode per 4 KiB page: more files than pages can't hold anything.
_BYTES_PER_INODE: Final = 4096
# Positive: the kernel ends a runner before the orchestrator or the engine.
_OOM_SCORE_ADJ: Final = 500
# No core file is this small; and a handler that the host's core_pattern pipes to is not run for 1.
# For 0 it is: as root on the host, with the room's memory as its input (Linux, fs/coredump.c).
_CORE_BYTES: Final = 1
# Half of what an ordinary service gets when the processors are contended.
_CPU_SHARES: Final = 512
# What the engine's own process may do would be inherited otherwise. All are at most what an
# ordinary user has on every distribution, so that a rootless engine can set them, too.
# Locked memory can't be reclaimed; 64 KiB was every kernel's default before 5.16.
_LOCKED_BYTES: Final = 64 << 10
# The kernel's default for a user's POSIX queues.
_QUEUE_BYTES: Final = 819200
# Of the whole uid; a signal that waits, or a timer, is kernel memory.
_PENDING_SIGNALS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """Everything that decides how one room's runner is made.

    The spec hash covers all but `name` and `generation`.
    """

    name: str
    installation: InstallationId
    slug: RoomSlug
    generation: int
    image: str
    """Content-addressed: an image id (`sha256:…`), so that a rebuilt image is another spec."""
    uid: int
    gid: int
    workspace: Path
    home: Path
    egress_dir: Path
    limits: Limits
    runtime: str | None = None
    policy_dir: Path | None = None
    """The CLI's managed settings where the room's differ from the image's; named by its content."""

    def __post_init__(self) -> None:
        if self.uid <= 0 or self.gid <= 0:
            msg = "a runner never runs as root: uid and gid must be more than zero"
            raise ValueError(msg)
        own = () if self.policy_dir is None else (self.policy_dir,)
        folders = (self.workspace, self.home, self.egress_dir, *own)
        if not all(folder.is_absolute() for folder in folders):
            msg = "workspace, home, egress_dir and policy_dir must be absolute paths"
            raise ValueError(msg)
        if len(set(folders)) != len(folders):
            msg = "workspace, home, egress_dir and policy_dir must be different directories"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class BindMount:
    """A directory of the host in the runner, with private propagation and without its submounts."""

    source: Path
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TmpfsMount:
    """Memory as a file system, always nosuid and nodev; it counts as the runner's memory."""

    target: str
    size_bytes: int
    inodes: int
    mode: int
    uid: int
    gid: int
    executable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """How an engine makes the runner. What has a default here is the same for every room."""

    image: str
    uid: int
    gid: int
    binds: tuple[BindMount, ...]
    tmpfs: tuple[TmpfsMount, ...]
    memory_bytes: int
    """Memory and swap together: there is no swap."""
    nano_cpus: int
    pids: int
    file_bytes: int
    """The largest file that a process may write; no quota, but no file can pass the disk limit."""
    runtime: str | None
    seccomp: JsonObject = field(default_factory=build_seccomp_profile)
    open_files: int = _OPEN_FILES
    core_bytes: int = _CORE_BYTES
    locked_bytes: int = _LOCKED_BYTES
    queue_bytes: int = _QUEUE_BYTES
    pending_signals: int = _PENDING_SIGNALS
    realtime_priority: int = 0
    """No real-time class: one such loop would hold a processor of the host."""
    nice: int = 0
    """No better priority than it was started with."""
    shm_bytes: int = _SHM_BYTES
    cpu_shares: int = _CPU_SHARES
    oom_score_adj: int = _OOM_SCORE_ADJ
    hostname: str = "runner"
    working_dir: str = WORKSPACE
    network: str = "none"
    resolver: str = "127.0.0.1"
    """Nothing listens there; it stands in for the host's resolver, which a room need not know."""
    read_only_root: bool = True
    no_new_privileges: bool = True
    capabilities: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ("cgroup", "ipc", "mount", "network", "pid", "uts")
    """Each of these is the runner's own."""
    masked_paths: tuple[str, ...] = MASKED_PATHS
    readonly_paths: tuple[str, ...] = READONLY_PATHS
    environment: tuple[tuple[str, str], ...] = ()
    """Besides the image's HOME, LANG and PATH: nothing. What a session needs goes over the wire."""


def build_options(spec: SandboxSpec) -> SandboxOptions:
    """What an engine must do for this specification. Pure: the same spec gives equal options."""
    return SandboxOptions(
        image=spec.image,
        uid=spec.uid,
        gid=spec.gid,
        binds=(
            BindMount(source=spec.workspace, target=WORKSPACE, read_only=False),
            BindMount(source=spec.home, target=HOME, read_only=False),
            BindMount(source=spec.egress_dir, target=EGRESS, read_only=True),
            *_policy(spec),
        ),
        tmpfs=(
            # Executable: build tools, pip and npm run what they unpacked under /tmp.
            _tmpfs(spec, "/tmp", spec.limits.tmp_bytes, mode=0o1777, executable=True),  # noqa: S108
            _tmpfs(spec, NSS, _NSS_BYTES, mode=0o755, executable=False),
        ),
        memory_bytes=spec.limits.memory_bytes,
        nano_cpus=round(spec.limits.cpus * 1e9),
        pids=spec.limits.pids,
        file_bytes=spec.limits.disk_bytes,
        runtime=spec.runtime,
    )


def spec_hash(spec: SandboxSpec) -> str:
    """16 hexadecimal digits over all but `name` and `generation`, the seccomp profile included.

    Two runners with the same hash are interchangeable; one with another hash is replaced when idle.
    """
    covered = asdict(spec)
    del covered["name"], covered["generation"]
    payload = {"spec": covered, "options": asdict(build_options(spec))}
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_labels(spec: SandboxSpec) -> Mapping[str, str]:
    """What marks the runner as this installation's and this room's."""
    return {
        LABEL_INSTALLATION: spec.installation,
        LABEL_ROOM: spec.slug,
        LABEL_GENERATION: str(spec.generation),
        LABEL_SPEC: spec_hash(spec),
    }


def _policy(spec: SandboxSpec) -> tuple[BindMount, ...]:
    if spec.policy_dir is None:
        return ()
    return (BindMount(source=spec.policy_dir, target=POLICY, read_only=True),)


def _tmpfs(
    spec: SandboxSpec, target: str, size_bytes: int, *, mode: int, executable: bool
) -> TmpfsMount:
    return TmpfsMount(
        target=target,
        size_bytes=size_bytes,
        inodes=max(16, size_bytes // _BYTES_PER_INODE),
        mode=mode,
        uid=spec.uid,
        gid=spec.gid,
        executable=executable,
    )
