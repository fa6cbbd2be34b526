"""What a runner may do follows from its specification alone, and the hash notices every change."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import sandbox
from orchestrator.core.sandbox import (
    SandboxSpec,
    build_labels,
    build_options,
    spec_hash,
)
from orchestrator.core.seccomp import allowed_syscalls, build_seccomp_profile
from orchestrator.model import InstallationId, Limits, RoomSlug

SPEC = SandboxSpec(
    name="aiagentchat-0123-room",
    installation=InstallationId("0123456789abcdef"),
    slug=RoomSlug("room---0123456789abcdef"),
    generation=3,
    image="sha256:1",
    uid=1073741825,
    gid=1073741826,
    workspace=Path("/state/rooms/r/workspace"),
    home=Path("/state/rooms/r/home"),
    egress_dir=Path("/state/rooms/r/egress"),
    limits=Limits(
        memory_bytes=2 << 30,
        cpus=1.5,
        pids=512,
        tmp_bytes=512 << 20,
        disk_bytes=5 << 30,
        output_bytes=100 << 20,
    ),
)
OTHER: dict[str, Any] = {
    "installation": "fedcba9876543210",
    "slug": "other",
    "image": "sha256:2",
    "uid": 1073741827,
    "gid": 1073741827,
    "workspace": Path("/state/rooms/x/workspace"),
    "home": Path("/state/rooms/x/home"),
    "egress_dir": Path("/state/rooms/x/egress"),
    "runtime": "runsc",
    "policy_dir": Path("/state/rooms/r/policy-1"),
}
FORBIDDEN_NAMES = """
    add_key bpf chroot clone clone3 fanotify_init finit_module fsopen init_module io_uring_enter
    io_uring_register io_uring_setup ioperm iopl kcmp kexec_load keyctl memfd_secret mknod
    mknodat modify_ldt mount mount_setattr move_mount name_to_handle_at open_by_handle_at
    open_tree perf_event_open personality pidfd_getfd pivot_root process_madvise
    process_vm_readv process_vm_writev ptrace quotactl reboot request_key setns socket
    socketcall socketpair swapon syslog umount2 unshare userfaultfd vmsplice
"""
FORBIDDEN = FORBIDDEN_NAMES.split()


# ---- the hash


@pytest.mark.parametrize("name", sorted(OTHER))
def test_the_hash_changes_with_each_field_that_makes_another_runner(name: str) -> None:
    assert spec_hash(replace(SPEC, **{name: OTHER[name]})) != spec_hash(SPEC)


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_the_hash_changes_with_each_limit(name: str) -> None:
    limits = replace(SPEC.limits, **{name: getattr(SPEC.limits, name) + 1})
    assert spec_hash(replace(SPEC, limits=limits)) != spec_hash(SPEC)


def test_every_field_of_the_specification_is_in_the_hash_or_named_as_left_out() -> None:
    names = {field.name for field in fields(SandboxSpec)}
    assert names - set(OTHER) - {"limits"} == {"name", "generation"}


def test_the_hash_leaves_out_the_name_and_the_generation() -> None:
    assert spec_hash(replace(SPEC, name="another", generation=99)) == spec_hash(SPEC)


def test_the_hash_changes_when_the_seccomp_profile_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = spec_hash(SPEC)
    weaker = replace(build_options(SPEC), seccomp={"defaultAction": "SCMP_ACT_ALLOW"})
    monkeypatch.setattr(sandbox, "build_options", lambda _: weaker)
    assert spec_hash(SPEC) != before


def test_the_hash_is_the_same_at_every_call_and_short() -> None:
    assert spec_hash(SPEC) == spec_hash(replace(SPEC))
    assert len(spec_hash(SPEC)) == 16
    int(spec_hash(SPEC), 16)


# ---- the specification


def test_a_policy_of_the_rooms_own_is_mounted_read_only_over_the_images() -> None:
    without = build_options(SPEC).binds
    own = build_options(replace(SPEC, policy_dir=OTHER["policy_dir"])).binds
    assert {bind.target for bind in without} == {"/workspace", "/home/agent", "/run/egress"}
    (added,) = set(own) - set(without)
    assert (added.target, added.read_only) == ("/etc/claude-code", True)


def test_a_policy_in_a_place_that_the_room_can_write_can_not_be_specified() -> None:
    for folder in (SPEC.workspace, SPEC.home, SPEC.egress_dir):
        with pytest.raises(ValueError, match="different directories"):
            replace(SPEC, policy_dir=folder)


@pytest.mark.parametrize("name", ["uid", "gid"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_runner_as_root_can_not_be_specified(name: str, value: int) -> None:
    change: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match="never runs as root"):
        replace(SPEC, **change)


@pytest.mark.parametrize("name", ["workspace", "home", "egress_dir"])
def test_a_relative_directory_can_not_be_specified(name: str) -> None:
    change: dict[str, Any] = {name: Path("relative")}
    with pytest.raises(ValueError, match="absolute"):
        replace(SPEC, **change)


def test_one_directory_can_not_be_mounted_twice() -> None:
    with pytest.raises(ValueError, match="different directories"):
        replace(SPEC, home=SPEC.workspace)


# ---- the options


def test_the_options_have_the_specifications_limits() -> None:
    options = build_options(SPEC)
    assert options.memory_bytes == SPEC.limits.memory_bytes
    assert options.nano_cpus == 1_500_000_000
    assert options.pids == SPEC.limits.pids
    assert options.file_bytes == SPEC.limits.disk_bytes
    assert {mount.target: mount.size_bytes for mount in options.tmpfs} == {
        "/tmp": SPEC.limits.tmp_bytes,
        "/run/nss": 65536,
    }


def test_the_options_mount_three_directories_and_only_two_can_be_written() -> None:
    assert [(str(m.source), m.target, m.read_only) for m in build_options(SPEC).binds] == [
        ("/state/rooms/r/workspace", "/workspace", False),
        ("/state/rooms/r/home", "/home/agent", False),
        ("/state/rooms/r/egress", "/run/egress", True),
    ]


def test_the_options_are_closed_by_default() -> None:
    options = build_options(SPEC)
    assert options.network == "none"
    assert options.read_only_root
    assert options.no_new_privileges
    assert options.capabilities == ()
    assert options.devices == ()
    assert options.environment == ()
    assert options.core_bytes == 1
    assert set(options.namespaces) == {"cgroup", "ipc", "mount", "network", "pid", "uts"}


def test_the_labels_say_whose_the_runner_is() -> None:
    assert build_labels(SPEC) == {
        "aiagentchat.installation": SPEC.installation,
        "aiagentchat.room": SPEC.slug,
        "aiagentchat.generation": "3",
        "aiagentchat.spec": spec_hash(SPEC),
    }


def test_the_options_can_be_written_as_json() -> None:
    assert json.dumps(asdict(build_options(SPEC)), default=str)


# ---- seccomp


def rules(name: str) -> list[dict[str, Any]]:
    profile: Any = build_seccomp_profile()
    return [rule for rule in profile["syscalls"] if name in rule["names"]]


def test_what_the_profile_does_not_name_fails_with_eperm() -> None:
    profile = build_seccomp_profile()
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_dangerous_call_is_never_allowed_without_a_condition(name: str) -> None:
    assert name not in allowed_syscalls()
    for rule in rules(name):
        assert rule["action"] == "SCMP_ACT_ERRNO" or rule["args"]


def test_only_four_socket_families_are_allowed_and_netlink_only_for_routes() -> None:
    allowed = {
        tuple((arg["index"], arg["value"]) for arg in rule["args"]) for rule in rules("socket")
    }
    internet = {((0, family), (2, protocol)) for family in (2, 10) for protocol in (0, 6, 17)}
    assert allowed == {((0, 1),), ((0, 16), (2, 0))} | internet
    assert all(arg["op"] == "SCMP_CMP_EQ" for rule in rules("socket") for arg in rule["args"])


def test_a_clone_may_not_make_a_namespace_and_clone3_is_not_implemented() -> None:
    (clone,) = rules("clone")
    (argument,) = clone["args"]
    assert argument["op"] == "SCMP_CMP_MASKED_EQ"
    assert argument["value"] & 0x10000000, "CLONE_NEWUSER"
    assert argument["valueTwo"] == 0
    (clone3,) = rules("clone3")
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_the_profile_has_no_32_bit_architecture() -> None:
    assert build_seccomp_profile()["archMap"] == [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
    ]
