"""The stand-in for the Messages API over a real connection, as its clients see it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from orchestrator.embedded.messages_model import (
    CutStream,
    HttpError,
    Stall,
    StreamError,
    Text,
    ToolUse,
)
from tests.support.messages_api import ScriptedApi, open_scripted_api

HEADERS = {"x-api-key": "k", "anthropic-version": "2023-06-01"}


@pytest.fixture
async def api() -> AsyncIterator[ScriptedApi]:
    async with open_scripted_api() as served:
        yield served


@pytest.fixture
async def http(api: ScriptedApi) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(api.base_url, headers=HEADERS) as session:
        yield session


def body(text: str, *, stream: bool = False, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "m", "max_tokens": 9, "messages": messages, "stream": stream, **fields}


async def events(answer: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    text = await answer.text()
    return [json.loads(part.split("data: ")[1]) for part in text.split("\n\n") if part]


async def test_a_message_is_answered_whole_or_as_a_stream(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/messages?beta=true", json=body("hello")) as answer:
        whole = await answer.json()
        assert answer.headers["request-id"].startswith("req_")
    async with http.post("/v1/messages", json=body("hello", stream=True)) as answer:
        streamed = await events(answer)
        assert answer.content_type == "text/event-stream"
    assert whole["content"] == [{"type": "text", "text": "You said: hello"}]
    assert streamed[-1]["type"] == "message_stop"
    text = "".join(e["delta"]["text"] for e in streamed if e["type"] == "content_block_delta")
    assert text == "You said: hello"


async def test_the_first_piece_is_there_before_the_last_is_sent(
    api: ScriptedApi, http: aiohttp.ClientSession
) -> None:
    api.when("slow", [Text(text="first"), Stall(seconds=1), Text(text="last")])
    began = time.monotonic()
    async with http.post("/v1/messages", json=body("slow", stream=True)) as answer:
        while b"first" not in await answer.content.readline():
            pass
        first_s = time.monotonic() - began
        await answer.read()
    assert first_s < 0.5
    assert time.monotonic() - began >= 1


async def test_tokens_are_counted(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/messages/count_tokens", json=body("x" * 4000)) as answer:
        assert (await answer.json())["input_tokens"] > 1000


@pytest.mark.parametrize(
    ("method", "path", "data", "status", "kind"),
    [
        ("POST", "/v1/messages", b"no json", 400, "invalid_request_error"),
        ("POST", "/v1/messages", b'{"model": "m"}', 400, "invalid_request_error"),
        ("POST", "/v1/messages/count_tokens", b"[]", 400, "invalid_request_error"),
        ("POST", "/v1/messages", b"[" * 100_000, 400, "invalid_request_error"),
        ("POST", "/v1/files", b"{}", 404, "not_found_error"),
        ("GET", "/v1/messages", b"", 405, "not_found_error"),
        ("GET", "/", b"", 404, "not_found_error"),
    ],
)
async def test_a_refusal_has_the_apis_shape(
    http: aiohttp.ClientSession, method: str, path: str, data: bytes, status: int, kind: str
) -> None:
    async with http.request(method, path, data=data) as answer:
        error = await answer.json()
    assert answer.status == status
    assert error["type"] == "error"
    assert error["error"]["type"] == kind
    assert error["request_id"] == answer.headers["request-id"]


async def test_a_request_without_a_key_or_a_version_is_refused(api: ScriptedApi) -> None:
    async with aiohttp.ClientSession(api.base_url) as bare:
        async with bare.post("/v1/messages", json=body("x")) as answer:
            assert (answer.status, (await answer.json())["error"]["type"]) == (
                401,
                "authentication_error",
            )
        keyed = {"Authorization": "Bearer t"}
        async with bare.post("/v1/messages", json=body("x"), headers=keyed) as answer:
            assert answer.status == 400
    assert api.asked == []
    assert len(api.requests) == 2


async def test_a_scripted_error_comes_with_its_headers(
    api: ScriptedApi, http: aiohttp.ClientSession
) -> None:
    limit = HttpError(
        status=429, type="rate_limit_error", message="Slow down", headers=(("retry-after", "7"),)
    )
    api.once("hello", limit)
    async with http.post("/v1/messages", json=body("hello", stream=True)) as answer:
        assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    async with http.post("/v1/messages", json=body("hello")) as answer:
        assert answer.status == 200


async def test_a_cut_stream_ends_without_an_end(
    api: ScriptedApi, http: aiohttp.ClientSession
) -> None:
    api.when("cut", [Text(text="half"), CutStream()])
    async with http.post("/v1/messages", json=body("cut", stream=True)) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_an_error_in_mid_stream_arrives_as_an_event(
    api: ScriptedApi, http: aiohttp.ClientSession
) -> None:
    api.when("x", [Text(text="half"), StreamError()])
    async with http.post("/v1/messages", json=body("x", stream=True)) as answer:
        assert (await events(answer))[-1]["error"]["type"] == "overloaded_error"


async def test_a_client_that_leaves_ends_the_stall(
    api: ScriptedApi, http: aiohttp.ClientSession
) -> None:
    api.when("hang", [Stall(seconds=60)])
    async with http.post("/v1/messages", json=body("hang", stream=True)) as answer:
        assert answer.status == 200
    async with asyncio.timeout(5), http.post("/v1/messages", json=body("hello")) as answer:
        assert answer.status == 200


async def test_closing_does_not_wait_for_open_streams() -> None:
    async with asyncio.timeout(5), aiohttp.ClientSession(headers=HEADERS) as session:
        async with open_scripted_api() as api:
            api.when("hang", [Stall(seconds=60)])
            url = f"{api.base_url}/v1/messages"
            answer = await session.post(url, json=body("hang", stream=True))
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_the_steps_of_a_rule_follow_the_tools_results(
    api: ScriptedApi, http: aiohttp.ClientSession
) -> None:
    api.when("list", [ToolUse(name="Bash", input={"command": "ls"})], "two files")
    messages: list[dict[str, Any]] = [{"role": "user", "content": "list them"}]
    said = []
    for _ in range(3):
        async with http.post("/v1/messages", json=body("", messages=messages)) as answer:
            content = (await answer.json())["content"]
        said.append(content[-1].get("text", content[-1]["type"]))
        part = {"type": "tool_result", "tool_use_id": "t", "content": "a b"}
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": [part]}]
    assert said == ["tool_use", "two files", "The tool said: a b"]
