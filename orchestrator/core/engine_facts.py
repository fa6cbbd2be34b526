"""What a Docker Engine says of itself, and whether it is good enough. Pure.

Rule: an engine that can't keep a limit or apply a profile is refused, and there is no switch for
it; what is merely known to be weak is told as a warning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# Runtimes that run what is inside as host processes of the room's own uid.
_PROCESS_RUNTIMES: Final = frozenset({"runc", "crun", "io.containerd.runc.v2"})
# Below it gVisor's own threads, which count as the runner's, meet the limit first.
_SENTRY_PIDS: Final = 512
# The first whose engine takes a containerd shim by its name, without an entry in daemon.json.
_SHIMS_BY_NAME: Final = (23,)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """From `docker info` and `docker version`, and what this host adds."""

    version: str
    runc: str
    """As the engine reports it; empty where it does not."""
    security: frozenset[str]
    """Names of SecurityOptions: seccomp, apparmor, userns, rootless, selinux, cgroupns."""
    limits: Mapping[str, bool]
    """MemoryLimit, SwapLimit, PidsLimit, CpuCfsQuota, CPUShares."""
    runtimes: frozenset[str]
    default_runtime: str
    cgroup_version: str = ""
    storage: str = ""
    live_restore: bool = False
    host_swaps: bool = False

    @property
    def maps_ids(self) -> bool:
        """Whether a runner's ids are others than the host's."""
        return not self.security.isdisjoint({"userns", "rootless"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineVerdict:
    """`refusals`: why it can't be used, with the remedy. `warnings`: what is weak about it."""

    refusals: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisory:
    """A known way out of a container, and the first versions without it, one for each series."""

    names: str
    product: str
    fixed: tuple[tuple[int, ...], ...]
    what: str
    backports: tuple[str, ...] = ()
    """Texts in a distribution's version that has the fix without the number."""


# Published advisories of runc and moby that a hostile runner, or an image of its choice, could use.
# (moby's AF_VSOCK and io_uring, open below 23 and 25, are closed by our own profile.)
ADVISORIES: Final = (
    Advisory(
        names="CVE-2024-21626",
        product="runc",
        fixed=((1, 1, 12),),
        what="a leaked descriptor of the host's file system",
        backports=("1.1.5+ds1-1+deb12u1",),
    ),
    Advisory(
        names="CVE-2025-31133, CVE-2025-52565, CVE-2025-52881",
        product="runc",
        fixed=((1, 2, 8), (1, 3, 3), (1, 4, 0)),
        what="masked paths and /dev/console by a race at a container's start",
    ),
    Advisory(
        names="CVE-2022-36109",
        product="engine",
        fixed=((20, 10, 18),),
        what="supplementary groups are not set up as asked",
    ),
)


def judge_engine(facts: EngineFacts, *, runtime: str | None, least_pids: int) -> EngineVerdict:
    """Whether rooms may run on this engine. `least_pids`: the smallest limit of any room."""
    refusals = [*_missing_controls(facts), *_missing_runtime(facts, runtime)]
    warnings = [*_known_advisories(facts), *_weaknesses(facts)]
    chosen = effective_runtime(facts, runtime)
    if not runs_own_processes(chosen) and least_pids < _SENTRY_PIDS:
        warnings.append(
            f"limits.pids is {least_pids}: under {chosen} the sandbox's own threads count, too;"
            f" below {_SENTRY_PIDS} it may not start"
        )
    return EngineVerdict(refusals=tuple(refusals), warnings=tuple(warnings))


def effective_runtime(facts: EngineFacts, runtime: str | None) -> str:
    """What the engine will use."""
    return runtime or facts.default_runtime or "runc"


def runs_own_processes(runtime: str) -> bool:
    """Whether the runtime is known to make host processes of the room's own uid."""
    return runtime in _PROCESS_RUNTIMES


def needs_probe(facts: EngineFacts, runtime: str | None) -> bool:
    """Whether a throw-away container must show what ids it has and whether its door works."""
    return facts.maps_ids or not runs_own_processes(effective_runtime(facts, runtime))


def parse_version(text: str) -> tuple[int, ...]:
    """The leading numbers: `20.10.24+dfsg1` is (20, 10, 24); empty where there are none."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def is_affected(advisory: Advisory, version: str) -> bool:
    """Whether a version is below the first fixed one of its series. Unknown versions are."""
    if any(mark in version for mark in advisory.backports):
        return False
    numbers = parse_version(version)
    for fixed in advisory.fixed:
        if numbers[:2] == fixed[:2]:
            return numbers < fixed or _is_candidate(version, fixed)
    return numbers < max(advisory.fixed)


def _is_candidate(version: str, fixed: tuple[int, ...]) -> bool:
    # 1.4.0-rc.1 is older than 1.4.0.
    return parse_version(version) == fixed and "-rc" in version


def _missing_controls(facts: EngineFacts) -> list[str]:
    found = []
    if "seccomp" not in facts.security:
        found.append(
            "it has no seccomp: our profile would not be applied. Use a kernel with"
            " CONFIG_SECCOMP_FILTER and an engine that was built with it"
        )
    missing = [
        what
        for what, name in (
            ("memory", "MemoryLimit"),
            ("processes", "PidsLimit"),
            ("processors", "CpuCfsQuota"),
        )
        if not facts.limits.get(name)
    ]
    if missing:
        found.append(
            f"it can't limit {', '.join(missing)} (no such cgroup controller for it). A rootless"
            " engine needs cgroup v2 with systemd and delegated controllers; see"
            " docs/security/engines.md"
        )
    if not facts.limits.get("SwapLimit") and facts.host_swaps:
        found.append(
            "it can't limit swap, and this host swaps: a room could use all of it. Boot with"
            " swapaccount=1, use cgroup v2, or switch swap off (swapoff -a)"
        )
    return found


def _missing_runtime(facts: EngineFacts, runtime: str | None) -> list[str]:
    if runtime is None or runtime in facts.runtimes:
        return []
    if runtime.startswith("io.containerd.") and parse_version(facts.version) >= _SHIMS_BY_NAME:
        return []
    there = ", ".join(sorted(facts.runtimes)) or "none"
    return [f"docker.runtime is {runtime}, which it does not have. It has: {there}"]


def _known_advisories(facts: EngineFacts) -> list[str]:
    versions = {"runc": facts.runc, "engine": facts.version}
    return [
        f"{advisory.product} {versions[advisory.product] or '(unknown version)'}:"
        f" {advisory.names} ({advisory.what}). Update it"
        for advisory in ADVISORIES
        if is_affected(advisory, versions[advisory.product])
    ]


def _weaknesses(facts: EngineFacts) -> list[str]:
    found = []
    if not facts.limits.get("CPUShares"):
        found.append("it has no CPU shares: a busy room is not put behind the host's services")
    if "selinux" in facts.security:
        found.append("it labels containers for SELinux, which this version was not tried with")
    if facts.storage == "vfs":
        found.append("its storage driver is vfs: every runner is a whole copy of the image")
    return found
