"""What is taken out of a workspace's configuration: the kinds that a room honours, key by key.

Rules: what is not named here is not taken, whatever a later CLI makes of it; a file that can't be
read counts as absent, and a note says so; one kind never brings another. The CLI itself reads none
of these files (`--setting-sources ""`, `--strict-mcp-config`).
"""

from __future__ import annotations

import json
import re

from launcher.workspace import UnreadableError

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Reader = Callable[..., dict[str, Any] | None]

KINDS = ("environment", "hooks", "mcp_servers", "permission_rules", "plugins")
_SETTINGS = ((".claude", "settings.json"), (".claude", "settings.local.json"))
"""The later one goes before the earlier, as the CLI has it."""
_RULES = ("allow", "ask", "deny")
_SERVER_TYPES = (None, "stdio", "http", "sse")
# One argument of a program may have 128 KiB.
_MAX_ARGUMENT_BYTES = 96 * 1024
_MAX_VARIABLES = 64
_MAX_VALUE = 4096
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# What decides where the CLI goes, as whom and with which programs, and what is loaded into programs
# before they run. No such list is complete: a variable can be as strong as a hook.
_RESERVED_STARTS = (
    "AIAGENTCHAT_", "ANTHROPIC_", "API_", "AWS_", "AZURE_", "BASH", "BUN_", "CCR_", "CLAUDE",
    "CLOUD_ML_", "DISABLE_", "DOTNET_", "ENABLE_", "GCE_", "GCLOUD_", "GIT_", "GOOGLE_", "JAVA_",
    "JDK_", "LD_", "MCP_", "NODE_", "NPM_", "OTEL_", "PERL", "PIP_", "PYTHON", "RUBY", "SSH_",
    "SSL_", "VERTEX_", "XDG_",
)  # fmt: skip
_RESERVED_ENDS = ("_PROXY", "_CA_BUNDLE", "_CA_CERTS", "_CERT_FILE", "_BASE_URL")
_RESERVED = (
    "BROWSER", "EDITOR", "ENV", "GLIBC_TUNABLES", "GCONV_PATH", "HOME", "IFS", "IS_SANDBOX",
    "LESSOPEN", "LESSCLOSE", "LOCPATH", "MANPAGER", "PAGER", "PATH", "PROMPT_COMMAND", "PS4",
    "PWD", "SHELL", "SHELLOPTS", "TEMP", "TMP", "TMPDIR", "USER", "VISUAL", "ZDOTDIR",
)  # fmt: skip


class Additions:
    """What the CLI gets besides its own arguments and variables."""

    __slots__ = ("arguments", "environment", "notes")

    def __init__(self) -> None:
        self.arguments: list[str] = []
        self.environment: dict[str, str] = {}
        self.notes: list[str] = []
        """What was not taken and why; nothing of any file's content."""


def parse_kinds(text: str) -> frozenset[str]:
    """The kinds of a list with commas.

    Raises:
        ValueError: one is unknown.
    """
    kinds = frozenset(text.split(","))
    unknown = sorted(kinds.difference(KINDS))
    if unknown:
        msg = f"unknown kind: {unknown[0]!r}"
        raise ValueError(msg)
    return kinds


def build_additions(kinds: frozenset[str], read: Reader, environ: Mapping[str, str]) -> Additions:
    """What the CLI is given of a workspace. Pure, but for `read`."""
    added = Additions()
    layers = [_read(read, path, added) for path in _SETTINGS] if kinds - {"mcp_servers"} else []
    settings: dict[str, Any] = {}
    if "hooks" in kinds:
        _put(settings, "hooks", _hooks(layers))
    if "permission_rules" in kinds:
        _put(settings, "permissions", _rules(layers))
    if "plugins" in kinds:
        for key in ("enabledPlugins", "extraKnownMarketplaces"):
            _put(settings, key, _merged(layers, key))
    if settings:
        _add(added, "--settings", settings)
    if "mcp_servers" in kinds:
        servers = _servers(_read(read, (".mcp.json",), added))
        if servers:
            _add(added, "--mcp-config", {"mcpServers": servers})
    if "environment" in kinds:
        added.environment = _variables(_merged(layers, "env"), environ, added)
    return added


def is_reserved(name: str) -> bool:
    """Whether a workspace may never set this variable; case is no way around it."""
    upper = name.upper()
    return (
        upper in _RESERVED or upper.startswith(_RESERVED_STARTS) or upper.endswith(_RESERVED_ENDS)
    )


def _read(read: Reader, path: tuple[str, ...], added: Additions) -> dict[str, Any]:
    try:
        return read(*path) or {}
    except UnreadableError as e:
        added.notes.append(f"{'/'.join(path)} does not count: {e}")
        return {}


def _add(added: Additions, flag: str, value: dict[str, Any]) -> None:
    # ASCII, so that a lone surrogate is no reason to fail.
    text = json.dumps(value)
    if len(text) > _MAX_ARGUMENT_BYTES:
        added.notes.append(f"what {flag} would bring does not count: it is too long")
        return
    added.arguments += [flag, text]


def _put(settings: dict[str, Any], key: str, value: dict[str, Any]) -> None:
    if value:
        settings[key] = value


def _merged(layers: list[dict[str, Any]], key: str) -> dict[str, Any]:
    parts = [layer.get(key) for layer in layers]
    return {k: v for part in parts if isinstance(part, dict) for k, v in part.items()}


def _hooks(layers: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for layer in layers:
        hooks = layer.get("hooks")
        for event, matchers in hooks.items() if isinstance(hooks, dict) else ():
            if isinstance(matchers, list):
                found.setdefault(event, []).extend(matchers)
    return found


def _rules(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """The lists of rules alone: no default mode, no more directories, no prompt that is skipped."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        permissions = layer.get("permissions")
        if not isinstance(permissions, dict):
            continue
        for key in _RULES:
            rules = permissions.get(key)
            if isinstance(rules, list):
                found.setdefault(key, []).extend(r for r in rules if isinstance(r, str))
    return {key: rules for key, rules in found.items() if rules}


def _servers(config: dict[str, Any]) -> dict[str, Any]:
    servers = config.get("mcpServers")
    if not isinstance(servers, dict):
        return {}
    return {
        name: server
        for name, server in servers.items()
        if isinstance(server, dict) and server.get("type") in _SERVER_TYPES
    }


def _variables(
    wanted: dict[str, Any], environ: Mapping[str, str], added: Additions
) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in wanted.items():
        if not _is_plain(name, value):
            added.notes.append("a variable does not count: its name or its value is not plain")
        elif name in environ or is_reserved(name):
            added.notes.append(f"the variable {name} is not a workspace's to set")
        elif len(found) < _MAX_VARIABLES:
            found[name] = value
    return found


def _is_plain(name: str, value: object) -> bool:
    if not _VARIABLE.fullmatch(name) or not isinstance(value, str):
        return False
    return len(value) <= _MAX_VALUE and "\0" not in value and value.isprintable()
