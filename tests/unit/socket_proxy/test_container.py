"""Which containers the socket proxy lets be made: runners of this version, unchanged."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.naming import ROOMS_PER_INSTALLATION, room_uid, runner_name
from orchestrator.core.sandbox import SandboxSpec, build_labels, build_options
from orchestrator.model import InstallationId, Limits, RoomSlug
from orchestrator.runners.docker_config import container_config
from orchestrator.runners.probe import ProbePlan, probe_config
from orchestrator.socket_proxy.container import Bounds, RefusedError, judge_creation

STATE = Path("/srv/state")
MINE = InstallationId("0123456789abcdef")
SLUG = RoomSlug("test---0123456789abcdef")
ROOM = STATE / "rooms" / SLUG
BOUNDS = Bounds(state_dir=STATE)
UID = room_uid(MINE, 3)
SPEC = SandboxSpec(
    name=runner_name(MINE, SLUG),
    installation=MINE,
    slug=SLUG,
    generation=7,
    image="sha256:" + "a" * 64,
    uid=UID,
    gid=UID,
    workspace=ROOM / "disk" / "workspace",
    home=ROOM / "disk" / "home",
    egress_dir=ROOM / "egress",
    policy_dir=ROOM / "policy-0123",
    limits=Limits(
        memory_bytes=4 << 30,
        cpus=1.5,
        pids=512,
        tmp_bytes=1 << 30,
        disk_bytes=10**10,
        output_bytes=1 << 20,
    ),
)


def body_of(spec: SandboxSpec) -> dict[str, Any]:
    made = container_config(build_options(spec), build_labels(spec))
    body: dict[str, Any] = json.loads(json.dumps(made))
    return body


def changed(*path: str | int, to: object) -> dict[str, Any]:
    body = body_of(SPEC)
    at: Any = body
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = to
    return body


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, policy_dir=None),
        replace(SPEC, workspace=ROOM / "workspace", home=ROOM / "home"),
        replace(SPEC, generation=0, limits=replace(SPEC.limits, cpus=0.07, memory_bytes=6 << 20)),
    ],
)
def test_what_this_version_makes_for_a_room_is_passed_on_as_it_is(spec: SandboxSpec) -> None:
    body = body_of(spec)
    made = judge_creation(body, spec.name, BOUNDS)
    assert made.body == body
    assert (made.installation, made.name, made.image) == (MINE, spec.name, spec.image)
    assert {spec.workspace, spec.home, spec.egress_dir} <= set(made.folders)


def test_the_starts_probe_is_passed_on() -> None:
    plan = ProbePlan(installation=MINE, image=SPEC.image, runtime=None)
    body = json.loads(json.dumps(probe_config(plan, STATE / "probe")))
    assert judge_creation(body, plan.name, BOUNDS).body == body
    for entrypoint in (["/bin/sh", "-c", "id"], None):
        with pytest.raises(RefusedError):
            judge_creation(body | {"Entrypoint": entrypoint}, plan.name, BOUNDS)
    elsewhere = json.loads(json.dumps(probe_config(plan, STATE / "rooms" / "x")))
    with pytest.raises(RefusedError):
        judge_creation(elsewhere, plan.name, BOUNDS)


def is_refused(body: dict[str, Any]) -> bool:
    try:
        judge_creation(body, SPEC.name, BOUNDS)
    except RefusedError:
        return True
    return False


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from leaves(each, (*path, name))
    elif isinstance(value, list) and value:
        for number, each in enumerate(value):
            yield from leaves(each, (*path, number))
    else:
        yield path


# What is a room's own; each has its bounds below.
_OWN = {
    ("Image",),
    ("Labels", "aiagentchat.generation"),
    ("Labels", "aiagentchat.spec"),
    ("HostConfig", "Memory"),
    ("HostConfig", "MemorySwap"),
    ("HostConfig", "NanoCpus"),
    ("HostConfig", "PidsLimit"),
}


def other(value: object) -> Iterator[object]:
    yield None
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, -1, 0 if value else 5, str(value), float(value) + 0.5)
    elif isinstance(value, str):
        yield from (f"{value}x", "", "host", [value])
    else:
        yield from (["x"], {"x": "y"}, "x", True)


def test_every_other_setting_of_a_container_is_refused() -> None:
    tried = 0
    original = body_of(SPEC)
    for path in leaves(original):
        if path in _OWN:
            continue
        at: Any = original
        for name in path:
            at = at[name]
        for value in other(at):
            if value == at and type(value) is type(at):
                continue
            assert is_refused(changed(*path, to=value)), (path, value)
            tried += 1
    assert tried > 250


def test_a_setting_that_is_missing_is_refused() -> None:
    for path in leaves(body_of(SPEC)):
        body = body_of(SPEC)
        at: Any = body
        for name in path[:-1]:
            at = at[name]
        del at[path[-1]]
        assert is_refused(body), path


_MORE = {
    "Binds": ["/:/host"],
    "VolumesFrom": ["postgres"],
    "Links": ["postgres:db"],
    "Privileged": True,
    "CapAdd": ["SYS_ADMIN"],
    "CgroupParent": "/",
    "DeviceCgroupRules": ["a *:* rwm"],
    "DeviceRequests": [{"Driver": "nvidia", "Count": -1}],
    "UsernsMode": "host",
    "PidMode": "host",
    "NetworkMode": "container:synapse",
    "PortBindings": {"80/tcp": [{"HostPort": "80"}]},
    "ExtraHosts": ["a:127.0.0.1"],
    "Sysctls": {"kernel.core_pattern": "|/x"},
    "StorageOpt": {"size": "1G"},
    "VolumeDriver": "local",
    "ContainerIDFile": "/etc/cron.d/x",
    "Isolation": "process",
    "Annotations": {"x": "y"},
    "Runtime": "runc-debug",
    "ReadonlyPaths": [],
    "MaskedPaths": [],
    "SecurityOpt": ["seccomp=unconfined"],
    "LogConfig": {"Type": "syslog", "Config": {"syslog-address": "unix:///x"}},
}


@pytest.mark.parametrize("name", sorted(_MORE))
def test_what_would_reach_the_host_is_refused_by_name(name: str) -> None:
    with pytest.raises(RefusedError):
        judge_creation(changed("HostConfig", name, to=_MORE[name]), SPEC.name, BOUNDS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Entrypoint", ["/bin/sh"]),
        ("Cmd", ["sh"]),
        ("Volumes", {"/x": {}}),
        ("NetworkingConfig", {"EndpointsConfig": {"matrix": {}}}),
        ("ExposedPorts", {"1/tcp": {}}),
        ("Shell", ["/bin/sh"]),
        ("StopSignal", "SIGKILL"),
        ("MacAddress", "02:00:00:00:00:01"),
        ("Domainname", "x"),
    ],
)
def test_what_a_runner_does_not_have_is_refused(name: str, value: object) -> None:
    with pytest.raises(RefusedError, match=name):
        judge_creation(changed(name, to=value), SPEC.name, BOUNDS)


@pytest.mark.parametrize(
    "source",
    [
        "/",
        "/etc",
        "/var/run/docker.sock",
        str(STATE),
        str(STATE / "rooms"),
        str(ROOM),
        str(ROOM / "disk"),
        str(ROOM / "disk.ext4"),
        str(ROOM / "snapshots"),
        str(STATE / "rooms" / "other---0123456789abcdef" / "workspace"),
        f"{ROOM}/../other/workspace",
        f"{ROOM}/workspace/../../../..",
        f"{ROOM}//workspace",
        f"{ROOM}/workspace/",
        f"{ROOM}/./workspace",
        f"{STATE}/rooms2/{SLUG}/workspace",
        "relative/workspace",
        "",
        None,
        7,
    ],
)
def test_nothing_but_the_rooms_own_directories_is_mounted(source: object) -> None:
    for number in range(4):
        body = changed("HostConfig", "Mounts", number, "Source", to=source)
        with pytest.raises(RefusedError):
            judge_creation(body, SPEC.name, BOUNDS)


@pytest.mark.parametrize(
    "user",
    [
        "0:0",
        f"{UID}:0",
        f"0:{UID}",
        "",
        "root",
        "1000:1000",
        "65534:65534",
        "16384:16384",
        f"{UID}:{UID + 1}",
        f"{UID}",
        "{0}:{0}".format(room_uid(MINE, 0) - 1),
        "{0}:{0}".format(room_uid(MINE, 0) + ROOMS_PER_INSTALLATION),
        None,
        1,
    ],
)
def test_a_runner_is_a_room_of_this_installation(user: object) -> None:
    with pytest.raises(RefusedError):
        judge_creation(changed("User", to=user), SPEC.name, BOUNDS)


def test_where_the_engine_maps_ids_rooms_have_lower_numbers_but_no_persons() -> None:
    mapped = replace(BOUNDS, maps_ids=True)
    narrow = replace(SPEC, uid=16390, gid=16390)
    assert judge_creation(body_of(narrow), narrow.name, mapped).body == body_of(narrow)
    for number in (1, 1000, 16383):
        with pytest.raises(RefusedError, match="no uid of a room"):
            judge_creation(body_of(replace(SPEC, uid=number, gid=number)), SPEC.name, mapped)


def test_a_runtime_is_used_where_it_was_allowed() -> None:
    spec = replace(SPEC, runtime="runsc")
    with pytest.raises(RefusedError, match="--runtime"):
        judge_creation(body_of(spec), spec.name, BOUNDS)
    allowed = replace(BOUNDS, runtimes=frozenset({"runsc"}))
    assert judge_creation(body_of(spec), spec.name, allowed).body == body_of(spec)
    assert judge_creation(body_of(SPEC), SPEC.name, allowed).body == body_of(SPEC)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("Image",), "debian:12"),
        (("Image",), "sha256:abc"),
        (("Image",), None),
        (("Labels", "aiagentchat.installation"), "f" * 16),
        (("Labels", "aiagentchat.installation"), "../../etc"),
        (("Labels", "aiagentchat.room"), "../x"),
        (("Labels", "aiagentchat.room"), "UPPER"),
        (("Labels", "aiagentchat.generation"), "-1"),
        (("Labels", "aiagentchat.spec"), "x" * 1000),
        (("HostConfig", "Memory"), 0),
        (("HostConfig", "Memory"), -1),
        (("HostConfig", "Memory"), True),
        (("HostConfig", "NanoCpus"), 0),
        pytest.param(("HostConfig", "NanoCpus"), 10**400, id="more than a float holds"),
        (("HostConfig", "PidsLimit"), -1),
        (("HostConfig", "PidsLimit"), 0),
    ],
)
def test_a_rooms_own_settings_have_bounds(path: tuple[str, ...], value: object) -> None:
    with pytest.raises(RefusedError):
        judge_creation(changed(*path, to=value), SPEC.name, BOUNDS)


@pytest.mark.parametrize("name", ["synapse", f"{SPEC.name}x", "", "aiagentchat-01234567"])
def test_a_container_has_its_rooms_name(name: str) -> None:
    with pytest.raises(RefusedError, match="has the name"):
        judge_creation(body_of(SPEC), name, BOUNDS)


@pytest.mark.parametrize("body", [{}, {"Labels": None}, {"Labels": []}, {"HostConfig": {}}])
def test_something_else_altogether_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="no runner"):
        judge_creation(copy.deepcopy(body), SPEC.name, BOUNDS)


def test_the_refusal_names_what_is_different_and_no_values() -> None:
    with pytest.raises(RefusedError) as caught:
        judge_creation(changed("HostConfig", "Privileged", to=True), SPEC.name, BOUNDS)
    assert "HostConfig.Privileged" in str(caught.value)
    assert "same version" in str(caught.value)
