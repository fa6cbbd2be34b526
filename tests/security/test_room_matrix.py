"""Each of five rooms tries to reach each of the others in every way that we know of.

Real runners of one image with their doors open. Every room first offers something to be reached and
reaches its own, so that an attempt that fails for another reason would be noticed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from orchestrator.egress.gateway import ApiKey, open_egress
from tests.support.egress import REAL_KEY, build_body, open_upstream
from tests.support.hostile_room import Room, open_runner
from tests.support.runner_engine import ensure_runner_image, open_clean_backend

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

ROOMS = range(5)
PAIRS = list(itertools.permutations(ROOMS, 2))
PLACEHOLDER = "sk-ant-api03-placeholder-of-room-{}-AA"

# Leaves in each room something that could be reached from elsewhere, and stays.
OFFER = """
import fcntl
n = {index}
open("/workspace/offer", "w").write("room %d" % n)
open("/dev/shm/offer-%d" % n, "w").write("x")
librt = ctypes.CDLL("librt.so.1", use_errno=True)
made = {{
    "message queue": librt.mq_open(b"/offer-%d" % n, os.O_CREAT | os.O_RDWR, 0o777, None) >= 0,
    "shared memory": libc.shmget(0x5000 + n, 4096, 0o1777) >= 0,
    "semaphore": libc.semget(0x5000 + n, 1, 0o1777) >= 0,
    "system v queue": libc.msgget(0x5000 + n, 0o1777) >= 0,
}}
if os.fork():
    print(json.dumps(made), flush=True)
    os._exit(0)
os.setsid()
held = [os.open("/usr/bin/env", os.O_RDONLY)]
fcntl.flock(held[0], fcntl.LOCK_EX)
unix = socket.socket(socket.AF_UNIX); unix.bind("\\0offer-%d" % n); unix.listen(64)
tcp = socket.create_server(("127.0.0.1", 9000 + n), backlog=64)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 9100 + n))
six = socket.create_server(("::1", 9200 + n), family=socket.AF_INET6) if {six} else None
watch = libc.inotify_init1(os.O_NONBLOCK)
libc.inotify_add_watch(watch, b"/usr/bin/less", 0x20)
for fd in (0, 1, 2):
    os.close(fd)
for _ in range(2400):
    time.sleep(0.1)
    try:
        seen = os.read(watch, 4096)
    except OSError:
        continue
    open("/workspace/seen", "ab").write(seen)
"""

# Reaches for another room (or its own): 0, or the errno's name.
REACH = """
import fcntl
librt = ctypes.CDLL("librt.so.1", use_errno=True)
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "x")
def read(path): open(path, "rb").read(16)
def unix(name): socket.socket(socket.AF_UNIX).connect(name)
def tcp(host, port): socket.create_connection((host, port), 3).close()
def udp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", port)); s.send(b"x"); time.sleep(0.05); s.send(b"x")
def vsock(port): socket.socket(40, socket.SOCK_STREAM).connect((1, port))
def lock():
    with open("/usr/bin/env", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
def queue(name): checked(librt.mq_open(name, os.O_RDWR))
def memory(pid):
    iov = (ctypes.c_ulong * 2)(ctypes.addressof(ctypes.create_string_buffer(8)), 8)
    checked(libc.syscall(310, pid, ctypes.byref(iov), 1, ctypes.byref(iov), 1, 0))
found = {{}}
for n, (pid, folder, door) in {victims}.items():
    n = int(n)
    found[n] = {{
        "its files by the host's path": attempt(read, folder + "/offer"),
        "its files through PID 1": attempt(read, "/proc/1/root" + folder + "/offer"),
        "writing by the host's path": attempt(open, folder + "/planted", "w"),
        "its abstract socket": attempt(unix, "\\0offer-%d" % n),
        "its TCP port": attempt(tcp, "127.0.0.1", 9000 + n),
        "its UDP port": attempt(udp, 9100 + n),
        "its IPv6 port": attempt(tcp, "::1", 9200 + n),
        "its door": attempt(unix, door),
        "its memory file": attempt(read, "/dev/shm/offer-%d" % n),
        "its message queue": attempt(queue, b"/offer-%d" % n),
        "its shared memory": attempt(lambda: checked(libc.shmget(0x5000 + n, 0, 0))),
        "its semaphore": attempt(lambda: checked(libc.semget(0x5000 + n, 0, 0))),
        "its System V queue": attempt(lambda: checked(libc.msgget(0x5000 + n, 0))),
        "a signal to its process": attempt(os.kill, pid, 0),
        "its process by a descriptor": attempt(os.pidfd_open, pid),
        "its process's environment": attempt(read, "/proc/%d/environ" % pid),
        "tracing its process": attempt(lambda: checked(libc.ptrace(0x4206, pid, 0, 0))),
        "its process's memory": attempt(memory, pid),
        "its priority": attempt(os.setpriority, os.PRIO_PROCESS, pid, 19),
        "its processors": attempt(os.sched_setaffinity, pid, {{0}}),
        "vsock": attempt(vsock, 5000 + n),
    }}
found["lock"] = attempt(lock)
open("/usr/bin/less", "rb").close()
print(json.dumps(found))
"""
# Ways of which a room may reach its own, as a check that the attempt itself works.
OWN = (
    "its abstract socket",
    "its TCP port",
    "its UDP port",
    "its memory file",
    "its message queue",
    "its shared memory",
    "its semaphore",
    "its System V queue",
)
WAYS = (
    *OWN,
    "its IPv6 port",
    "its files by the host's path",
    "its files through PID 1",
    "writing by the host's path",
    "its door",
    "a signal to its process",
    "its process by a descriptor",
    "its process's environment",
    "tracing its process",
    "its process's memory",
    "its priority",
    "its processors",
    "vsock",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What each room found: by attacker, victim and way; and what the host saw."""

    reached: dict[tuple[int, int], dict[str, Any]]
    locks: list[Any]
    seen_by_watch: list[int]
    keys: dict[tuple[int, int], str]
    planted: list[Path]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    image = ensure_runner_image()
    return asyncio.run(_collect(tmp_path_factory.mktemp("matrix"), image))


async def _collect(root: Path, image: str) -> Found:
    credential = ApiKey(SecretStr(REAL_KEY))
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        backend = await enter(open_clean_backend())
        upstream = await enter(open_upstream())
        gateway = await enter(open_egress(upstream=upstream.url, credential=credential))
        rooms = [
            await enter(
                open_runner(backend, gateway, root, image, n, placeholder=PLACEHOLDER.format(n))
            )
            for n in ROOMS
        ]
        for n, room in enumerate(rooms):
            has_six = await room.attack(
                "print(json.dumps(os.path.exists('/proc/net/if_inet6')"
                " and bool(open('/proc/net/if_inet6').read())))"
            )
            made = await room.attack(OFFER.format(index=n, six=has_six))
            assert all(made.values()), made
        victims = {n: await _address(room) for n, room in enumerate(rooms)}
        reached, locks = {}, []
        for n, room in enumerate(rooms):
            answer = await room.attack(REACH.format(victims=json.dumps(victims)))
            locks.append(answer.pop("lock"))
            reached |= {(n, int(other)): ways for other, ways in answer.items()}
        keys = {
            (n, other): await rooms[n].request(build_body(), key=PLACEHOLDER.format(other))
            for n in ROOMS
            for other in ROOMS
        }
        await asyncio.sleep(0.5)
        return Found(
            reached=reached,
            locks=locks,
            seen_by_watch=[_events_of(room) for room in rooms],
            keys=keys,
            planted=[path for room in rooms for path in room.spec.workspace.glob("planted")],
        )


async def _address(room: Room) -> tuple[int, str, str]:
    """The host's pid of one of its processes, its directory there, and its door."""
    state = await room.backend.engine.call(
        room.backend.engine.api.inspect_container, room.spec.name
    )
    door = str(room.spec.egress_dir / "egress.sock")
    return state["State"]["Pid"], str(room.spec.workspace), door


def _events_of(room: Room) -> int:
    """How often its watch on a file of the image saw an open: 16 bytes an event."""
    path = room.spec.workspace / "seen"
    return path.stat().st_size // 16 if path.exists() else 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("attacker", "victim"), PAIRS)
def test_a_room_does_not_reach_another(attacker: int, victim: int, way: str, found: Found) -> None:
    assert found.reached[attacker, victim][way] not in (0, "0"), way


@pytest.mark.parametrize("way", OWN)
def test_the_same_attempt_reaches_the_rooms_own(way: str, found: Found) -> None:
    assert {found.reached[n, n][way] for n in ROOMS} == {0}


@pytest.mark.parametrize(("attacker", "victim"), PAIRS)
def test_the_key_of_another_room_opens_nothing(attacker: int, victim: int, found: Found) -> None:
    assert found.keys[attacker, victim] == "403"
    assert found.keys[attacker, attacker] == "200"


def test_a_lock_on_a_file_of_the_image_is_not_seen_by_another_room(found: Found) -> None:
    # Each room holds one itself; if they were shared, nobody but the first would have got it.
    assert set(found.locks) == {"EAGAIN"}, "a room's own lock is seen, so that the attempt works"


def test_a_watch_on_a_file_of_the_image_sees_only_the_rooms_own_use(found: Found) -> None:
    assert found.seen_by_watch == [1] * len(ROOMS)


def test_nothing_was_planted_in_another_rooms_directory(found: Found) -> None:
    assert found.planted == []
