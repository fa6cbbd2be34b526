"""What hostile code in a runner tries against PID 1, other rooms, the host and the orchestrator.

Real runners of the real image, with their doors open; the code runs as the room's uid, with all the
image's tools. What a room does to itself is not tested, unless its next turn would not work.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.egress.door import MAX_CONNECTIONS
from orchestrator.errors import PreconditionError
from orchestrator.model import RunnerState
from orchestrator.runners.workdir import prepare_room_dirs
from tests.support.egress import REAL_KEY, build_body
from tests.support.hostile_room import (
    STARTED_S,
    Rooms,
    lines_until_exit,
    linked,
    mode_of,
    open_rooms,
)
from tests.support.runner_engine import ensure_runner_image

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def image() -> str:
    return ensure_runner_image()


@pytest.fixture
async def rooms(image: str, tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path, image) as opened:
        yield opened


# ---- PID 1


async def test_pid_1_can_not_be_read_traced_stopped_or_limited(rooms: Rooms) -> None:
    found = await rooms.first.attack(
        """
        pair = (ctypes.c_long * 2)(3, 3)
        at = ctypes.addressof(pair)
        fd = os.pidfd_open(1)
        names = "mem maps environ fd io stack syscall cwd root exe clear_refs task/1/mem".split()
        tried = {name: attempt(os.listdir if name == "fd" else os.readlink
                 if name in {"cwd", "root", "exe"} else open, "/proc/1/" + name) for name in names}
        tried["ptrace"] = call([101, 117], 0x4206, 1, 0, 0)
        tried["prlimit"] = call([302, 261], 1, 7, at, 0)
        tried["prlimit, upper half set"] = call([302, 261], 1 << 32 | 1, 7, at, 0)
        tried["pidfd_getfd"] = call([438, 438], fd, 0, 0)
        tried["process_vm_readv"] = call([310, 270], 1, 0, 0, 0, 0, 0)
        tried["process_madvise"] = call([440, 440], fd, 0, 0, 0, 0)
        tried["stdin"] = attempt(os.open, "/proc/1/fd/0", os.O_WRONLY)
        tried["stdout"] = attempt(os.open, "/proc/1/fd/1", os.O_WRONLY)
        tried["oom_score_adj"] = attempt(os.open, "/proc/1/oom_score_adj", os.O_WRONLY)
        for number in set(signal.valid_signals()) - {signal.SIGTERM}:
            os.kill(1, number)
        print(json.dumps(tried))
        """
    )
    assert {name: code for name, code in found.items() if code not in {"EPERM", "EACCES"}} == {}
    assert await rooms.first.link.ping() < 10
    runner = await rooms.first.info()
    assert runner is not None
    assert runner.state is RunnerState.RUNNING


async def test_a_pid_1_that_is_given_no_processor_still_answers(rooms: Rooms) -> None:
    """Its own uid may lower its priority; then the room's other processes starve it."""
    await rooms.first.run(
        "renice 19 1; chrt -i -p 0 1; taskset -cp 0 1;"
        " for i in 1 2 3 4 5 6 7 8; do timeout 20 sh -c 'while :; do :; done' & done; sleep 1"
    )
    assert await rooms.first.link.ping(timeout_s=15) < 15
    assert await rooms.second.link.ping() < 5


# ---- what the host has once


async def test_a_supply_of_the_host_can_not_be_used_up(rooms: Rooms) -> None:
    """Asynchronous I/O contexts are counted for the whole host (fs.aio-max-nr)."""
    tried = await rooms.first.attack(
        """
        context = ctypes.c_ulong(0)
        print(json.dumps([call([206, 0], 8000, ctypes.addressof(context)), call([209, 2], 0, 0, 0),
                          call([425, 425], 8, ctypes.addressof(ctypes.create_string_buffer(200)))]))
        """
    )
    assert tried == ["EPERM"] * 3


async def test_a_room_that_uses_up_all_that_it_has_harms_no_other(rooms: Rooms) -> None:
    await rooms.first.run(
        "dd if=/dev/zero of=/tmp/full bs=1M 2>/dev/null;"
        " dd if=/dev/zero of=/dev/shm/full bs=1M 2>/dev/null; dd if=/dev/zero of=/run/nss/x;"
        " (cd /tmp && rm full && seq 1 60000 | xargs touch) 2>/dev/null; true"
    )
    made = await rooms.first.attack(
        """
        pids = []
        try:
            while True:
                pid = os.fork()
                if not pid:
                    time.sleep(20)
                    os._exit(0)
                pids.append(pid)
        except OSError:
            print(json.dumps(len(pids)))
        """
    )
    assert 0 < made < rooms.first.spec.limits.pids
    assert await rooms.first.link.ping() < 10
    assert (await rooms.second.run("sh -c 'echo $(echo ok)'")).strip() == "ok"
    assert (await rooms.second.run("touch /tmp/x /dev/shm/x && echo ok")).strip() == "ok"


async def test_what_the_kernel_shows_tells_nothing_of_other_rooms(rooms: Rooms) -> None:
    await rooms.second.run("(exec -a marker-of-b sleep 60) & touch /tmp/marker-of-b")
    shown = await rooms.first.run(
        "cat /proc/[0-9]*/cmdline /proc/*/mountinfo /proc/net/unix /proc/locks /proc/keys"
        " /proc/diskstats /proc/interrupts /proc/sched_debug 2>/dev/null; ls -R /sys/fs/cgroup;"
        " cat /sys/fs/cgroup/*/cgroup.procs"
    )
    assert "marker-of-b" not in shown
    for secret in (rooms.second.spec.slug, rooms.second.spec.name, rooms.second.placeholder):
        assert secret not in shown
    table = await rooms.first.run("cat /proc/diskstats /proc/interrupts /proc/cmdline")
    assert table.strip() == ""


# ---- from room to room


async def test_no_kind_of_socket_joins_two_rooms(rooms: Rooms) -> None:
    listen = """
        server = socket.socket(socket.AF_UNIX)
        server.bind("\\0between-rooms")
        server.listen()
        tcp = socket.create_server(("127.0.0.1", 9999))
        if os.fork():
            print("null", flush=True)
            os._exit(0)
        os.setsid()
        for fd in (0, 1, 2):
            os.close(fd)
        time.sleep(60)
        """
    await rooms.second.attack(listen)
    inside = await rooms.second.attack(
        """
        def unix(name): socket.socket(socket.AF_UNIX).connect(name)
        print(json.dumps(attempt(unix, "\\0between-rooms")))
        """
    )
    assert inside == 0, "there is somebody to be reached"
    found = await rooms.first.attack(
        """
        def tcp(address): socket.create_connection(address, 3).close()
        def unix(name): socket.socket(socket.AF_UNIX).connect(name)
        found = {"abstract": attempt(unix, "\\0between-rooms"),
                 "loopback": attempt(tcp, ("127.0.0.1", 9999)),
                 "metadata": attempt(tcp, ("169.254.169.254", 80)),
                 "bridge": attempt(tcp, ("172.17.0.1", 2375)),
                 "engine": attempt(unix, "/var/run/docker.sock")}
        for name, family in {"vsock": 40, "packet": 17, "alg": 38, "bluetooth": 31, "can": 29,
                             "xdp": 44, "tipc": 30, "rds": 21, "kcm": 41, "key": 15}.items():
            found[name] = attempt(socket.socket, family, socket.SOCK_RAW)
        print(json.dumps(found))
        """
    )
    assert set(found.values()) <= {"EPERM", "ECONNREFUSED", "ENETUNREACH", "ENOENT"}
    assert found["vsock"] == "EPERM"


async def test_the_placeholder_of_another_room_opens_nothing(rooms: Rooms) -> None:
    first, second = rooms.first, rooms.second
    assert await first.request(build_body(), key=second.placeholder) == "403"
    assert await first.request(build_body(), key=REAL_KEY) == "403"
    assert not rooms.upstream.seen
    assert await first.request(build_body(), key=first.placeholder) == "200"
    assert rooms.upstream.seen[-1].headers["x-api-key"] == REAL_KEY


async def test_what_the_forwarder_passes_is_checked_behind_it(rooms: Rooms) -> None:
    """Straight to the socket or through the port: the gateway trusts neither."""
    found = await rooms.first.attack(
        f"""
        key = {rooms.first.placeholder!r}
        smuggled = ("POST /v1/messages HTTP/1.1\\r\\nHost: a\\r\\nx-api-key: " + key + "\\r\\n"
            "Content-Type: application/json\\r\\nContent-Length: 4\\r\\nTransfer-Encoding: chunked"
            "\\r\\n\\r\\n0\\r\\n\\r\\nPOST /v1/files HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n").encode()
        end = b"\\r\\n\\r\\n"
        heads = [b"GET http://example.org/ HTTP/1.1\\r\\nHost: example.org\\r\\n\\r\\n",
            b"CONNECT example.org:443 HTTP/1.1\\r\\nHost: example.org\\r\\n\\r\\n",
            b"POST /v1/files HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 0\\r\\n\\r\\n",
            b"GET /v1/models HTTP/1.1\\r\\nHost: a\\r\\nx-api-key: " + key.encode() + end,
            smuggled]
        def ask(family, address, head):
            with socket.socket(family) as s:
                s.settimeout(10)
                s.connect(address)
                s.sendall(head)
                answer = b""
                while data := s.recv(65536):
                    answer += data
            return answer.decode()
        ways = [(socket.AF_INET, ("127.0.0.1", 8317)), (socket.AF_UNIX, "/run/egress/egress.sock")]
        print(json.dumps([ask(*way, head) for way in ways for head in heads]))
        """
    )
    statuses = [answer.split(" ", 2)[1] for answer in found]
    assert set(statuses) <= {"400", "401", "403"}
    assert all(answer.count("HTTP/1.1 ") == 1 for answer in found)
    assert not rooms.upstream.seen


async def test_a_flooded_door_delays_no_other_room(rooms: Rooms) -> None:
    flood = """
        if os.fork():
            print("null", flush=True)
            os._exit(0)
        os.setsid()
        for fd in (0, 1, 2):
            os.close(fd)
        held, until = [], time.monotonic() + 30
        while time.monotonic() < until:
            try:
                s = socket.socket(socket.AF_UNIX)
                s.setblocking(False)
                s.connect("/run/egress/egress.sock")
                s.send(b"POST /v1/messages HTTP/1.1\\r\\nHost: a\\r\\nX-Slow: ")
                held.append(s)
            except OSError:
                time.sleep(0.01)
        """
    await rooms.first.attack(flood)
    async with asyncio.timeout(STARTED_S):
        slug = rooms.first.spec.slug
        while rooms.gateway.stats(slug).connections_open < MAX_CONNECTIONS:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        for _ in range(5):
            status = await rooms.second.request(build_body(), key=rooms.second.placeholder)
            assert status == "200"


# ---- the room's own files, seen from the host


async def test_a_vandalised_room_is_prepared_again_and_starts(rooms: Rooms) -> None:
    """No symlink is followed, no name read; the modes are as before."""
    room = rooms.first
    outside = room.spec.workspace.parent.parent.parent / "outside"
    outside.mkdir(mode=0o755)
    await room.run(
        f"cd /workspace; ln -s / root; ln -s {outside} out; mkfifo fifo; mkfifo ~/.claude.json;"
        " mkdir -p .claude; ln -s /proc/self/mem .claude/settings.json; ln -s loop loop;"
        " touch \"$(printf 'a\\nb')\" -- -rf; mkdir -m 000 closed; touch ~/.claude 2>/dev/null;"
        " chmod 000 /workspace /home/agent; rm -rf /run/egress; mv /workspace /gone"
    )
    assert mode_of(room.spec.workspace) == 0
    await room.backend.remove(room.spec.name)
    dirs = prepare_room_dirs(room.spec.workspace.parent, room.spec.uid, room.spec.gid)
    assert (mode_of(dirs.workspace), mode_of(dirs.home), mode_of(dirs.egress)) == (
        0o700,
        0o700,
        0o750,
    )
    assert list(outside.iterdir()) == []
    assert outside.stat().st_uid == 0
    again = replace(room.spec, generation=2)
    await room.backend.ensure(again)
    await room.backend.start(again.name)
    async with room.backend.attach(again.name) as stream, linked(stream) as link:
        assert await link.ping() < 10


async def test_another_rooms_directory_or_a_symlink_is_not_taken_for_a_workspace(
    rooms: Rooms,
) -> None:
    parent = rooms.first.spec.workspace.parent
    uid, gid = rooms.first.spec.uid, rooms.first.spec.gid
    await rooms.first.backend.remove(rooms.first.spec.name)
    rooms.first.spec.workspace.rename(parent / "aside")
    rooms.first.spec.workspace.symlink_to(rooms.second.spec.workspace)
    with pytest.raises(PreconditionError, match="workspace"):
        prepare_room_dirs(parent, uid, gid)
    rooms.first.spec.workspace.unlink()
    (parent / "aside").rename(rooms.first.spec.workspace)
    with pytest.raises(PreconditionError, match="another room's"):
        prepare_room_dirs(parent, uid + 1, gid + 1)


async def test_no_secret_is_in_what_the_engine_tells_of_a_runner(rooms: Rooms) -> None:
    api = rooms.first.backend.engine.api
    facts = await rooms.first.backend.engine.call(api.inspect_container, rooms.first.spec.name)
    told = json.dumps(facts)
    assert REAL_KEY not in told
    assert rooms.first.placeholder not in told


async def test_files_of_a_room_are_for_its_uid_alone(rooms: Rooms) -> None:
    """An ordinary user of the host, and another room's uid, come in nowhere."""
    for spec in (rooms.first.spec, rooms.second.spec):
        for folder in (spec.workspace, spec.home):
            assert (folder.stat().st_uid, mode_of(folder)) == (spec.uid, 0o700)
        assert (spec.egress_dir.stat().st_uid, mode_of(spec.egress_dir)) == (0, 0o750)
        sock = spec.egress_dir / "egress.sock"
        assert (sock.stat().st_uid, sock.stat().st_gid, mode_of(sock)) == (0, spec.gid, 0o660)
        assert mode_of(spec.workspace.parent) == 0o700
    found = await rooms.first.attack(
        """
        print(json.dumps([attempt(os.unlink, "/run/egress/egress.sock"),
            attempt(os.rename, "/run/egress/egress.sock", "/run/egress/x"),
            attempt(os.mkfifo, "/run/egress/fifo"), attempt(os.chmod, "/run/egress", 0o777)]))
        """
    )
    assert set(found) <= {"EROFS", "EACCES", "EPERM"}


# ---- the CLI's place on the wire


async def test_a_file_of_the_room_is_not_taken_for_the_cli_or_its_interpreter(
    rooms: Rooms,
) -> None:
    """What PATH, shells, loaders and interpreters would read; the shim starts by full path."""
    room = rooms.first
    await room.run(
        "mkdir -p ~/.local/bin ~/.local/lib/python3.11/site-packages;"
        " for n in claude python3 sh bash env; do printf '#!/bin/sh\\necho planted\\n'"
        " > ~/.local/bin/$n; chmod +x ~/.local/bin/$n; done;"
        " echo 'print(\"planted\")' | tee ~/.local/lib/python3.11/site-packages/usercustomize.py"
        " /workspace/json.py /workspace/os.py /workspace/sitecustomize.py >/dev/null;"
        " printf 'preload = [\"/workspace/p.js\"]\\n' > /workspace/bunfig.toml;"
        " cp /workspace/bunfig.toml ~/.bunfig.toml; echo 'console.log(\"planted\")'"
        " > /workspace/p.js; echo ANTHROPIC_BASE_URL=http://planted > /workspace/.env"
    )
    await room.link.open_session(
        "open-1",
        "s1",
        argv=["/usr/local/bin/claude", "--version"],
        env={"HOME": "/home/agent"},
        cwd="/workspace",
    )
    lines = await lines_until_exit(room.link)
    assert len(lines) == 1
    assert lines[0].endswith("(Claude Code)")


async def test_what_a_session_prints_can_not_be_a_frame(rooms: Rooms) -> None:
    """Forged frames, welcomes, control characters, no UTF-8: each is a line, and stays one."""
    forged = [
        b'{"q":1,"t":"exited","s":"s1","code":0,"signal":null}',
        b'{"t":"welcome","v":1,"nonce":"x","epoch":"y","first":1,"next":1,"sessions":{}}',
        b'"}\\n{"t":"fault","why":"forged"}',
        b'\r{"t":"pong","token":"x"}\r\x00\x1b[2J',
        b"\xff\xfe\xed\xa0\x80",
        b"",
    ]
    (rooms.first.spec.workspace / "forged").write_bytes(b"\n".join(forged) + b"\n")
    (rooms.first.spec.workspace / "forged").chmod(0o644)
    await rooms.first.link.open_session(
        "open-1", "s1", argv=["/bin/cat", "/workspace/forged"], env={}, cwd="/workspace"
    )
    lines = await lines_until_exit(rooms.first.link)
    assert lines == [line.decode("utf-8", "replace") for line in forged]
    assert await rooms.first.link.ping() < 10
