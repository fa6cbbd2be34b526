"""Runners as containers of the Docker Engine: the adapter behind `ports.RunnerBackend`.

Rules: a container counts only with this installation's label, whatever its name is; every operation
looks it up first and then speaks of its id, so that a foreign container of the same name is never
touched; what the engine answers is parsed into types here and goes no further.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from loguru import logger

from orchestrator.core.sandbox import (
    LABEL_INSTALLATION,
    SandboxSpec,
    build_labels,
    build_options,
)
from orchestrator.errors import EngineRequestError, RunnerGoneError
from orchestrator.model import InstallationId, RunnerState
from orchestrator.ports import ByteStream, RunnerEvent, RunnerInfo, RunnerStats
from orchestrator.runners.docker_config import container_config
from orchestrator.runners.docker_events import watch_events
from orchestrator.runners.docker_model import Container, Stats, Top
from orchestrator.runners.engine import ConflictError, Engine, open_engine
from orchestrator.runners.engine_http import CALL_S
from orchestrator.runners.stream import AttachedStream, DiagnosticLines

# A removal that somebody else began: the engine unmounts and deletes; seconds at most.
_REMOVAL_S: Final = 20.0
_POLL_S: Final = 0.1

TOP_ARGUMENTS: Final = "-eLo pid,lwp"
"""What the host's ps is told for a runner's tasks."""


@asynccontextmanager
async def open_docker_backend(
    installation: InstallationId, *, docker_host: str | None = None
) -> AsyncIterator[DockerBackend]:
    """The backend on the engine of `docker_host` (default: DOCKER_HOST, then the usual socket).

    Raises:
        EngineUnavailableError: no engine answers there, or it is too old; says what to do.
    """
    async with open_engine(docker_host) as engine:
        yield DockerBackend(installation, engine)


class DockerBackend:
    """`ports.RunnerBackend` on one engine. Invariant: it changes only what bears `installation`."""

    def __init__(self, installation: InstallationId, engine: Engine) -> None:
        self.installation = installation
        self.engine = engine
        self._log = logger.bind(component="runners", installation=installation)

    def __repr__(self) -> str:
        return f"DockerBackend(installation={self.installation}, engine={self.engine!r})"

    async def ensure(self, spec: SandboxSpec) -> RunnerInfo:
        """Create the runner unless one of that name exists; never starts or changes it. Idempotent.

        Raises:
            ImageMissingError: the spec's image is not there.
            EngineRequestError: among others, when the name belongs to a container that isn't ours.
        """
        if spec.installation != self.installation:
            msg = "the specification is another installation's"
            raise EngineRequestError(msg)
        found = await self.inspect(spec.name)
        return found or await self._create(spec)

    async def start(self, name: str) -> None:
        """Start it; nothing happens when it runs. Raises RunnerGoneError when it does not exist."""
        runner = await self._get(name)
        if runner.state is RunnerState.PAUSED:
            await self._unpause(runner.container_id)
        elif runner.state is not RunnerState.RUNNING:
            await self.engine.call(self.engine.api.start, runner.container_id)
            self._log.info("runner started", action="runner_start", runner=name)

    async def stop(self, name: str, *, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`. Idempotent; a missing runner is a stopped one."""
        runner = await self.inspect(name)
        if runner is None or runner.state in {RunnerState.CREATED, RunnerState.EXITED}:
            return
        if runner.state is RunnerState.PAUSED:
            await self._unpause(runner.container_id)
        grace = math.ceil(grace_s)
        try:
            await self.engine.call_within(
                CALL_S + grace, self.engine.api.stop, runner.container_id, timeout=grace
            )
        except RunnerGoneError:
            return
        self._log.info("runner stopped", action="runner_stop", runner=name)

    async def remove(self, name: str) -> None:
        """Kill and remove it. Idempotent. Its working directory stays."""
        runner = await self.inspect(name)
        if runner is None:
            return
        api = self.engine.api
        try:
            await self.engine.call(api.remove_container, runner.container_id, v=True, force=True)
        except RunnerGoneError:
            return
        except ConflictError:
            await self._wait_until_removed(name)
        self._log.info("runner removed", action="runner_remove", runner=name)

    async def inspect(self, name: str) -> RunnerInfo | None:
        """The runner, or None; also None for a container of that name that isn't ours."""
        try:
            answer = await self.engine.call(self.engine.api.inspect_container, name)
        except RunnerGoneError:
            return None
        return Container.parse(answer).runner_info(self.installation)

    async def list(self) -> Sequence[RunnerInfo]:
        """All runners of this installation, whatever their state."""
        label = f"{LABEL_INSTALLATION}={self.installation}"
        found = await self.engine.call(
            self.engine.api.containers, all=True, quiet=True, filters={"label": label}
        )
        # One that is removed meanwhile is simply not there.
        runners = [await self.inspect(str(item["Id"])) for item in found]
        return [runner for runner in runners if runner is not None]

    def watch(self) -> AsyncIterator[RunnerEvent]:
        """Events from now on, until cancelled; reconnects by itself, so events can be missed."""
        return watch_events(self.engine, self.installation)

    async def count_tasks(self, name: str) -> int:
        """Processes and threads, as the host's ps sees them: 10 ms, where `stats` takes up to 1 s.

        Raises RunnerGoneError when it does not run.
        """
        runner = await self._get_running(name)
        answer = await self.engine.call(
            self.engine.api.top, runner.container_id, ps_args=TOP_ARGUMENTS
        )
        return Top.parse(answer).count

    async def stats(self, name: str) -> RunnerStats:
        """One sample; takes up to a second. Raises RunnerGoneError when it does not run."""
        runner = await self._get_running(name)
        answer = await self.engine.call(
            self.engine.api.stats, runner.container_id, stream=False, one_shot=True
        )
        sample = Stats.parse(answer).runner_stats()
        if sample is None:
            raise RunnerGoneError
        return sample

    def attach(self, name: str) -> AbstractAsyncContextManager[ByteStream]:
        """Attach to stdin and stdout of the running main process; detaches at exit, ends nothing.

        Only what is printed after the attach is seen. Raises RunnerGoneError when it does not run.
        """
        return self._attach(name)

    async def _create(self, spec: SandboxSpec) -> RunnerInfo:
        config = container_config(build_options(spec), build_labels(spec))
        try:
            answer = await self.engine.call(
                self.engine.api.create_container_from_config, config, spec.name
            )
        except ConflictError:
            # Somebody was quicker; if it was us, the runner is there now.
            answer = {}
        for warning in answer.get("Warnings") or ():
            self._log.warning(
                "the engine can't do all that was asked",
                action="runner_create",
                runner=spec.name,
                warning=str(warning),
            )
        created = await self.inspect(spec.name)
        if created is None:
            msg = f"the name {spec.name} belongs to a container that is not this installation's"
            raise EngineRequestError(msg)
        self._log.info("runner created", action="runner_create", runner=spec.name)
        return created

    async def _get(self, name: str) -> RunnerInfo:
        runner = await self.inspect(name)
        if runner is None:
            raise RunnerGoneError
        return runner

    async def _get_running(self, name: str) -> RunnerInfo:
        runner = await self._get(name)
        if runner.state is not RunnerState.RUNNING:
            raise RunnerGoneError
        return runner

    async def _unpause(self, container_id: str) -> None:
        # A conflict means that it is no longer paused.
        try:
            await self.engine.call(self.engine.api.unpause, container_id)
        except ConflictError:
            return

    async def _wait_until_removed(self, name: str) -> None:
        try:
            async with asyncio.timeout(_REMOVAL_S):
                while await self.inspect(name) is not None:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as e:
            msg = f"the Docker Engine has not finished removing {name}"
            raise EngineRequestError(msg) from e

    @asynccontextmanager
    async def _attach(self, name: str) -> AsyncIterator[AttachedStream]:
        runner = await self._get_running(name)
        log = self._log.bind(room=runner.slug, runner=name)
        lines = DiagnosticLines(
            lambda line: log.warning("runner diagnostics", action="runner_stderr", line=line)
        )
        query = {"stream": "1", "stdin": "1", "stdout": "1", "stderr": "1"}
        path = f"/containers/{runner.container_id}/attach"
        async with self.engine.upgrade(path, query) as exchange:
            yield AttachedStream(exchange.reader, exchange.writer, lines)
