"""Heads that the proxy refuses for what they are, whatever the target; see its corpus."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.client_hello import plain_hello


@dataclass(frozen=True, slots=True)
class Attempt:
    """Bytes to send, and the status that must come of them (0: none, just the end)."""

    name: str
    data: bytes
    status: int


def connect(authority: str | bytes, host: str | bytes | None = None, more: bytes = b"") -> bytes:
    """A CONNECT; Host is the authority unless another is given."""
    raw = authority.encode() if isinstance(authority, str) else authority
    named = raw if host is None else host.encode() if isinstance(host, str) else host
    return b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (raw, named, more)


def get(
    url: str | bytes,
    host: str | bytes = "good.example:@HTTP@",
    more: bytes = b"",
    method: bytes = b"GET",
) -> bytes:
    """A request in absolute form."""
    raw = url.encode() if isinstance(url, str) else url
    named = host.encode() if isinstance(host, str) else host
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method, raw, named, more)


_GOOD = "http://good.example:@HTTP@/"

# Heads that are refused for what they are, whatever their target.
ODD_HEADS: list[Attempt] = [
    # CONNECT, around a good authority.
    Attempt("CONNECT with another Host", connect("good.example:@TLS@", "evil.example:@TLS@"), 400),
    Attempt(
        "CONNECT with the Host of the API", connect("good.example:@TLS@", "127.0.0.1:8317"), 400
    ),
    Attempt(
        "CONNECT with another port in Host", connect("good.example:@TLS@", "good.example:1"), 400
    ),
    Attempt("CONNECT with a Host without port", connect("good.example:@TLS@", "good.example"), 400),
    Attempt("CONNECT with an empty Host", connect("good.example:@TLS@", ""), 400),
    Attempt(
        "CONNECT with a trailing dot in Host",
        connect("good.example:@TLS@", "good.example.:@TLS@"),
        400,
    ),
    Attempt("CONNECT without Host", b"CONNECT good.example:@TLS@ HTTP/1.1\r\n\r\n", 400),
    Attempt(
        "CONNECT with two Hosts",
        connect("good.example:@TLS@", more=b"Host: good.example:@TLS@\r\n"),
        400,
    ),
    Attempt(
        "CONNECT to a bad host with a good Host",
        connect("127.0.0.1:@INSIDE@", "good.example:@TLS@"),
        400,
    ),
    Attempt(
        "CONNECT with Content-Length",
        connect("good.example:@TLS@", more=b"Content-Length: 5\r\n"),
        400,
    ),
    Attempt(
        "CONNECT with length 0", connect("good.example:@TLS@", more=b"Content-Length: 0\r\n"), 400
    ),
    Attempt(
        "CONNECT with chunks",
        connect("good.example:@TLS@", more=b"Transfer-Encoding: chunked\r\n"),
        400,
    ),
    Attempt(
        "CONNECT with Expect", connect("good.example:@TLS@", more=b"Expect: 100-continue\r\n"), 400
    ),
    Attempt("CONNECT with Upgrade", connect("good.example:@TLS@", more=b"Upgrade: h2c\r\n"), 400),
    Attempt(
        "CONNECT for websockets", connect("good.example:@TLS@", more=b"Upgrade: websocket\r\n"), 400
    ),
    Attempt(
        "CONNECT with another thing in Connection",
        connect("good.example:@TLS@", more=b"Connection: host\r\n"),
        400,
    ),
    Attempt(
        "CONNECT with another thing in Proxy-Connection",
        connect("good.example:@TLS@", more=b"Proxy-Connection: host\r\n"),
        400,
    ),
    Attempt(
        "CONNECT with a folded header", connect("good.example:@TLS@", more=b"X: a\r\n b\r\n"), 400
    ),
    Attempt(
        "CONNECT with a header twice", connect("good.example:@TLS@", more=b"X: a\r\nx: b\r\n"), 400
    ),
    Attempt("CONNECT with a bare LF", connect("good.example:@TLS@", more=b"X: a\nY: b\r\n"), 400),
    Attempt(
        "CONNECT with a space before a colon", connect("good.example:@TLS@", more=b"X : a\r\n"), 400
    ),
    Attempt(
        "CONNECT with a NUL in a header", connect("good.example:@TLS@", more=b"X: \0\r\n"), 400
    ),
    Attempt(
        "CONNECT with too many headers",
        connect("good.example:@TLS@", more=b"".join(b"x%d: a\r\n" % n for n in range(70))),
        431,
    ),
    Attempt(
        "CONNECT with 40 KB of headers",
        connect("good.example:@TLS@", more=b"X: %b\r\n" % (b"a" * 40000)),
        431,
    ),
    Attempt(
        "CONNECT in HTTP/2.0",
        b"CONNECT good.example:@TLS@ HTTP/2.0\r\nHost: good.example:@TLS@\r\n\r\n",
        400,
    ),
    Attempt(
        "CONNECT in HTTP/1.2",
        b"CONNECT good.example:@TLS@ HTTP/1.2\r\nHost: good.example:@TLS@\r\n\r\n",
        400,
    ),
    Attempt("CONNECT in HTTP/0.9", b"CONNECT good.example:@TLS@\r\n\r\n", 400),
    Attempt(
        "CONNECT in HTTP/1.0 with another Host",
        b"CONNECT good.example:@TLS@ HTTP/1.0\r\nHost: evil.example\r\n\r\n",
        400,
    ),
    Attempt(
        "CONNECT with two spaces",
        b"CONNECT  good.example:@TLS@ HTTP/1.1\r\nHost: good.example:@TLS@\r\n\r\n",
        400,
    ),
    Attempt(
        "CONNECT with a tab",
        b"CONNECT\tgood.example:@TLS@ HTTP/1.1\r\nHost: good.example:@TLS@\r\n\r\n",
        400,
    ),
    Attempt(
        "connect in lower case",
        b"connect good.example:@TLS@ HTTP/1.1\r\nHost: good.example:@TLS@\r\n\r\n",
        400,
    ),
    Attempt("an empty line before CONNECT", b"\r\n" + connect("good.example:@TLS@"), 400),
    Attempt(
        "CONNECT with early data", connect("good.example:@TLS@") + plain_hello(b"good.example"), 400
    ),
    Attempt(
        "CONNECT with another request behind it",
        connect("good.example:@TLS@") + get("http://127.0.0.1:@INSIDE@/", "127.0.0.1:@INSIDE@"),
        400,
    ),
    Attempt("CONNECT with one byte too many", connect("good.example:@TLS@") + b"\n", 400),
    # The absolute form.
    Attempt(
        "https in absolute form", get("https://good.example:@TLS@/", "good.example:@TLS@"), 400
    ),
    Attempt("ftp", get("ftp://good.example:@HTTP@/"), 400),
    Attempt("file", get("file:///etc/passwd"), 400),
    Attempt("gopher", get("gopher://127.0.0.1:@INSIDE@/_GET"), 400),
    Attempt("ws", get("ws://good.example:@HTTP@/"), 400),
    Attempt("an unknown scheme", get("x://good.example:@HTTP@/"), 400),
    Attempt("data", get("data:text/plain,a"), 400),
    Attempt("the scheme in upper case", get("HTTP://good.example:@HTTP@/"), 400),
    Attempt("one slash after the scheme", get("http:/good.example:@HTTP@/"), 400),
    Attempt("no slash after the scheme", get("http:good.example:@HTTP@/"), 400),
    Attempt("three slashes after the scheme", get("http:///good.example:@HTTP@/"), 400),
    Attempt("backslashes after the scheme", get("http:\\\\good.example:@HTTP@/"), 400),
    Attempt("a user in the URL", get("http://user@good.example:@HTTP@/"), 400),
    Attempt(
        "the allowed host as a user",
        get("http://good.example:@HTTP@@127.0.0.1:@INSIDE@/", "127.0.0.1:@INSIDE@"),
        400,
    ),
    Attempt("an empty user", get("http://@127.0.0.1:@INSIDE@/", "127.0.0.1:@INSIDE@"), 400),
    Attempt(
        "a backslash before an at", get("http://127.0.0.1:@INSIDE@\\@good.example:@HTTP@/"), 400
    ),
    Attempt("a backslash for a slash", get("http://good.example:@HTTP@\\a"), 400),
    Attempt("a fragment in the URL", get(_GOOD + "#@127.0.0.1"), 400),
    Attempt(
        "a fragment before the path", get("http://127.0.0.1:@INSIDE@#good.example:@HTTP@/"), 400
    ),
    Attempt("a query without a path", get("http://good.example:@HTTP@?a"), 400),
    Attempt("no host", get("http:///a", ""), 400),
    Attempt("an empty port in the URL", get("http://good.example:/", "good.example"), 400),
    Attempt("two ports in the URL", get("http://127.0.0.1:@INSIDE@:@HTTP@/"), 400),
    Attempt(
        "a trailing dot in the URL",
        get("http://good.example.:@HTTP@/", "good.example.:@HTTP@"),
        400,
    ),
    Attempt("an encoded host in the URL", get("http://%67ood.example:@HTTP@/"), 400),
    Attempt("a NUL in the URL's host", get(b"http://127.0.0.1\0.wild.example:@INSIDE@/"), 400),
    Attempt("an encoded NUL in the path", get(_GOOD + "a%00b"), 400),
    Attempt("a NUL in the path", get(_GOOD.encode() + b"a\0b"), 400),
    Attempt("a broken escape in the path", get(_GOOD + "%zz"), 400),
    Attempt("a space in the path", get(_GOOD + "a b"), 400),
    Attempt(
        "a second request line in the path",
        get(_GOOD + "a HTTP/1.1\r\nHost: evil.example\r\nX: y"),
        400,
    ),
    Attempt("a tab in the path", get(_GOOD.encode() + b"a\tb"), 400),
    Attempt("a path in UTF-8", get((_GOOD + "ä").encode()), 400),
    Attempt("angle brackets in the path", get(_GOOD + "<a>"), 400),
    Attempt(
        "an inet_aton address in the URL",
        get("http://2130706433:@INSIDE@/", "2130706433:@INSIDE@"),
        400,
    ),
    Attempt("a short address in the URL", get("http://127.1:@INSIDE@/", "127.1:@INSIDE@"), 400),
    Attempt(
        "an octal address in the URL",
        get("http://0177.0.0.1:@INSIDE@/", "0177.0.0.1:@INSIDE@"),
        400,
    ),
    Attempt(
        "a zone in the URL", get("http://[fe80::1%25lo]:@INSIDE@/", "[fe80::1%25lo]:@INSIDE@"), 400
    ),
    Attempt("a look-alike in the URL", get("http://gооd.example:@HTTP@/".encode()), 400),
    # Host against target.
    Attempt("another Host than the URL's", get(_GOOD, "evil.example"), 400),
    Attempt("the inside in Host", get(_GOOD, "127.0.0.1:@INSIDE@"), 400),
    Attempt(
        "the allowed host in Host only",
        get("http://127.0.0.1:@INSIDE@/", "good.example:@HTTP@"),
        400,
    ),
    Attempt("another port in Host", get(_GOOD, "good.example:@INSIDE@"), 400),
    Attempt("no port in Host", get(_GOOD, "good.example"), 400),
    Attempt("a user in Host", get(_GOOD, "a@good.example:@HTTP@"), 400),
    Attempt("a path in Host", get(_GOOD, "good.example:@HTTP@/"), 400),
    Attempt("two hosts in Host", get(_GOOD, "good.example:@HTTP@, evil.example"), 400),
    Attempt("Host twice", get(_GOOD, more=b"Host: evil.example\r\n"), 400),
    Attempt("Host twice, alike", get(_GOOD, more=b"Host: good.example:@HTTP@\r\n"), 400),
    Attempt("Host with a space before its colon", get(_GOOD, more=b"Host : evil.example\r\n"), 400),
    Attempt("Host folded", get(_GOOD, more=b"X: a\r\n Host: evil.example\r\n"), 400),
    Attempt("a tab after Host", get(_GOOD, more=b"Host\t: evil.example\r\n"), 400),
    Attempt("no Host at all", b"GET http://good.example:@HTTP@/ HTTP/1.1\r\n\r\n", 400),
    # Framing.
    Attempt(
        "both lengths",
        get(_GOOD, more=b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", method=b"POST"),
        400,
    ),
    Attempt(
        "both lengths, the other way round",
        get(_GOOD, more=b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", method=b"POST"),
        400,
    ),
    Attempt(
        "two lengths",
        get(_GOOD, more=b"Content-Length: 4\r\nContent-Length: 5\r\n", method=b"POST"),
        400,
    ),
    Attempt(
        "two lengths alike",
        get(_GOOD, more=b"Content-Length: 4\r\nContent-Length: 4\r\n", method=b"POST"),
        400,
    ),
    Attempt("a list of lengths", get(_GOOD, more=b"Content-Length: 4, 4\r\n", method=b"POST"), 400),
    Attempt(
        "a length with a plus", get(_GOOD, more=b"Content-Length: +4\r\n", method=b"POST"), 400
    ),
    Attempt("a negative length", get(_GOOD, more=b"Content-Length: -4\r\n", method=b"POST"), 400),
    Attempt(
        "a length in hexadecimal", get(_GOOD, more=b"Content-Length: 0x4\r\n", method=b"POST"), 400
    ),
    Attempt("a length with zeros", get(_GOOD, more=b"Content-Length: 04\r\n", method=b"POST"), 400),
    Attempt("an empty length", get(_GOOD, more=b"Content-Length: \r\n", method=b"POST"), 400),
    Attempt(
        "a length of twenty digits",
        get(_GOOD, more=b"Content-Length: 18446744073709551617\r\n", method=b"POST"),
        400,
    ),
    Attempt(
        "Transfer-Encoding identity",
        get(_GOOD, more=b"Transfer-Encoding: identity\r\n", method=b"POST"),
        400,
    ),
    Attempt(
        "Transfer-Encoding gzip, chunked",
        get(_GOOD, more=b"Transfer-Encoding: gzip, chunked\r\n", method=b"POST"),
        400,
    ),
    Attempt(
        "Transfer-Encoding twice",
        get(
            _GOOD,
            more=b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            method=b"POST",
        ),
        400,
    ),
    Attempt(
        "Transfer-Encoding xchunked",
        get(_GOOD, more=b"Transfer-Encoding: xchunked\r\n", method=b"POST"),
        400,
    ),
    Attempt(
        "Transfer-Encoding in quotes",
        get(_GOOD, more=b'Transfer-Encoding: "chunked"\r\n', method=b"POST"),
        400,
    ),
    Attempt(
        "Transfer-Encoding with a vertical tab",
        get(_GOOD, more=b"Transfer-Encoding: \x0bchunked\r\n", method=b"POST"),
        400,
    ),
    Attempt(
        "Transfer_Encoding", get(_GOOD, more=b"Transfer_Encoding: chunked\r\n", method=b"POST"), 400
    ),
    Attempt("TE", get(_GOOD, more=b"TE: trailers\r\n"), 400),
    Attempt("Trailer", get(_GOOD, more=b"Trailer: x\r\n"), 400),
    Attempt("another Expect", get(_GOOD, more=b"Expect: 200-ok\r\n", method=b"POST"), 417),
    Attempt("Connection names Host", get(_GOOD, more=b"Connection: close, Host\r\n"), 400),
    Attempt(
        "upgrade to h2c",
        get(
            _GOOD,
            more=b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        ),
        400,
    ),
    Attempt("upgrade to websocket", get(_GOOD, more=b"Upgrade: websocket\r\n"), 400),
    Attempt("h2 settings alone", get(_GOOD, more=b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n"), 400),
    Attempt("the h2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    Attempt(
        "HTTP/1.0 in absolute form",
        b"GET http://good.example:@HTTP@/ HTTP/1.0\r\nHost: good.example:@HTTP@\r\n\r\n",
        505,
    ),
    Attempt("HTTP/0.9 in absolute form", b"GET http://good.example:@HTTP@/\r\n\r\n", 400),
    Attempt("lines that end in LF", get(_GOOD).replace(b"\r\n", b"\n") + b"\r\n\r\n", 400),
    Attempt("TRACE", get(_GOOD, method=b"TRACE"), 405),
    Attempt("TRACK", get(_GOOD, method=b"TRACK"), 405),
    Attempt("PROPFIND", get(_GOOD, method=b"PROPFIND"), 405),
    Attempt("a method of its own", get(_GOOD, method=b"GETT"), 405),
    Attempt("CONNECT in absolute form", get(_GOOD, method=b"CONNECT"), 400),
    Attempt("a method in lower case", get(_GOOD, method=b"get"), 400),
    Attempt("a long method", get(_GOOD, method=b"A" * 17), 400),
    # In origin form nothing but the API is there.
    Attempt(
        "origin form with an allowed Host",
        b"GET / HTTP/1.1\r\nHost: good.example:@HTTP@\r\n\r\n",
        403,
    ),
    Attempt(
        "a network path in origin form",
        b"GET //good.example:@HTTP@/ HTTP/1.1\r\nHost: good.example:@HTTP@\r\n\r\n",
        400,
    ),
    Attempt("SOCKS 4", b"\x04\x01\x01\xbb\x7f\0\0\x01\0\r\n\r\n", 400),
    Attempt("SOCKS 5", b"\x05\x01\x00\r\n\r\n", 400),
    Attempt("TLS to the proxy", plain_hello(b"good.example") + b"\r\n\r\n", 400),
]
