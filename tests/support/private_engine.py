"""A Docker Engine of the tests' own, which they may kill, freeze and start again.

It shares nothing with the machine's engine but the kernel: directories, socket, containerd, and the
network and mount namespaces are its own. The network namespace is a must: a dockerd without a
default bridge removes `docker0` from the namespace that it starts in. The mount namespace takes all
of its mounts with it when the last of its processes is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import docker

from tests.support.runner_engine import ensure_runner_image

# Without containers it answers within a second; the machine may be busy.
_READY_S = 60.0
_POLL_S = 0.05
_LOG_CHARS = 6000
# What its processes see as their world: a `/run` of their own, so that no file of the machine's
# engine is there, and a loopback interface.
_NAMESPACES = "set -e; ip link set lo up; mount -t tmpfs tmpfs /run; {more}echo ready; {stay}"
_STAY = "exec sleep infinity"
# A user for the engine's remapping and its subordinate ids, for these processes alone.
REMAP_FIRST, REMAP_COUNT = 231072, 65536
_REMAP = (
    "cp /etc/passwd /run/passwd; echo dockremap:x:990:990::/:/bin/false >> /run/passwd;"
    " cp /etc/group /run/group; echo dockremap:x:990: >> /run/group;"
    f" echo dockremap:{REMAP_FIRST}:{REMAP_COUNT} > /run/subid;"
    " for f in passwd group; do mount --bind /run/$f /etc/$f; done;"
    " for f in subuid subgid; do touch /etc/$f; mount --bind /run/subid /etc/$f; done; "
)


class PrivateEngine:
    """Invariant: at most one dockerd, on one data directory; containers may outlive it."""

    def __init__(self, directory: Path, namespaces: int, options: Sequence[str] = ()) -> None:
        self.docker_host = f"unix://{directory}/engine.sock"
        self._directory = directory
        self._namespaces = namespaces
        self._options = tuple(options)
        self._dockerd: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"PrivateEngine({self.docker_host}, pid={self._dockerd and self._dockerd.pid})"

    @property
    def log(self) -> str:
        """What all its lives have logged."""
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def is_up(self) -> bool:
        """Whether its process runs, frozen or not."""
        return self._dockerd is not None and self._dockerd.poll() is None

    def start(self, *, live_restore: bool) -> None:
        """Start it, and wait until it answers. `live_restore`: containers outlive its end."""
        assert not self.is_up
        self._forget_the_dead()
        command = [
            *("setpriv", "--pdeathsig", "KILL"),
            *("nsenter", "--target", str(self._namespaces), "--net", "--mount"),
            *("dockerd", "--host", self.docker_host, "--exec-root", "/run/engine"),
            *("--data-root", str(self._directory / "data")),
            *("--pidfile", str(self._directory / "pid")),
            *("--bridge=none", "--iptables=false", "--ip6tables=false"),
            f"--live-restore={str(live_restore).lower()}",
            *self._options,
        ]
        with (self._directory / "log").open("ab") as log:
            self._dockerd = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        _wait_until(self._answers, "the private engine to answer")

    def kill(self) -> None:
        """SIGKILL; its containerd dies with it, containers don't."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait: without live-restore that ends the containers, too."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """It hangs: connections are still taken by the kernel, and never answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        """A client of its API, as a person with another tool has one."""
        client = docker.DockerClient(base_url=self.docker_host, version="1.41", timeout=30)
        try:
            yield client
        finally:
            client.close()

    def close(self) -> None:
        """End the dockerd, if there is one, whatever state it is in."""
        if self._dockerd is not None:
            self.kill()

    def clear(self, *, live_restore: bool = True) -> None:
        """Bring it up, whatever happened to it, and remove all containers."""
        if self.is_up:
            self.thaw()
        else:
            self.start(live_restore=live_restore)
        with self.client() as client:
            for container in client.containers.list(all=True, ignore_removed=True):
                container.remove(force=True, v=True)

    def _answers(self) -> bool:
        assert self.is_up, f"the private engine ended:\n{self.log[-_LOG_CHARS:]}"
        # Not docker's client: it leaves a socket open that it could not connect.
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_POLL_S * 20)
            try:
                connection.connect(self.docker_host.removeprefix("unix://"))
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in connection.recv(4096)
            except OSError:
                return False

    def _forget_the_dead(self) -> None:
        """Remove the pid files of an earlier life: dockerd takes a zombie for one that lives."""
        (self._directory / "pid").unlink(missing_ok=True)
        path = Path(f"/proc/{self._namespaces}/root/run/engine/containerd/containerd.pid")
        if path.exists():
            pid = int(path.read_text())
            _wait_until(lambda: _state(pid) in {"", "Z"}, "containerd to end with its dockerd")
            path.unlink()

    def _signal(self, number: signal.Signals) -> None:
        assert self._dockerd is not None
        self._dockerd.send_signal(number)

    def _end(self, by: signal.Signals) -> None:
        assert self._dockerd is not None
        self._dockerd.send_signal(by)
        self._dockerd.wait(_READY_S)
        self._dockerd = None


@contextmanager
def open_private_engine(
    image: str | None = None,
    *,
    remap: bool = False,
    runtimes: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[PrivateEngine]:
    """One with the runner image in it, running with live-restore; the image takes half a minute.

    `image` instead of the runner image, `remap`: with user namespaces, `runtimes`: more of them, a
    program and its arguments each. At the end nothing of it is left: no process, no mount, no file.
    Its log is shown on failure.
    """
    directory = Path(tempfile.mkdtemp(prefix="aiagentchat-engine-"))
    # A remapped engine goes through it as somebody else.
    directory.chmod(0o711)
    options = _write_options(directory, remap=remap, runtimes=runtimes or {})
    try:
        with _namespaces(remap=remap) as pid:
            engine = PrivateEngine(directory, pid, options)
            try:
                engine.start(live_restore=True)
                _bring_in(image or ensure_runner_image(), engine)
                yield engine
            except BaseException:
                sys.stderr.write(f"--- log of {engine!r}\n{engine.log[-_LOG_CHARS:]}\n")
                raise
            finally:
                engine.close()
                _kill_all_in(pid)
    finally:
        shutil.rmtree(directory)


def _write_options(
    directory: Path, *, remap: bool, runtimes: Mapping[str, Sequence[str]]
) -> list[str]:
    known = {
        name: {"path": program, "runtimeArgs": list(arguments)}
        for name, (program, *arguments) in runtimes.items()
    }
    file = directory / "daemon.json"
    file.write_text(json.dumps({"runtimes": known}))
    return ["--config-file", str(file), *(["--userns-remap=dockremap"] if remap else [])]


@contextmanager
def _namespaces(*, remap: bool) -> Iterator[int]:
    """Namespaces that outlive each dockerd; the id of the process that holds them."""
    holder = subprocess.Popen(
        [
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--net", "--mount", "--propagation", "private"),
            *("sh", "-c", _NAMESPACES.format(more=_REMAP if remap else "", stay=_STAY)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            yield holder.pid
        finally:
            holder.kill()


def _bring_in(image: str, engine: PrivateEngine) -> None:
    """Copy an image from the machine's engine, with the name that the orchestrator looks for."""
    here = docker.from_env(timeout=600)
    try:
        found = here.images.get(image)
        there = docker.DockerClient(base_url=engine.docker_host, version="1.41", timeout=600)
        with contextlib.closing(there):
            # An iterator is sent in chunks: the image is never in memory as a whole.
            there.images.load(found.save(named=found.tags[0]))  # type: ignore[arg-type] # the stubs know bytes alone
    finally:
        here.close()


def _kill_all_in(holder: int) -> None:
    """Kill what is in the holder's mount namespace, and containers, which have one of their own."""
    space = _mount_space(holder)
    if space is None:
        return

    def kill() -> bool:
        victims = _with_descendants(
            {pid for pid in _pids() if pid != holder and _mount_space(pid) == space}
        )
        for pid in victims - {holder}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not victims

    _wait_until(kill, "the private engine's processes to end")


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _mount_space(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")  # noqa: PTH115 - not a path
    except OSError:
        return None


def _with_descendants(pids: set[int]) -> set[int]:
    parents = {pid: _parent(pid) for pid in _pids()}
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _state(pid: int) -> str:
    """One letter, or "" when there is no such process."""
    return _stat(pid)[0]


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["", "0"]


def _wait_until(is_done: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + _READY_S
    while not is_done():
        assert time.monotonic() < ends_at, f"waited too long for {what}"
        time.sleep(_POLL_S)
