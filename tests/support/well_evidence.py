"""Evidence of a runner that is as it should be, for tests that change one thing of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.audit.isolation import expect
from orchestrator.core.isolation_confinement import ULIMITS
from orchestrator.core.isolation_evidence import (
    CgroupLimits,
    EngineMount,
    EngineRecord,
    FileFacts,
    Host,
    IdMap,
    Inside,
    Kernel,
    Mount,
    RoomFolders,
    RunnerEvidence,
    Task,
)
from orchestrator.core.sandbox import SandboxOptions, SandboxSpec, build_labels, build_options
from orchestrator.model import InstallationId, Limits, RoomSlug
from orchestrator.runners.docker_config import container_config

FOLDER = Path("/srv/state/rooms/room---0123456789abcdef")
UID = 1073741825
PID, CHILD = 4000, 4001
CONTAINER = "c" * 64
SETTINGS_DIGEST = "a" * 64
SPEC = SandboxSpec(
    name="aiagentchat-01234567-room---0123456789abcdef",
    installation=InstallationId("0123456789abcdef"),
    slug=RoomSlug("room---0123456789abcdef"),
    generation=3,
    image="sha256:1",
    uid=UID,
    gid=UID,
    workspace=FOLDER / "workspace",
    home=FOLDER / "home",
    egress_dir=FOLDER / "egress",
    limits=Limits(
        memory_bytes=2 << 30,
        cpus=1.5,
        pids=512,
        tmp_bytes=512 << 20,
        disk_bytes=5 << 30,
        output_bytes=100 << 20,
    ),
)
OPTIONS = build_options(SPEC)
EXPECTED = expect(SPEC, settings_digest=SETTINGS_DIGEST)
EVERYBODY = IdMap(ranges=((0, 0, 2**32 - 1),))
KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
HOST_NAMESPACES = {kind: f"{kind}:[1]" for kind in (*KINDS, "user")}
OWN_NAMESPACES = {kind: f"{kind}:[2]" for kind in KINDS} | {"user": "user:[1]"}
IMAGE_CONFIG: dict[str, Any] = {
    "Entrypoint": ["/usr/bin/python3", "-I", "-S", "/opt/aiagentchat/shim"],
    "Cmd": None,
    "Env": ["PATH=/usr/bin", "HOME=/home/agent", "LANG=C.UTF-8"],
    "Labels": {"aiagentchat.image": "1"},
}


def task(pid: int, parent: int, **changes: Any) -> Task:
    """A thread as it should be."""
    return replace(
        Task(
            pid=pid,
            tid=pid,
            parent=parent,
            uids=(UID,) * 4,
            gids=(UID,) * 4,
            groups=(UID,),
            capabilities=0,
            no_new_privileges=True,
            seccomp=2,
            namespaces=OWN_NAMESPACES,
            cgroups=frozenset({f"8:pids:/docker/{CONTAINER}"}),
            oom_score_adj=OPTIONS.oom_score_adj,
            limits={ULIMITS[name]: (number, number) for name, number in EXPECTED.ulimits.items()},
        ),
        **changes,
    )


def mount(target: str, kind: str = "proc", options: str = "ro", **more: Any) -> Mount:
    """A line of mountinfo as it should be."""
    return replace(
        Mount(
            target=target,
            root="/",
            kind=kind,
            options=frozenset(options.split(",")),
            super_options=frozenset(),
            is_shared=False,
        ),
        **more,
    )


def _mounts() -> tuple[Mount, ...]:
    files = [
        mount(f"/etc/{name}", "ext4", root=f"/docker/containers/{CONTAINER}/{name}")
        for name in ("resolv.conf", "hostname", "hosts")
    ]
    binds = [mount(b.target, "ext4", "ro" if b.read_only else "rw") for b in OPTIONS.binds]
    tmpfs = [
        mount(
            m.target,
            "tmpfs",
            "rw,nosuid,nodev" + ("" if m.executable else ",noexec"),
            super_options=frozenset({f"size={m.size_bytes >> 10}k"}),
        )
        for m in OPTIONS.tmpfs
    ]
    shm = frozenset({f"size={OPTIONS.shm_bytes >> 10}k"})
    kernel = [
        mount("/", "overlay"),
        mount("/proc", options="rw"),
        mount("/dev", "tmpfs", "rw"),
        mount("/dev/shm", "tmpfs", "rw", super_options=shm),
        mount("/sys", "sysfs"),
        mount("/sys/fs/cgroup", "tmpfs", "rw"),
        mount("/sys/fs/cgroup/pids", "cgroup"),
        mount("/proc/sys"),
        # To be read-only and to be masked: the engine does both.
        mount("/proc/bus"),
        mount("/proc/bus", "tmpfs", "ro"),
        mount("/proc/keys", "tmpfs", "rw"),
    ]
    return (*kernel, *files, *binds, *tmpfs)


def engine_record(options: SandboxOptions = OPTIONS) -> EngineRecord:
    """What an engine says that did as it was told."""
    body: dict[str, Any] = json.loads(json.dumps(container_config(options, build_labels(SPEC))))
    host = body.pop("HostConfig")
    body["Labels"] |= IMAGE_CONFIG["Labels"]
    return EngineRecord(
        container_id=CONTAINER,
        name=SPEC.name,
        pid=PID,
        is_paused=False,
        image=SPEC.image,
        apparmor="docker-default",
        log_path="",
        host=host | {"Runtime": host["Runtime"] or "runc"},
        config=body | {"Entrypoint": IMAGE_CONFIG["Entrypoint"], "Env": IMAGE_CONFIG["Env"]},
        networks=("none",),
        ports=(),
        mounts=tuple(
            EngineMount(
                kind="bind",
                source=str(bind.source),
                target=bind.target,
                writable=not bind.read_only,
                propagation="rprivate",
            )
            for bind in options.binds
        ),
        foreign_execs=(),
        probes=frozenset(),
        image_config=IMAGE_CONFIG,
    )


def directory(path: Path, uid: int = 0, mode: int = 0o700, **more: Any) -> FileFacts:
    """A directory of uid and of the group of the same number."""
    return replace(
        FileFacts(path=str(path), kind="directory", uid=uid, gid=uid, mode=mode, identity=(1, 1)),
        **more,
    )


SOURCES = {
    "/workspace": directory(FOLDER / "workspace", UID),
    "/home/agent": directory(FOLDER / "home", UID),
    "/run/egress": directory(FOLDER / "egress", 0, 0o750, gid=UID),
}
WELL = RunnerEvidence(
    engine=engine_record(),
    kernel=Kernel(
        tasks=(task(PID, 1), task(CHILD, PID)),
        mounts=_mounts(),
        interfaces=("lo",),
        uids=EVERYBODY,
        gids=EVERYBODY,
        cgroup=CgroupLimits(
            version=1,
            memory_bytes=OPTIONS.memory_bytes,
            swap_bytes=0,
            pids=OPTIONS.pids,
            nano_cpus=OPTIONS.nano_cpus,
            cpu_shares=OPTIONS.cpu_shares,
            devices=("c *:* m", "c 1:3 rwm", "c 136:* rwm"),
        ),
        changes=(),
        own_paths=frozenset({"/proc/sys", "/proc/keys"}),
        mounted={target: facts.identity for target, facts in SOURCES.items()},
        setuid=(),
        settings=FileFacts(
            path="/etc/claude-code/managed-settings.json", kind="file", uid=0, gid=0, mode=0o644
        ),
        settings_digest=SETTINGS_DIGEST,
        leaks=(),
    ),
    folders=RoomFolders(
        parents=(directory(Path("/srv/state")), directory(FOLDER)),
        sources=SOURCES,
        doors=(
            FileFacts(
                path=str(FOLDER / "egress/egress.sock"), kind="socket", uid=0, gid=UID, mode=0o660
            ),
        ),
        listener=77,
    ),
    inside=Inside(
        interfaces=("lo",), uids=(UID,) * 3, gids=(UID,) * 4, settings_digest=SETTINGS_DIGEST
    ),
    host=Host(namespaces=HOST_NAMESPACES, has_apparmor=True, has_swap=True, orchestrator=77),
)
