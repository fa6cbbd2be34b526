"""What somebody with the engine or as root may do to a runner by hand, one room for each.

`AT_CREATION` changes the body of `POST /containers/create`; `AFTERWARDS` is done to a live runner
that was well. Each names the controls that must fail, and no others may.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.core.sandbox import SandboxSpec

CANARY = "sk-ant-api03-canary-of-an-audit-0123456789AA"
Body = dict[str, Any]


def run_command(*command: str) -> None:
    """Run it to its end; what it prints shows when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a tampering may need: the room, its runner's first process, and a room as a victim."""

    spec: SandboxSpec
    victim: SandboxSpec
    other_image: str
    pid: int = 0
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)
    undo: list[tuple[str, ...]] = field(default_factory=list)

    def close(self) -> None:
        """End what was left running."""
        for child in self.children:
            child.kill()
            child.wait()
        for sock in self.sockets:
            sock.close()
        for command in self.undo:
            self.run(*command)

    def run(self, *command: str) -> None:
        run_command(*command)

    def inside(self, script: str) -> None:
        """As the host's root in the runner's mount namespace, with the runner's programs."""
        self.run("nsenter", "-t", str(self.pid), "-m", "-p", "sh", "-c", script)

    def leave_running(self, *command: str) -> None:
        self.children.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

    def cgroup(self, controller: str) -> Path:
        """The runner's folder in the hierarchy of a controller."""
        for line in Path(f"/proc/{self.pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if controller in names.split(","):
                return Path(f"/sys/fs/cgroup/{controller}{path}")
        path = Path(f"/proc/{self.pid}/cgroup").read_text().strip().rpartition(":")[2]
        return Path(f"/sys/fs/cgroup{path}")


HAS_V1 = Path("/sys/fs/cgroup/memory").is_dir()

Change = Callable[[Body, Scene], object]
Act = Callable[[Scene], object]
Expectation = tuple[str, ...]


def host(**values: Any) -> Change:
    """These values in the HostConfig."""
    return lambda body, _: body["HostConfig"].update(values)


def config(**values: Any) -> Change:
    return lambda body, _: body.update(values)


def bind(
    source: Callable[[Scene], str], target: str = "/mnt", propagation: str = "rprivate"
) -> Change:
    def change(body: Body, scene: Scene) -> None:
        body["HostConfig"]["Mounts"].append(
            {
                "Type": "bind",
                "Source": source(scene),
                "Target": target,
                "BindOptions": {"Propagation": propagation, "NonRecursive": True},
            }
        )

    return change


def first_mount(**values: Any) -> Change:
    def change(body: Body, _: Scene) -> None:
        for mount in body["HostConfig"]["Mounts"]:
            if mount["Target"] == values["Target"]:
                mount.update(values)

    return change


def share_workspace(body: Body, scene: Scene) -> None:
    """What is mounted below it inside would appear on the host; it has to be a mount for that."""
    path = str(scene.spec.workspace)
    scene.run("mount", "--bind", path, path)
    scene.undo.append(("umount", "-l", path))
    scene.run("mount", "--make-shared", path)
    first_mount(Target="/workspace", BindOptions={"Propagation": "rshared"})(body, scene)


def join(mode: str) -> Change:
    """The namespace of the victim's runner; two can't have different names then."""

    def change(body: Body, scene: Scene) -> None:
        body["HostConfig"][mode] = f"container:{scene.victim.name}"
        body["Hostname"] = ""
        body["Entrypoint"] = IDLE  # the shim's port is taken there
        if mode == "NetworkMode":
            del body["HostConfig"]["Dns"], body["HostConfig"]["DnsSearch"]

    return change


def security(*options: str, keep: Sequence[str] = ("seccomp", "no-new")) -> Change:
    def change(body: Body, _: Scene) -> None:
        kept = [o for o in body["HostConfig"]["SecurityOpt"] if o.startswith(tuple(keep))]
        body["HostConfig"]["SecurityOpt"] = [*kept, *options]

    return change


def user(of: Callable[[Scene], str]) -> Change:
    return lambda body, scene: body.update(User=of(scene))


PORTS = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
FUSE = {"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/kmsg", "CgroupPermissions": "r"}
IDLE = ["/usr/bin/python3", "-c", "import signal; signal.pause()"]

AT_CREATION: dict[str, tuple[Change, Expectation]] = {
    # The engine then leaves out its profile, and adds an option of its own.
    "privileged": (
        host(Privileged=True),
        (
            "privileged",
            "capabilities",
            "seccomp",
            "apparmor",
            "mounts",
            "devices",
            "inside-calls",
        ),
    ),
    "a capability": (host(CapAdd=["NET_ADMIN"]), ("capabilities",)),
    "no capability dropped": (host(CapDrop=[]), ("capabilities",)),
    "without seccomp": (
        security("seccomp=unconfined", keep=("no-new",)),
        ("seccomp", "inside-calls"),
    ),
    # 20.10's own allows vsock and io_uring; the newest allow bluetooth and ptrace.
    "the engine's seccomp profile": (security(keep=("no-new",)), ("seccomp", "inside-calls")),
    "new privileges": (security(keep=("seccomp",)), ("no-new-privileges",)),
    "another security option": (security("label=disable"), ("apparmor",)),
    "a root to be written": (host(ReadonlyRootfs=False), ("read-only-root",)),
    "the bridge": (host(NetworkMode="bridge"), ("network", "inside-network")),
    "the host's network": (
        host(NetworkMode="host"),
        ("network", "namespaces", "inside-network"),
    ),
    "another room's network": (
        join("NetworkMode"),
        ("network", "namespaces", "resolver", "command", "processes", "user", "mounts"),
    ),
    "a published port": (host(PortBindings=PORTS), ("ports",)),
    "the host's resolver": (host(Dns=["192.0.2.53"]), ("resolver",)),
    "a name for an address": (host(ExtraHosts=["metadata:169.254.169.254"]), ("resolver",)),
    "the engine's socket": (
        bind(lambda _: "/var/run/docker.sock", "/etc/npmrc"),
        ("mounts",),
    ),
    "the host's /etc": (bind(lambda _: "/etc"), ("mounts",)),
    "another room's workspace": (
        bind(lambda scene: str(scene.victim.workspace)),
        ("mounts", "disjoint"),
    ),
    "a home elsewhere": (first_mount(Target="/home/agent", Source="/srv"), ("mounts",)),
    "an egress directory to be written": (
        first_mount(Target="/run/egress", ReadOnly=False),
        ("mounts",),
    ),
    "shared mounts": (
        share_workspace,
        ("propagation",),
    ),
    "the host's processes": (host(PidMode="host"), ("namespaces", "apparmor")),
    "another room's processes": (
        join("PidMode"),
        ("namespaces", "processes", "user", "command"),
    ),
    "the host's IPC": (host(IpcMode="host"), ("namespaces", "apparmor", "shm")),
    "the host's name": (
        lambda body, _: body.update(Hostname="") or body["HostConfig"].update(UTSMode="host"),
        ("namespaces",),
    ),
    "the host's cgroups": (host(CgroupnsMode="host"), ("namespaces",)),
    "the host's users": (host(UsernsMode="host"), ("namespaces",)),
    "root": (user(lambda _: "0:0"), ("user", "inside-identity", "inside-writes")),
    "another room's user": (
        user(lambda scene: f"{scene.victim.uid}:{scene.victim.gid}"),
        ("user", "inside-identity"),
    ),
    "one more group": (host(GroupAdd=["0"]), ("user", "inside-identity")),
    "a device": (host(Devices=[FUSE]), ("devices",)),
    "a device rule": (host(DeviceCgroupRules=["b *:* rwm"]), ("devices",)),
    "no memory limit": (host(Memory=0, MemorySwap=0), ("memory",)),
    "swap without a limit": (host(MemorySwap=-1), ("memory",)),
    "no CPU limit": (host(NanoCpus=0), ("cpu",)),
    "no process limit": (host(PidsLimit=0), ("pids",)),
    "no ulimits": (host(Ulimits=[]), ("ulimits",)),
    "not the first for the OOM killer": (host(OomScoreAdj=0), ("oom",)),
    "a log": (host(LogConfig={"Type": "json-file"}), ("logging",)),
    "a setting of the kernel": (
        host(Sysctls={"net.ipv4.ping_group_range": "0 2147483647"}),
        ("sysctls",),
    ),
    "nothing hidden": (host(MaskedPaths=[], ReadonlyPaths=[]), ("hidden-paths",)),
    "more shared memory": (host(ShmSize=1 << 30), ("shm",)),
    "a larger /tmp": (
        lambda body, _: body["HostConfig"]["Tmpfs"].update({"/tmp": "rw,size=1g,exec"}),
        ("tmpfs",),
    ),
    "started again by the engine": (
        host(RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 5}),
        ("lifecycle",),
    ),
    "another image": (lambda body, scene: body.update(Image=scene.other_image), ("image",)),
    "another program": (config(Entrypoint=IDLE), ("command",)),
    "a health check": (config(Healthcheck={"Test": ["CMD", "true"]}), ("lifecycle",)),
    "a secret": (config(Env=[f"NODE_KEY={CANARY}"]), ("environment", "secrets")),
}


def add_socket(scene: Scene) -> None:
    _listen(scene, scene.spec.egress_dir / "second.sock")


def replace_socket(scene: Scene) -> None:
    """Somebody else's process listens, under the right name, with the right owner and mode."""
    path = scene.spec.egress_dir / "egress.sock"
    path.unlink()
    program = (
        "import os, socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind('egress.sock');"
        "os.chown('egress.sock', 0, int(sys.argv[1])); os.chmod('egress.sock', 0o660);"
        "s.listen(); time.sleep(600)"
    )
    child = subprocess.Popen(
        ["python3", "-c", program, str(scene.spec.gid)], cwd=scene.spec.egress_dir
    )
    scene.children.append(child)
    while not path.exists() or path.stat().st_mode & 0o777 != 0o660:
        assert child.poll() is None


def _listen(scene: Scene, path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    folder = os.open(path.parent, os.O_PATH)
    sock.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)
    sock.listen()
    scene.sockets.append(sock)


def swap_workspace(scene: Scene) -> None:
    moved = scene.spec.workspace.with_name("moved")
    scene.spec.workspace.rename(moved)
    scene.spec.workspace.symlink_to(moved)


def exec_(*options: str) -> Act:
    def act(scene: Scene) -> None:
        scene.run("docker", "exec", "-d", *options, scene.spec.name, "sleep", "600")

    return act


def docker(*arguments: str) -> Act:
    return lambda scene: scene.run("docker", *arguments, scene.spec.name)


def connect(scene: Scene) -> None:
    scene.run("docker", "network", "disconnect", "none", scene.spec.name)
    scene.run("docker", "network", "connect", "bridge", scene.spec.name)


def raise_memory(scene: Scene) -> None:
    folder = scene.cgroup("memory")
    if HAS_V1:
        (folder / "memory.memsw.limit_in_bytes").write_text(str(8 << 30))
        (folder / "memory.limit_in_bytes").write_text(str(8 << 30))
    else:
        (folder / "memory.max").write_text("max")


def prlimit(limit: str) -> Act:
    return lambda scene: scene.run("prlimit", "--pid", str(scene.pid), limit)


def can_raise_limits() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:\t")[1].split("\n")[0], 16)
    return bool(effective >> 24 & 1)


def enter(*kinds: str) -> Act:
    return lambda scene: scene.leave_running(
        "nsenter", "-t", str(scene.pid), *kinds, "sleep", "600"
    )


# A process of the host's root that is in one of the runner's namespaces.
A_ROOT = ("user", "capabilities", "no-new-privileges", "seccomp", "processes", "oom", "ulimits")

AFTERWARDS: dict[str, tuple[Act, Expectation]] = {
    "nothing": (lambda _: None, ()),
    "more memory": (docker("update", "--memory", "1g", "--memory-swap", "1g"), ("memory",)),
    "more swap": (docker("update", "--memory-swap", "-1"), ("memory",)),
    "more processes": (docker("update", "--pids-limit", "-1"), ("pids",)),
    "more CPUs": (docker("update", "--cpus", "2"), ("cpu",)),
    "more CPU shares": (docker("update", "--cpu-shares", "4096"), ("cpu",)),
    "a restart policy": (docker("update", "--restart", "always"), ("lifecycle",)),
    "paused": (docker("pause"), ("inside-answers",)),
    "connected": (connect, ("network", "inside-network")),
    "an exec as root": (exec_("-u", "0"), ("processes", "user")),
    "an exec": (exec_(), ("processes",)),
    "a process in its network": (enter("-n"), A_ROOT),
    "a process among its files": (enter("-m"), A_ROOT),
    "a process among its processes": (enter("-p"), A_ROOT),
    "memory by the kernel's file": (raise_memory, ("memory",)),
    "processes by the kernel's file": (
        lambda scene: (scene.cgroup("pids") / "pids.max").write_text("max"),
        ("pids",),
    ),
    "a mount": (lambda scene: scene.inside("mount -t tmpfs none /mnt"), ("mounts",)),
    "a mount over the workspace": (
        lambda scene: scene.inside("mount -t tmpfs none /workspace"),
        ("mounts",),
    ),
    "a root mounted to be written": (
        lambda scene: scene.inside("mount -o remount,bind,rw /"),
        ("read-only-root",),
    ),
    "a door mounted to be written": (
        lambda scene: scene.inside("mount -o remount,bind,rw /run/egress"),
        ("mounts",),
    ),
    "a cover taken off": (lambda scene: scene.inside("umount /proc/keys"), ("hidden-paths",)),
    "a file of the image": (
        lambda scene: scene.inside("mount -o remount,rw /; echo >/etc/x; mount -o remount,ro /"),
        ("unchanged-root",),
    ),
    "the CLI's settings": (
        lambda scene: scene.inside(
            "mount -o remount,rw /; echo {} >/etc/claude-code/managed-settings.json;"
            " mount -o remount,ro /"
        ),
        ("unchanged-root", "settings"),
    ),
    "a setuid program": (
        lambda scene: scene.inside(
            "mount -o remount,rw /; chmod u+s /usr/bin/env; mount -o remount,ro /"
        ),
        ("unchanged-root", "setuid"),
    ),
    "a workspace for everybody": (lambda s: s.spec.workspace.chmod(0o777), ("folders",)),
    "a home of root's": (lambda s: os.chown(s.spec.home, 0, 0), ("folders",)),
    "a workspace that is a link": (swap_workspace, ("folders", "mounts")),
    "a room directory for everybody": (
        lambda s: s.spec.workspace.parent.chmod(0o777),
        ("parents",),
    ),
    "a room directory of the room's": (
        lambda s: os.chown(s.spec.workspace.parent, s.spec.uid, s.spec.gid),
        ("parents",),
    ),
    "an egress directory for everybody": (lambda s: s.spec.egress_dir.chmod(0o777), ("door",)),
    "a door for everybody": (
        lambda s: (s.spec.egress_dir / "egress.sock").chmod(0o666),
        ("door",),
    ),
    "a door of another room's": (
        lambda s: os.chown(s.spec.egress_dir / "egress.sock", 0, s.victim.gid),
        ("door",),
    ),
    "a second door": (add_socket, ("door",)),
    "somebody else's door": (replace_socket, ("listener",)),
}
# Root without CAP_SYS_RESOURCE (in a virtual machine's container, say) can raise no limit.
if can_raise_limits():
    AFTERWARDS |= {
        "a privileged exec": (
            exec_("-u", "0", "--privileged"),
            ("processes", "user", "capabilities", "no-new-privileges"),
        ),
        "an OOM score": (
            lambda scene: Path(f"/proc/{scene.pid}/oom_score_adj").write_text("-1000"),
            ("oom",),
        ),
        "core files": (prlimit("--core=unlimited"), ("ulimits",)),
        "open files": (prlimit("--nofile=1000000"), ("ulimits",)),
        "large files": (prlimit("--fsize=unlimited"), ("ulimits",)),
    }
if HAS_V1:
    AFTERWARDS["all devices"] = (
        lambda scene: (scene.cgroup("devices") / "devices.allow").write_text("a"),
        ("devices",),
    )
