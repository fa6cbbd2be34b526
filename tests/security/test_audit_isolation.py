"""`orchestrator audit isolation` on live runners that somebody changed by hand: each is found.

All rooms are tampered with, each in one way, and one audit looks at all of them: so each test also
says that the tampering with one room is found in no other.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.audit import runner_evidence
from orchestrator.config import Secrets
from orchestrator.core.isolation import Result
from orchestrator.core.isolation_report import IsolationReport, render_json, render_text
from orchestrator.core.sandbox import build_labels, build_options
from orchestrator.runners.disk_image import IMAGE
from orchestrator.runners.docker_backend import DockerBackend
from orchestrator.runners.docker_config import container_config
from orchestrator.runners.engine import Engine
from orchestrator.runners.inspection import ProbeAnswer
from tests.support.audited_room import failed, open_audited_rooms
from tests.support.runner_engine import ECHO, ensure_program_image, ensure_runner_image
from tests.support.tampering import AFTERWARDS, AT_CREATION, CANARY, Scene, run_command

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


def test_a_room_whose_files_or_processes_another_one_got_is_found_as_well(found: Found) -> None:
    assert found.failed(VICTIM) == OF_THE_VICTIM


def test_every_failure_says_what_was_found_and_none_says_a_secret(found: Found) -> None:
    judged = [each for room in found.report.rooms for each in room.judged]
    silent = [j.id for j in judged if j.verdict.result is Result.FAIL and not j.verdict.detail]
    assert silent == []
    for text in (render_text(found.report), render_json(found.report)):
        assert CANARY not in text
        assert text.isascii() or "…" in text
    value = json.loads(render_json(found.report))
    assert (value["clean"], len(value["rooms"])) == (False, len(NAMES))
    assert found.report.gone == ()


def test_the_installation_is_well_meanwhile(found: Found) -> None:
    assert failed(replace(found.report, rooms=())) == set()


# ---- what is there once


async def test_what_is_wrong_with_the_installation_is_found(tmp_path: Path) -> None:
    image = await ensure_program_image_in_thread(ECHO)
    async with open_audited_rooms(tmp_path, image, pinned=True) as rooms:
        spec, run = rooms.specs[0], run_command
        assert failed(await rooms.audit()) == set()
        label = f"aiagentchat.installation={spec.installation}"
        made: list[str] = []

        def create(name: str, *options: str) -> None:
            run("docker", "create", "--name", name, *options, spec.image)
            made.append(name)

        try:
            create(f"stray-{spec.installation}", "--label", label)
            assert failed(await rooms.audit()) == {"strays"}
            run("docker", "rm", made.pop())
            create(f"thief-{spec.installation}", "-v", f"{spec.home}:/mnt:ro")
            assert failed(await rooms.audit()) == {"strangers"}
            run("docker", "rm", made.pop())
        finally:
            for name in made:
                run("docker", "rm", name)
        for path, mode, right in (
            (rooms.state_dir / "state.sqlite3", 0o644, 0o600),
            (rooms.state_dir / "control.sock", 0o666, 0o600),
            (rooms.state_dir, 0o755, 0o700),
        ):
            path.chmod(mode)
            # Without the closed directory above, the rooms' own (0700) still close theirs.
            assert failed(await rooms.audit()) == {"state-dir"}
            path.chmod(right)
        assert failed(await rooms.audit()) == set()


async def test_a_room_without_a_runner_has_its_directories_looked_at(tmp_path: Path) -> None:
    image = await ensure_program_image_in_thread(ECHO)
    async with open_audited_rooms(tmp_path, image, start=False, pinned=True) as rooms:
        report = await rooms.audit()
        assert failed(report) == set()
        assert render_text(report).splitlines()[-1].startswith("no live runner: ")
        rooms.specs[0].workspace.chmod(0o755)
        assert failed(await rooms.audit()) == {"folders"}
        # Its files are on a disk that is not mounted: nobody reaches them by any name.
        (rooms.specs[0].workspace.parent / IMAGE).touch(mode=0o600)
        assert failed(await rooms.audit()) == set()


# ---- a room that does not want to be audited

EVERY_OTHER = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if pid > 1:
            try:
                {what}
            except OSError:
                pass
"""
FLOOD = 'os.write(os.open(f"/proc/{pid}/fd/1", os.O_WRONLY), b"x" * 30000)'
FORGE = 'os.write(os.open(f"/proc/{pid}/fd/1", os.O_WRONLY), b\'{"question": "no"}\')'
HOSTILE = {
    "stops": "os.kill(pid, signal.SIGSTOP)",
    "kills": "os.kill(pid, signal.SIGKILL)",
    "floods": FLOOD,
    "forges": FORGE,
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_room_that_meddles_with_the_probe_fails_alone_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(runner_evidence, "PROBE_S", 3.0)
    image = await ensure_program_image_in_thread(EVERY_OTHER.format(what=HOSTILE[what]))
    async with open_audited_rooms(tmp_path, image, pinned=True) as rooms:
        report = await rooms.audit()
        assert failed(report) == {"inside-answers"}
        name = rooms.specs[0].name
        async with asyncio.timeout(30):
            while await rooms.backend.count_tasks(name) > 1:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)


async def test_a_runner_that_ends_while_it_is_looked_at_is_gone_and_not_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await ensure_program_image_in_thread(ECHO)
    async with open_audited_rooms(tmp_path, image, count=2, pinned=True) as rooms:
        first, second = rooms.specs
        real = runner_evidence.run_probe

        async def remove_and_run(
            engine: Engine, container_id: str, *words: str, limit_s: float
        ) -> ProbeAnswer:
            if (await rooms.backend.inspect(first.name) or second).name == first.name:
                await rooms.backend.remove(first.name)
            return await real(engine, container_id, *words, limit_s=limit_s)

        monkeypatch.setattr(runner_evidence, "run_probe", remove_and_run)
        report = await rooms.audit()
    assert (report.gone, failed(report)) == ((first.name,), set())
    assert [room.runner for room in report.rooms] == [second.name]


async def ensure_program_image_in_thread(program: str) -> str:
    return await asyncio.to_thread(ensure_program_image, program)
