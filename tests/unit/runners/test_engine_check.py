"""What an engine answers about itself becomes facts; what a probe's end means becomes words."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.core.sandbox import LABEL_INSTALLATION, LABEL_ROOM
from orchestrator.model import InstallationId
from orchestrator.runners.engine_check import build_facts
from orchestrator.runners.probe import ProbePlan, explain_exit, probe_config

# As Docker 20.10 on Debian and Docker CE 28 answer, what matters here.
DEBIAN = {
    "ServerVersion": "20.10.24+dfsg1",
    "SecurityOptions": ["name=seccomp,profile=default", "name=userns"],
    "MemoryLimit": True,
    "SwapLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "CPUShares": True,
    "Runtimes": {"runc": {"path": "runc"}},
    "DefaultRuntime": "runc",
    "RuncCommit": {"ID": "1.1.5+ds1-1+deb12u1"},
}
RUNC = {"Components": [{"Name": "runc", "Version": "1.1.5+ds1"}]}


def test_an_engines_answers_become_facts() -> None:
    facts = build_facts(DEBIAN, RUNC, host_swaps=False)
    assert facts.security == {"seccomp", "userns"}
    assert facts.maps_ids
    assert all(facts.limits.values())
    assert facts.runtimes == {"runc"}
    assert facts.runc == "1.1.5+ds1-1+deb12u1"


def test_a_commit_is_no_version() -> None:
    info = DEBIAN | {"RuncCommit": {"ID": "v1.2.5-0-g59923ef"}}
    version = {"Components": [{"Name": "runc", "Version": "1.2.5"}]}
    assert build_facts(info, version, host_swaps=False).runc == "1.2.5"


def test_what_an_engine_does_not_say_it_does_not_offer() -> None:
    facts = build_facts({"SecurityOptions": None, "Runtimes": None}, {}, host_swaps=False)
    assert not any(facts.limits.values())
    assert not facts.security
    assert facts.runc == ""


@pytest.mark.parametrize("info", [None, [], {"Runtimes": 3}, {"SecurityOptions": [1]}])
def test_an_answer_that_makes_no_sense_is_not_taken_for_one(info: object) -> None:
    with pytest.raises(ValidationError):
        build_facts(info, {}, host_swaps=False)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES])
def test_a_runtime_that_refuses_the_socket_is_told_with_its_argument(code: int) -> None:
    assert "--host-uds=open" in explain_exit(100 + code, "runsc")
    assert "runsc" in explain_exit(100 + code, "runsc")


def test_a_socket_that_leads_nowhere_is_told_with_the_errors_name() -> None:
    assert "ECONNREFUSED" in explain_exit(100 + errno.ECONNREFUSED, "kata")
    assert "virtual machine" in explain_exit(100 + errno.ECONNREFUSED, "kata")
    assert "ended with 1" in explain_exit(1, "runc")


def test_the_probe_is_isolated_as_a_runner_and_is_none() -> None:
    plan = ProbePlan(
        installation=InstallationId("0123456789abcdef"), image="sha256:1", runtime="runsc"
    )
    config = probe_config(plan, Path("/state/probe"))
    host = config["HostConfig"]
    assert isinstance(host, dict)
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"]) == ("none", True, ["ALL"])
    assert host["Runtime"] == "runsc"
    assert isinstance(config["Labels"], dict)
    assert not {LABEL_INSTALLATION, LABEL_ROOM} & set(config["Labels"])
