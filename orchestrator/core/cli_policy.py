"""What a room's CLI honours of the configuration in its workspace: decided here, once per room.

Rules: the CLI reads no settings, servers or plugins of a workspace or a home by itself. What a room
honours is taken out by the image's launcher, kind by kind, and given to the CLI at its start; the
managed settings, the CLI's highest level, then refuse what is not honoured a second time. Those of
the image refuse everything; a room that honours what they refuse gets its own over them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from orchestrator.model import JsonObject

POLICY: Final = "/etc/claude-code"
"""Where the CLI looks for managed settings, in the runner."""
LAUNCHER: Final = ("/usr/bin/python3", "-I", "-S", "/opt/aiagentchat/launcher")
"""Isolated: nothing in the home or the workspace is imported before the CLI runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectPolicy:
    """The kinds of a workspace's configuration that count in a room. As given here: the default."""

    claude_md: bool = True
    hooks: bool = False
    mcp_servers: bool = False
    permission_rules: bool = False
    environment: bool = False
    plugins: bool = False

    @property
    def loosens(self) -> bool:
        """Whether the image's managed settings would refuse what this room honours."""
        return self.hooks or self.permission_rules or self.plugins


NOTHING_MORE: Final = ProjectPolicy()
"""CLAUDE.md, which is text, and nothing else."""


def build_managed_settings(project: ProjectPolicy) -> JsonObject:
    """The managed settings of a room. Of one that honours nothing: those of the image."""
    settings: JsonObject = {
        "cleanupPeriodDays": 365,
        "env": {
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "DISABLE_TELEMETRY": "1",
        },
    }
    if not project.hooks:
        settings["allowManagedHooksOnly"] = True
    if not project.permission_rules:
        settings["allowManagedPermissionRulesOnly"] = True
    if not project.plugins:
        settings["strictKnownMarketplaces"] = []
    elif not project.hooks:
        # A plugin has two more ways to run a command that nobody was asked about.
        settings["disableSkillShellExecution"] = True
        settings["disableCommandPluginSources"] = True
    return settings


def render_policy(project: ProjectPolicy) -> str | None:
    """The text of a room's own managed settings; None where the image's are right."""
    if not project.loosens:
        return None
    return json.dumps(build_managed_settings(project), indent=2, sort_keys=True) + "\n"


def policy_dir_name(text: str) -> str:
    """The directory that holds these settings, in a room's: another text has another name."""
    return f"policy-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def build_launcher(project: ProjectPolicy) -> list[str]:
    """What goes before the CLI's command line; nothing in a room that honours nothing."""
    kinds = {
        "environment": project.environment,
        "hooks": project.hooks,
        "mcp_servers": project.mcp_servers,
        "permission_rules": project.permission_rules,
        "plugins": project.plugins,
    }
    honoured = [kind for kind, counts in kinds.items() if counts]
    return [*LAUNCHER, ",".join(honoured)] if honoured else []
