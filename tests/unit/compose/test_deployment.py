"""The unit and the scripts: deploy-on-host.sh with stand-ins for systemd, pip and the program."""

from __future__ import annotations

import re
import stat
import sys
from pathlib import Path

import pytest

from tests.support.compose import COMPOSE, run, tool


def unit(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (COMPOSE / name).read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


# What gives a unit a mount namespace of its own (systemd.exec(5)).
_NAMESPACED = {
    *("PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectSystem", "ProtectHome"),
    *("ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups"),
    *("ProtectProc", "ProcSubset", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths"),
    *("BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem", "RootDirectory", "MountFlags"),
}


def test_the_unit_lets_the_engine_see_the_rooms_disks() -> None:
    assert _NAMESPACED & set(unit("aiagentchat.service")) == set()
    assert _NAMESPACED & set(unit("aiagentchat-strict.conf")) != set()


def test_the_unit_ends_as_the_orchestrator_wants_to_end() -> None:
    settings = unit("aiagentchat.service")
    assert settings["KillMode"] == ["mixed"]
    assert settings["Restart"] == ["on-failure"]
    assert settings["RestartPreventExitStatus"] == ["2 3"]
    assert settings["UMask"] == ["0077"]


@pytest.mark.parametrize("with_strict", [False, True])
def test_the_exposure_in_the_units_comment_is_systemds(tmp_path: Path, with_strict: bool) -> None:
    analyze = tool("systemd-analyze")
    text = (COMPOSE / "aiagentchat.service").read_text(encoding="utf-8")
    said = re.search(r"\((\d+)\): ([\d.]+); with aiagentchat-strict.conf: ([\d.]+)\.", text)
    assert said is not None
    version = run(analyze, "--version").stdout.split()[1]
    if version != said[1]:
        pytest.skip(f"the comment is of systemd {said[1]}, and this is {version}")
    if with_strict:
        more = (COMPOSE / "aiagentchat-strict.conf").read_text(encoding="utf-8")
        text = text.replace("[Install]", more.partition("[Service]\n")[2] + "\n[Install]")
    (tmp_path / "aiagentchat.service").write_text(text)
    done = run(analyze, "security", "--offline=true", str(tmp_path / "aiagentchat.service"))
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert found[1] == said[3 if with_strict else 2]


def test_the_scripts_pass_shellcheck() -> None:
    done = run(tool("shellcheck"), *sorted(str(path) for path in COMPOSE.glob("*.sh")))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["deploy.sh", "deploy-on-host.sh", "init.sh"])
def test_the_scripts_can_be_run(name: str) -> None:
    path = COMPOSE / name
    assert path.stat().st_mode & stat.S_IXUSR
    assert run("sh", "-n", str(path)).returncode == 0


def test_health_says_that_nothing_runs(tmp_path: Path) -> None:
    done = run(sys.executable, "-I", str(COMPOSE / "health.py"), "--alive", str(tmp_path))
    assert done.returncode == 1
    assert "no answer" in done.stdout
