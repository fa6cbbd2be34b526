"""The Docker Engine: there, able to keep rooms apart, and with the runner image."""

from __future__ import annotations

import shlex

from orchestrator.config import Config
from orchestrator.core.diagnosis import Check, failed, passed, warned
from orchestrator.errors import AiAgentChatError, EngineUnavailableError, ImageMissingError
from orchestrator.runners.engine import Engine, open_engine
from orchestrator.runners.engine_check import check_engine
from orchestrator.runners.image import find_image

_START = "start it (systemctl start docker), or set DOCKER_HOST"


async def check_engine_and_image(config: Config | None) -> list[Check]:
    """All of it; without a configuration as an empty one would have it."""
    runtime = config.docker.runtime if config else None
    profiles = (config.defaults, *config.rooms.values()) if config else ()
    least_pids = min((profile.limits.pids for profile in profiles), default=512)
    try:
        async with open_engine(None) as engine:
            checked = await check_engine(engine, runtime=runtime, least_pids=least_pids)
            weak = [
                warned("docker engine", text, "see docs/security/engines.md")
                for text in checked.weaknesses
            ]
            image = await _check_image(engine, config.docker.image if config else None)
            return [passed("docker engine", checked.describe()), *weak, image]
    except EngineUnavailableError as e:
        return [failed("docker engine", str(e), _START)]
    except AiAgentChatError as e:
        return [failed("docker engine", str(e), "see docs/security/engines.md")]


async def _check_image(engine: Engine, reference: str | None) -> Check:
    try:
        found = await find_image(engine, reference)
    except ImageMissingError as e:
        if reference is not None:
            return failed("runner image", str(e), f"docker pull {shlex.quote(reference)}")
        mend = "orchestrator image build (or the first start builds it, which takes some minutes)"
        return warned("runner image", "not built yet", mend)
    except AiAgentChatError as e:
        return failed("runner image", str(e), "docker info")
    return passed("runner image", found.removeprefix("sha256:")[:12])
