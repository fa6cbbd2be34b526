"""Who may decide what an agent asks for."""

from __future__ import annotations

from orchestrator.config import Config
from orchestrator.core.approval import Deciders


def build_deciders(config: Config) -> Deciders:
    """Who may decide, by the configuration; agents never may, whatever it says."""
    me = config.matrix.user_id
    agents = frozenset(a.user_id for a in config.agents.values() if a.user_id is not None)
    named = {*config.access.admins, *config.access.approvers} - {me} - agents
    return Deciders(
        me=me, agents=agents, is_approver=config.access.is_approver, has_any=bool(named)
    )
