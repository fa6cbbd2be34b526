"""compose/ started for real, from images that are made here in place of those that it names.

A copy of the repository's files, a project's name and a state directory of its own, free ports.
Element Web, Loki, Alloy and Grafana have no packages to make an image from, and are left out.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

from orchestrator.core.sandbox import LABEL_INSTALLATION
from orchestrator.runners.image import read_ca_bundle
from tests.support.compose import ROOT, run, tool
from tests.support.port import free_port
from tests.support.synapse_image import ensure_synapse_image, find_test_base

SERVER_NAME = "compose.test"
_PROFILES = ("core", "homeserver", "observability", "setup")
_IMAGES = ROOT / "tests" / "support" / "compose_images"
_FOLDERS = ("cli", "compose", "docs/man", "orchestrator", "runner-image")
_FILES = ("pyproject.toml", "README.md", "requirements.lock", ".dockerignore")
_START_S = 600


@dataclass(frozen=True, slots=True)
class ComposeSite:
    """The project. Its folder is a copy: what a test changes there is the test's own."""

    folder: Path
    project: str
    port: int

    @property
    def homeserver(self) -> str:
        """Where people reach it."""
        return f"http://127.0.0.1:{self.port}"

    def compose(self, *words: str, timeout_s: float = _START_S, **env: str) -> str:
        """Run a command of Compose; its output.

        Raises:
            AssertionError: it failed; has the last of what it said.
        """
        profiles = [word for name in _PROFILES for word in ("--profile", name)]
        command = (tool("docker"), "compose", "--ansi=never", "-p", self.project, *profiles, *words)
        done = run(*command, cwd=self.folder, timeout_s=timeout_s, **env)
        assert done.returncode == 0, f"{words}: {done.stdout[-1500:]}{done.stderr[-3000:]}"
        return done.stdout

    def fetch(self, service: str, url: str) -> Any:
        """The JSON that a service answers, asked from within its own container."""
        return json.loads(self.compose("exec", "-T", service, "wget", "-q", "-O", "-", url))

    def gateway(self) -> str:
        """The address of this host in the network of the homeserver and the orchestrator."""
        (network,) = json.loads(
            run(tool("docker"), "network", "inspect", f"{self.project}_matrix").stdout
        )
        address: str = network["IPAM"]["Config"][0]["Gateway"]
        return address


@contextmanager
def compose_site(folder: Path, *, project: str) -> Iterator[ComposeSite]:
    """Images, files and `.env`; nothing is started. In the end all of the project is removed."""
    top, state = folder / "top", folder / "state"
    top.mkdir()
    state.mkdir()
    for name in _FOLDERS:
        shutil.copytree(ROOT / name, top / name, ignore=shutil.ignore_patterns("config", ".env"))
    for name in _FILES:
        shutil.copy(ROOT / name, top)
    site = ComposeSite(top / "compose", project, free_port())
    client = docker.from_env(timeout=_START_S)
    try:
        environment = {
            "SERVER_NAME": SERVER_NAME,
            "PUBLIC_URL": site.homeserver,
            "SYNAPSE_PORT": str(site.port),
            "STATE_DIR": str(state),
            **_build_images(client, top),
        }
        lines = "".join(f"{name}={value}\n" for name, value in environment.items())
        (site.folder / ".env").write_text(lines, encoding="utf-8")
        yield site
    finally:
        if (site.folder / ".env").exists():
            site.compose("down", "--volumes", "--timeout", "30")
        _remove_runners(client, state)
        client.close()


def _build_images(client: docker.DockerClient, top: Path) -> dict[str, str]:
    """The variables of compose.yaml, each with an image that is here."""
    base = find_test_base()
    (top / "compose" / "ca-bundle.pem").write_bytes(read_ca_bundle(os.environ))
    arguments = {"BASE": base, "SYNAPSE": ensure_synapse_image(client)}
    made = {"BUSYBOX_IMAGE": base, "DEBIAN_IMAGE": base}
    for name in ("postgres", "synapse", "prometheus", "alertmanager"):
        tag = f"aiagentchat-test-{name}:compose"
        client.images.build(
            path=str(_IMAGES),
            dockerfile=f"{name}.Dockerfile",
            tag=tag,
            rm=True,
            buildargs=arguments,
        )
        made[f"{name.upper()}_IMAGE"] = tag
    tag = "aiagentchat-test-orchestrator:compose"
    client.images.build(
        path=str(top),
        dockerfile="compose/orchestrator.Dockerfile",
        tag=tag,
        rm=True,
        buildargs={"BASE": base},
    )
    return {**made, "ORCHESTRATOR_IMAGE": tag}


def _remove_runners(client: docker.DockerClient, state: Path) -> None:
    """Those whose files are in this state directory; the project's end leaves them running."""
    for container in client.containers.list(all=True, filters={"label": LABEL_INSTALLATION}):
        if any(mount["Source"].startswith(str(state)) for mount in container.attrs["Mounts"]):
            container.remove(force=True)
