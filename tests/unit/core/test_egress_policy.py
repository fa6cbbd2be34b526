"""Routes, credentials and headers: what may leave a room, and what may come back."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.egress_http import MAX_BODY_BYTES, Denial, DenialReason, RequestHead
from orchestrator.core.egress_policy import (
    OAUTH_BETA,
    Route,
    UpstreamRequest,
    check_request,
    merge_betas,
    render_error,
    return_headers,
)

KEY = "sk-ant-api03-room"
HEADERS = {"host": "a", "x-api-key": KEY, "content-type": "application/json"}


def _head(
    method: str = "POST",
    path: str = "/v1/messages",
    query: str = "",
    headers: Mapping[str, str] = HEADERS,
    content_length: int = 2,
) -> RequestHead:
    return RequestHead(
        method=method,
        path=path,
        query=query,
        headers=headers,
        content_length=content_length,
        keep_alive=True,
    )


def _check(head: RequestHead) -> UpstreamRequest | Denial:
    return check_request(head, placeholder=KEY)


@pytest.mark.parametrize("query", ["", "beta=true"])
@pytest.mark.parametrize("route", list(Route))
def test_the_two_routes_are_allowed_with_the_one_query(route: Route, query: str) -> None:
    allowed = _check(_head(path=route.value, query=query))
    assert isinstance(allowed, UpstreamRequest)
    assert (allowed.route, allowed.query) == (route, query)


@given(st.text(), st.text(), st.text())
def test_no_other_method_path_or_query_is_allowed(method: str, path: str, query: str) -> None:
    usual = {"method": "POST", "path": "/v1/messages", "query": ""}
    for changed in ({"method": method}, {"path": path}, {"query": query}):
        head = {**usual, **changed}
        if (
            head["path"] in set(Route)
            and head["query"] in {"", "beta=true"}
            and head["method"] == "POST"
        ):
            continue
        denial = _check(_head(head["method"], head["path"], head["query"]))
        assert isinstance(denial, Denial)
        assert (denial.status, denial.reason) == (403, DenialReason.ROUTE)


@given(st.text(max_size=30))
def test_no_other_key_opens_the_door(key: str) -> None:
    if key == KEY:
        return
    denial = _check(_head(headers={**HEADERS, "x-api-key": key}))
    assert isinstance(denial, Denial)
    assert denial.reason is DenialReason.FOREIGN_CREDENTIAL
    # The same words whatever the key: nothing of it can be in them.
    assert denial == _check(_head(headers={**HEADERS, "x-api-key": "another"}))


def test_the_placeholder_may_come_as_a_bearer() -> None:
    bearer = {k: v for k, v in HEADERS.items() if k != "x-api-key"}
    assert isinstance(
        _check(_head(headers={**bearer, "authorization": f"bearer {KEY}"})), UpstreamRequest
    )


def test_a_foreign_key_beside_the_placeholder_is_refused() -> None:
    assert isinstance(_check(_head(headers={**HEADERS, "authorization": "Bearer x"})), Denial)


def test_a_body_past_the_limit_is_refused_before_it_is_read() -> None:
    denial = _check(_head(content_length=MAX_BODY_BYTES + 1))
    assert isinstance(denial, Denial)
    assert (denial.status, denial.kind) == (413, "request_too_large")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
def test_json_is_the_content_type(kind: str) -> None:
    assert isinstance(_check(_head(headers={**HEADERS, "content-type": kind})), UpstreamRequest)


@given(st.dictionaries(st.from_regex(r"[a-z-]{1,20}", fullmatch=True), st.text(max_size=5)))
def test_only_listed_headers_are_forwarded(extra: dict[str, str]) -> None:
    allowed = _check(_head(headers={**extra, **HEADERS}))
    if isinstance(allowed, Denial):
        return
    for name in allowed.headers:
        assert name.startswith(
            ("x-stainless-", "anthropic-", "x-claude-code-", "content-type")
        ) or (name in {"accept", "user-agent", "x-app"})


def test_a_beta_on_no_list_refuses_the_request() -> None:
    for beta in ("files-api-2025-04-14", "mcp-client-2025-04-04", "made-up-2027-01-01", "x y"):
        denial = _check(_head(headers={**HEADERS, "anthropic-beta": f"effort-2025-11-24, {beta}"}))
        assert isinstance(denial, Denial)
        assert (denial.status, denial.reason) == (403, DenialReason.BETA)
        assert ("x y" in beta) == ("(unnamed)" in denial.message)


def test_betas_are_passed_on_once_each_and_the_credentials_own_is_left_to_the_gateway() -> None:
    betas = f"effort-2025-11-24, {OAUTH_BETA},effort-2025-11-24,,timing-2026-09-09"
    allowed = _check(_head(headers={**HEADERS, "anthropic-beta": betas}))
    assert isinstance(allowed, UpstreamRequest)
    assert allowed.headers["anthropic-beta"] == "effort-2025-11-24,timing-2026-09-09"
    none = _check(_head(headers={**HEADERS, "anthropic-beta": OAUTH_BETA}))
    assert isinstance(none, UpstreamRequest)
    assert "anthropic-beta" not in none.headers


@pytest.mark.parametrize("name", ["anthropic-user-profile-id", "anthropic-workspace-id"])
def test_a_header_of_the_api_that_is_on_no_list_refuses_the_request(name: str) -> None:
    denial = _check(_head(headers={**HEADERS, name: "x"}))
    assert isinstance(denial, Denial)
    assert (denial.status, denial.reason) == (403, DenialReason.HEADER)
    assert name in denial.message


def test_a_needed_beta_is_there_once() -> None:
    assert merge_betas({}, OAUTH_BETA) == {"anthropic-beta": OAUTH_BETA}
    once = merge_betas({"anthropic-beta": f"a,{OAUTH_BETA},b"}, OAUTH_BETA)
    assert once == {"anthropic-beta": f"a,b,{OAUTH_BETA}"}


def test_a_response_header_with_the_secret_or_a_line_end_is_left_out() -> None:
    kept = return_headers(
        [
            ("Request-Id", "r1"),
            ("Retry-After", "3 for s3cret"),
            ("X-Should-Retry", "true\r\nx: y"),
            ("Set-Cookie", "a=b"),
            ("Location", "/"),
            ("Transfer-Encoding", "chunked"),
            ("Anthropic-Ratelimit-Requests-Remaining", "4"),
            ("request-id", "r2"),
        ],
        secret="s3cret",
    )
    assert kept == [("request-id", "r1"), ("anthropic-ratelimit-requests-remaining", "4")]


def test_an_error_has_the_shape_of_the_api() -> None:
    assert json.loads(render_error("permission_error", "No.")) == {
        "type": "error",
        "error": {"type": "permission_error", "message": "No."},
    }
