"""What the Docker Engine answers, as types; everything that is not used here is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orchestrator.core.sandbox import (
    LABEL_GENERATION,
    LABEL_INSTALLATION,
    LABEL_ROOM,
    LABEL_SPEC,
)
from orchestrator.errors import EngineRequestError
from orchestrator.model import InstallationId, RoomSlug, RunnerState
from orchestrator.ports import RunnerEvent, RunnerInfo, RunnerStats

_STATES: Final = {
    "created": RunnerState.CREATED,
    "running": RunnerState.RUNNING,
    "restarting": RunnerState.RUNNING,
    "paused": RunnerState.PAUSED,
}
# How the engine writes "never".
_NEVER: Final = "0001-01-01T00:00:00Z"
_NANO: Final = 1e9

# The engine writes null for an empty map or list.
Labels = Annotated[dict[str, str], BeforeValidator(lambda value: value or {})]


class Answer(BaseModel):
    """One answer of the API; what is not named is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    @classmethod
    def parse(cls, value: object) -> Self:
        """From decoded JSON.

        Raises:
            EngineRequestError: it is not what the API promises.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as e:
            msg = f"the Docker Engine's answer is not understood: {e.error_count()} field(s)"
            raise EngineRequestError(msg) from e


class _Config(Answer):
    labels: Labels = Field(alias="Labels")


class _State(Answer):
    status: str = Field(alias="Status")
    exit_code: int = Field(alias="ExitCode")
    oom_killed: bool = Field(alias="OOMKilled")
    started_at: str = Field(alias="StartedAt")


class Container(Answer):
    """`GET /containers/{id}/json`."""

    container_id: str = Field(alias="Id")
    name: str = Field(alias="Name")
    config: _Config = Field(alias="Config")
    state: _State = Field(alias="State")

    def runner_info(self, installation: InstallationId) -> RunnerInfo | None:
        """The runner that this container is, or None when it is not one of `installation`."""
        labels = self.config.labels
        if labels.get(LABEL_INSTALLATION) != installation:
            return None
        state = _STATES.get(self.state.status, RunnerState.EXITED)
        generation = labels.get(LABEL_GENERATION, "")
        return RunnerInfo(
            name=self.name.removeprefix("/"),
            slug=RoomSlug(labels.get(LABEL_ROOM, "")),
            generation=int(generation) if generation.isdecimal() else 0,
            spec_hash=labels.get(LABEL_SPEC, ""),
            state=state,
            container_id=self.container_id,
            started_at=None if self.state.started_at == _NEVER else self.state.started_at,
            exit_code=self.state.exit_code if state is RunnerState.EXITED else None,
            oom_killed=self.state.oom_killed,
        )


class _Actor(Answer):
    attributes: Labels = Field(alias="Attributes")


class Event(Answer):
    """One line of `GET /events`."""

    action: str = Field(alias="Action")
    time_ns: int = Field(alias="timeNano")
    actor: _Actor = Field(alias="Actor")

    def runner_event(self) -> RunnerEvent:
        """The same in the port's words."""
        attributes: Mapping[str, str] = self.actor.attributes
        code = attributes.get("exitCode", "")
        return RunnerEvent(
            name=attributes.get("name", ""),
            slug=RoomSlug(attributes.get(LABEL_ROOM, "")),
            kind=self.action,
            exit_code=int(code) if code.isdecimal() else None,
        )


class _MemoryStats(Answer):
    usage: int | None = None
    limit: int = 0
    stats: Annotated[dict[str, int], BeforeValidator(lambda value: value or {})] = {}


class _CpuUsage(Answer):
    total_usage: int = 0


class _CpuStats(Answer):
    cpu_usage: _CpuUsage = _CpuUsage()


class _PidsStats(Answer):
    current: int = 0


class Stats(Answer):
    """`GET /containers/{id}/stats`; empty parts mean that the container does not run."""

    memory_stats: _MemoryStats = _MemoryStats()
    cpu_stats: _CpuStats = _CpuStats()
    pids_stats: _PidsStats = _PidsStats()

    def runner_stats(self) -> RunnerStats | None:
        """The sample, without the page cache that the kernel gives back when asked; or None."""
        memory = self.memory_stats
        if memory.usage is None:
            return None
        # The first name is cgroup v1's, the second v2's.
        cache = memory.stats.get("total_inactive_file", memory.stats.get("inactive_file", 0))
        return RunnerStats(
            memory_bytes=max(0, memory.usage - cache),
            memory_limit_bytes=memory.limit,
            cpu_total_s=self.cpu_stats.cpu_usage.total_usage / _NANO,
            pids=self.pids_stats.current,
        )


class Top(Answer):
    """`GET /containers/{id}/top`: a row for each line that ps prints of it."""

    processes: list[list[str]] = Field(default=[], alias="Processes")

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.processes)
