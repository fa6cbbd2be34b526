"""The strict head parser, against a table and against what another parser reads."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.egress_http import (
    MAX_HEAD_BYTES,
    Denial,
    DenialReason,
    RequestHead,
    parse_head,
)

USUAL = (
    b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\nX-A:\t b c \r\n\r\n"
)


def test_a_usual_head_is_read_with_names_in_lower_case_and_values_trimmed() -> None:
    assert parse_head(USUAL) == RequestHead(
        method="POST",
        path="/v1/messages",
        query="beta=true",
        headers={"host": "a:1", "content-length": "5", "x-a": "b c"},
        content_length=5,
        keep_alive=True,
    )


@pytest.mark.parametrize(
    ("said", "kept"), [("close", False), ("Close", False), ("keep-alive", True)]
)
def test_the_connection_is_kept_unless_the_client_closes_it(said: str, kept: bool) -> None:
    head = parse_head(USUAL.replace(b"X-A", b"Connection: " + said.encode() + b"\r\nX-A"))
    assert isinstance(head, RequestHead)
    assert head.keep_alive is kept


def test_a_request_without_a_body_needs_no_length() -> None:
    head = parse_head(b"HEAD /api/hello HTTP/1.1\r\nHost: a\r\n\r\n")
    assert isinstance(head, RequestHead)
    assert head.content_length == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("POST /a%20b HTTP/1.1", DenialReason.ODD_TARGET),
        ("POST a HTTP/1.1", DenialReason.ODD_TARGET),
        ("POST /a/../b HTTP/1.1", DenialReason.ODD_TARGET),
        ("POST /a/.b HTTP/1.1", DenialReason.ODD_TARGET),
        ("CONNECT a:443 HTTP/1.1", DenialReason.CONNECT),
        ("GET / HTTP/2", DenialReason.VERSION),
        ("GET / http/1.1", DenialReason.MALFORMED),
        ("G@T / HTTP/1.1", DenialReason.MALFORMED),
    ],
)
def test_an_odd_request_line_is_refused_for_its_own_reason(line: str, reason: DenialReason) -> None:
    denial = parse_head(f"{line}\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
    assert isinstance(denial, Denial)
    assert denial.reason is reason


def test_a_head_past_its_limit_is_refused() -> None:
    raw = USUAL.replace(b"b c", b"b" * MAX_HEAD_BYTES)
    denial = parse_head(raw)
    assert isinstance(denial, Denial)
    assert denial.status == 431


@pytest.mark.timeout(60)
@pytest.mark.parametrize("value", [b" ", b"\t", b"x ", b" x"])
def test_an_odd_head_costs_no_more_time_than_a_usual_one(value: bytes) -> None:
    """Whoever reads heads serves every room with the same thread."""
    line = b"X-B:" + value * (20_000 // len(value)) + b"\x00"
    # Once would end in seconds even if it grew with the square; all of them would not.
    for _ in range(60):
        denial = parse_head(USUAL.replace(b"X-A:\t b c ", line))
        assert isinstance(denial, Denial)
        assert denial.reason is DenialReason.MALFORMED


_names = st.sampled_from(
    ["Host", "host", "Content-Length", "Transfer-Encoding", "X-A", "X_A", "Connection"]
)
_values = st.one_of(
    st.sampled_from(["a", "5", "0", " 5", "5 ", "+5", "chunked", "close", "", "a\tb", "ä"]),
    st.text(max_size=8),
)
_ends = st.sampled_from(["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n "])
_lines = st.tuples(_names, st.sampled_from([": ", ":", " :", ":\t"]), _values, _ends).map("".join)
_targets = st.one_of(
    st.sampled_from(["/", "/v1/messages", "/a?b=c", "*", "http://a/b", "a:1"]), st.text(max_size=8)
)


@st.composite
def _heads(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "get", "", "CONNECT"]))
    version = draw(st.sampled_from(["HTTP/1.1"] * 4 + ["HTTP/1.0", "HTTP/2.0", ""]))
    line = f"{method} {draw(_targets)} {version}\r\n"
    headers = "Host: a\r\n" if draw(st.booleans()) else ""
    headers += "".join(draw(st.lists(_lines, max_size=4)))
    return (line + headers + "\r\n").encode("utf-8", "surrogatepass")


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.binary(max_size=200), _heads()))
def test_every_accepted_head_is_read_the_same_way_by_h11(raw: bytes) -> None:
    head = parse_head(raw)
    if isinstance(head, Denial):
        assert 400 <= head.status <= 505
        return
    other = h11.Connection(h11.SERVER)
    other.receive_data(raw)
    request = other.next_event()
    assert isinstance(request, h11.Request)
    assert request.method.decode() == head.method
    assert request.target.decode() == head.path + (f"?{head.query}" if head.query else "")
    read = {name.decode(): value.decode() for name, value in request.headers}
    assert read == dict(head.headers)
    assert len(request.headers) == len(read)
    assert int(read.get("content-length", "0")) == head.content_length
    # All of it was the head: whatever comes next is body, for both.
    assert other.trailing_data[0] == b""
