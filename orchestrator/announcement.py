"""What `orchestrator up` says once it is ready: where it is, and what to type next."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import DEFAULT_STATE_DIR, Config
from orchestrator.core import texts
from orchestrator.embedded.homeserver import EmbeddedHomeserver, write_embedded_json
from orchestrator.model import UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What it is about."""

    config: Config
    me: UserId
    embedded: EmbeddedHomeserver | None
    state_dir: Path
    offline: bool


async def announce(ready: Announcement, in_step: asyncio.Event, say: Callable[[str], None]) -> None:
    """Say that it is ready, once it is: what is sent from now on is answered."""
    await in_step.wait()
    embedded = ready.embedded
    if embedded is None:
        say(f"Ready: {ready.me} on {ready.config.matrix.homeserver}.")
        return
    path = write_embedded_json(ready.state_dir, embedded)
    for line in texts.embedded_banner(
        homeserver=embedded.base_url,
        room=embedded.room_alias,
        user_id=embedded.user_id,
        password=embedded.user_password,
        agent=embedded.agent_user_id,
        limit_lifted=embedded.limit_lifted,
        offline=ready.offline,
        permissions=ready.config.defaults.permissions,
        file=str(path),
        cchat=cchat_command(ready.state_dir),
    ):
        say(line)


def cchat_command(state_dir: Path) -> str:
    """How to call cchat from where the user stands."""
    program = Path(sys.executable).parent / "cchat"
    here = Path.cwd()
    shown = program.relative_to(here) if program.is_relative_to(here) else program
    option = [] if state_dir == here / DEFAULT_STATE_DIR else ["--state-dir", str(state_dir)]
    return shlex.join([str(shown), *option])
