"""From inside one runner, as the CLI's user: attempts to get out, or at what isn't the room's.

All are made in one container, once; each is a test of its own. The same program in a container as
`docker run` makes it shows that the attempts would notice (`test_without_our_settings_…`).
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import docker
import pytest

from orchestrator.core.hidden_paths import MASKED_PATHS, READONLY_PATHS
from tests.support import container_probe
from tests.support.container_paths import PATHS
from tests.support.containers import session_labels
from tests.support.runner_engine import (
    ensure_runner_image,
    new_installation,
    open_clean_backend,
    prepare,
    room_spec,
)

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

PROBE = Path(container_probe.__file__)
ATTEMPTS = container_probe.build_attempts(PATHS)
PROBE_S = 120
_CAP_SYS_RESOURCE = 24
Found = dict[str, str | None]

# What an ordinary container (root, the engine's capabilities, profile and mounts) gives away; if
# the attempts did not notice these, their silence in a runner would say nothing.
NOTICED = {
    "become uid 1",
    "be spared when memory is short",
    "change root",
    "find a variable beside the known ones",
    "gain privileges by exec, or be unfiltered",
    "have a capability in any process",
    "have another host name",
    "join root's group",
    "leave more signals than the limit",
    "link a file of the image",
    "make a device",
    "open more files than the limit",
    "own a file of the image",
    "read /proc/cmdline",
    "read /proc/interrupts",
    "read /proc/sys/fs/file-nr",
    "read /sys/bus",
    "read /sys/devices/system/cpu",
    "see its place in the host's cgroups",
    "use a writable root",
    "write /etc/ld.so.preload",
    "write /etc/passwd",
    "write /var/tmp/x",
    "write /x",
    "write in any directory of the image",
}


@pytest.fixture(scope="module")
def image() -> str:
    return ensure_runner_image()


@pytest.fixture(scope="module")
def found(image: str, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each attempt got, in a runner of the real image with the shim as PID 1."""
    return asyncio.run(_probe(image, tmp_path_factory.mktemp("probe")))


async def _probe(image: str, root: Path) -> Found:
    async with open_clean_backend() as backend:
        spec = prepare(room_spec(root, backend.installation, image))
        await backend.ensure(spec)
        await backend.start(spec.name)
        (spec.workspace / "probe.py").write_text(PROBE.read_text())
        (spec.workspace / "probe.py").chmod(0o644)
        engine = backend.engine
        script = 'until test -s /run/nss/passwd; do sleep 0.1; done; exec python3 probe.py "$0"'
        made = await engine.call(
            engine.api.exec_create,
            spec.name,
            ["timeout", str(PROBE_S), "sh", "-c", script, json.dumps(PATHS)],
        )
        output = await engine.call_within(PROBE_S + 10, engine.api.exec_start, made["Id"])
        return _parse(output)


def _parse(output: bytes) -> Found:
    text = output.decode(errors="replace")
    try:
        found: Found = json.loads(text.splitlines()[-1])
    except ValueError:
        pytest.fail(f"the probe said: {text[-2000:]}")
    return found


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_runner_gets_nothing_by_the_attempt_to(name: str, found: Found) -> None:
    if name == container_probe.LOWER_SCORE and not _may_hold_scores():
        pytest.skip("NO CAP_SYS_RESOURCE here: the kernel lets a process lower its score to 0")
    assert found[name] is None


def _may_hold_scores() -> bool:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "CapBnd" in x)
    return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)


def test_each_attempt_was_made(found: Found) -> None:
    assert set(found) == set(ATTEMPTS)
    assert len(found) > 200


def test_each_hidden_path_of_the_specification_is_tried() -> None:
    """The lists are written out twice on purpose; what is on one must be on the other."""
    tried = PATHS["hidden"]
    # Not readable for others than root, or on few hosts: nothing to be seen without the mask.
    untried = {
        *("/proc/fb", "/proc/kpagecgroup", "/proc/kpagecount", "/proc/kpageflags", "/proc/mdstat"),
    }
    for path in MASKED_PATHS:
        assert path in untried or any(t == path or t.startswith(f"{path}/") for t in tried), path
    for path in READONLY_PATHS:
        assert any(t == path or t.startswith(f"{path}/") for t in PATHS["unwritable"])


def test_without_our_settings_the_same_attempts_notice(image: str) -> None:
    client = docker.from_env(timeout=PROBE_S + 20)
    try:
        output = client.containers.run(
            image,
            ["-c", PROBE.read_text(), json.dumps(PATHS)],
            entrypoint="/usr/bin/python3",
            user="0:0",
            environment={"SECRET": "x"},
            remove=True,
            labels={"aiagentchat.installation": new_installation(), **session_labels()},
        )
    finally:
        client.close()
    found = _parse(output)
    assert {name for name in NOTICED if found[name] is None} == set()
