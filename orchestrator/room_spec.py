"""A room's runner as the configuration wants it now.

Pure, and the one place: who starts a runner and who audits it can't want different things.
"""

from __future__ import annotations

from orchestrator.config import Config
from orchestrator.core.cli_policy import policy_dir_name, render_policy
from orchestrator.core.id_plan import RoomIds
from orchestrator.core.naming import runner_name
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
    ids: RoomIds,
    dirs: RoomDirs,
    generation: int,
) -> SandboxSpec:
    """The specification; `dirs` without symlinks."""
    profile = config.profile(room.room_id, room.alias, room.former)
    policy = render_policy(profile.project.policy())
    return SandboxSpec(
        name=runner_name(installation, room.slug),
        installation=installation,
        slug=room.slug,
        generation=generation,
        image=image,
        uid=ids.uid,
        gid=ids.uid,
        workspace=dirs.workspace,
        home=dirs.home,
        egress_dir=dirs.egress,
        limits=profile.limits.limits(),
        runtime=config.docker.runtime,
        policy_dir=None if policy is None else dirs.egress.parent / policy_dir_name(policy),
    )
