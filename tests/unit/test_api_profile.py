"""A profile's `api` and `budget` reach the room's door as what they say, and nothing as nothing."""

from __future__ import annotations

import typing
from dataclasses import asdict

from orchestrator.core.api_policy import ApiPolicy, ServerTool
from orchestrator.housing import _api_policy, _budget
from orchestrator.room_profile import ApiConfig, BudgetConfig
from orchestrator.room_profile import ServerTool as ToolName


def test_the_profile_and_the_policy_know_the_same_tools() -> None:
    assert set(typing.get_args(ToolName)) == {str(tool) for tool in ServerTool}


def test_a_profile_that_says_nothing_opens_nothing() -> None:
    assert _api_policy(ApiConfig()) == ApiPolicy()
    assert not any(list(asdict(ApiPolicy()).values())[:3])
    assert _budget(BudgetConfig()) is None


def test_each_key_of_a_profile_is_in_the_policy() -> None:
    config = ApiConfig.model_validate(
        {"server_tools": ["mcp"], "betas": ["b-1"], "fields": ["thread"], "max_body": "1m"}
    )
    assert _api_policy(config) == ApiPolicy(
        server_tools=frozenset({ServerTool.MCP}),
        betas=frozenset({"b-1"}),
        fields=frozenset({"thread"}),
        max_body_bytes=1 << 20,
    )
    assert _budget(BudgetConfig(usd_per_day=2.5)) == 2_500_000
