"""All checks, in the order in which a start would meet them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import (
    DEFAULT_STATE_DIR,
    Config,
    Secrets,
    given_upstream,
    load_secrets,
)
from orchestrator.core.diagnosis import Check, failed, passed, warned
from orchestrator.credential_choice import find_credential
from orchestrator.doctor.engine import check_engine_and_image
from orchestrator.doctor.homeserver import check_homeserver
from orchestrator.doctor.host import check_host
from orchestrator.doctor.messages_api import check_messages_api
from orchestrator.errors import ConfigError
from orchestrator.room_secret import load_room_secrets, uncovered_secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminationPlan:
    """What `orchestrator doctor` was asked for.

    `load` reads the configuration; None: there is none. `is_embedded`: it is for the embedded
    homeserver, which needs no login and no key to be set. `state_dir` None: the configuration's.
    """

    load: Callable[[], Config] | None
    is_embedded: bool
    state_dir: Path | None


async def examine(plan: ExaminationPlan) -> Sequence[Check]:
    """Each check, whatever the others found."""
    config, found = _read_config(plan)
    secrets, problem = _read_secrets()
    found += problem
    state_dir = (plan.state_dir or (config.state_dir if config else DEFAULT_STATE_DIR)).absolute()
    found += check_host(config, state_dir)
    found += await check_engine_and_image(config)
    found += _check_room_secrets(config)
    if config is not None and not plan.is_embedded and secrets is not None:
        found += await check_homeserver(config.matrix, secrets, state_dir, wall=time.time)
    if secrets is not None:
        found.append(await _check_api(config, secrets, is_embedded=plan.is_embedded))
    return found


def _read_config(plan: ExaminationPlan) -> tuple[Config | None, list[Check]]:
    if plan.load is None:
        return None, [passed("configuration", "none: the embedded homeserver")]
    try:
        config = plan.load()
    except ConfigError as e:
        mend = "mend the file; docs/configuration.md and docs/config.example.yaml have every key"
        return None, [failed("configuration", problem, mend) for problem in e.problems]
    where = ", for the embedded homeserver" if plan.is_embedded else ""
    return config, [passed("configuration", f"valid{where}")]


def _read_secrets() -> tuple[Secrets | None, list[Check]]:
    try:
        return load_secrets(), []
    except ConfigError as e:
        mend = "set each secret one way: NAME, or NAME_FILE=/path of a file that has it"
        return None, [failed("secrets", problem, mend) for problem in e.problems]


def _check_room_secrets(config: Config | None) -> list[Check]:
    """Whether what rooms have in name only is there, and would arrive; no value is shown."""
    name = "room secrets"
    if config is None:
        return []
    try:
        held = len(load_room_secrets(config).by_variable)
    except ConfigError as e:
        mend = "set it where the orchestrator runs; docs/security/secrets.md says how"
        found = [failed(name, problem, mend) for problem in e.problems]
    else:
        found = [passed(name, f"{held} read" if held else "none is named")]
    mend = "cover the host below egress.allow, and below egress.intercept where it speaks TLS"
    return [*found, *(warned(name, line, mend) for line in uncovered_secrets(config))]


async def _check_api(config: Config | None, secrets: Secrets, *, is_embedded: bool) -> Check:
    credential = find_credential(secrets)
    if credential is None and is_embedded:
        mend = "export ANTHROPIC_API_KEY=… for real answers"
        return warned("messages api", "no credential: the offline model answers", mend)
    upstream = config.anthropic.upstream if config else given_upstream(os.environ)
    return await check_messages_api(upstream.rstrip("/"), credential)
