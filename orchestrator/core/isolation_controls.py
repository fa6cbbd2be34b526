"""Which controls there are, who requires each, and what became of every item of CIS's list.

Numbers are those of the CIS Docker Benchmark 1.6.0; "PSS" is Kubernetes' Pod Security Standards,
profile *restricted* (which includes *baseline*); "Anthropic" is the guide "Securely deploying AI
agents"; "threat" is a row of docs/security. `docs/security/audit.md` is written from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.core import isolation_confinement as confinement
from orchestrator.core import isolation_files as files
from orchestrator.core import isolation_resources as resources
from orchestrator.core.isolation import Check, Control, Judged, judge
from orchestrator.core.isolation_evidence import (
    EngineRecord,
    Expected,
    Host,
    Inside,
    RoomFolders,
    RunnerEvidence,
)


def _control(id_: str, check: Check, *required_by: str) -> Control:
    title = (check.__doc__ or "").split("\n\n", 1)[0].strip().removesuffix(".")
    return Control(id=id_, title=title, required_by=required_by, check=check)


CONTROLS: Final[tuple[Control, ...]] = (
    # What its processes are and may do.
    _control(
        "user",
        confinement.check_user,
        "CIS 4.1",
        "PSS: runAsNonRoot, runAsUser",
        "Anthropic: --user",
    ),
    _control("privileged", confinement.check_privileged, "CIS 5.5", "PSS: privileged containers"),
    _control(
        "capabilities",
        confinement.check_capabilities,
        "CIS 5.4",
        "PSS: capabilities",
        "Anthropic: --cap-drop ALL",
    ),
    _control(
        "no-new-privileges",
        confinement.check_no_new_privileges,
        "CIS 5.26",
        "PSS: allowPrivilegeEscalation",
        "Anthropic: no-new-privileges",
    ),
    _control(
        "seccomp",
        confinement.check_seccomp,
        "CIS 5.22",
        "PSS: seccomp",
        "Anthropic: seccomp",
        "threat: vsock, io_uring",
    ),
    _control(
        "apparmor", confinement.check_apparmor, "CIS 5.2", "CIS 5.3", "PSS: AppArmor, SELinux"
    ),
    _control(
        "namespaces",
        confinement.check_namespaces,
        "CIS 5.10",
        "CIS 5.16",
        "CIS 5.17",
        "CIS 5.21",
        "CIS 5.31",
        "PSS: host namespaces",
        "Anthropic: --ipc private",
    ),
    _control(
        "processes",
        confinement.check_processes,
        "CIS 5.7",
        "CIS 5.23",
        "CIS 5.24",
        "CIS 5.25",
        "threat: a process from outside",
    ),
    # Network.
    _control(
        "network",
        resources.check_network,
        "CIS 5.10",
        "CIS 5.30",
        "PSS: host namespaces",
        "Anthropic: --network none",
    ),
    _control("ports", resources.check_ports, "CIS 5.8", "CIS 5.9", "CIS 5.14", "PSS: host ports"),
    _control("resolver", resources.check_resolver, "threat: what tells of the host"),
    _control(
        "door",
        files.check_door,
        "Anthropic: a proxy's socket as the only way out",
        "threat: another room's door",
    ),
    _control("listener", files.check_listener, "threat: another room's door"),
    # Files.
    _control("image", resources.check_image, "CIS 4.2", "CIS 5.28"),
    _control("command", resources.check_command, "CIS 5.7", "threat: the wire"),
    _control("environment", resources.check_environment, "CIS 4.10", "threat: the credential"),
    _control(
        "secrets",
        resources.check_secrets,
        "CIS 4.10",
        "Anthropic: credentials outside",
        "threat: the credential",
    ),
    _control("read-only-root", files.check_root_read_only, "CIS 5.13", "Anthropic: --read-only"),
    _control("unchanged-root", files.check_root_unchanged, "CIS 5.13"),
    _control("setuid", files.check_setuid, "CIS 4.8"),
    _control("settings", files.check_settings, "threat: the CLI's configuration in a workspace"),
    _control(
        "mounts",
        files.check_mounts,
        "CIS 5.6",
        "CIS 5.32",
        "PSS: hostPath volumes",
        "Anthropic: what never to mount",
    ),
    _control("propagation", files.check_propagation, "CIS 5.20"),
    _control("disjoint", files.check_disjoint, "threat: another room's files"),
    _control("folders", files.check_folders, "threat: another room's files"),
    _control("parents", files.check_parents, "threat: another room's files"),
    _control("tmpfs", files.check_tmpfs, "CIS 5.13", "Anthropic: --tmpfs"),
    _control("shm", files.check_shm, "threat: memory"),
    _control("hidden-paths", files.check_hidden_paths, "PSS: /proc mount type"),
    _control("devices", resources.check_devices, "CIS 5.18"),
    _control("sysctls", resources.check_sysctls, "PSS: sysctls"),
    # Limits.
    _control("memory", resources.check_memory, "CIS 5.11", "Anthropic: --memory"),
    _control("cpu", resources.check_cpu, "CIS 5.12", "Anthropic: --cpus"),
    _control("pids", resources.check_pids, "CIS 5.29", "Anthropic: --pids-limit"),
    _control("ulimits", confinement.check_ulimits, "CIS 5.19", "threat: core files"),
    _control("oom", confinement.check_oom, "threat: memory"),
    # The engine's part.
    _control("runtime", resources.check_runtime, "Anthropic: gVisor", "threat: kernel bugs"),
    _control("logging", resources.check_logging, "threat: disk"),
    _control("lifecycle", resources.check_lifecycle, "CIS 5.15", "CIS 5.27"),
    _control("specification", resources.check_specification, "the configuration"),
    # From inside: the room's word, so that it adds to what stands above and replaces nothing.
    _control("inside-answers", confinement.check_answers, "this audit"),
    _control("inside-calls", confinement.check_calls, "CIS 5.22", "threat: vsock, io_uring"),
    _control("inside-network", confinement.check_inside_network, "Anthropic: --network none"),
    _control("inside-writes", confinement.check_inside_writes, "CIS 5.13"),
    _control("inside-identity", confinement.check_inside_identity, "CIS 4.1"),
)

# What can be said of a room that has no runner now.
_FOLDERS: Final = ("folders", "parents", "door", "listener")


def judge_folders(expected: Expected, folders: RoomFolders, host: Host) -> tuple[Judged, ...]:
    """The verdicts on a room's directories alone."""
    nobody = EngineRecord(
        container_id="",
        name="",
        pid=0,
        is_paused=False,
        image="",
        apparmor="",
        log_path="",
        host={},
        config={},
        networks=(),
        ports=(),
        mounts=(),
        foreign_execs=(),
        probes=frozenset(),
        image_config={},
    )
    evidence = RunnerEvidence(
        engine=nobody, kernel=None, folders=folders, inside=Inside(), host=host
    )
    controls = [control for control in CONTROLS if control.id in _FOLDERS]
    return judge(controls, expected, evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of a list of others: the controls that check it, or why none does."""

    title: str
    controls: tuple[str, ...] = ()
    reason: str = ""


CIS_RUNTIME: Final[Mapping[str, Item]] = {
    "5.1": Item(title="Swarm mode is off", reason="of the daemon: shown as `daemon`"),
    "5.2": Item(title="AppArmor profile", controls=("apparmor",)),
    "5.3": Item(
        title="SELinux options",
        reason="none is set: the engine's own labels count where it has SELinux switched on",
    ),
    "5.4": Item(title="Capabilities", controls=("capabilities",)),
    "5.5": Item(title="No privileged containers", controls=("privileged",)),
    "5.6": Item(title="No sensitive host directories", controls=("mounts",)),
    "5.7": Item(title="No sshd inside", controls=("command", "processes")),
    "5.8": Item(title="No privileged ports mapped", controls=("ports",)),
    "5.9": Item(title="Only needed ports open", controls=("ports",)),
    "5.10": Item(title="Not the host's network", controls=("network", "namespaces")),
    "5.11": Item(title="Memory limit", controls=("memory",)),
    "5.12": Item(title="CPU priority", controls=("cpu",)),
    "5.13": Item(title="Read-only root", controls=("read-only-root", "inside-writes")),
    "5.14": Item(title="Traffic bound to one interface", controls=("ports",)),
    "5.15": Item(
        title="Restart policy on-failure:5",
        controls=("lifecycle",),
        reason="stricter: the engine never restarts a runner, only the orchestrator does",
    ),
    "5.16": Item(title="Not the host's processes", controls=("namespaces",)),
    "5.17": Item(title="Not the host's IPC", controls=("namespaces",)),
    "5.18": Item(title="No host devices", controls=("devices",)),
    "5.19": Item(title="Ulimits", controls=("ulimits",)),
    "5.20": Item(title="No shared propagation", controls=("propagation",)),
    "5.21": Item(title="Not the host's UTS", controls=("namespaces",)),
    "5.22": Item(title="Seccomp", controls=("seccomp", "inside-calls")),
    "5.23": Item(title="No privileged exec", controls=("processes", "capabilities")),
    "5.24": Item(title="No exec as root", controls=("processes", "user")),
    "5.25": Item(title="Cgroup usage", controls=("processes", "memory", "pids")),
    "5.26": Item(title="No new privileges", controls=("no-new-privileges",)),
    "5.27": Item(
        title="Health check",
        controls=("lifecycle",),
        reason="the orchestrator asks the main process over the wire before each turn; one of the "
        "engine's would be a process from outside",
    ),
    "5.28": Item(
        title="Latest version of the image",
        controls=("image",),
        reason="pinned by content, which is stricter; versions change with the program's",
    ),
    "5.29": Item(title="PIDs limit", controls=("pids",)),
    "5.30": Item(title="Not the bridge docker0", controls=("network",)),
    "5.31": Item(title="Not the host's user namespace by request", controls=("namespaces",)),
    "5.32": Item(title="No engine socket inside", controls=("mounts",)),
}
"""Section 5, "Container Runtime", whole."""
