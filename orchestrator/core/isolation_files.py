"""Controls over files: the root file system, what is mounted, the room's directories, its door."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from orchestrator.core.isolation import (
    Verdict,
    as_strings,
    differs,
    fail,
    given,
    keys_of,
    none_of,
    skip,
)
from orchestrator.core.isolation_confinement import has_own_kernel, host_ids, kernel_of
from orchestrator.core.isolation_evidence import Expected, FileFacts, Mount, RunnerEvidence
from orchestrator.core.sandbox import EGRESS

SOCKET_NAME: Final = "egress.sock"
# Next to the socket where a room has hosts that are intercepted: the CA, and all public ones.
TRUST_NAMES: Final = ("ca.pem", "ca-bundle.pem")
SETTINGS: Final = "/etc/claude-code/managed-settings.json"
# What every runner has besides the specification's: the kernel's file systems, and three files that
# the engine writes. /sys/fs/cgroup has one for each hierarchy of the host.
_SHM: Final = "/dev/shm"  # noqa: S108 - the runner's
_KERNEL_MOUNTS: Final = ("/", "/proc", "/dev", "/dev/pts", "/dev/mqueue", _SHM, "/sys")
_ENGINE_FILES: Final = ("/etc/resolv.conf", "/etc/hostname", "/etc/hosts")
_CGROUPS: Final = "/sys/fs/cgroup"
_WRITERS: Final = 0o022
_GROUP_AND_OTHERS: Final = 0o077
_DIRECTORY_OF_THE_ROOM: Final = 0o700
_DIRECTORY_OF_THE_DOOR: Final = 0o750
_DOOR: Final = 0o660
_TRUST: Final = 0o640


def check_root_read_only(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The root file system can't be written."""
    host = evidence.engine.host
    problems = [*differs("read-only root", wanted=True, found=host.get("ReadonlyRootfs"))]
    problems += [
        "/ is mounted to be written"
        for mount in _mounts(expected, evidence)
        if mount.target == "/" and "ro" not in mount.options
    ]
    return none_of(problems)


def check_root_unchanged(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The root file system is the image's: nothing was changed beside the room."""
    options = expected.options
    mount_points = {bind.target for bind in options.binds} | {m.target for m in options.tmpfs}
    mine = {str(p) for target in mount_points for p in (Path(target), *Path(target).parents)}
    changes = kernel_of(evidence).changes
    if changes is None:
        return fail(["nobody could say what is changed"])
    return none_of(f"{path} is changed" for path in changes if path not in mine)


def check_mounts(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The specification's directories and nothing else, each from its own place."""
    engine, binds = evidence.engine, expected.options.binds
    wanted = {(m.target, str(m.source), not m.read_only) for m in binds}
    found = {(m.target, m.source, m.writable) for m in engine.mounts}
    problems = [f"mounted: {target} from {source}" for target, source, _ in found - wanted]
    problems += [f"not mounted as specified: {target}" for target, _, _ in wanted - found]
    problems += given("volumes of others", engine.host.get("VolumesFrom"))
    problems += _kernel_mounts(expected, evidence)
    problems += _moved_sources(expected, evidence)
    return none_of(problems)


def check_propagation(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Nothing that is mounted on one side appears on the other."""
    problems = [
        f"{m.target}: propagation {m.propagation}"
        for m in evidence.engine.mounts
        if m.propagation != "rprivate"
    ]
    targets = {bind.target for bind in expected.options.binds}
    problems += [
        f"{mount.target} is shared"
        for mount in _mounts(expected, evidence)
        if mount.is_shared and mount.target in targets
    ]
    return none_of(problems)


def check_disjoint(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """No other room has the same directory."""
    return none_of(
        f"{mount.source} is another room's, too"
        for mount in evidence.engine.mounts
        if mount.source in expected.others
    )


def check_tmpfs(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """What is memory has a size, and no devices or setuid programs."""
    wanted = {mount.target: mount for mount in expected.options.tmpfs}
    found = {m.target: m for m in _mounts(expected, evidence) if m.kind == "tmpfs"}
    problems = []
    for target, mount in () if has_own_kernel(expected) else wanted.items():
        if (real := found.get(target)) is None:
            problems.append(f"{target} is not there")
            continue
        flags = {"nosuid", "nodev"} | (set() if mount.executable else {"noexec"})
        problems += [f"{target} lacks {flag}" for flag in sorted(flags - real.options)]
        problems += differs(f"{target}", mount.size_bytes, _size(real))
    declared = keys_of(evidence.engine.host.get("Tmpfs"))
    problems += differs("tmpfs", sorted(wanted), sorted(declared))
    return none_of(problems)


def check_shm(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Shared memory has a size."""
    wanted = expected.options.shm_bytes
    problems = [*differs("shared memory", wanted, evidence.engine.host.get("ShmSize"))]
    for mount in _mounts(expected, evidence):
        if mount.target == _SHM:
            problems += differs(_SHM, wanted, _size(mount))
    return none_of(problems)


def check_hidden_paths(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """What of /proc and /sys tells of the host is covered or read-only."""
    options, host = expected.options, evidence.engine.host
    covered = as_strings(host.get("MaskedPaths")), as_strings(host.get("ReadonlyPaths"))
    problems = [f"{path} is not masked" for path in set(options.masked_paths) - covered[0]]
    problems += [f"{path} is writable" for path in set(options.readonly_paths) - covered[1]]
    if not has_own_kernel(expected):
        kernel = kernel_of(evidence)
        there = {mount.target: mount for mount in kernel.mounts}
        for path in sorted(kernel.own_paths):
            if path not in there:
                problems.append(f"{path} is not covered")
            elif path in options.readonly_paths and "ro" not in there[path].options:
                problems.append(f"{path} can be written")
    return none_of(problems)


def check_setuid(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """No program of the image changes its user."""
    if has_own_kernel(expected):
        return skip("the runtime shows its files to no process of the host")
    return none_of(f"{path} changes its user" for path in kernel_of(evidence).setuid)


def check_settings(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The CLI's managed settings are root's, and those of the policy."""
    if has_own_kernel(expected):
        return skip("the runtime shows its files to no process of the host")
    kernel = kernel_of(evidence)
    facts, wanted = kernel.settings, expected.settings_digest
    # The image's files are the runner's root's, which an engine may have shifted; a mount's, ours.
    roots = {0, kernel.uids.here(0)}
    problems = [*differs("kind", "file", facts.kind), *_roots(facts, roots)]
    inside = evidence.inside.settings_digest
    if evidence.inside.problem is None and inside != kernel.settings_digest:
        problems.append("the room reads others than the host")
    if wanted is not None and kernel.settings_digest != wanted:
        problems.append("they are not those of the policy")
    return none_of(problems)


def check_folders(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The room's directories are its own, and closed to everybody else."""
    problems: list[str] = []
    ids = host_ids(expected, evidence)
    for bind in expected.options.binds:
        facts = evidence.folders.sources.get(bind.target)
        if facts is None:
            problems.append(f"{bind.source}: not looked at")
        elif bind.target != EGRESS:
            problems += _source_problems(facts, ids, read_only=bind.read_only)
    return none_of(problems)


def check_parents(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Everything above the room's directories is root's, and can't be replaced or entered."""
    problems: list[str] = []
    for facts in evidence.folders.parents:
        problems += differs(f"{facts.path}: kind", "directory", facts.kind)
        problems += _roots(facts)
    # One closed door above all is enough; which of them it is, is the installation's business.
    if not any(facts.mode & _GROUP_AND_OTHERS == 0 for facts in evidence.folders.parents):
        problems.append("no directory above the room's is closed to other users")
    return none_of(problems)


def check_door(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """One socket in a directory that the room may enter and not change."""
    gid, facts = host_ids(expected, evidence)[1], evidence.folders.sources.get(EGRESS)
    if facts is None:
        return fail(["the egress directory was not looked at"])
    problems = [*_owned(facts, "directory", 0, gid, _DIRECTORY_OF_THE_DOOR)]
    for door in evidence.folders.doors:
        if Path(door.path).name == SOCKET_NAME:
            problems += _owned(door, "socket", 0, gid, _DOOR)
        elif Path(door.path).name in TRUST_NAMES:
            problems += _owned(door, "file", 0, gid, _TRUST)
        else:
            problems.append(f"{Path(door.path).name} is in the egress directory")
    return none_of(problems)


def check_listener(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Who listens at the room's door is the orchestrator."""
    running, listener = evidence.host.orchestrator, evidence.folders.listener
    if listener is None:
        return skip("its door is not open")
    if running is None:
        return fail([f"process {listener} listens, and no orchestrator runs"])
    return none_of(differs("the listening process", running, listener))


def _mounts(expected: Expected, evidence: RunnerEvidence) -> tuple[Mount, ...]:
    return () if has_own_kernel(expected) else kernel_of(evidence).mounts


def _kernel_mounts(expected: Expected, evidence: RunnerEvidence) -> Iterator[str]:
    options = expected.options
    binds = {bind.target: bind for bind in options.binds}
    known = {*_KERNEL_MOUNTS, *_ENGINE_FILES, *binds, *(m.target for m in options.tmpfs)}
    known |= {*options.masked_paths, *options.readonly_paths, _CGROUPS}
    mounts = _mounts(expected, evidence)
    for mount in mounts:
        in_cgroups = mount.kind == "cgroup" and mount.target.startswith(f"{_CGROUPS}/")
        if mount.target not in known and not in_cgroups:
            yield f"mounted: {mount.target}"
        bind = binds.get(mount.target)
        if bind is not None and bind.read_only and "ro" not in mount.options:
            yield f"{mount.target} can be written"
        if mount.target in _ENGINE_FILES and evidence.engine.container_id not in mount.root:
            yield f"{mount.target} is not the engine's"
        is_kernels = in_cgroups or mount.kind == "cgroup2" or mount.target == "/sys"
        if is_kernels and "ro" not in mount.options:
            yield f"{mount.target} can be written"
    counts = Counter(mount.target for mount in mounts)
    # The engine covers what is to be read-only with itself, and what is to be masked once more.
    twice = frozenset(options.masked_paths) & frozenset(options.readonly_paths)
    for target, count in counts.items():
        if count > 1 + (target in twice):
            yield f"{target} is mounted over"


def _moved_sources(expected: Expected, evidence: RunnerEvidence) -> Iterator[str]:
    """What is mounted must be the directory that is at its path now."""
    if has_own_kernel(expected):
        return
    mounted = kernel_of(evidence).mounted
    for bind in expected.options.binds:
        facts = evidence.folders.sources.get(bind.target)
        if facts is None or mounted.get(bind.target) != facts.identity:
            yield f"{bind.target} is not what is at its path on the host now"


def _source_problems(facts: FileFacts, ids: tuple[int, int], *, read_only: bool) -> Iterable[str]:
    if read_only:
        return [
            *differs(f"{facts.path} is a link", wanted=False, found=facts.kind == "symlink"),
            *_roots(facts),
        ]
    return _owned(facts, "directory", *ids, _DIRECTORY_OF_THE_ROOM)


def _owned(facts: FileFacts, kind: str, uid: int, gid: int, mode: int) -> Iterator[str]:
    name = Path(facts.path).name
    wanted, found = (kind, uid, gid, mode), (facts.kind, facts.uid, facts.gid, facts.mode)
    if wanted != found:
        yield f"{name}: expected {_render(*wanted)}, found {_render(*found)}"


def _roots(facts: FileFacts, roots: Collection[int] = (0,)) -> Iterator[str]:
    if facts.uid not in roots or facts.mode & _WRITERS:
        who = _render(facts.kind, facts.uid, facts.gid, facts.mode)
        yield f"{facts.path} can be changed by others: {who}"


def _render(kind: str, uid: int, gid: int, mode: int) -> str:
    return f"{kind} {uid}:{gid} {mode:04o}".strip()


def _size(mount: Mount) -> int | None:
    """The size of a tmpfs in bytes; the kernel writes KiB."""
    for option in mount.super_options:
        name, _, value = option.partition("=")
        if name == "size" and value.endswith("k"):
            return int(value[:-1]) << 10
    return None
