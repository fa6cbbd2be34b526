"""Runners without an engine: a fake that passes the same contract suite as the real adapter.

Owns tasks, one for each running "container", whose main process is a coroutine. Rules: what an
engine does to a container's life happens here too; nothing here isolates anything.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from orchestrator.core.sandbox import SandboxSpec, spec_hash
from orchestrator.errors import EngineRequestError, ImageMissingError, RunnerGoneError
from orchestrator.model import InstallationId, RunnerState
from orchestrator.ports import ByteStream, RunnerEvent, RunnerInfo, RunnerStats
from orchestrator.runners.memory_stdio import MemoryProgram, MemoryStdio

_SIGKILL: Final = 137
_STARTED_AT: Final = "2000-01-01T00:00:00Z"
# A watcher that is further behind misses events, as the port allows.
_EVENTS: Final = 1000


@dataclass(slots=True, kw_only=True)
class _Container:
    info: RunnerInfo
    spec: SandboxSpec
    stdio: MemoryStdio = field(default_factory=MemoryStdio)
    task: asyncio.Task[int] | None = None


@dataclass(slots=True, kw_only=True)
class MemoryEngine:
    """What several installations share: containers by name, and each image's main process by id."""

    images: dict[str, MemoryProgram] = field(default_factory=dict)
    containers: dict[str, _Container] = field(default_factory=dict)


@asynccontextmanager
async def open_memory_backend(
    installation: InstallationId, engine: MemoryEngine
) -> AsyncIterator[MemoryBackend]:
    """A backend on `engine` whose runners live until this context is left."""
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        backend = MemoryBackend(installation, engine, group)
        try:
            yield backend
        except Exception as e:  # noqa: BLE001 (raised below: a group would wrap the caller's error)
            failure = e
        finally:
            backend.kill_all()
    if failure is not None:
        raise failure


class MemoryBackend:
    """`ports.RunnerBackend` in memory. Invariant: it changes only what bears `installation`."""

    def __init__(
        self,
        installation: InstallationId,
        engine: MemoryEngine,
        group: asyncio.TaskGroup,
    ) -> None:
        self.installation = installation
        self.engine = engine
        self._group = group
        self._ids = itertools.count(1)
        self._watchers: set[asyncio.Queue[RunnerEvent]] = set()

    def __repr__(self) -> str:
        states = {name: c.info.state.value for name, c in self._mine().items()}
        return f"MemoryBackend(installation={self.installation}, runners={states})"

    async def ensure(self, spec: SandboxSpec) -> RunnerInfo:
        """As the port says."""
        if spec.installation != self.installation:
            msg = "the specification is another installation's"
            raise EngineRequestError(msg)
        if spec.name in self.engine.containers:
            return self._get_for_ensure(spec.name).info
        if spec.image not in self.engine.images:
            raise ImageMissingError
        info = RunnerInfo(
            name=spec.name,
            slug=spec.slug,
            generation=spec.generation,
            spec_hash=spec_hash(spec),
            state=RunnerState.CREATED,
            container_id=f"{self.installation}-{next(self._ids)}",
        )
        self.engine.containers[spec.name] = _Container(info=info, spec=spec)
        return info

    async def start(self, name: str) -> None:
        """As the port says."""
        container = self._get(name)
        if container.info.state is RunnerState.RUNNING:
            return
        container.stdio = MemoryStdio()
        container.info = replace(
            container.info, state=RunnerState.RUNNING, started_at=_STARTED_AT, exit_code=None
        )
        self._emit(container, "start")
        container.task = self._group.create_task(self._run(container), name=f"memory {name}")
        container.task.add_done_callback(partial(self._ended, container))

    async def stop(self, name: str, *, grace_s: float) -> None:
        """As the port says."""
        container = self._mine().get(name)
        if container is None or container.task is None:
            return
        container.stdio.terminated.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await asyncio.wait([container.task])
        await self._kill(container)

    async def remove(self, name: str) -> None:
        """As the port says."""
        container = self._mine().get(name)
        if container is None:
            return
        await self._kill(container)
        if self.engine.containers.pop(name, None) is not None:
            self._emit(container, "destroy")

    async def inspect(self, name: str) -> RunnerInfo | None:
        """As the port says."""
        container = self._mine().get(name)
        return None if container is None else container.info

    async def list(self) -> Sequence[RunnerInfo]:
        """As the port says."""
        return [container.info for container in self._mine().values()]

    def watch(self) -> AsyncIterator[RunnerEvent]:
        """As the port says."""
        queue: asyncio.Queue[RunnerEvent] = asyncio.Queue(_EVENTS)
        self._watchers.add(queue)
        return self._watch(queue)

    async def count_tasks(self, name: str) -> int:
        """As many as `stats` says."""
        return (await self.stats(name)).pids

    async def stats(self, name: str) -> RunnerStats:
        """As the port says; the numbers are the smallest that a process can have."""
        limits = self._get_running(name).spec.limits
        return RunnerStats(
            memory_bytes=1, memory_limit_bytes=limits.memory_bytes, cpu_total_s=0.0, pids=1
        )

    def attach(self, name: str) -> AbstractAsyncContextManager[ByteStream]:
        """As the port says."""
        return self._attach(name)

    def kill_all(self) -> None:
        """End every runner of this backend at once."""
        for container in self._mine().values():
            if container.task is not None:
                container.task.cancel()

    def _mine(self) -> dict[str, _Container]:
        return {
            name: container
            for name, container in self.engine.containers.items()
            if container.spec.installation == self.installation
        }

    def _get(self, name: str) -> _Container:
        container = self._mine().get(name)
        if container is None:
            raise RunnerGoneError
        return container

    def _get_for_ensure(self, name: str) -> _Container:
        try:
            return self._get(name)
        except RunnerGoneError as e:
            msg = f"the name {name} belongs to a container that is not this installation's"
            raise EngineRequestError(msg) from e

    def _get_running(self, name: str) -> _Container:
        container = self._get(name)
        if container.info.state is not RunnerState.RUNNING:
            raise RunnerGoneError
        return container

    @asynccontextmanager
    async def _attach(self, name: str) -> AsyncIterator[ByteStream]:
        async with self._get_running(name).stdio.attached() as stream:
            yield stream

    async def _run(self, container: _Container) -> int:
        try:
            return await self.engine.images[container.spec.image](container.stdio)
        except Exception:  # noqa: BLE001 - a main process that crashes ends its container alone
            return 1

    def _ended(self, container: _Container, task: asyncio.Task[int]) -> None:
        code = _SIGKILL if task.cancelled() else task.result()
        container.stdio.close()
        container.info = replace(container.info, state=RunnerState.EXITED, exit_code=code)
        self._emit(container, "die", code)

    async def _kill(self, container: _Container) -> None:
        if container.task is not None:
            container.task.cancel()
            await asyncio.wait([container.task])

    async def _watch(self, queue: asyncio.Queue[RunnerEvent]) -> AsyncIterator[RunnerEvent]:
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    def _emit(self, container: _Container, kind: str, exit_code: int | None = None) -> None:
        info = container.info
        event = RunnerEvent(name=info.name, slug=info.slug, kind=kind, exit_code=exit_code)
        for queue in self._watchers:
            with suppress(asyncio.QueueFull):
                queue.put_nowait(event)
