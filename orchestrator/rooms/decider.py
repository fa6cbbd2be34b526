"""Who may decide what an agent asks for."""

from __future__ import annotations

from functools import partial

from orchestrator.config import Config
from orchestrator.core.approval import Deciders
from orchestrator.core.command import Permission
from orchestrator.rooms.people import People
from orchestrator.store.store import Store


def build_deciders(config: Config, store: Store) -> Deciders:
    """Who may decide, by the configuration; agents never may, whatever it says."""
    people = People.build(config, store)
    return Deciders(
        me=config.matrix.user_id,
        agents=config.agent_accounts,
        is_approver=partial(people.may, Permission.DECIDE),
        has_any=config.roles.names_any(Permission.DECIDE),
    )
