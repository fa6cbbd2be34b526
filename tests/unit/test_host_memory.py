"""What this host's memory is, from files as kernels have them, and from this very kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.memory_pressure import MemorySight
from orchestrator.host_memory import HostMemory

MEMINFO = "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 400 kB\n"
WAITS = "some avg10={} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 total=0\n"


@pytest.fixture
def memory(tmp_path: Path) -> HostMemory:
    """A host with a kernel that has PSI, and no limit."""
    write(tmp_path / "proc/meminfo", MEMINFO)
    write(tmp_path / "proc/pressure/memory", WAITS.format("2.50"))
    (tmp_path / "cgroup").mkdir()
    return HostMemory(proc=tmp_path / "proc", cgroup=tmp_path / "cgroup")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def limit(cgroup: Path) -> None:
    write(cgroup / "memory.max", "1000000\n")
    write(cgroup / "memory.current", "950000\n")
    write(cgroup / "memory.stat", "anon 900000\ninactive_file 30000\n")
    write(cgroup / "memory.pressure", WAITS.format("33.00"))


def test_a_host_says_both(memory: HostMemory) -> None:
    assert memory.read() == MemorySight(stalled_percent=2.5, available_percent=40.0)


def test_a_kernel_without_psi_says_what_is_left(memory: HostMemory) -> None:
    (memory.proc / "pressure/memory").unlink()
    assert memory.read() == MemorySight(available_percent=40.0)


def test_a_host_that_is_a_container_has_the_limit_of_its_cgroup(memory: HostMemory) -> None:
    limit(memory.cgroup)
    write(memory.cgroup / "docker/cgroup.procs", "")
    sight = memory.read()
    assert sight.stalled_percent == 33.0
    assert sight.available_percent == pytest.approx(8.0)


def test_a_container_of_the_orchestrator_alone_is_no_host(memory: HostMemory) -> None:
    limit(memory.cgroup)
    write(memory.cgroup / "cgroup.procs", "1\n")
    assert memory.read() == MemorySight(stalled_percent=2.5, available_percent=40.0)


def test_a_cgroup_without_a_limit_adds_nothing(memory: HostMemory) -> None:
    limit(memory.cgroup)
    write(memory.cgroup / "memory.max", "max\n")
    write(memory.cgroup / "docker/cgroup.procs", "")
    assert memory.read() == MemorySight(stalled_percent=2.5, available_percent=40.0)


def test_what_can_not_be_read_is_not_known(tmp_path: Path) -> None:
    assert HostMemory(proc=tmp_path / "no", cgroup=tmp_path / "none").read() == MemorySight()


def test_this_kernel_is_understood() -> None:
    sight = HostMemory().read()
    assert sight.available_percent is not None
    assert 0 < sight.available_percent <= 100
    assert (sight.stalled_percent is not None) == Path("/proc/pressure/memory").exists()
