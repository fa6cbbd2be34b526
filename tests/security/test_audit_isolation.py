"""`orchestrator audit isolation` on live runners that somebody changed by hand: each is found.

All rooms are tampered with, each in one way, and one audit looks at all of them: so each test also
says that the tampering with one room is found in no other.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.config import Secrets
from orchestrator.core.isolation_report import IsolationReport
from orchestrator.core.sandbox import build_labels, build_options
from orchestrator.runners.docker_backend import DockerBackend
from orchestrator.runners.docker_config import container_config
from tests.support.audited_room import failed, open_audited_rooms
from tests.support.runner_engine import ECHO, ensure_program_image, ensure_runner_image
from tests.support.tampering import AFTERWARDS, AT_CREATION, CANARY, Scene

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

VICTIM = "the victim"
NAMES = [VICTIM, *AT_CREATION, *(f"later: {name}" for name in AFTERWARDS)]
# What is done to one room and shows in another: the victim's, and nobody else's.
OF_THE_VICTIM = {"disjoint", "namespaces", "processes", "user"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    report: IsolationReport
    slugs: dict[str, str]

    def failed(self, name: str) -> set[str]:
        return failed(self.report, self.slugs[name])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """One audit of a room for each tampering."""
    image, other = ensure_runner_image(), ensure_program_image(ECHO)
    return asyncio.run(tamper_and_audit(tmp_path_factory.mktemp("audit"), image, other))


async def tamper_and_audit(directory: Path, image: str, other: str) -> Found:
    async with open_audited_rooms(directory, image, count=len(NAMES), start=False) as rooms:
        scenes = {
            name: Scene(spec=spec, victim=rooms.specs[0], other_image=other)
            for name, spec in zip(NAMES, rooms.specs, strict=True)
        }
        try:
            for name, scene in scenes.items():
                await start(rooms.backend, name, scene)
            report = await rooms.audit(Secrets(anthropic_api_key=SecretStr(CANARY)))
        finally:
            for scene in scenes.values():
                scene.close()
    return Found(report=report, slugs={name: s.spec.slug for name, s in scenes.items()})


async def start(backend: DockerBackend, name: str, scene: Scene) -> None:
    """Make the room's runner, changed before or after its start."""
    spec, engine = scene.spec, backend.engine
    body = container_config(build_options(spec), build_labels(spec))
    if name in AT_CREATION:
        AT_CREATION[name][0](body, scene)
    made = await engine.call(engine.api.create_container_from_config, body, spec.name)
    await engine.call(engine.api.start, made["Id"])
    if name.startswith("later: "):
        facts = await engine.call(engine.api.inspect_container, made["Id"])
        live = replace(scene, pid=facts["State"]["Pid"])
        await asyncio.to_thread(AFTERWARDS[name.removeprefix("later: ")][0], live)


@pytest.mark.parametrize("name", AT_CREATION)
def test_a_runner_that_was_made_by_hand_is_found(found: Found, name: str) -> None:
    assert found.failed(name) == set(AT_CREATION[name][1])


@pytest.mark.parametrize("name", AFTERWARDS)
def test_a_runner_that_was_changed_by_hand_is_found(found: Found, name: str) -> None:
    assert found.failed(f"later: {name}") == set(AFTERWARDS[name][1])
