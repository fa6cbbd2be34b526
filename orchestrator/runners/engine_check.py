"""At the start: whether the engine can keep rooms apart, and which numbers they have on it.

Owns one throw-away container, which is made where the engine maps ids or runs another runtime than
runc: its ids, the owner of a file that it makes, and who connects for it to a socket of ours are
measured, not believed. Rule: what can't be shown is refused, with the remedy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.core.engine_facts import (
    EngineFacts,
    effective_runtime,
    judge_engine,
    needs_probe,
    runs_own_processes,
)
from orchestrator.core.id_plan import IdPlan, judge_ids, plain_ids
from orchestrator.errors import EngineRequestError, PreconditionError
from orchestrator.model import InstallationId
from orchestrator.runners.engine import Engine
from orchestrator.runners.probe import ProbePlan, run_probe

_SWAPS = Path("/proc/swaps")
_log = logger.bind(component="runners")


class _Commit(BaseModel):
    ID: str = ""


class _Info(BaseModel):
    """`GET /info`, as far as it decides something. What is missing counts as not offered."""

    model_config = ConfigDict(extra="ignore")

    ServerVersion: str = ""
    SecurityOptions: list[str] | None = None
    MemoryLimit: bool = False
    SwapLimit: bool = False
    PidsLimit: bool = False
    CpuCfsQuota: bool = False
    CPUShares: bool = False
    Runtimes: dict[str, object] | None = None
    DefaultRuntime: str = ""
    RuncCommit: _Commit = Field(default_factory=_Commit)
    CgroupVersion: str = ""
    Driver: str = ""
    LiveRestoreEnabled: bool = False


class _Component(BaseModel):
    Name: str = ""
    Version: str = ""


class _Version(BaseModel):
    model_config = ConfigDict(extra="ignore")

    Components: list[_Component] | None = None


class CheckedEngine:
    """An engine that offers what rooms need. Invariant: its facts were judged and not refused."""

    def __init__(
        self,
        engine: Engine,
        facts: EngineFacts,
        runtime: str | None,
        weaknesses: Sequence[str] = (),
    ) -> None:
        self.facts = facts
        self.weaknesses = tuple(weaknesses)
        """What is known to be weak about it, a sentence each."""
        self.runtime = effective_runtime(facts, runtime)
        self._engine = engine
        self._asked_for = runtime

    def __repr__(self) -> str:
        return f"CheckedEngine({self._engine!r}, runtime={self.runtime})"

    async def find_ids(
        self, *, installation: InstallationId, image: str, state_dir: Path
    ) -> IdPlan:
        """The rooms' numbers on this engine; about a second where it has to be tried out.

        Raises:
            PreconditionError: the runtime can't start a runner, can't reach its door, or what it
                does with ids makes no sense.
            EngineRequestError: the engine did not answer.
        """
        ids = plain_ids(installation)
        if needs_probe(self.facts, self._asked_for):
            plan = ProbePlan(installation=installation, image=image, runtime=self._asked_for)
            seen = await run_probe(self._engine, plan, state_dir / "probe", named=self.runtime)
            own_process = runs_own_processes(self.runtime)
            try:
                ids = judge_ids(installation, seen, own_process=own_process)
            except ValueError as e:
                msg = f"the engine's user ids can't be used (runtime {self.runtime}): {e}"
                raise PreconditionError(msg) from e
        self._log(ids)
        return ids

    def describe(self) -> str:
        """One line for the person who starts it."""
        ids = "user namespaces" if self.facts.maps_ids else "no user namespaces"
        if "rootless" in self.facts.security:
            ids = "a rootless engine"
        more = ", AppArmor" if "apparmor" in self.facts.security else ""
        return f"Isolation: {self.runtime}, {ids}, a uid for each room, our seccomp profile{more}."

    def _log(self, ids: IdPlan) -> None:
        facts = self.facts
        _log.bind(
            action="engine_isolation",
            runtime=self.runtime,
            version=facts.version,
            runc=facts.runc,
            storage=facts.storage,
            user_namespaces=facts.maps_ids,
            first_uid=ids.uid,
            first_host_uid=ids.host_uid,
            security=sorted(facts.security),
            cgroup=facts.cgroup_version,
            live_restore=facts.live_restore,
        ).info("the engine isolates rooms")


async def examine_engine(engine: Engine, *, runtime: str | None) -> CheckedEngine:
    """The engine as it is, whether a start would use it or not; for whoever looks at what runs.

    Raises:
        EngineRequestError: it did not answer.
    """
    return CheckedEngine(engine, await _read_facts(engine), runtime)


async def check_engine(engine: Engine, *, runtime: str | None, least_pids: int) -> CheckedEngine:
    """Read what the engine offers; note what is weak about it, refuse what rooms can't do without.

    Raises:
        PreconditionError: it can't be used for rooms; one line for each reason.
        EngineRequestError: it did not answer.
    """
    facts = await _read_facts(engine)
    verdict = judge_engine(facts, runtime=runtime, least_pids=least_pids)
    for warning in verdict.warnings:
        _log.bind(action="engine_check", weakness=warning).info("the engine is weak")
    if verdict.refusals:
        lines = "\n".join(f"- {refusal}" for refusal in verdict.refusals)
        msg = f"the Docker Engine at {engine.address} can't keep rooms apart:\n{lines}"
        raise PreconditionError(msg)
    return CheckedEngine(engine, facts, runtime, verdict.warnings)


async def _read_facts(engine: Engine) -> EngineFacts:
    info = await engine.call(engine.api.info)
    version = await engine.call(engine.api.version)
    try:
        return build_facts(info, version, host_swaps=await asyncio.to_thread(host_has_swap))
    except ValidationError as e:
        msg = "the Docker Engine's answer about itself makes no sense"
        raise EngineRequestError(msg) from e


def build_facts(info: object, version: object, *, host_swaps: bool) -> EngineFacts:
    """The engine's two answers as facts. Pure.

    Raises:
        ValidationError: they are not what an engine answers.
    """
    said = _Info.model_validate(info)
    return EngineFacts(
        version=said.ServerVersion,
        runc=_runc_version(said, _Version.model_validate(version)),
        security=frozenset(_option_name(option) for option in said.SecurityOptions or ()),
        limits={
            name: getattr(said, name)
            for name in ("MemoryLimit", "SwapLimit", "PidsLimit", "CpuCfsQuota", "CPUShares")
        },
        runtimes=frozenset(said.Runtimes or ()),
        default_runtime=said.DefaultRuntime,
        cgroup_version=said.CgroupVersion,
        storage=said.Driver,
        live_restore=said.LiveRestoreEnabled,
        host_swaps=host_swaps,
    )


def host_has_swap() -> bool:
    """Whether swap is in use on this host; unknown counts as yes."""
    try:
        return len(_SWAPS.read_text().splitlines()) > 1
    except OSError:
        return True


def _option_name(option: str) -> str:
    """`name=seccomp,profile=default` is seccomp; a profile that is none is none."""
    fields = dict(part.partition("=")[::2] for part in option.split(","))
    return fields.get("name", option)


def _runc_version(info: _Info, version: _Version) -> str:
    """Distributions name their patched versions in full in the commit's place."""
    named = {c.Name: c.Version for c in version.Components or ()}.get("runc", "")
    commit = info.RuncCommit.ID
    return commit if named and commit.startswith(named) else named
