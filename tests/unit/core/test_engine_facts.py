"""Which engines are refused, which are warned of, and what each is told to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.engine_facts import (
    ADVISORIES,
    EngineFacts,
    is_affected,
    judge_engine,
    needs_probe,
    parse_version,
)

LIMITS = ("MemoryLimit", "SwapLimit", "PidsLimit", "CpuCfsQuota", "CPUShares")
GOOD = EngineFacts(
    version="28.3.1",
    runc="1.3.3",
    security=frozenset({"seccomp", "cgroupns"}),
    limits=dict.fromkeys(LIMITS, True),
    runtimes=frozenset({"runc", "runsc", "io.containerd.runc.v2"}),
    default_runtime="runc",
)


def refusals(facts: EngineFacts, runtime: str | None = None) -> str:
    return "\n".join(judge_engine(facts, runtime=runtime, least_pids=512).refusals)


def warnings(facts: EngineFacts, runtime: str | None = None, *, pids: int = 512) -> str:
    return "\n".join(judge_engine(facts, runtime=runtime, least_pids=pids).warnings)


def without(*names: str) -> EngineFacts:
    return replace(GOOD, limits={name: name not in names for name in LIMITS})


def test_a_good_engine_is_taken_without_a_word() -> None:
    assert (refusals(GOOD), warnings(GOOD)) == ("", "")


@pytest.mark.parametrize(
    ("name", "word"),
    [("MemoryLimit", "memory"), ("PidsLimit", "processes"), ("CpuCfsQuota", "processors")],
)
def test_an_engine_that_can_not_keep_a_limit_is_refused(name: str, word: str) -> None:
    assert f"can't limit {word}" in refusals(without(name))
    assert "cgroup v2" in refusals(without(name))


def test_an_engine_that_says_nothing_of_its_limits_is_refused() -> None:
    assert "can't limit memory, processes, processors" in refusals(replace(GOOD, limits={}))


def test_an_engine_without_seccomp_is_refused() -> None:
    assert "no seccomp" in refusals(replace(GOOD, security=frozenset()))


def test_swap_without_a_limit_is_refused_only_where_the_host_swaps() -> None:
    assert refusals(without("SwapLimit")) == ""
    assert "swapoff" in refusals(replace(without("SwapLimit"), host_swaps=True))


def test_a_runtime_that_the_engine_does_not_have_is_refused_with_those_that_it_has() -> None:
    found = refusals(GOOD, "kata")
    assert "docker.runtime is kata" in found
    assert "io.containerd.runc.v2, runc, runsc" in found


def test_a_shims_name_needs_no_entry_from_docker_23_on() -> None:
    shim = "io.containerd.kata.v2"
    assert refusals(GOOD, shim) == ""
    assert shim in refusals(replace(GOOD, version="20.10.24+dfsg1"), shim)


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("1.1.5", {"CVE-2024-21626", "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881"}),
        ("1.1.5+ds1-1+deb12u1", {"CVE-2025-31133, CVE-2025-52565, CVE-2025-52881"}),
        ("1.1.12", {"CVE-2025-31133, CVE-2025-52565, CVE-2025-52881"}),
        ("1.2.7", {"CVE-2025-31133, CVE-2025-52565, CVE-2025-52881"}),
        ("1.2.8", set()),
        ("1.3.0", {"CVE-2025-31133, CVE-2025-52565, CVE-2025-52881"}),
        ("1.3.3", set()),
        ("1.4.0-rc.1", {"CVE-2025-31133, CVE-2025-52565, CVE-2025-52881"}),
        ("1.4.0", set()),
        ("1.5.1", set()),
        ("", {"CVE-2024-21626", "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881"}),
    ],
)
def test_a_runc_with_a_known_way_out_is_named(version: str, affected: set[str]) -> None:
    found = {a.names for a in ADVISORIES if a.product == "runc" and is_affected(a, version)}
    assert found == affected
    assert all(names in warnings(replace(GOOD, runc=version)) for names in affected)


def test_an_old_engine_is_named() -> None:
    assert "CVE-2022-36109" in warnings(replace(GOOD, version="20.10.5"))
    assert "CVE-2022-36109" not in warnings(replace(GOOD, version="20.10.24+dfsg1"))


def test_few_processes_under_a_sandbox_with_threads_of_its_own_are_warned_of() -> None:
    assert "limits.pids is 256" in warnings(GOOD, "runsc", pids=256)
    assert warnings(GOOD, "runsc", pids=512) == ""
    assert warnings(GOOD, pids=64) == ""
    assert "limits.pids" in warnings(replace(GOOD, default_runtime="runsc"), pids=64)


@pytest.mark.parametrize(
    ("facts", "runtime", "needed"),
    [
        (GOOD, None, False),
        (GOOD, "runc", False),
        (GOOD, "runsc", True),
        (replace(GOOD, default_runtime="kata"), None, True),
        (replace(GOOD, security=frozenset({"seccomp", "userns"})), None, True),
        (replace(GOOD, security=frozenset({"seccomp", "rootless"})), "runc", True),
    ],
)
def test_what_is_not_plainly_known_is_tried_out(
    facts: EngineFacts, runtime: str | None, needed: bool
) -> None:
    assert needs_probe(facts, runtime) is needed


def test_a_version_is_its_leading_numbers() -> None:
    assert parse_version("v1.2.3-rc1+x") == (1, 2, 3)
    assert parse_version("unknown") == ()
