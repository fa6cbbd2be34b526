"""What one room may ask of the Messages API besides plain messages, and which names that opens.

The API can act for a room on its own servers: search and fetch the web, run code, call a remote MCP
server, open a URL, read a stored file. No proxy of ours sees any of it, so each is a way out, and
each is closed until the room's profile names it (`api.server_tools`). Here stands, by exact name,
what a name of the profile opens. A version that is on no list stays closed in every room: what it
does is not known.

The names were read from the API's published types (the Python SDK `anthropic` 2.10.0, November
2026); docs/security/api.md has them in a table, with what is closed always.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.egress_http import MAX_BODY_BYTES


class ServerTool(StrEnum):
    """What the API can do for a room on its own servers."""

    WEB_SEARCH = "web_search"
    WEB_FETCH = "web_fetch"
    CODE_EXECUTION = "code_execution"
    MCP = "mcp"
    FILES = "files"
    URLS = "urls"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiPolicy:
    """By default nothing but plain messages is allowed."""

    server_tools: frozenset[ServerTool] = frozenset()
    betas: frozenset[str] = frozenset()
    """Allowed besides those that every room has."""
    fields: frozenset[str] = frozenset()
    """Top-level fields of a body, allowed besides those that every room has."""
    max_body_bytes: int = MAX_BODY_BYTES

    def __post_init__(self) -> None:
        if not 0 < self.max_body_bytes <= MAX_BODY_BYTES:
            msg = f"max_body_bytes must be from 1 to {MAX_BODY_BYTES}"
            raise ValueError(msg)

    def allows(self, needed: frozenset[ServerTool] | None) -> bool:
        """Whether all of `needed` are named; None (a name that is on no list) is never allowed."""
        return needed is not None and needed <= self.server_tools


_SEARCH = frozenset({ServerTool.WEB_SEARCH})
_FETCH = frozenset({ServerTool.WEB_FETCH})
_CODE = frozenset({ServerTool.CODE_EXECUTION})
_MCP = frozenset({ServerTool.MCP})
_FILES = frozenset({ServerTool.FILES})

TOOL_TYPES: Mapping[str, frozenset[ServerTool]] = {
    "web_search_20250305": _SEARCH,
    # From 2026 on, these filter what they found by code that they run.
    "web_search_20260209": _SEARCH | _CODE,
    "web_search_20260318": _SEARCH | _CODE,
    "web_fetch_20250910": _FETCH,
    "web_fetch_20260209": _FETCH | _CODE,
    "web_fetch_20260309": _FETCH | _CODE,
    "web_fetch_20260318": _FETCH | _CODE,
    "code_execution_20250522": _CODE,
    "code_execution_20250825": _CODE,
    "code_execution_20260120": _CODE,
    "code_execution_20260521": _CODE,
    "mcp_toolset": _MCP,
}
"""Types of tools that the API runs, and what a room must be allowed for each."""

CALL_NAMES: Mapping[str, frozenset[ServerTool]] = {
    # The model alone, under another name.
    "advisor": frozenset(),
    "web_search": _SEARCH,
    "web_fetch": _FETCH,
    "code_execution": _CODE,
    "bash_code_execution": _CODE,
    "text_editor_code_execution": _CODE,
}
"""Names in `server_tool_use` blocks: calls that the API has made, as the history tells them."""

BLOCK_TYPES: Mapping[str, frozenset[ServerTool]] = {
    "web_search_tool_result": _SEARCH,
    "web_search_result": _SEARCH,
    "web_search_tool_result_error": _SEARCH,
    "web_fetch_tool_result": _FETCH,
    "web_fetch_result": _FETCH,
    "web_fetch_tool_result_error": _FETCH,
    "code_execution_tool_result": _CODE,
    "code_execution_result": _CODE,
    "code_execution_output": _CODE,
    "code_execution_tool_result_error": _CODE,
    "encrypted_code_execution_result": _CODE,
    "bash_code_execution_tool_result": _CODE,
    "bash_code_execution_result": _CODE,
    "bash_code_execution_output": _CODE,
    "bash_code_execution_tool_result_error": _CODE,
    "text_editor_code_execution_tool_result": _CODE,
    "text_editor_code_execution_view_result": _CODE,
    "text_editor_code_execution_create_result": _CODE,
    "text_editor_code_execution_str_replace_result": _CODE,
    "text_editor_code_execution_tool_result_error": _CODE,
    "mcp_tool_use": _MCP,
    "mcp_tool_result": _MCP,
    "mcp_tool_listing": _MCP,
    # Puts a stored file into the container where code runs.
    "container_upload": _FILES | _CODE,
}
"""Content blocks, and what a room must be allowed for each."""

OUTPUT_TYPES = frozenset({"code_execution_output", "bash_code_execution_output"})
"""Blocks whose `file_id` names what the room's own code wrote; only the history repeats it."""

SOURCE_TYPES: Mapping[str, frozenset[ServerTool]] = {
    "url": frozenset({ServerTool.URLS}),
    "file": _FILES,
}
"""Sources of images and documents that are not in the request itself."""

TOOL_CHANGES: Mapping[str, frozenset[ServerTool]] = {
    "tool_reference": frozenset(),
    "tool_definition": frozenset(),
    "mcp_tool_reference": _MCP,
    "mcp_toolset_reference": _MCP,
}
"""What a tool may be named by that is added or removed in the middle of a conversation."""

FIELDS: Mapping[str, frozenset[ServerTool]] = {"mcp_servers": _MCP, "container": _CODE}
"""Top-level fields that belong to a tool: naming them in `api.fields` does not open them."""

STORED: Mapping[str, frozenset[ServerTool]] = {
    "file_id": _FILES,
    "file_ids": _FILES,
    "container": _CODE,
    "container_id": _CODE,
    "mcp_server_name": _MCP,
}
"""Keys that name something which is kept at the API or reached from there."""

BETAS: Mapping[str, frozenset[ServerTool]] = {
    "web-search-2025-03-05": _SEARCH,
    "web-search-results-only-2026-11-15": _SEARCH,
    "web-fetch-2025-09-10": _FETCH,
    "code-execution-2025-05-22": _CODE,
    "code-execution-2025-08-25": _CODE,
    "code-execution-web-tools-2026-02-09": _CODE,
    "mcp-client-2025-04-04": _MCP,
    "mcp-client-2025-11-20": _MCP,
    "mcp-client-2026-09-15": _MCP,
    "mcp-servers-2025-12-04": _MCP,
    "files-api-2025-04-14": _FILES,
}
"""Betas that come with a tool."""


def build_policy(
    *,
    server_tools: Iterable[str] = (),
    betas: Iterable[str] = (),
    fields: Iterable[str] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
) -> ApiPolicy:
    """The policy of a profile's words.

    Raises:
        ValueError: a tool that there is not, or a size that is out of range.
    """
    return ApiPolicy(
        server_tools=frozenset(ServerTool(name) for name in server_tools),
        betas=frozenset(betas),
        fields=frozenset(fields),
        max_body_bytes=max_body_bytes,
    )


def encode_policy(policy: ApiPolicy) -> bytes:
    """The policy as bytes, for the process that checks large bodies."""
    lists = [sorted(policy.server_tools), sorted(policy.betas), sorted(policy.fields)]
    return json.dumps([*lists, policy.max_body_bytes]).encode()


def decode_policy(raw: bytes) -> ApiPolicy:
    """The inverse of `encode_policy`.

    Raises:
        ValueError: it is nothing that `encode_policy` makes.
    """
    try:
        tools, betas, fields, size = json.loads(raw)
        return build_policy(server_tools=tools, betas=betas, fields=fields, max_body_bytes=size)
    except TypeError as e:
        msg = "not a policy"
        raise ValueError(msg) from e
