"""The engine's part of a start: is it good enough, is the image there, which uids do rooms have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import Config
from orchestrator.core.id_plan import IdPlan
from orchestrator.model import InstallationId
from orchestrator.runners.engine import Engine
from orchestrator.runners.engine_check import check_engine
from orchestrator.runners.image import Base, ensure_image, find_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Lodging:
    """What every room's runner is made with on this engine."""

    image_id: str
    ids: IdPlan


async def prepare_engine(
    engine: Engine,
    config: Config,
    installation: InstallationId,
    *,
    state_dir: Path,
    base: Base,
    say: Callable[[str], None],
) -> Lodging:
    """Check the engine before anything is built on it; build the image where it is missing.

    Raises:
        PreconditionError: the engine, the runtime or the image can't be used; says what to do.
        EngineRequestError: the engine failed.
    """
    least_pids = min(p.limits.pids for p in (config.defaults, *config.rooms.values()))
    checked = await check_engine(engine, runtime=config.docker.runtime, least_pids=least_pids)
    if config.docker.image is not None:
        image_id = await find_image(engine, config.docker.image)
    else:
        image_id = await ensure_image(engine, base=base, on_line=say)
    ids = await checked.find_ids(installation=installation, image=image_id, state_dir=state_dir)
    for weakness in checked.weaknesses:
        say(f"Warning: {weakness}")
    say(checked.describe())
    return Lodging(image_id=image_id, ids=ids)
