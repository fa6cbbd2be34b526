"""A rootless Docker Engine: dockerd in a user namespace of an ordinary user's.

Needs rootlesskit, newuidmap (package uidmap) and the engine's own script. The user and its
subordinate ids exist in a mount namespace of the tests' own. Its network is the host's, since
nothing in it needs one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker

SCRIPT = Path("/usr/share/docker.io/contrib/dockerd-rootless.sh")
USER, SUB_FIRST, SUB_COUNT = 4242, 500000, 65536
_READY_S = 60.0
_SETUP = f"""
set -e
cp /etc/passwd $D/passwd; echo "rootless:x:{USER}:{USER}::$D/home:/bin/sh" >> $D/passwd
cp /etc/group $D/group; echo "rootless:x:{USER}:" >> $D/group
echo "rootless:{SUB_FIRST}:{SUB_COUNT}" > $D/subid
for f in passwd group; do mount --bind $D/$f /etc/$f; done
for f in subuid subgid; do touch /etc/$f; mount --bind $D/subid /etc/$f; done
exec setpriv --reuid {USER} --regid {USER} --clear-groups --pdeathsig KILL env -i \\
  PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=$D/home XDG_RUNTIME_DIR=$D/run \\
  DOCKERD_ROOTLESS_ROOTLESSKIT_NET=host DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER=none \\
  sh {SCRIPT} --host unix://$D/engine.sock --data-root $D/data --exec-root $D/exec \\
  --pidfile $D/pid --bridge=none --iptables=false --ip6tables=false
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootlessEngine:
    """`home` is a directory of its user's, as a state directory would be."""

    docker_host: str
    home: Path
    pid: int
    """Its dockerd, by which its namespaces are entered."""


def can_run_rootless() -> bool:
    """Whether what it needs is installed."""
    return SCRIPT.exists() and all(map(shutil.which, ("rootlesskit", "newuidmap")))


@contextmanager
def open_rootless_engine(image: str) -> Iterator[RootlessEngine]:
    """One with this image in it; nothing of it is left at the end."""
    directory = Path(tempfile.mkdtemp(prefix="aiagentchat-rootless-"))
    directory.chmod(0o755)
    for name in ("home", "run"):
        (directory / name).mkdir()
    subprocess.run(["chown", "-R", f"{USER}:{USER}", directory], check=True)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SETUP],
            env={**os.environ, "D": str(directory)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield _ready(directory, image)
    finally:
        _end(process, directory)


def _ready(directory: Path, image: str) -> RootlessEngine:
    host = f"unix://{directory}/engine.sock"
    until = time.monotonic() + _READY_S
    while not (directory / "pid").exists() or not (directory / "engine.sock").is_socket():
        assert time.monotonic() < until, (directory / "log").read_text()[-4000:]
        time.sleep(0.1)
    here = docker.from_env(timeout=600)
    there = docker.DockerClient(base_url=host, version="1.41", timeout=600)
    with contextlib.closing(here), contextlib.closing(there):
        while True:
            with contextlib.suppress(OSError, docker.errors.DockerException):
                there.ping()
                break
            assert time.monotonic() < until, (directory / "log").read_text()[-4000:]
            time.sleep(0.1)
        found = here.images.get(image)
        there.images.load(found.save(named=found.tags[0]))  # type: ignore[arg-type] # the stubs know bytes alone
    return RootlessEngine(docker_host=host, home=directory / "home", pid=_dockerd(directory))


def _dockerd(directory: Path) -> int:
    """By the host's numbers; its own pid file has them, since it shares the pid namespace."""
    return int((directory / "pid").read_text())


def _end(process: subprocess.Popen[bytes], directory: Path) -> None:
    with contextlib.suppress(ProcessLookupError, ValueError, OSError):
        os.kill(_dockerd(directory), signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(["rm", "-rf", directory], check=True)
