"""Everything about one live runner, gathered: the engine, the kernel, its folders, a probe inside.

Rules: a runner that ends meanwhile is said to be gone; what it says from inside is parsed as a
stranger's; its processes are looked at before the probe is one of them.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.audit import inside_probe
from orchestrator.audit.file_evidence import (
    digest,
    find_changes,
    find_listener,
    find_setuid,
    look,
    look_into,
)
from orchestrator.audit.probe_guard import ProbeGuard
from orchestrator.audit.process_evidence import (
    is_runner,
    read_cgroup_limits,
    read_id_map,
    read_interfaces,
    read_mounts,
    read_namespaces,
    read_tasks,
    read_words,
)
from orchestrator.core.isolation import Result
from orchestrator.core.isolation_confinement import check_processes
from orchestrator.core.isolation_evidence import (
    EngineRecord,
    Expected,
    FileFacts,
    Host,
    Inside,
    Kernel,
    RoomFolders,
    RunnerEvidence,
)
from orchestrator.core.isolation_files import SETTINGS, SOCKET_NAME
from orchestrator.core.sandbox import EGRESS, SandboxOptions
from orchestrator.runners.engine import Engine
from orchestrator.runners.inspection import read_changes, read_record, run_probe

PROBE: Final = Path(inside_probe.__file__).read_text(encoding="utf-8")
PROBE_S: Final = 15.0
"""How long a probe may take; it needs 0.2 s, and more in a room whose processors are all busy."""
_ENGINE_S: Final = 5.0
# A process between two states (another audit's probe that is just being started) is not one twice.
_LOOKS: Final = 3
_BETWEEN_LOOKS_S: Final = 0.5
# Shorter than any secret; a shorter word would be found everywhere.
_SECRET_CHARS: Final = 8

_Text = Annotated[str, Field(max_length=64)]
_Texts = Annotated[tuple[_Text, ...], Field(max_length=64)]
_Numbers = Annotated[tuple[int, ...], Field(max_length=256)]


class _Said(BaseModel):
    """What a probe prints; whoever printed it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, strict=False)

    question: str
    allowed: _Texts
    interfaces: _Texts
    reached: _Texts
    written: _Texts
    uids: _Numbers
    gids: _Numbers
    settings: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None


class Gatherer:
    """Reads runners of one engine. Invariant: an image's files are looked through once."""

    def __init__(
        self,
        engine: Engine,
        host: Host,
        secret_values: Mapping[str, str],
        state_dir: Path,
        *,
        asks_inside: bool,
    ) -> None:
        self._engine = engine
        self._asks_inside = asks_inside
        self._host = host
        self._secrets = secret_values
        self._state_dir = state_dir
        self._setuid: dict[str, tuple[str, ...]] = {}

    async def gather(self, container_id: str, expected: Expected) -> RunnerEvidence:
        """All of it; takes about a second, bounded by the probe's 20 s and the engine's calls.

        Raises:
            RunnerGoneError: it ended meanwhile.
            EngineRequestError, EngineUnavailableError: the engine can't be asked.
        """
        evidence = await self._look(container_id, expected)
        for _ in range(_LOOKS - 1):
            if not _is_unsettled(expected, evidence):
                break
            await asyncio.sleep(_BETWEEN_LOOKS_S)
            evidence = await self._look(container_id, expected)
        inside = await self._ask(evidence.engine) if self._asks_inside else evidence.inside
        # Had it ended, half of what was read would be another's or nobody's.
        await read_record(self._engine, container_id, PROBE)
        return replace(evidence, inside=inside)

    async def namespaces(self, container_id: str) -> frozenset[str]:
        """The names of its namespaces, to compare with others'. Raises as `gather`."""
        record = await read_record(self._engine, container_id, PROBE)
        names = await asyncio.to_thread(read_namespaces, record.pid)
        return frozenset(names.values()) - frozenset(self._host.namespaces.values())

    async def _look(self, container_id: str, expected: Expected) -> RunnerEvidence:
        record = await read_record(self._engine, container_id, PROBE)
        kernel = await asyncio.to_thread(self._read_kernel, record, expected.options)
        if kernel is not None and kernel.changes is None:
            changes = await read_changes(self._engine, container_id)
            kernel = replace(kernel, changes=changes)
        folders = await asyncio.to_thread(read_folders, expected.options, self._state_dir)
        return RunnerEvidence(
            engine=record,
            kernel=kernel,
            folders=folders,
            inside=Inside(was_asked=False, problem="not asked"),
            host=self._host,
        )

    def _read_kernel(self, record: EngineRecord, options: SandboxOptions) -> Kernel | None:
        pid = record.pid
        if not is_runner(pid, record.container_id):
            return None
        root = f"/proc/{pid}/root"
        tasks = read_tasks(pid, record.container_id, self._host.namespaces)
        mounts = read_mounts(pid)
        changes = find_changes(mounts)
        hidden = (*options.masked_paths, *options.readonly_paths)
        return Kernel(
            tasks=tasks,
            mounts=mounts,
            changes=changes,
            interfaces=read_interfaces(pid),
            uids=read_id_map(pid, "uid_map"),
            gids=read_id_map(pid, "gid_map"),
            cgroup=read_cgroup_limits(pid),
            own_paths=frozenset(path for path in hidden if _is_there(path)),
            mounted={
                bind.target: look(Path(bind.target), root=root).identity for bind in options.binds
            },
            setuid=self._find_setuid(record.image, root, changes),
            settings=look(Path(SETTINGS), root=root),
            settings_digest=digest(Path(SETTINGS), root=root),
            leaks=tuple(self._find_leaks(record, {task.pid for task in tasks})),
        )

    def _find_setuid(
        self, image: str, root: str, changes: tuple[str, ...] | None
    ) -> tuple[str, ...]:
        """Of the image, once, as long as the files are the image's."""
        if not changes and changes is not None and image in self._setuid:
            return self._setuid[image]
        try:
            found = find_setuid(root)
        except OSError as e:
            return (f"(its files can't be read: {e.strerror})",)
        if not changes:
            self._setuid[image] = found
        return found

    def _find_leaks(self, record: EngineRecord, pids: set[int]) -> Iterator[str]:
        held = json.dumps([dict(record.host), dict(record.config)])
        places = [("the engine's record", held)]
        for pid in sorted(pids):
            places += [(f"{what} of process {pid}", text) for what, text in read_words(pid)]
        for name, value in self._secrets.items():
            for where, text in places:
                if len(value) >= _SECRET_CHARS and value in text:
                    yield f"{name} in the {where.removeprefix('the ')}"

    async def _ask(self, record: EngineRecord) -> Inside:
        """Asked again once: the end of a turn may have ended the first probe with all else."""
        inside = await self._ask_once(record)
        return inside if inside.problem is None else await self._ask_once(record)

    async def _ask_once(self, record: EngineRecord) -> Inside:
        question = secrets.token_hex(8)
        guard = await asyncio.to_thread(ProbeGuard, record.pid, question)
        async with guard.watching(PROBE_S):
            # The guard ends it before: this is for an engine that hangs.
            answer = await run_probe(
                self._engine, record.container_id, PROBE, question, limit_s=PROBE_S + _ENGINE_S
            )
        if answer.problem is not None:
            return Inside(problem=answer.problem)
        return parse_answer(answer.output, question)


def parse_answer(output: bytes, question: str) -> Inside:
    """What was said, if it is an answer to this question; never raises."""
    try:
        said = _Said.model_validate_json(output)
    except ValidationError:
        return Inside(problem="what came is not an answer")
    if said.question != question:
        return Inside(problem="what came answers another question")
    return Inside(
        allowed_calls=said.allowed,
        interfaces=said.interfaces,
        reached=said.reached,
        written=said.written,
        uids=said.uids,
        gids=said.gids,
        settings_digest=said.settings,
    )


def read_folders(options: SandboxOptions, state_dir: Path) -> RoomFolders:
    """A room's places on the host; blocks."""
    sources = {bind.target: bind.source for bind in options.binds}
    parents = dict.fromkeys(
        parent for source in sources.values() for parent in _parents(source, state_dir)
    )
    door = sources.get(EGRESS)
    return RoomFolders(
        parents=tuple(look(parent) for parent in parents),
        sources={target: look(source) for target, source in sources.items()},
        doors=() if door is None else look_into(door),
        listener=None if door is None else find_listener(door / SOCKET_NAME),
    )


def _parents(source: Path, state_dir: Path) -> Iterator[Path]:
    """From the state directory down to what `source` is in."""
    above = [parent for parent in source.parents if parent.is_relative_to(state_dir)]
    yield from reversed(above or [source.parent])


def _is_unsettled(expected: Expected, evidence: RunnerEvidence) -> bool:
    try:
        return check_processes(expected, evidence).result is Result.FAIL
    except ValueError:
        return True


def _is_there(path: str) -> bool:
    facts: FileFacts = look(Path(path))
    return facts.kind not in {"missing", "symlink"}
