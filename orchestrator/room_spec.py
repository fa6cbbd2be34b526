"""A room's runner as the configuration wants it now.

Pure, and the one place: who starts a runner and who audits it can't want different things.
"""

from __future__ import annotations

from orchestrator.config import Config
from orchestrator.core.naming import room_uid, runner_name
from orchestrator.core.sandbox import SandboxSpec
from orchestrator.model import InstallationId
from orchestrator.runners.workdir import RoomDirs
from orchestrator.store.api import RoomRow


def build_room_spec(
    room: RoomRow,
    *,
    config: Config,
    installation: InstallationId,
    image: str,
    dirs: RoomDirs,
    generation: int,
) -> SandboxSpec:
    """The specification; `dirs` without symlinks."""
    uid = room_uid(installation, room.index)
    profile = config.profile(room.room_id, room.alias, room.former)
    return SandboxSpec(
        name=runner_name(installation, room.slug),
        installation=installation,
        slug=room.slug,
        generation=generation,
        image=image,
        uid=uid,
        gid=uid,
        workspace=dirs.workspace,
        home=dirs.home,
        egress_dir=dirs.egress,
        limits=profile.limits.limits(),
        runtime=config.docker.runtime,
    )
