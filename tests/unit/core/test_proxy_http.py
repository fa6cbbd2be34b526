"""Requests to the proxy: what is accepted means one thing, to us and to another parser."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.egress_http import Denial
from orchestrator.core.egress_rules import Scheme, Target, parse_host, parse_rule
from orchestrator.core.proxy_http import (
    ProxyRequest,
    is_for_proxy,
    parse_authority,
    parse_inner_head,
    parse_proxy_head,
)


def _parse(data: bytes) -> ProxyRequest:
    request = parse_proxy_head(data)
    assert isinstance(request, ProxyRequest), request
    return request


def _get(
    more: bytes = b"", url: bytes = b"http://a.example/x?y", host: bytes = b"a.example"
) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (url, host, more)


def test_a_connect_names_host_and_port() -> None:
    request = _parse(b"CONNECT A.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
    assert request.target == Target(host="a.example", port=443, scheme=Scheme.HTTPS)
    assert (request.path, dict(request.headers), request.length) == ("", {}, 0)


@pytest.mark.parametrize(
    "head",
    [
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n"
        b"Proxy-Connection: Keep-Alive\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.0\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.0\r\nHost: a.example:443\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: x\r\n\r\n",
    ],
    ids=["curl's", "of Python 3.11", "1.0 with Host", "with a credential for the proxy"],
)
def test_what_clients_really_say_is_accepted(head: bytes) -> None:
    assert _parse(head).target == Target(host="a.example", port=443, scheme=Scheme.HTTPS)


def test_a_request_in_absolute_form_becomes_one_in_origin_form() -> None:
    more = b"X-A: b\r\nKeep-Alive: 5\r\nProxy-Authorization: c\r\nConnection: close\r\n"
    more += b"Content-Length: 3\r\n"
    request = _parse(_get(more))
    assert (request.method, request.path, request.length) == ("GET", "/x?y", 3)
    assert dict(request.headers) == {"host": "a.example", "x-a": "b", "content-length": "3"}
    assert not request.keep_alive


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (b"http://a.example", "/"),
        (b"http://a.example/", "/"),
        (b"http://a.example:80/", "/"),
        (
            b"http://a.example/a%2Fb/../c;d=e?f=http://g/#".rstrip(b"#"),
            "/a%2Fb/../c;d=e?f=http://g/",
        ),
        (b"http://a.example/[1]", "/[1]"),
    ],
)
def test_a_path_is_passed_on_as_it_is(url: bytes, path: str) -> None:
    assert _parse(_get(url=url)).path == path


def test_a_chunked_body_has_no_length_and_the_framing_is_not_passed_on() -> None:
    request = _parse(_get(b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"))
    assert request.length is None
    assert request.expects_continue
    assert dict(request.headers) == {"host": "a.example"}


def test_a_request_inside_a_tunnel_has_the_tunnels_target_and_scheme() -> None:
    target = Target(host="a.example", port=443, scheme=Scheme.HTTPS)
    request = parse_inner_head(b"GET /x HTTP/1.1\r\nHost: A.example\r\n\r\n", target)
    assert isinstance(request, ProxyRequest)
    assert (request.target, request.path) == (target, "/x")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /x HTTP/1.1\r\nHost: b.example\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
        b"GET /x HTTP/1.1\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET //b.example HTTP/2.0\r\nHost: a.example\r\n\r\n",
        b"GET /x HTTP/1.0\r\nHost: a.example\r\n\r\n",
        b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_an_odd_request_inside_a_tunnel_is_refused(head: bytes) -> None:
    target = Target(host="a.example", port=443, scheme=Scheme.HTTPS)
    assert isinstance(parse_inner_head(head, target), Denial)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"CONNECT a:443 HTTP/1.1\r\n", True),
        (b"GET http://a/ HTTP/1.1\r\n", True),
        (b"GET x-y+z.1: HTTP/1.1\r\n", True),
        (b"POST /v1/messages HTTP/1.1\r\n", False),
        (b"POST /v1/messages?u=http://a HTTP/1.1\r\n", False),
        (b"GET //a/ HTTP/1.1\r\n", False),
        (b"OPTIONS * HTTP/1.1\r\n", False),
        (b"", False),
    ],
)
def test_the_apis_requests_are_told_apart_from_the_proxys(head: bytes, *, expected: bool) -> None:
    assert is_for_proxy(head) is expected


def test_a_zone_is_part_of_no_host_and_of_no_rule() -> None:
    for text in ("[fe80::1%eth0]", "[::1%25lo]", "[::ffff:127.0.0.1%x.wild.example]"):
        assert parse_host(text) is None
        with pytest.raises(ValueError, match="expected"):
            parse_rule(text)


_TEXT = st.text(alphabet="aB1.-:[]%@/\\\0é ", max_size=30)


@given(_TEXT)
def test_an_authority_that_is_read_is_its_own_reading(text: str) -> None:
    target = parse_authority(text, Scheme.HTTP)
    if target is not None:
        assert parse_authority(str(target), Scheme.HTTP) == target
        assert (
            parse_host(target.host if ":" not in target.host else f"[{target.host}]") == target.host
        )


_LINES = st.lists(
    st.sampled_from(
        [
            b"Host: a.example",
            b"Host: a.example:80",
            b"host: b.example",
            b"Content-Length: 3",
            b"Content-Length: 03",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: identity",
            b"Connection: close",
            b"Connection: x-a",
            b"Proxy-Connection: keep-alive",
            b"X-A: b",
            b"X-B:\tc ",
            b" folded",
            b"X-C: d\x0be",
            b"Upgrade: h2c",
            b"Expect: 100-continue",
            b"TE: trailers",
        ]
    )
    | st.binary(max_size=12),
    max_size=5,
)
_FIRST = st.sampled_from(
    [
        b"GET http://a.example/ HTTP/1.1",
        b"POST http://a.example:80/x?y HTTP/1.1",
        b"HEAD http://a.example/%41 HTTP/1.1",
        b"CONNECT a.example:443 HTTP/1.1",
        b"CONNECT a.example:80 HTTP/1.0",
        b"GET  http://a.example/ HTTP/1.1",
    ]
) | st.binary(max_size=40)


@given(_FIRST, _LINES)
def test_whatever_is_accepted_another_parser_reads_the_same(
    first: bytes, lines: list[bytes]
) -> None:
    raw = b"\r\n".join([first, b"Host: a.example", *lines, b"", b""])
    request = parse_proxy_head(raw)
    if isinstance(request, Denial):
        assert request.status in {400, 405, 417, 431, 505}
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(raw)
    seen = server.next_event()
    assert isinstance(seen, h11.Request)
    assert seen.method.decode() == request.method
    other = {bytes(name).decode(): bytes(value).decode() for name, value in seen.headers}
    assert request.headers.items() <= (other | {"host": str(request.target)}).items()
    assert str(request.target).partition(":")[0] == "a.example"
    # And what we send of it, too.
    if request.method != "CONNECT":
        client = h11.Connection(h11.CLIENT)
        sent = client.send(
            h11.Request(
                method=request.method, target=request.path, headers=list(request.headers.items())
            )
        )
        assert sent is not None
        again = parse_inner_head(sent, request.target)
        assert isinstance(again, ProxyRequest)
        assert (again.path, again.headers) == (request.path, request.headers)


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    parse_proxy_head(data)
    parse_proxy_head(data + b"\r\n\r\n")
