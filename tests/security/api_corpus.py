"""What a hostile room asks of the Messages API, by name: one row is one attempt.

The names of tools, blocks, sources, betas and paths are those of the API's published types (the
Python SDK `anthropic` 2.10.0) and of what the pinned CLI's binary holds.
"""

from __future__ import annotations

import json

from orchestrator.core.api_policy import ServerTool
from orchestrator.model import JsonObject, JsonValue
from tests.support.egress import build_body

Needed = frozenset[ServerTool]

SEARCH = frozenset({ServerTool.WEB_SEARCH})
FETCH = frozenset({ServerTool.WEB_FETCH})
CODE = frozenset({ServerTool.CODE_EXECUTION})
MCP = frozenset({ServerTool.MCP})
FILES = frozenset({ServerTool.FILES})
URLS = frozenset({ServerTool.URLS})

URL = "https://evil.example/?secret"


def _tool(**tool: JsonValue) -> bytes:
    return build_body(tools=[{"name": "t", **tool}])


def _said(*blocks: JsonValue, role: str = "assistant") -> bytes:
    return build_body(messages=[{"role": role, "content": list(blocks)}])


def _shown(*blocks: JsonValue) -> bytes:
    return _said(*blocks, role="user")


def _called(name: str) -> JsonObject:
    return {"type": "server_tool_use", "id": "srvtoolu_1", "name": name, "input": {}}


def _result(kind: str, content: JsonValue) -> JsonObject:
    return {"type": kind, "tool_use_id": "srvtoolu_1", "content": content}


def _source(block: str, **source: JsonValue) -> JsonObject:
    return {"type": block, "source": dict(source)}


_PAGE: JsonObject = {
    "type": "web_fetch_result",
    "url": URL,
    "retrieved_at": "2026-11-01T00:00:00Z",
    "content": {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "page"},
    },
}
_RAN: JsonObject = {
    "type": "bash_code_execution_result",
    "stdout": "",
    "stderr": "",
    "return_code": 0,
    "content": [{"type": "bash_code_execution_output", "file_id": "file_1"}],
}
_SERVER: JsonObject = {
    "type": "url",
    "name": "m",
    "url": URL,
    "authorization_token": "t",
}

# Allowed in a room whose profile names exactly these tools, refused in any that lacks one of them.
OPENED: list[tuple[str, bytes, Needed]] = [
    ("the tool web_search_20250305", _tool(type="web_search_20250305"), SEARCH),
    (
        "the tool web_search_20260209, which runs code",
        _tool(type="web_search_20260209"),
        SEARCH | CODE,
    ),
    (
        "the tool web_search_20260318, which runs code",
        _tool(type="web_search_20260318"),
        SEARCH | CODE,
    ),
    ("the tool web_fetch_20250910", _tool(type="web_fetch_20250910"), FETCH),
    (
        "the tool web_fetch_20260209, which runs code",
        _tool(type="web_fetch_20260209"),
        FETCH | CODE,
    ),
    (
        "the tool web_fetch_20260309, which runs code",
        _tool(type="web_fetch_20260309"),
        FETCH | CODE,
    ),
    (
        "the tool web_fetch_20260318, which runs code",
        _tool(type="web_fetch_20260318"),
        FETCH | CODE,
    ),
    ("the tool code_execution_20250522", _tool(type="code_execution_20250522"), CODE),
    ("the tool code_execution_20250825", _tool(type="code_execution_20250825"), CODE),
    ("the tool code_execution_20260120", _tool(type="code_execution_20260120"), CODE),
    ("the tool code_execution_20260521", _tool(type="code_execution_20260521"), CODE),
    ("the tool mcp_toolset", _tool(type="mcp_toolset", mcp_server_name="m"), MCP),
    ("the field mcp_servers", build_body(mcp_servers=[_SERVER]), MCP),
    ("the field container by id", build_body(container="container_1"), CODE),
    ("the field container as an object", build_body(container={"id": "container_1"}), CODE),
    ("a search in the history", _said(_called("web_search")), SEARCH),
    ("a fetch in the history", _said(_called("web_fetch")), FETCH),
    ("code in the history", _said(_called("code_execution")), CODE),
    ("a shell call in the history", _said(_called("bash_code_execution")), CODE),
    ("an editor call in the history", _said(_called("text_editor_code_execution")), CODE),
    (
        "found pages in the history",
        _said(_result("web_search_tool_result", [{"type": "web_search_result", "url": URL}])),
        SEARCH,
    ),
    (
        "a failed search in the history",
        _said(_result("web_search_tool_result", {"type": "web_search_tool_result_error"})),
        SEARCH,
    ),
    ("a fetched page in the history", _said(_result("web_fetch_tool_result", _PAGE)), FETCH),
    (
        "a failed fetch in the history",
        _said(_result("web_fetch_tool_result", {"type": "web_fetch_tool_result_error"})),
        FETCH,
    ),
    (
        "a code's output in the history",
        _said(
            _result("code_execution_tool_result", {"type": "code_execution_result", "content": []})
        ),
        CODE,
    ),
    (
        "a code's sealed output in the history",
        _said(
            _result(
                "code_execution_tool_result",
                {
                    "type": "encrypted_code_execution_result",
                    "content": [{"type": "code_execution_output", "file_id": "file_1"}],
                },
            )
        ),
        CODE,
    ),
    (
        "a shell's output in the history",
        _said(_result("bash_code_execution_tool_result", _RAN)),
        CODE,
    ),
    (
        "an edited file in the history",
        _said(
            _result(
                "text_editor_code_execution_tool_result",
                {
                    "type": "text_editor_code_execution_view_result",
                    "content": "text",
                    "file_type": "text",
                },
            )
        ),
        CODE,
    ),
    (
        "a remote MCP call in the history",
        _said({"type": "mcp_tool_use", "id": "1", "name": "n", "server_name": "m", "input": {}}),
        MCP,
    ),
    (
        "a remote MCP result in the history",
        _said(_result("mcp_tool_result", [{"type": "text", "text": "a"}])),
        MCP,
    ),
    (
        "a listing of remote MCP tools in the history",
        _said(
            {
                "type": "mcp_tool_listing",
                "mcp_server_name": "m",
                "tools": [{"name": "n", "input_schema": {}}],
            }
        ),
        MCP,
    ),
    (
        "a remote MCP tool added in the middle",
        _shown(
            {
                "type": "tool_addition",
                "tool": {"type": "mcp_tool_reference", "name": "n", "server_name": "m"},
            }
        ),
        MCP,
    ),
    (
        "a remote MCP toolset removed in the middle",
        _shown(
            {"type": "tool_removal", "tool": {"type": "mcp_toolset_reference", "server_name": "m"}}
        ),
        MCP,
    ),
    (
        "a web search added in the middle",
        _shown(
            {
                "type": "tool_addition",
                "tool": {
                    "type": "tool_definition",
                    "definition": {"type": "web_search_20250305", "name": "web_search"},
                },
            }
        ),
        SEARCH,
    ),
    ("an image by url", _shown(_source("image", type="url", url=URL)), URLS),
    ("a document by url", _shown(_source("document", type="url", url=URL)), URLS),
    ("an image by file", _shown(_source("image", type="file", file_id="file_1")), FILES),
    ("a document by file", _shown(_source("document", type="file", file_id="file_1")), FILES),
    (
        "a url inside a tool's result",
        _shown(_result("tool_result", [_source("image", type="url", url=URL)])),
        URLS,
    ),
    (
        "a file inside a tool's result",
        _shown(_result("tool_result", [_source("document", type="file", file_id="file_1")])),
        FILES,
    ),
    (
        "a url inside a document of content",
        _shown(
            _source("document", type="content", content=[_source("image", type="url", url=URL)])
        ),
        URLS,
    ),
    (
        "a url in the system prompt",
        build_body(system=[_source("image", type="url", url=URL)]),
        URLS,
    ),
    (
        "a file put into a container",
        _shown({"type": "container_upload", "file_id": "file_1"}),
        FILES | CODE,
    ),
]

# Refused in every room, also in one whose profile names every tool.
CLOSED: list[tuple[str, bytes]] = [
    ("web search of a later date", _tool(type="web_search_20991231")),
    ("web fetch of a later date", _tool(type="web_fetch_20991231")),
    ("code execution of a later date", _tool(type="code_execution_20991231")),
    ("web search without a date", _tool(type="web_search")),
    ("web search in another case", _tool(type="WEB_SEARCH_20250305")),
    ("web search with a line end", _tool(type="web_search_20250305\n")),
    ("web search with a NUL", _tool(type="web_search_20250305\0")),
    ("a list of types", _tool(type=["web_search_20250305"])),
    ("a tool search by pattern, run at the API", _tool(type="tool_search_tool_regex_20251119")),
    ("a tool search by words, run at the API", _tool(type="tool_search_tool_bm25_20251119")),
    ("a tool search without a date", _tool(type="tool_search_tool_regex")),
    ("the toolset of a browser", _tool(type="browser_toolset_20260801")),
    ("the toolset of a computer", _tool(type="computer_toolset_20260801")),
    ("the tools of a managed agent", _tool(type="agent_toolset_20260401")),
    ("a tool that nobody knows", _tool(type="http_request_20270101")),
    ("a custom tool with a file", _tool(type="custom", file_id="file_1")),
    ("a custom tool with a container", _tool(container="container_1")),
    ("a custom tool with a server", _tool(mcp_server_name="m")),
    ("a web search with a container", _tool(type="web_search_20250305", container_id="c")),
    ("a schema by reference", _tool(input_schema={"$ref": URL})),
    ("a container with skills", build_body(container={"id": "c", "skills": [{"skill_id": "s"}]})),
    ("a container with a network", build_body(container={"networking": {"allow": ["*"]}})),
    ("a container that is a list", build_body(container=["c"])),
    ("a found tool in the history", _said(_result("tool_search_tool_result", {}))),
    ("a tool search in the history", _said(_called("tool_search_tool_regex"))),
    ("a call that nobody knows in the history", _said(_called("http_request"))),
    ("a call without a name in the history", _said({"type": "server_tool_use", "input": {}})),
    ("a block that nobody knows", _said({"type": "remote_text", "url": URL})),
    ("a browser's state", _shown({"type": "browser_state", "tabs": []})),
    ("a block without a type", _shown({"url": URL})),
    ("a block type that is a list", _shown({"type": ["image"]})),
    ("a source that nobody knows", _shown(_source("image", type="s3", url="s3://b/k"))),
    ("a source that nobody knows, inline", _shown(_source("image", type="s3", data="s3://b/k"))),
    ("a source type in another case", _shown(_source("image", type="URL", url=URL))),
    ("a source without a type", _shown(_source("image", url=URL))),
    ("a url beside inline data", _shown(_source("image", type="base64", data="", url=URL))),
    ("a file beside inline data", _shown(_source("image", type="base64", data="", file_id="f"))),
    ("a file beside a url", _shown(_source("image", type="url", url=URL, file_id="f"))),
    ("a header beside a url", _shown(_source("image", type="url", url=URL, headers={"a": "b"}))),
    ("a file beside text", _shown({"type": "text", "text": "a", "file_id": "file_1"})),
    ("a container beside text", _shown({"type": "text", "text": "a", "container": "c"})),
    (
        "a tool changed by url",
        _shown({"type": "tool_addition", "tool": {"type": "url", "url": URL}}),
    ),
    (
        "a message with a field that nobody knows",
        build_body(messages=[{"role": "user", "content": "a", "fetch": URL}]),
    ),
    ("a stored thread", build_body(thread={"type": "continue", "previous_message_id": "m"})),
    (
        "another payer",
        build_body(billing_policy={"type": "billing_policy", "bill_to": "user_profile"}),
    ),
    ("another region", build_body(inference_geo="us")),
    ("a compaction by its own field", build_body(compaction={"type": "enabled"})),
    ("a stored prompt", build_body(prompt_id="p_1")),
    ("a callback", build_body(webhook=URL)),
    ("an environment", build_body(environment_id="env_1")),
    ("a vault", build_body(vault_ids=["vlt_1"])),
    ("an agent", build_body(agent="agent_1")),
    ("a field in another case", build_body(MCP_servers=[])),
    ("an escaped field", b'{"messages":[],"prompt\\u005fid":"p"}'),
    (
        "an unknown tool twice, the bad one last",
        b'{"messages":[],"tools":[],"tools":[{"type":"http_20270101"}]}',
    ),
]

# What plain work needs; none of it makes the API call anybody or read what is stored there.
PLAIN: list[tuple[str, bytes]] = [
    ("a custom tool", _tool(type="custom", input_schema={"type": "object"})),
    ("a tool without a type", _tool(input_schema={})),
    ("the shell that the client runs", _tool(type="bash_20250124")),
    ("the editor that the client runs", _tool(type="text_editor_20250728")),
    ("the memory that the client keeps", _tool(type="memory_20250818")),
    ("the computer that the client has", _tool(type="computer_20250124")),
    ("an advisor, which is the model", _tool(type="advisor_20260301", model="claude-opus-5-5")),
    (
        "edits of the context",
        build_body(
            context_management={
                "edits": [
                    {"type": "clear_thinking_20251015", "keep": "all"},
                    {
                        "type": "clear_tool_uses_20250919",
                        "trigger": {"type": "tool_uses", "value": 5},
                    },
                    {"type": "compact_20260112"},
                ]
            }
        ),
    ),
    (
        "a document with citations",
        _shown(
            {
                **_source("document", type="text", media_type="text/plain", data="a"),
                "citations": {"enabled": True},
            }
        ),
    ),
    (
        "a citation of a found page",
        _said(
            {
                "type": "text",
                "text": "a",
                "citations": [{"type": "web_search_result_location", "url": URL}],
            }
        ),
    ),
    ("an inline image", _shown(_source("image", type="base64", media_type="image/png", data=""))),
    (
        "a tool's input that names all of it",
        _said(
            {
                "type": "tool_use",
                "id": "t",
                "name": "n",
                "input": {"mcp_servers": [], "file_id": "f", "source": {"type": "url"}},
            }
        ),
    ),
    (
        "thinking, its effort and its cache",
        build_body(
            thinking={"type": "adaptive"},
            output_config={"effort": "low"},
            cache_control={"type": "ephemeral"},
        ),
    ),
    ("a choice of tool", build_body(tool_choice={"type": "tool", "name": "n"})),
    ("a tier and a speed", build_body(service_tier="standard_only", speed="fast")),
]


def without_metadata(body: bytes) -> JsonObject:
    """What the upstream must get, besides the room's own tag."""
    value = json.loads(body)
    assert isinstance(value, dict)
    value.pop("metadata", None)
    return value
