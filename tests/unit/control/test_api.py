"""The control API without a transport."""

from __future__ import annotations

import asyncio
import json

import pytest

from orchestrator.control.api import Text, render_health, reply_to
from orchestrator.control.models import (
    ErrorAnswer,
    HealthAnswer,
    RoomsAnswer,
    RunnersAnswer,
    Status,
    StoreState,
    StoreView,
    SyncState,
    SyncView,
)
from orchestrator.errors import EngineUnavailableError
from tests.unit.control.source import MemorySource, StuckSource, make_status


async def test_each_path_answers_with_its_value() -> None:
    source = MemorySource()
    expected = {
        "/v1/status": Status,
        "/v1/runners": RunnersAnswer,
        "/v1/rooms": RoomsAnswer,
        "/v1/health": HealthAnswer,
    }
    for path, model in expected.items():
        reply = await reply_to(source, "GET", path)
        assert (reply.status, type(reply.body)) == (200, model)


@pytest.mark.parametrize("path", ["/", "", "/v1", "/v2/status", "/v1/status/", "/v1/../v1/status"])
async def test_an_unknown_path_is_404_in_the_error_shape(path: str) -> None:
    reply = await reply_to(MemorySource(), "GET", path)
    assert reply.status == 404
    assert json.loads(reply.body.model_dump_json())["error"]["code"] == "not_found"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_but_reading_is_answered(method: str) -> None:
    reply = await reply_to(MemorySource(), method, "/v1/status")
    assert reply.status == 405


async def test_a_failure_that_has_words_is_answered_with_them() -> None:
    reply = await reply_to(MemorySource(error=EngineUnavailableError()), "GET", "/v1/runners")
    assert reply.status == 503
    assert isinstance(reply.body, ErrorAnswer)
    assert reply.body.error.message == str(EngineUnavailableError())


async def test_a_failure_without_words_is_500_and_says_nothing_of_its_inside() -> None:
    reply = await reply_to(MemorySource(error=KeyError("internal detail")), "GET", "/v1/rooms")
    assert reply.status == 500
    assert "internal detail" not in reply.body.model_dump_json()


async def test_a_source_that_does_not_answer_is_given_up_on_and_cancelled() -> None:
    source = StuckSource()
    reply = await reply_to(source, "GET", "/v1/status", timeout_s=0.01)
    assert reply.status == 504
    assert source.cancelled


async def test_cancelling_a_request_reaches_the_source() -> None:
    source = StuckSource()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(reply_to(source, "GET", "/v1/status"))
        await source.asked.wait()
        task.cancel()
    assert task.cancelled()
    assert source.cancelled


async def test_health_is_503_with_the_reason_while_the_homeserver_does_not_answer() -> None:
    sync = SyncView(state=SyncState.RETRYING, since=5.0, reason="connection refused")
    reply = await reply_to(MemorySource(sync=sync), "GET", "/v1/health")
    assert reply.status == 503
    assert isinstance(reply.body, HealthAnswer)
    assert not reply.body.ok
    assert "connection refused" in str(reply.body.reason)


def test_health_says_in_words_that_the_disk_takes_nothing() -> None:
    reason = "The disk of /state is full (0 bytes are free)."
    store = StoreView(state=StoreState.DISK_FULL, since=5.0, reason=reason, free_bytes=0)
    health = render_health(make_status().model_copy(update={"store": store}))
    assert (health.ok, health.reason) == (False, reason)
    assert render_health(make_status()).ok


def test_an_older_client_reads_a_newer_daemons_answer() -> None:
    newer = json.loads(make_status().model_dump_json()) | {"invented_later": {"x": 1}}
    assert Status.model_validate(newer) == make_status()


def test_views_can_not_be_changed() -> None:
    status = make_status()
    with pytest.raises(ValueError, match="frozen"):
        status.pid = 1  # type: ignore[misc]


async def test_a_page_is_answered_beside_the_values_and_fails_as_they_do() -> None:
    async def page() -> Text:
        return Text(media_type="text/html", text="<p>x")

    async def fails() -> Text:
        raise EngineUnavailableError

    pages = {"/v1/page": page, "/v1/fails": fails}
    reply = await reply_to(MemorySource(), "GET", "/v1/page", pages=pages)
    assert (reply.status, reply.body) == (200, await page())
    assert (await reply_to(MemorySource(), "POST", "/v1/page", pages=pages)).status == 405
    assert (await reply_to(MemorySource(), "GET", "/v1/fails", pages=pages)).status == 503
    assert (await reply_to(MemorySource(), "GET", "/v1/page")).status == 404
