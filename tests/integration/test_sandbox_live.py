"""A live runner against its specification: what the engine says of it, and what holds inside."""

from __future__ import annotations

import asyncio
import errno
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from orchestrator.core import sandbox
from orchestrator.core.sandbox import SandboxSpec, build_labels, build_options
from orchestrator.runners.docker_backend import DockerBackend
from orchestrator.runners.image import image_dir
from tests.support import sandbox_probe
from tests.support.runner_engine import (
    ECHO,
    ensure_program_image,
    ensure_runner_image,
    new_installation,
    open_clean_backend,
    prepare,
    room_spec,
)

pytestmark = pytest.mark.docker

STARTED_S = 20
COMMAND_S = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    code: int
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One running runner, and a way to run commands in it as its own user."""

    spec: SandboxSpec
    backend: DockerBackend
    facts: dict[str, Any]

    async def run(self, script: str, *, stdin_file: str | None = None) -> Done:
        command = ["timeout", str(COMMAND_S), "bash", "-c", script]
        api = self.backend.engine.api
        made = await self.backend.engine.call(api.exec_create, self.spec.name, command)
        output = await self.backend.engine.call_within(COMMAND_S + 10, api.exec_start, made["Id"])
        state = await self.backend.engine.call(api.exec_inspect, made["Id"])
        return Done(code=state["ExitCode"], output=output.decode(errors="replace"))

    async def python(self, source: str) -> Done:
        """Run a Python program from a file in the workspace."""
        path = self.spec.workspace / "probe.py"
        path.write_text(source)
        path.chmod(0o644)
        return await self.run("python3 /workspace/probe.py; code=$?; rm -f probe.py; exit $code")


@pytest.fixture(scope="session")
def image() -> str:
    return ensure_runner_image()


@pytest.fixture
async def room(image: str, tmp_path: Path) -> AsyncIterator[Room]:
    """A room whose main process is the real shim."""
    async with open_clean_backend() as backend:
        spec = prepare(room_spec(tmp_path, backend.installation, image))
        await backend.ensure(spec)
        await backend.start(spec.name)
        api = backend.engine.api
        room = Room(
            spec=spec,
            backend=backend,
            facts=await backend.engine.call(api.inspect_container, spec.name),
        )
        await wait_for_shim(room)
        yield room


async def wait_for_shim(room: Room) -> None:
    until = time.monotonic() + STARTED_S
    while (await room.run("test -s /run/nss/passwd")).code != 0:
        assert time.monotonic() < until, "the shim did not start"
        await asyncio.sleep(0.1)


# ---- what the engine says


async def test_the_engine_made_the_runner_as_the_specification_says(room: Room) -> None:
    options = build_options(room.spec)
    host = room.facts["HostConfig"]
    config = room.facts["Config"]
    assert host["NetworkMode"] == "none"
    assert room.facts["NetworkSettings"]["Ports"] == {}
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Devices"]
    assert not host["GroupAdd"]
    assert not host["Binds"]
    assert not host["VolumesFrom"]
    assert host["CgroupnsMode"] == "private"
    assert host["IpcMode"] == "private"
    assert (host["PidMode"], host["UTSMode"], host["UsernsMode"]) == ("", "", "")
    assert host["RestartPolicy"]["Name"] in {"", "no"}
    assert host["LogConfig"]["Type"] == "none"
    assert not host["Init"]
    assert host["AutoRemove"] is False
    assert "no-new-privileges" in host["SecurityOpt"]
    assert host["MaskedPaths"] == list(options.masked_paths)
    assert host["ReadonlyPaths"] == list(options.readonly_paths)
    assert config["User"] == f"{room.spec.uid}:{room.spec.gid}"
    assert config["Hostname"] == "runner"
    assert config["WorkingDir"] == "/workspace"
    assert config["Labels"] == dict(config["Labels"]) | dict(build_labels(room.spec))


async def test_the_engine_uses_our_seccomp_profile(room: Room) -> None:
    (given,) = [o for o in room.facts["HostConfig"]["SecurityOpt"] if o.startswith("seccomp=")]
    assert json.loads(given.removeprefix("seccomp=")) == build_options(room.spec).seccomp


async def test_a_detach_can_not_close_the_main_process_stdin(room: Room) -> None:
    config = room.facts["Config"]
    assert (config["OpenStdin"], config["StdinOnce"], config["Tty"]) == (True, False, False)


async def test_every_resource_has_the_specifications_limit(room: Room) -> None:
    host, limits = room.facts["HostConfig"], room.spec.limits
    assert host["Memory"] == host["MemorySwap"] == limits.memory_bytes
    assert host["NanoCpus"] == limits.cpus * 10**9
    assert host["PidsLimit"] == limits.pids
    assert host["OomScoreAdj"] > 0
    assert not host["OomKillDisable"]
    ulimits = {item["Name"]: (item["Soft"], item["Hard"]) for item in host["Ulimits"]}
    assert ulimits["core"] == (1, 1)
    assert ulimits["nofile"] == (8192, 8192)
    assert ulimits["fsize"] == (limits.disk_bytes, limits.disk_bytes)


async def test_the_mounts_are_the_rooms_three_directories_and_nothing_else(room: Room) -> None:
    mounts = {
        mount["Destination"]: (mount["Source"], mount["RW"], mount["Propagation"])
        for mount in room.facts["Mounts"]
    }
    assert mounts == {
        "/workspace": (str(room.spec.workspace), True, "rprivate"),
        "/home/agent": (str(room.spec.home), True, "rprivate"),
        "/run/egress": (str(room.spec.egress_dir), False, "rprivate"),
    }


async def test_no_secret_and_nothing_of_the_host_is_in_the_environment(room: Room) -> None:
    names = {entry.partition("=")[0] for entry in room.facts["Config"]["Env"]}
    assert names == {"HOME", "LANG", "PATH"}


# ---- what holds inside


async def test_every_process_has_no_capability_and_can_gain_none(room: Room) -> None:
    done = await room.run("cat /proc/self/status")
    status = dict(line.split(":\t", 1) for line in done.output.splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Uid"].split() == [str(room.spec.uid)] * 4
    assert status["Gid"].split() == [str(room.spec.gid)] * 4
    assert status["Groups"].split() in ([], [str(room.spec.gid)])


async def test_forbidden_system_calls_fail_with_eperm(room: Room) -> None:
    found = await probe(room)
    forbidden = {
        *(name for name in sandbox_probe.CALLS if name in found),
        *(f"clone new {name}" for name in sandbox_probe.NEW_NAMESPACES),
        *(f"socket {family}/0" for family in range(46) if family not in {1, 2, 10, 16}),
        *(f"socket 16/{protocol}" for protocol in range(1, 23)),
        *(f"{kind} {family}" for kind in ("raw", "sctp") for family in (2, 10)),
        *(name for name in found if name.startswith("personality ")),
        "prlimit64 of another process",
        "socketpair tipc",
        "character device",
    }
    # An older libseccomp doesn't know their numbers; "not implemented" is its filter's answer, too.
    newer = {"listmount", "statmount", *(n for n in found if n.startswith("lsm_"))}
    allowed_anyway = {
        name: found[name]
        for name in forbidden
        if found[name] != errno.EPERM and not (name in newer and found[name] == errno.ENOSYS)
    }
    assert allowed_anyway == {}
    assert len(forbidden) > 150


async def test_what_programs_need_still_works_and_clone3_says_not_implemented(
    room: Room,
) -> None:
    found = await probe(room)
    assert found["clone3"] == errno.ENOSYS
    needed = {"clone", "fifo", "socketpair unix", "tcp 2", "tcp 10", "udp 2", "udp 10"}
    needed |= {f"socket {family}/0" for family in (1, 2, 10, 16)}
    assert {name: found[name] for name in needed} == dict.fromkeys(needed, 0)


async def probe(room: Room) -> dict[str, int]:
    done = await room.python(Path(sandbox_probe.__file__).read_text())
    assert done.code == 0, done.output
    found: dict[str, int] = json.loads(done.output.splitlines()[-1])
    return found


def test_the_probe_notices_when_there_is_no_profile(image: str) -> None:
    """The control: without our profile the same kernel lets some of these calls through."""
    client = docker.from_env()
    try:
        output = client.containers.run(
            image,
            ["-c", Path(sandbox_probe.__file__).read_text()],
            entrypoint="/usr/bin/python3",
            user="65534:65534",
            network_mode="none",
            cap_drop=["ALL"],
            security_opt=["seccomp=unconfined", "no-new-privileges"],
            remove=True,
            labels={"aiagentchat.installation": new_installation()},
        )
    finally:
        client.close()
    found = json.loads(output.splitlines()[-1])
    for name in ("ptrace", "vmsplice", "kcmp", "process_vm_readv", "unshare", "setns"):
        assert found[name] != errno.EPERM, name


async def test_the_32_bit_system_calls_are_closed(room: Room) -> None:
    source = """
    #include <stdio.h>
    int main(void) {
    #ifdef __x86_64__
      long r;
      __asm__ volatile ("int $0x80" : "=a"(r) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
      if (r > 0) puts("a 32-bit call was served");
    #endif
      return 0;
    }"""
    (room.spec.workspace / "int80.c").write_text(source)
    done = await room.run("gcc -o /tmp/int80 int80.c && /tmp/int80; echo ended with $?")
    assert "ended with" in done.output
    assert "a 32-bit call was served" not in done.output


async def test_loopback_is_the_only_interface(room: Room) -> None:
    assert (await room.run("ls /sys/class/net")).output.split() == ["lo"]
    done = await room.python(
        "import socket\n"
        "s = socket.socket(); s.settimeout(5)\n"
        "try: s.connect(('192.0.2.1', 80))\n"
        "except OSError as e: print(e.errno)\n"
    )
    assert int(done.output) == errno.ENETUNREACH


async def test_only_the_rooms_own_places_can_be_written(room: Room) -> None:
    done = await room.run(
        "for d in / /etc /usr/local/bin /opt/aiagentchat/shim /var/tmp /run /run/egress /dev /sys"
        " /proc/sys/kernel /etc/claude-code; do"
        " if touch $d/x 2>/dev/null; then echo $d; fi; done;"
        " touch /workspace/x /home/agent/x /tmp/x /run/nss/x /dev/shm/x"
    )
    assert (done.code, done.output) == (0, "")


async def test_tmp_is_memory_of_the_specified_size_and_runs_programs(room: Room) -> None:
    done = await room.run(
        "findmnt -no OPTIONS /tmp; df --output=size -B1 /tmp | tail -1;"
        " printf '#!/bin/sh\\necho ran\\n' > /tmp/p; chmod +x /tmp/p; /tmp/p"
    )
    options, size, ran = done.output.splitlines()
    assert {"nosuid", "nodev"} <= set(options.split(","))
    assert int(size) == room.spec.limits.tmp_bytes
    assert ran == "ran"


async def test_the_namespaces_are_the_runners_own(room: Room) -> None:
    names = "cgroup ipc mnt net pid uts"
    done = await room.run(f"cd /proc/self/ns; for n in {names}; do readlink $n; done")
    host = {str((Path("/proc/self/ns") / name).readlink()) for name in names.split()}
    inside = set(done.output.split())
    assert len(inside) == len(names.split())
    assert inside.isdisjoint(host)
    assert "/docker" not in (await room.run("cat /proc/self/cgroup")).output


async def test_the_hosts_resolver_and_its_kernel_command_line_are_not_shown(room: Room) -> None:
    shown = (await room.run("cat /etc/resolv.conf /proc/cmdline")).output
    lines = [line for line in shown.splitlines() if line.strip() and not line.startswith("#")]
    assert lines == ["nameserver 127.0.0.1"]


async def test_too_much_memory_ends_the_process_and_not_the_runner(room: Room) -> None:
    events = room.backend.watch()
    done = await room.run("python3 -c 'x = bytearray(4 << 30)'; echo $?")
    # The shell's own word on stderr may come before it or after it.
    assert "137" in done.output.splitlines()
    async with asyncio.timeout(STARTED_S):
        assert (await anext(events)).kind == "oom"
    runner = await room.backend.inspect(room.spec.name)
    assert runner is not None
    assert runner.container_id == room.facts["Id"]


async def test_more_processes_than_the_limit_are_refused_and_the_runner_lives(
    room: Room,
) -> None:
    done = await room.python(
        "import os, sys, time\n"
        "made = 0\n"
        "try:\n"
        "  while made < 5000:\n"
        "    if os.fork() == 0: time.sleep(20); os._exit(0)\n"
        "    made += 1\n"
        "except OSError as e: print(made, e.errno)\n"
        "os.system('pkill -9 -P %d' % os.getpid())\n"
    )
    counts = [line.split() for line in done.output.splitlines() if line[:1].isdigit()]
    made, code = (int(part) for part in counts[0])
    assert made < room.spec.limits.pids
    assert code == errno.EAGAIN
    runner = await room.backend.inspect(room.spec.name)
    assert runner is not None
    assert runner.exit_code is None


# ---- what an agent finds


TOOLS = {
    "whoami": "test $(whoami) = agent",
    "home": "test $HOME = /home/agent && test ~ = /home/agent && cd",
    "git": "git init -q r && cd r && touch f && git add f && git commit -qm first && git log -1",
    "npm": "mkdir p && cd p && npm init -y >/dev/null && npm pack --silent"
    " && mkdir ../q && cd ../q && npm init -y >/dev/null && npm install --offline ../p/p-1.0.0.tgz"
    " && test -d node_modules/p",
    "npm -g": "mkdir g && cd g && echo '#!/usr/bin/env node' > x.js"
    " && echo 'console.log(7)' >> x.js"
    ' && echo \'{"name":"g","version":"1.0.0","bin":{"gseven":"x.js"}}\' > package.json'
    " && npm pack --silent && npm install -g --offline ./g-1.0.0.tgz && test $(gseven) = 7",
    "node": "test $(node -e 'console.log(6*7)') = 42",
    "ssh": "ssh -V && ssh-keygen -q -t ed25519 -N '' -f k && test -s k.pub",
    "pip in a venv": "python3 -m venv v && v/bin/pip --version && v/bin/python -c 'import ssl'",
    "python": "test $(python -c 'print(6*7)') = 42",
    "C": "echo 'int main(void){return 42;}' > a.c && gcc -O2 -o a a.c; ./a; test $? = 42",
    "C++": "printf '#include <thread>\\nint main(){std::thread t([]{}); t.join();}' > b.cc"
    " && g++ -pthread -o b b.cc && ./b",
    "make": "printf 'all:\\n\\ttouch made\\n' > Makefile && make -s && test -f made",
    "ripgrep": "echo needle > h && rg -q needle h",
    "jq": "test $(echo '{\"a\":1}' | jq .a) = 1",
    "zip": "touch z && zip -q z.zip z && rm z && unzip -q z.zip && test -f z",
    "ps": "ps aux | grep -q shim",
    "curl": "curl --version",
    "less": "less --version",
    "pipes": "mkfifo f && (echo hi > f &) && test $(cat f) = hi && test $(cat <(echo hi)) = hi",
    "locale": "test $(locale charmap) = UTF-8",
    "time zone": "TZ=Europe/Berlin date +%Z | grep -q C",
}


async def test_the_tools_work_for_a_user_that_no_passwd_file_knows(room: Room) -> None:
    failed = {}
    for name, script in TOOLS.items():
        folder = f"/workspace/{name.replace(' ', '-')}"
        done = await room.run(f"mkdir -p '{folder}' && cd '{folder}' && {script}")
        if done.code != 0:
            failed[name] = done.output[-500:]
    assert failed == {}


async def test_the_cli_is_the_pinned_one(room: Room) -> None:
    pin = json.loads((image_dir() / "claude-code.json").read_text())
    done = await room.run("/usr/local/bin/claude --version")
    assert done.output.split()[0] == pin["version"]


async def test_the_managed_settings_and_the_shim_belong_to_root(room: Room) -> None:
    done = await room.run(
        "stat -c '%u:%g %a' /etc/claude-code/managed-settings.json /usr/local/bin/claude"
        " /opt/aiagentchat/shim/__main__.py"
    )
    assert done.output.split("\n")[:3] == ["0:0 644", "0:0 755", "0:0 644"]


def test_no_file_of_the_image_changes_its_users_identity(image: str) -> None:
    client = docker.from_env()
    try:
        output = client.containers.run(
            image,
            ["/", "-xdev", "-perm", "/6000", "-not", "-type", "d"],
            entrypoint="/usr/bin/find",
            user="0:0",
            network_mode="none",
            remove=True,
            labels={"aiagentchat.installation": new_installation()},
        )
    finally:
        client.close()
    assert output == b""


# ---- two rooms


@pytest.fixture(scope="session")
def echo_image() -> str:
    return ensure_program_image(ECHO)


async def test_two_rooms_have_different_users_and_share_no_directory(
    echo_image: str, tmp_path: Path
) -> None:
    async with open_clean_backend() as backend:
        specs = [
            prepare(room_spec(tmp_path, backend.installation, echo_image, index=index))
            for index in (0, 1)
        ]
        for spec in specs:
            await backend.ensure(spec)
        api = backend.engine.api
        facts = [await backend.engine.call(api.inspect_container, s.name) for s in specs]
        first, second = ({mount["Source"] for mount in fact["Mounts"]} for fact in facts)
        assert first.isdisjoint(second)
        assert facts[0]["Config"]["User"] != facts[1]["Config"]["User"]


def test_the_labels_name_the_installation_the_room_the_generation_and_the_spec() -> None:
    spec = room_spec(Path("/rooms"), new_installation(), "sha256:x")
    assert set(build_labels(spec)) == {
        sandbox.LABEL_INSTALLATION,
        sandbox.LABEL_ROOM,
        sandbox.LABEL_GENERATION,
        sandbox.LABEL_SPEC,
    }
