"""The body's rules: what the CLI sends passes unchanged, what reaches further does not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.egress_body import (
    MAX_DEPTH,
    MAX_STRUCTURE,
    CheckedBody,
    count_structure,
    rewrite_body,
)
from orchestrator.core.egress_http import Denial, DenialReason
from orchestrator.core.egress_policy import Route
from orchestrator.model import JsonObject, JsonValue


def _rewrite(body: object, route: Route = Route.MESSAGES) -> JsonObject | Denial:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = rewrite_body(raw, route=route, user_tag="tag")
    if isinstance(answer, Denial):
        return answer
    value = json.loads(answer.data)
    assert isinstance(value, dict)
    return value


def _content(*blocks: JsonValue) -> JsonObject:
    return {"model": "m", "messages": [{"role": "user", "content": list(blocks)}]}


def _is_allowed(body: object) -> bool:
    return not isinstance(_rewrite(body), Denial)


# In the shapes of Claude Code 2.1.330, as it sent them or as its own checks name them.
ORDINARY: list[JsonValue] = [
    {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    {"type": "thinking", "thinking": "a", "signature": "s"},
    {"type": "redacted_thinking", "data": "x"},
    {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "curl http://x"}},
    {"type": "tool_result", "tool_use_id": "t", "content": "ok", "is_error": False},
    {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "ok"}]},
    {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
        ],
    },
    {"type": "tool_result", "content": [{"type": "tool_reference", "tool_name": "Edit"}]},
    {"type": "document", "source": {"type": "base64", "media_type": "a/pdf", "data": ""}},
    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": ""}},
    {"type": "search_result", "source": "https://x/y", "title": "t", "content": []},
    {"type": "compaction", "content": "summary"},
    {"type": "server_tool_use", "id": "a", "name": "advisor", "input": {}},
    {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "Edit"}},
    {
        "type": "tool_addition",
        "tool": {"type": "tool_definition", "definition": {"name": "x", "input_schema": {}}},
    },
]


@pytest.mark.parametrize("block", ORDINARY, ids=lambda b: b["type"])
def test_an_ordinary_block_passes_as_it_is(block: JsonValue) -> None:
    body = _content(block)
    assert _rewrite(body) == {**body, "metadata": {"user_id": "tag"}}


def test_a_tools_input_and_a_schemas_words_may_say_anything() -> None:
    hostile_looking: JsonObject = {
        "source": {"type": "url", "url": "x"},
        "container": "c",
        "mcp_servers": [],
        "file_id": "f",
        "$ref": "http://x",
    }
    assert _is_allowed(_content({"type": "tool_use", "name": "t", "input": hostile_looking}))
    schema = {"properties": {"$ref": {"type": "string"}, "container": {}}, "$defs": {}}
    tools = [{"name": "t", "input_schema": {**schema, "x": {"$ref": "#/$defs/a"}}}]
    assert _is_allowed({"messages": [], "tools": tools})


@pytest.mark.parametrize(
    "kind", [None, "custom", "bash_20250124", "text_editor_20250728", "memory_20250818"]
)
def test_tools_that_the_client_runs_are_allowed(kind: str | None) -> None:
    assert _is_allowed({"messages": [], "tools": [{"type": kind, "name": "t"}]})


def test_the_order_of_keys_and_every_other_value_is_kept() -> None:
    raw = '{"z":1,"model":"m","metadata":{"user_id":"x"},"messages":[],"top_p":0.25,"a":2}'
    raw = raw.replace('"z":1,', '"max_tokens":1,').replace(',"a":2', ',"stream":true')
    answer = rewrite_body(raw.encode(), route=Route.MESSAGES, user_tag="tag")
    assert isinstance(answer, CheckedBody)
    assert answer.data == raw.replace('"x"', '"tag"').encode()


def test_the_rooms_tag_replaces_whatever_the_client_says() -> None:
    forgeries: list[JsonValue] = [{"user_id": "x"}, {"user_id": "x", "more": [1]}, "x", None, []]
    for forged in forgeries:
        body = _rewrite({"messages": [], "metadata": forged})
        assert isinstance(body, dict)
        assert body["metadata"] == {"user_id": "tag"}


def test_counting_tokens_carries_no_metadata() -> None:
    body = _rewrite({"messages": [], "metadata": {"user_id": "x"}}, Route.COUNT_TOKENS)
    assert body == {"messages": []}


def test_text_of_any_language_and_half_a_surrogate_pair_pass() -> None:
    for text in ("Grüße, 世界 🎉", "\x00\x1f\u2028", "half \ud83c"):
        body = _rewrite({"messages": [{"role": "user", "content": text}]})
        assert isinstance(body, dict)
        assert body["messages"] == [{"role": "user", "content": text}]


def test_a_name_from_the_body_is_shown_only_where_it_is_harmless() -> None:
    shown = _rewrite({"messages": [], "webhook": 1})
    hidden = _rewrite({"messages": [], "sk-ant x\n<b>": 1})
    assert isinstance(shown, Denial)
    assert isinstance(hidden, Denial)
    assert "webhook" in shown.message
    assert "(unnamed)" in hidden.message


def test_the_deepest_allowed_body_passes_and_one_level_more_does_not() -> None:
    def nested(levels: int) -> bytes:
        return b'{"messages":[],"thinking":' + b"[" * levels + b"]" * levels + b"}"

    assert _is_allowed(nested(MAX_DEPTH - 1))
    denial = _rewrite(nested(MAX_DEPTH))
    assert isinstance(denial, Denial)
    assert denial.reason is DenialReason.BODY_INVALID


def test_the_count_before_parsing_is_never_below_the_number_of_values() -> None:
    assert count_structure(b'{"a":[1,2,{"b":3}]}') >= 6
    raw = b'{"messages":[' + b"1," * MAX_STRUCTURE + b"1]}"
    denial = _rewrite(raw)
    assert isinstance(denial, Denial)
    assert "values" in denial.message


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "source", "content", "tool", "definition", "url", "input", "name"]
            )
            | st.text(max_size=4),
            inner
            | st.sampled_from(
                ["text", "image", "url", "file", "tool_result", "document", "base64"]
            ),
            max_size=4,
        )
    ),
    max_leaves=20,
)
_bodies = st.fixed_dictionaries(
    {"messages": st.lists(st.fixed_dictionaries({"content": _json}), max_size=2)},
    optional={"tools": _json, "system": _json, "model": _json, "mcp_servers": _json},
)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=60), _bodies.map(lambda b: json.dumps(b).encode())))
def test_any_body_gives_a_decision_and_never_an_exception(raw: bytes) -> None:
    answer = rewrite_body(raw, route=Route.MESSAGES, user_tag="tag")
    if isinstance(answer, Denial):
        assert answer.status in {400, 403}
        return
    # What is allowed is a fixed point: checking what was sent again gives the same.
    again = rewrite_body(answer.data, route=Route.MESSAGES, user_tag="tag")
    assert isinstance(again, CheckedBody)
    assert again.data == answer.data
    for message in json.loads(answer.data)["messages"]:
        assert not _calls_out(message["content"])


def _calls_out(content: JsonValue) -> bool:
    """Said independently of the code: a block that gives its source by url or file."""
    blocks = content if isinstance(content, list) else [content]
    for block in blocks:
        if not isinstance(block, dict):
            continue
        source = block.get("source")
        if isinstance(source, dict):
            if source.get("type") in {"url", "file"} or "url" in source:
                return True
            if _calls_out(source.get("content")):
                return True
        if _calls_out(block.get("content")):
            return True
    return False
