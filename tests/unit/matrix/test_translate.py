"""What an answer means."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import (
    HomeserverUnreachableError,
    LoginRefusedError,
    MatrixError,
    RateLimitedError,
    RequestRefusedError,
)
from orchestrator.matrix.translate import Answer, error_from, retry_after_s, transport_errors

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def answer(status: int, body: Any = b"", **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(
        status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, body=data
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (answer(401, {"errcode": "M_UNKNOWN_TOKEN"}), LoginRefusedError),
        (answer(401, {"errcode": "M_MISSING_TOKEN"}), LoginRefusedError),
        (answer(401, b"<html>"), HomeserverUnreachableError),
        (answer(403, {"errcode": "M_FORBIDDEN"}), RequestRefusedError),
        (answer(403, b"<html>blocked"), HomeserverUnreachableError),
        (answer(404, b"404 page not found"), HomeserverUnreachableError),
        (answer(404, {"errcode": "M_NOT_FOUND"}), RequestRefusedError),
        (answer(413, b"<html>"), RequestRefusedError),
        (answer(429, b"<html>"), RateLimitedError),
        (answer(400, {"errcode": "M_LIMIT_EXCEEDED"}), RateLimitedError),
        (answer(500, {"errcode": "M_UNKNOWN"}), HomeserverUnreachableError),
        (answer(502, b"<html>"), HomeserverUnreachableError),
        (answer(302, b""), HomeserverUnreachableError),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_each_answer_is_the_right_error(given: Answer, expected: type[MatrixError]) -> None:
    assert type(error_from(given, what="asking", now=NOW)) is expected


@given(st.integers(300, 599), st.binary(max_size=200))
def test_any_answer_is_some_error_and_shows_nothing_of_its_body(status: int, body: bytes) -> None:
    error = error_from(answer(status, b"SECRET" + body), what="asking", now=NOW)
    assert "SECRET" not in str(error)


def test_an_error_code_that_is_none_never_reaches_the_text() -> None:
    for code in ("M_OK\nforged log line", "x" * 200, 5, None, ["M_FORBIDDEN"]):
        error = error_from(answer(400, {"errcode": code}), what="asking", now=NOW)
        assert isinstance(error, HomeserverUnreachableError)


@pytest.mark.parametrize(
    ("given", "wait_s"),
    [
        (answer(429, Retry_After="5"), 5.0),
        (answer(429, Retry_After=" 0 "), 0.0),
        (answer(429, {"retry_after_ms": 1500}, Retry_After="5"), 5.0),
        (answer(429, {"retry_after_ms": 1500}, Retry_After="nonsense"), 1.5),
        (answer(429, Retry_After="Tue, 14 Nov 2023 22:14:20 GMT"), 60.0),
        (answer(429, Retry_After="Tue, 14 Nov 2023 22:10:00 GMT"), 0.0),
        (answer(429, Retry_After="Tue, 14 Nov 2023 22:14:20 -0000"), 60.0),
        (answer(429, Retry_After="-5"), None),
        (answer(429, Retry_After="9" * 400), None),
        (answer(429, Retry_After="٣"), None),
        (answer(429, {"retry_after_ms": "5"}), None),
        (answer(429, {"retry_after_ms": True}), None),
        (answer(429, {"retry_after_ms": -5}), None),
        (answer(429, b'{"retry_after_ms": 1e999}'), None),
        (answer(429, b"[]"), None),
    ],
)
def test_the_wait_is_the_headers_first_and_garbage_is_no_wait(
    given: Answer, wait_s: float | None
) -> None:
    assert retry_after_s(given, now=NOW) == wait_s


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionResetError(),
        aiohttp.ClientPayloadError("https://user:secret@host"),
        aiohttp.ServerDisconnectedError(),
        aiohttp.InvalidURL("http://secret"),
        EOFError(),
    ],
)
def test_whatever_goes_wrong_on_the_way_may_be_better_later(error: Exception) -> None:
    with (
        pytest.raises(HomeserverUnreachableError, match="asking") as caught,
        transport_errors("asking"),
    ):
        raise error
    assert "secret" not in str(caught.value)
    assert caught.value.retryable
