"""The engine's configuration says what the options say; the live test compares it with reality."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator.core.sandbox import build_options
from orchestrator.runners.docker_config import container_config
from tests.unit.core.test_sandbox import SPEC


def config(**changes: Any) -> Any:
    return container_config(replace(build_options(SPEC), **changes), {"label": "value"})


def test_the_user_the_image_and_the_labels_are_the_specifications() -> None:
    made = config()
    assert made["User"] == "1073741825:1073741826"
    assert made["Image"] == "sha256:1"
    assert made["Labels"] == {"label": "value"}


def test_a_detach_never_closes_stdin() -> None:
    made = config()
    assert (made["OpenStdin"], made["StdinOnce"], made["Tty"]) == (True, False, False)


def test_memory_has_no_swap_behind_it() -> None:
    host = config()["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == SPEC.limits.memory_bytes


def test_the_mounts_have_private_propagation_and_no_submounts() -> None:
    mounts = config()["HostConfig"]["Mounts"]
    assert [mount["ReadOnly"] for mount in mounts] == [False, False, True]
    for mount in mounts:
        assert mount["Type"] == "bind"
        assert mount["BindOptions"] == {"Propagation": "rprivate", "NonRecursive": True}


def test_the_tmpfs_flags_carry_size_owner_and_no_devices() -> None:
    flags = config()["HostConfig"]["Tmpfs"]
    assert set(flags) == {"/tmp", "/run/nss"}
    tmp = flags["/tmp"].split(",")
    assert {"nosuid", "nodev", "exec", "size=536870912", "uid=1073741825"} <= set(tmp)
    assert {"nosuid", "nodev", "noexec"} <= set(flags["/run/nss"].split(","))


def test_the_seccomp_profile_is_passed_whole() -> None:
    (given,) = [o for o in config()["HostConfig"]["SecurityOpt"] if o.startswith("seccomp=")]
    assert json.loads(given.removeprefix("seccomp=")) == build_options(SPEC).seccomp


def test_a_runtime_is_passed_through_and_none_means_the_engines_own() -> None:
    assert config()["HostConfig"]["Runtime"] == ""
    assert config(runtime="runsc")["HostConfig"]["Runtime"] == "runsc"


def test_nothing_is_written_to_the_hosts_disk_and_nothing_restarts_by_itself() -> None:
    host = config()["HostConfig"]
    assert host["LogConfig"] == {"Type": "none"}
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["Init"] is False


def test_the_engines_own_profiles_for_apparmor_and_selinux_stay_as_they_are() -> None:
    """Without a word of ours the engine applies docker-default where it has AppArmor."""
    options = config()["HostConfig"]["SecurityOpt"]
    assert {option.partition("=")[0] for option in options} == {"seccomp", "no-new-privileges"}


def test_what_a_process_may_use_up_does_not_depend_on_the_engines_own_limits() -> None:
    ulimits = {u["Name"]: (u["Soft"], u["Hard"]) for u in config()["HostConfig"]["Ulimits"]}
    assert ulimits == {
        "core": (1, 1),
        "fsize": (SPEC.limits.disk_bytes,) * 2,
        "memlock": (65536, 65536),
        "msgqueue": (819200, 819200),
        "nice": (0, 0),
        "nofile": (8192, 8192),
        "rtprio": (0, 0),
        "sigpending": (1024, 1024),
    }


def test_a_runner_is_in_no_other_group_and_in_the_engines_user_namespace() -> None:
    host = config()["HostConfig"]
    assert host["GroupAdd"] == []
    assert "UsernsMode" not in host


def test_nothing_but_the_audit_runs_a_command_in_a_container() -> None:
    """An exec is a second way in, with options of its own; the daemon has the wire alone."""
    package = Path(orchestrator.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    assert len(sources) > 100
    calls = re.compile(r"exec_create|exec_start|containers/.*/exec\b")
    # The socket proxy's `requests.py` names the request that it lets the audit make.
    found = {path.name for path, text in sources.items() if calls.search(text)}
    assert found == {"inspection.py", "requests.py"}
