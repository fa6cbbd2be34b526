"""The checks of public container-escape scripts (amicontained, deepce, CDK, botb), from inside.

All of them run once, in one real runner, as the room's user with the image's tools; each is a test.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from orchestrator.egress.gateway import ApiKey, open_egress
from tests.support.egress import REAL_KEY, open_upstream
from tests.support.hostile_room import open_runner
from tests.support.runner_engine import ensure_runner_image, open_clean_backend

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

# Sockets of engines, orchestrators and hypervisors that scripts look for.
SOCKETS = (
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/podman/podman.sock",
    "/run/buildkit/buildkitd.sock",
    "/var/run/dockershim.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/systemd/journal/stdout",
    "/run/snapd.socket",
    "/var/lib/lxd/unix.socket",
    "/var/lib/kubelet/device-plugins/kubelet.sock",
)
# What an escape writes: each of them has run code on hosts.
WRITES = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sysrq-trigger",
    "/proc/self/oom_score_adj_host",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/security/apparmor/.load",
    "/sys/fs/cgroup/release_agent",
    "/sys/fs/cgroup/memory/release_agent",
    "/sys/fs/cgroup/rdma/release_agent",
    "/sys/fs/cgroup/memory/notify_on_release",
    "/sys/fs/cgroup/cgroup.procs",
    "/sys/fs/cgroup/devices/devices.allow",
    "/sys/devices/system/cpu/cpu0/online",
    "/sys/power/state",
    "/etc/ld.so.preload",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/sudoers",
    "/etc/crontab",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/hostname",
    "/etc/claude-code/managed-settings.json",
    "/opt/aiagentchat/shim/main.py",
    "/usr/local/bin/claude",
    "/usr/bin/python3.11",
    "/run/egress/planted.sock",
    "/.dockerenv",
)
READS = (
    "/proc/kcore",
    "/proc/kmsg",
    "/proc/keys",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/proc/config.gz",
    "/proc/cmdline",
    "/proc/1/environ",
    "/proc/1/mem",
    "/sys/firmware/efi/efivars",
    "/sys/firmware/acpi/tables",
    "/sys/kernel/debug",
    "/sys/kernel/tracing",
    "/sys/kernel/vmcoreinfo",
    "/sys/class/dmi/id/product_uuid",
    "/sys/hypervisor/uuid",
    "/var/run/secrets/kubernetes.io/serviceaccount/token",
    "/etc/kubernetes/admin.conf",
    "/root/.ssh/id_rsa",
    "/root/.aws/credentials",
    "/root/.docker/config.json",
    "/root/.kube/config",
    "/etc/shadow",
)
DEVICES = (
    "/dev/mem",
    "/dev/kmem",
    "/dev/port",
    "/dev/sda",
    "/dev/vda",
    "/dev/nvme0n1",
    "/dev/loop-control",
    "/dev/loop0",
    "/dev/mapper/control",
    "/dev/fuse",
    "/dev/kvm",
    "/dev/vhost-vsock",
    "/dev/vsock",
    "/dev/net/tun",
    "/dev/kmsg",
    "/dev/userfaultfd",
    "/dev/dri/card0",
    "/dev/snd/timer",
    "/dev/input/event0",
    "/dev/bus/usb/001/001",
)
ADDRESSES = {
    "the metadata service of AWS, GCP and Azure": ("169.254.169.254", 80),
    "the metadata service of AWS tasks": ("169.254.170.2", 80),
    "the metadata service of Alibaba": ("100.100.100.200", 80),
    "the metadata service of Oracle": ("192.0.0.192", 80),
    "the metadata service over IPv6": ("fd00:ec2::254", 80),
    "the bridge's own address": ("172.17.0.1", 22),
    "the engine's API": ("172.17.0.1", 2375),
    "the engine's API with TLS": ("172.17.0.1", 2376),
    "a neighbour on the bridge": ("172.17.0.2", 80),
    "the Kubernetes API": ("10.96.0.1", 443),
    "a kubelet": ("10.0.0.1", 10250),
    "etcd": ("10.0.0.1", 2379),
    "a resolver of the world": ("1.1.1.1", 53),
    "a host of the world": ("93.184.216.34", 443),
    "a host of the world over IPv6": ("2606:2800:220:1:248:1893:25c8:1946", 443),
    "the host by its loopback": ("127.0.0.1", 22),
}
CALLS = {
    "mounting a file system": "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
    "unmounting one": "libc.umount2(b'/proc', 2)",
    "a namespace of its own": "libc.unshare(0x10000000)",
    "a mount namespace of its own": "libc.unshare(0x20000)",
    "another's namespace": "libc.setns(os.open('/proc/self/ns/net', os.O_RDONLY), 0)",
    "another root": "libc.chroot(b'/tmp')",
    "a pivoted root": "libc.syscall(155, b'/tmp', b'/tmp')",
    "a device node": "libc.mknod(b'/tmp/sda', 0o60666, 0x800)",
    "a kernel module": "libc.syscall(313, -1, b'', 0)",
    "another kernel": "libc.syscall(246, 0, 0, 0, 0)",
    "a BPF program": "libc.syscall(321, 0, 0, 0)",
    "performance events": "libc.syscall(298, 0, 0, -1, -1, 0)",
    "faults handled in user space": "libc.syscall(323, 0)",
    "opening by handle (shocker)": "libc.syscall(304, -1, 0, 0)",
    "a handle of a file": "libc.syscall(303, -100, b'/etc/hostname', 0, 0, 0)",
    "a keyring": "libc.syscall(248, b'user', b'x', b'x', 1, -3)",
    "asking for a key": "libc.syscall(249, b'user', b'x', 0, 0)",
    "an io_uring": "libc.syscall(425, 1, 0)",
    "the clock": "libc.settimeofday(ctypes.create_string_buffer(16), None)",
    "the host's name": "libc.sethostname(b'x', 1)",
    "a swap file": "libc.swapon(b'/tmp/x', 0)",
    "a reboot": "libc.reboot(0)",
    "the kernel's log": "libc.klogctl(3, ctypes.create_string_buffer(64), 64)",
    "accounting": "libc.acct(None)",
    "ports of the machine": "libc.iopl(3)",
    "quotas": "libc.syscall(179, 0, b'/dev/sda', 0, 0)",
    "watching all files": "libc.syscall(300, 0, 0)",
    "a new mount by descriptor": "libc.syscall(430, b'tmpfs', 0)",
    "a copy of a mount": "libc.syscall(428, -100, b'/', 1)",
    "memory that nobody sees": "libc.syscall(447, 0)",
    "memory of another process": "libc.syscall(310, 1, 0, 0, 0, 0, 0)",
    "a descriptor of another process": "libc.syscall(438, 1, 0, 0)",
    "comparing processes": "libc.syscall(312, 1, 1, 0, 0, 0)",
    "moving pages": "libc.syscall(279, 1, 0, 0, 0, 0, 0)",
    "becoming root": "libc.setuid(0)",
    "root's group": "libc.setgid(0)",
    "more groups": "libc.setgroups(1, (ctypes.c_int * 1)(0))",
    "a raw socket": "libc.socket(2, 3, 1)",
    "a packet socket": "libc.socket(17, 3, 0)",
    "a netfilter socket": "libc.socket(16, 3, 12)",
    "an audit socket": "libc.socket(16, 3, 9)",
    "a vsock": "libc.socket(40, 1, 0)",
    "a crypto socket": "libc.socket(38, 5, 0)",
}
COMMANDS = {
    "sudo": "sudo -n id",
    "su": "su -c id </dev/null",
    "pkexec": "pkexec id",
    "newgrp": "newgrp root </dev/null; test $(id -g) = 0",
    "mount": "mount -t tmpfs none /tmp",
    "nsenter": "nsenter -t 1 -m true",
    "unshare": "unshare -Ur true",
    "chroot": "chroot /tmp true",
    "ping": "ping -c 1 -W 1 1.1.1.1",
    "a setuid file": "find / -xdev -perm /6000 -type f 2>/dev/null | grep .",
    "a file with capabilities": "getcap -r /usr /bin /sbin /opt 2>/dev/null | grep .",
    "a writable directory in the search path": (
        "find /usr/local/bin /usr/bin /bin -writable -not -type l 2>/dev/null | grep ."
    ),
    "a writable file of root's": (
        "find /etc /usr /opt /var -writable -not -type l 2>/dev/null | grep ."
    ),
    "a host's disk in the mounts": "grep -E '^/dev/[a-z]+[0-9]* / ' /proc/mounts",
    "another process namespace": "test $(ls -d /proc/[0-9]* | wc -l) -gt 40",
    "an interface": "ls /sys/class/net | grep -v '^lo$'",
    "a containerd shim (CVE-2020-15257)": "grep -a containerd-shim /proc/net/unix",
    "a secret in the environment": "env | grep -iE 'aws_|secret|password|sk-ant-api03-canary'",
    "a name that resolves": "getent hosts example.org",
    "the cgroup's path on the host": "grep -E 'docker/[0-9a-f]{64}' /proc/self/cgroup",
    "a setting of the kernel": "sysctl -w kernel.domainname=x",
    "the file system of cgroups": "mkdir /sys/fs/cgroup/memory/x || mkdir /sys/fs/cgroup/x",
}
# What must work, or an attempt above could have failed for another reason.
OWN = (
    ("socket", "/run/egress/egress.sock"),
    ("write", "/workspace/own"),
    ("read", "/proc/self/environ"),
    ("device", "/dev/null"),
    ("address", "the room's own way out"),
    ("call", "its own pid"),
    ("command", "nothing"),
)
SOURCE = """
def listen(path): socket.socket(socket.AF_UNIX).connect(path)
def dial(host, port): socket.create_connection((host, port), 2)
def write(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"x")
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "x")
found = {{}}
for path in {sockets}: found["socket", path] = attempt(listen, path)
for path in {writes}: found["write", path] = attempt(write, path)
for path in {reads}:
    try:
        found["read", path] = len(os.listdir(path) if os.path.isdir(path) else
                                  open(path, "rb").read(64)) or "EMPTY"
    except OSError as e:
        found["read", path] = errno.errorcode.get(e.errno, str(e))
for path in {devices}: found["device", path] = attempt(lambda: os.open(path, os.O_RDWR))
for name, (host, port) in {addresses}.items(): found["address", name] = attempt(dial, host, port)
libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
for name, source in {calls}.items():
    ctypes.set_errno(0)
    found["call", name] = attempt(lambda: checked(eval(source)))
for name, command in {commands}.items():
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=20)
    found["command", name] = done.returncode or done.stdout.decode()[:200] or "it worked"
print(json.dumps([[*key, value] for key, value in found.items()]))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    image = ensure_runner_image()
    return asyncio.run(_collect(tmp_path_factory.mktemp("escape"), image))


async def _collect(root: Path, image: str) -> dict[tuple[str, str], Any]:
    credential = ApiKey(SecretStr(REAL_KEY))
    async with (
        open_clean_backend() as backend,
        open_upstream() as upstream,
        open_egress(upstream=upstream.url, credential=credential) as gateway,
        open_runner(backend, gateway, root, image, 0) as room,
    ):
        source = SOURCE.format(
            sockets=json.dumps([*SOCKETS, "/run/egress/egress.sock"]),
            writes=json.dumps([*WRITES, "/workspace/own"]),
            reads=json.dumps([*READS, "/proc/self/environ"]),
            devices=json.dumps([*DEVICES, "/dev/null"]),
            addresses=json.dumps({**ADDRESSES, "the room's own way out": ("127.0.0.1", 8317)}),
            calls=json.dumps({**CALLS, "its own pid": "libc.getpid()"}),
            commands=json.dumps({**COMMANDS, "nothing": "true"}),
        )
        answer = await room.attack(source)
    return {(kind, name): value for kind, name, value in answer}


@pytest.mark.parametrize(("kind", "name"), OWN)
def test_the_same_attempt_works_on_what_is_the_rooms_own(
    kind: str, name: str, found: dict[tuple[str, str], Any]
) -> None:
    result = found[kind, name]
    assert result in (0, "it worked") or (kind == "read" and isinstance(result, int))


@pytest.mark.parametrize("path", SOCKETS)
def test_no_socket_of_the_host_is_there(path: str, found: dict[tuple[str, str], Any]) -> None:
    assert found["socket", path] == "ENOENT"


@pytest.mark.parametrize("path", WRITES)
def test_nothing_of_the_system_can_be_written(path: str, found: dict[tuple[str, str], Any]) -> None:
    assert found["write", path] in {"EROFS", "EACCES", "EPERM", "ENOENT"}


@pytest.mark.parametrize("path", READS)
def test_nothing_of_the_host_can_be_read(path: str, found: dict[tuple[str, str], Any]) -> None:
    assert found["read", path] in {"ENOENT", "EACCES", "EPERM", "EMPTY", "EIO"}


@pytest.mark.parametrize("path", DEVICES)
def test_no_device_of_the_host_is_there(path: str, found: dict[tuple[str, str], Any]) -> None:
    assert found["device", path] in {"ENOENT", "EACCES", "EPERM"}


@pytest.mark.parametrize("name", ADDRESSES)
def test_no_address_answers(name: str, found: dict[tuple[str, str], Any]) -> None:
    assert found["address", name] in {"ENETUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL"}


@pytest.mark.parametrize("name", CALLS)
def test_the_kernel_refuses(name: str, found: dict[tuple[str, str], Any]) -> None:
    assert found["call", name] in {"EPERM", "ENOSYS", "EACCES"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_tool_does_not_help(name: str, found: dict[tuple[str, str], Any]) -> None:
    assert isinstance(found["command", name], int), found["command", name]
