"""What a room honours of its workspace's configuration: each kind alone, and none by default."""

from __future__ import annotations

import itertools
import json
from dataclasses import fields, replace

import pytest

from launcher.honoured import KINDS
from orchestrator.core.cli_policy import (
    NOTHING_MORE,
    ProjectPolicy,
    build_launcher,
    build_managed_settings,
    render_policy,
)
from orchestrator.room_profile import ProjectConfig
from orchestrator.runners.image import image_dir

LOCKS = {
    "hooks": "allowManagedHooksOnly",
    "permission_rules": "allowManagedPermissionRulesOnly",
    "plugins": "strictKnownMarketplaces",
}
EVERY = [
    ProjectPolicy(**dict(zip(KINDS, values, strict=True)))
    for values in itertools.product((False, True), repeat=len(KINDS))
]


def test_by_default_nothing_but_claude_md_counts() -> None:
    assert ProjectConfig().policy() == NOTHING_MORE
    assert (
        ProjectPolicy(
            claude_md=True,
            hooks=False,
            mcp_servers=False,
            permission_rules=False,
            environment=False,
            plugins=False,
        )
        == NOTHING_MORE
    )
    assert build_launcher(NOTHING_MORE) == []
    assert render_policy(NOTHING_MORE) is None


@pytest.mark.parametrize("name", [field.name for field in fields(ProjectPolicy)])
def test_each_key_of_the_configuration_is_its_own_and_no_other_kind(name: str) -> None:
    value = not getattr(NOTHING_MORE, name)
    assert ProjectConfig(**{name: value}).policy() == replace(NOTHING_MORE, **{name: value})


def test_what_honours_nothing_has_the_managed_settings_of_the_image() -> None:
    image = json.loads((image_dir() / "managed-settings.json").read_text())
    assert build_managed_settings(NOTHING_MORE) == image


@pytest.mark.parametrize("project", EVERY)
def test_the_managed_settings_refuse_each_kind_that_is_not_honoured(project: ProjectPolicy) -> None:
    settings = build_managed_settings(project)
    for kind, lock in LOCKS.items():
        assert (lock in settings) is not getattr(project, kind), lock
        assert settings.get(lock) in (None, True, [])
    assert "permissions" not in settings
    assert "hooks" not in settings


@pytest.mark.parametrize("project", EVERY)
def test_a_room_has_a_policy_of_its_own_exactly_where_the_images_would_refuse(
    project: ProjectPolicy,
) -> None:
    differs = build_managed_settings(project) != build_managed_settings(NOTHING_MORE)
    text = render_policy(project)
    assert (text is not None) is differs
    assert text is None or json.loads(text) == build_managed_settings(project)


@pytest.mark.parametrize("project", EVERY)
def test_the_launcher_is_told_what_is_honoured_and_nothing_else(project: ProjectPolicy) -> None:
    wanted = [kind for kind in KINDS if getattr(project, kind)]
    words = build_launcher(project)
    assert (words[-1].split(",") if words else []) == wanted


def test_plugins_without_hooks_bring_no_command_by_the_back_door() -> None:
    settings = build_managed_settings(ProjectPolicy(plugins=True))
    assert settings["disableSkillShellExecution"] is True
    assert settings["disableCommandPluginSources"] is True
