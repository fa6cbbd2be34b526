"""A profile's `api` and `budget` reach the room's door as what they say, and nothing as nothing."""

from __future__ import annotations

import typing
from dataclasses import asdict

from orchestrator.core.api_policy import ApiPolicy, ServerTool
from orchestrator.core.proxy_policy import ProxyPolicy
from orchestrator.room_profile import ApiConfig, BudgetConfig, EgressConfig
from orchestrator.room_profile import ServerTool as ToolName


def test_the_profile_and_the_policy_know_the_same_tools() -> None:
    assert set(typing.get_args(ToolName)) == {str(tool) for tool in ServerTool}


def test_a_profile_that_says_nothing_opens_nothing() -> None:
    assert ApiConfig().policy() == ApiPolicy()
    assert not any(list(asdict(ApiPolicy()).values())[:3])
    assert BudgetConfig().micro_usd_per_day is None


def test_the_profiles_defaults_for_other_hosts_are_the_proxys() -> None:
    assert EgressConfig().policy() == ProxyPolicy()


def test_each_key_of_a_profile_is_in_the_policy() -> None:
    config = ApiConfig.model_validate(
        {"server_tools": ["mcp"], "betas": ["b-1"], "fields": ["thread"], "max_body": "1m"}
    )
    assert config.policy() == ApiPolicy(
        server_tools=frozenset({ServerTool.MCP}),
        betas=frozenset({"b-1"}),
        fields=frozenset({"thread"}),
        max_body_bytes=1 << 20,
    )
    assert BudgetConfig(usd_per_day=2.5).micro_usd_per_day == 2_500_000
