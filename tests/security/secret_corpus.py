"""What is tried to get at a room's secret: each entry is named after what it tries."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable
from urllib.parse import quote

from tests.support.secret_room import NAMED, OTHER, SUB, VALUE, SecretRoom, render

Attempt = Callable[[SecretRoom], bytes]
"""The bytes to send inside a tunnel to the host that has the secret."""
Headers = Callable[[str], list[tuple[str, str]]]


def at(room: SecretRoom, host: str = NAMED) -> str:
    """A host as Host names it."""
    return f"{host}:{room.sites[host].port}"


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


PUT_IN: list[tuple[str, Headers, Callable[[str], str]]] = [
    ("a bearer token", lambda s: [("Authorization", f"Bearer {s}")], lambda v: f"Bearer {v}"),
    ("a token of github", lambda s: [("Authorization", f"token {s}")], lambda v: f"token {v}"),
    ("gitlabs header", lambda s: [("PRIVATE-TOKEN", s)], lambda v: v),
    ("an api key", lambda s: [("X-Api-Key", s)], lambda v: v),
    ("a cookie", lambda s: [("Cookie", f"a=1; t={s}")], lambda v: f"a=1; t={v}"),
    ("a basic password", lambda s: [("Authorization", basic(f"x:{s}"))], lambda v: basic(f"x:{v}")),
    ("a basic user", lambda s: [("Authorization", basic(f"{s}:"))], lambda v: basic(f"{v}:")),
]
"""Headers with a surrogate, and what one of them is with the value."""


def _header(name: str, change: Callable[[str], str]) -> Attempt:
    return lambda room: render([(name, change(room.surrogate))], host=at(room))


def _line(change: Callable[[str], str]) -> Attempt:
    return lambda room: render(host=at(room), line=f"GET {change(room.surrogate)} HTTP/1.1")


def _body(kind: str, change: Callable[[str], str]) -> Attempt:
    return lambda room: render(
        [("Content-Type", kind)],
        host=at(room),
        line="POST / HTTP/1.1",
        body=change(room.surrogate).encode(),
    )


def _chunked(room: SecretRoom) -> bytes:
    head = render([("Transfer-Encoding", "chunked")], host=at(room), line="POST / HTTP/1.1")
    size = f"{len(room.surrogate):x}"
    return head + f"{size}\r\n{room.surrogate}\r\n0\r\n\r\n".encode()


UNCHANGED: list[tuple[str, Attempt]] = [
    ("in the path", _line(lambda s: f"/{s}/x")),
    ("in the query", _line(lambda s: f"/?token={s}")),
    ("in a parameter of the path", _line(lambda s: f"/a;t={s}")),
    ("in a json body", _body("application/json", lambda s: f'{{"token": "{s}"}}')),
    ("in a form", _body("application/x-www-form-urlencoded", lambda s: f"token={s}")),
    ("in a body that looks like a head", _body("text/plain", lambda s: f"\r\n\r\nX-Key: {s}\r\n")),
    ("in a chunked body", _chunked),
    ("as the user agent", _header("User-Agent", lambda s: s)),
    ("as the referer", _header("Referer", lambda s: f"https://a/{s}")),
    ("as the origin", _header("Origin", lambda s: s)),
    ("as the forwarded address", _header("X-Forwarded-For", lambda s: s)),
    ("as the forwarded host", _header("X-Forwarded-Host", lambda s: s)),
    ("as the type of the content", _header("Content-Type", lambda s: f"text/{s}")),
    ("as the name of a file", _header("Content-Disposition", lambda s: f"x; filename={s}")),
    ("as an etag", _header("If-None-Match", lambda s: f'"{s}"')),
    ("as a language", _header("Accept-Language", lambda s: s)),
    ("as stored metadata", _header("x-amz-meta-note", lambda s: s)),
    ("as a cors header that is named back", _header("Access-Control-Request-Headers", lambda s: s)),
    ("glued to a letter before it", _header("X-Key", lambda s: f"x{s}")),
    ("glued to a letter after it", _header("X-Key", lambda s: f"{s}x")),
    ("twice in a row", _header("X-Key", lambda s: s + s)),
    ("all but its end", _header("X-Key", lambda s: s[:-1])),
    ("all but its beginning", _header("X-Key", lambda s: s[1:])),
    ("in lower case", _header("X-Key", str.lower)),
    ("in upper case", _header("X-Key", str.upper)),
    ("backwards", _header("X-Key", lambda s: s[::-1])),
    ("percent encoded", _header("X-Key", lambda s: quote(s, safe="").replace("_", "%5F"))),
    ("in base64 where none is read", _header("X-Key", b64)),
    ("in base64 twice", _header("Authorization", lambda s: "Basic " + b64(b64(f"x:{s}")))),
    ("in base64 that is cut", _header("Authorization", lambda s: basic(f"x:{s}")[:-2])),
    (
        "in base64 with a blank",
        _header("Authorization", lambda s: basic(f"x:{s}")[:20] + " " + basic(s)[20:]),
    ),
    (
        "in base64 beside bytes",
        _header(
            "Authorization", lambda s: "Basic " + base64.b64encode(b"\xff" + s.encode()).decode()
        ),
    ),
    (
        "in base64url",
        _header(
            "Authorization",
            lambda s: "Basic " + base64.urlsafe_b64encode(f"ÿ?:{s}".encode()).decode(),
        ),
    ),
    (
        "split over two headers",
        lambda r: render([("X-Key", r.surrogate[:20]), ("X-Key2", r.surrogate[20:])], host=at(r)),
    ),
    (
        "of the room next door",
        lambda r: render([("X-Key", r.neighbour.secrets[0].surrogate)], host=at(r)),
    ),
    (
        "of another secret of this room",
        lambda r: render([("X-Key", r.other_surrogate)], host=at(r)),
    ),
    (
        "the variables name",
        lambda r: render([("X-Key", "$A_TOKEN ${A_TOKEN} A_TOKEN")], host=at(r)),
    ),
]


ELSEWHERE: list[tuple[str, str]] = [
    ("to another host that is opened too", OTHER),
    ("to a name below the host", SUB),
]


def _raw(*lines: str, end: str = "\r\n\r\n") -> Attempt:
    def attempt(room: SecretRoom) -> bytes:
        key = f"X-Key: {room.surrogate}"
        text = "\r\n".join([lines[0], key, *lines[1:]]) + end
        return text.replace("HOST", at(room)).encode("latin-1")

    return attempt


_GET = "GET / HTTP/1.1"
_HOST = "Host: HOST"
REFUSED: list[tuple[str, Attempt, int]] = [
    ("another host in the head", _raw(_GET, f"Host: {OTHER}"), 400),
    ("another port in the head", _raw(_GET, f"Host: {NAMED}:1"), 400),
    ("no port where there is one", _raw(_GET, f"Host: {NAMED}"), 400),
    ("no host", _raw(_GET, "X-A: b"), 400),
    ("an empty host", _raw(_GET, "Host:"), 400),
    ("two hosts", _raw(_GET, _HOST, f"Host: {OTHER}"), 400),
    ("a user in the host", _raw(_GET, f"Host: HOST@{OTHER}"), 400),
    ("a list of hosts", _raw(_GET, f"Host: HOST, {OTHER}"), 400),
    ("a host with a dot at its end", _raw(_GET, f"Host: {NAMED}.:1"), 400),
    ("another host in full", _raw(f"GET https://{OTHER}/ HTTP/1.1", _HOST), 400),
    ("the same host in full", _raw("GET https://HOST/ HTTP/1.1", _HOST), 400),
    ("a host after two slashes and a user", _raw(f"GET @{OTHER}/ HTTP/1.1", _HOST), 400),
    ("a tunnel in the tunnel", _raw(f"CONNECT {OTHER}:443 HTTP/1.1", _HOST), 400),
    ("a header twice", _raw(_GET, _HOST, "X-Key: again"), 400),
    ("a folded header", _raw(_GET, _HOST, "X-A: b\r\n c"), 400),
    ("a folded header after a tab", _raw(_GET, _HOST, "X-A: b\r\n\tc"), 400),
    ("a blank before the colon", _raw(_GET, _HOST, "X-A : b"), 400),
    ("a line end that is no line end", _raw(_GET, _HOST, "X-A: b\nX-C: d"), 400),
    ("a return alone", _raw(_GET, _HOST, "X-A: b\rX-C: d"), 400),
    ("a nul", _raw(_GET, _HOST, "X-A: \0"), 400),
    ("a byte beyond ascii", _raw(_GET, _HOST, "X-A: \xe9"), 400),
    ("a header without a name", _raw(_GET, _HOST, ": x"), 400),
    ("an older version", _raw("GET / HTTP/1.0", _HOST), 505),
    ("http 2", lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (
        "an upgrade to a websocket",
        _raw(_GET, _HOST, "Connection: Upgrade", "Upgrade: websocket"),
        400,
    ),
    ("an upgrade without words", _raw(_GET, _HOST, "Upgrade: websocket"), 400),
    ("an upgrade to http 2", _raw(_GET, _HOST, "HTTP2-Settings: AA"), 400),
    ("a header named in connection", _raw(_GET, _HOST, "Connection: x-key"), 400),
    (
        "both lengths",
        _raw("POST / HTTP/1.1", _HOST, "Content-Length: 3", "Transfer-Encoding: chunked"),
        400,
    ),
    ("a length with a sign", _raw("POST / HTTP/1.1", _HOST, "Content-Length: +3"), 400),
    (
        "a coding that is not chunked",
        _raw("POST / HTTP/1.1", _HOST, "Transfer-Encoding: gzip, chunked"),
        400,
    ),
    ("trailers", _raw(_GET, _HOST, "TE: trailers"), 400),
    ("a method that echoes", _raw("TRACE / HTTP/1.1", _HOST), 405),
    ("another expectation", _raw("POST / HTTP/1.1", _HOST, "Content-Length: 3", "Expect: x"), 417),
    ("too many headers", _raw(_GET, _HOST, *(f"X-{n}: 1" for n in range(100))), 431),
    ("a head that is too large", _raw(_GET, _HOST, "X-A: " + "a" * 40000), 431),
]


def plain_answer(body: bytes, *headers: str, first: str = "HTTP/1.1 200 OK") -> bytes:
    lines = [first, *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def in_chunks(body: bytes, size: int) -> bytes:
    pieces = [body[n : n + size] for n in range(0, len(body), size)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"


ECHO = f'{{"you sent": "{VALUE}"}} and {VALUE}{VALUE}'.encode()
PAIR = b64(f"x:{VALUE}")
ECHOES: list[tuple[str, bytes]] = [
    ("in the body", plain_answer(ECHO)),
    ("in an error", plain_answer(ECHO, first="HTTP/1.1 401 Unauthorized")),
    *((f"in chunks of {n}", in_chunks(ECHO, n)) for n in (1, 2, 7, 39, 40, 41)),
    ("until the connection ends", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + ECHO),
    ("in a header", plain_answer(b"", f"X-Your-Key: {VALUE}")),
    ("in a cookie", plain_answer(b"", f"Set-Cookie: t={VALUE}; Path=/")),
    (
        "in a redirect",
        plain_answer(b"", f"Location: https://evil.example/?{VALUE}", first="HTTP/1.1 302 Found"),
    ),
    ("in the name of a header", plain_answer(b"", f"X-{VALUE}: 1")),
    ("in the words of the status", plain_answer(b"", first=f"HTTP/1.1 401 no {VALUE} here")),
    (
        "in an early hint",
        b"HTTP/1.1 103 Early Hints\r\nLink: <" + VALUE.encode() + b">\r\n\r\n" + plain_answer(b"x"),
    ),
    (
        "in a trailer",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Key: "
        + VALUE.encode()
        + b"\r\n\r\n",
    ),
    ("as the encoded pair", plain_answer(f"you sent Basic {PAIR}.".encode())),
    ("as the encoded pair in a header", plain_answer(b"", f"X-Sent: {PAIR}")),
]


CAN_NOT_BE_SEARCHED = [
    ("compressed", plain_answer(gzip.compress(ECHO), "Content-Encoding: gzip")),
    ("compressed twice", plain_answer(ECHO, "Content-Encoding: identity, br")),
    ("with an unknown coding", plain_answer(ECHO, "Content-Encoding: rot13")),
    (
        "with two codings",
        plain_answer(ECHO, "Content-Encoding: identity", "Content-Encoding: gzip"),
    ),
    (
        "a part of it",
        plain_answer(
            VALUE[:20].encode(),
            "Content-Range: bytes 0-19/40",
            first="HTTP/1.1 206 Partial Content",
        ),
    ),
]
