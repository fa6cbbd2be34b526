"""The containers of one test session: found, described when a test fails, and removed.

Ours are two kinds: those that the tests start (they carry TEST_LABEL with the session's id), and
the runners that an orchestrator under test started (their working directories are below the
session's temporary directory). No other container is ever touched.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import docker
from docker.errors import APIError, NotFound
from docker.models.containers import Container

TEST_LABEL = "aiagentchat.test-session"
SESSION = uuid.uuid4().hex[:12]
_RUNNER_LABEL = "aiagentchat.installation"
_LOG_LINES = 60


def session_labels() -> dict[str, str]:
    """The labels for a container that a test starts."""
    return {TEST_LABEL: SESSION}


def find_containers(client: docker.DockerClient, below: Path) -> list[Container]:
    """This session's own containers, and the runners whose directories are below the path."""
    own = client.containers.list(all=True, filters={"label": f"{TEST_LABEL}={SESSION}"})
    return [*own, *find_runners(client, below)]


def find_runners(client: docker.DockerClient, below: Path) -> list[Container]:
    """The runners of installations whose state directories are below the path."""
    runners = client.containers.list(
        all=True, filters={"label": _RUNNER_LABEL}, ignore_removed=True
    )
    return [runner for runner in runners if _is_below(runner, below)]


def describe_containers(containers: Iterable[Container]) -> str:
    """State and last output of each, for a person who looks at a failed test."""
    return "\n".join(_describe(container) for container in containers)


def remove_containers(containers: Iterable[Container]) -> None:
    """Kill and remove each; one that is gone is fine."""
    for container in containers:
        with suppress(NotFound):
            container.remove(force=True, v=True)


def _is_below(runner: Container, path: Path) -> bool:
    mounts = runner.attrs.get("Mounts") or []
    return any(Path(m.get("Source", "/")).is_relative_to(path) for m in mounts)


def _describe(container: Container) -> str:
    lines = [f"── {container.name} ({container.short_id})"]
    try:
        container.reload()
        state = container.attrs["State"]
        lines.append(json.dumps({k: v for k, v in state.items() if v not in ("", False, None)}))
        lines.append(container.logs(tail=_LOG_LINES).decode("utf-8", "replace"))
    except NotFound:
        lines.append("(gone)")
    except APIError as e:
        # A runner's log driver is `none`: what it printed went over the wire alone.
        lines.append(f"(no log: {e.explanation})")
    return "\n".join(lines)
