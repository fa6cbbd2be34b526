"""The head of one request to the forward proxy, parsed strictly: CONNECT, or http:// in full.

```
 CONNECT example.org:443 HTTP/1.1            a tunnel, for TLS only
 GET http://example.org/a?b HTTP/1.1         plain HTTP, passed on as GET /a?b
 GET /a?b HTTP/1.1   (inside an opened tunnel)  the same, where the target is known already
```

As in `egress_http`, what is odd is refused and not repaired, and the head is never passed on as
bytes: it is written anew from what was read here, so that the two ends can't read it differently.
Whether the target may be reached is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.core.egress_http import (
    END_OF_HEAD,
    MAX_HEAD_BYTES,
    Denial,
    DenialReason,
    head_too_large,
    malformed,
    parse_headers,
)
from orchestrator.core.egress_rules import DEFAULT_PORTS, Scheme, Target, parse_host, parse_port

CONNECT = "CONNECT"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Up to the version; 1.0 is let through to CONNECT alone: Python's http.client says it (up to 3.11,
# which is the runner's), and pip with it.
_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) ([\x21-\x7e]{1,8192}) HTTP/1\.([01])")
_ABOUT_PROXY = re.compile(rb"CONNECT |[A-Za-z]+ [A-Za-z][A-Za-z0-9+.-]*:")
# A name or an IPv4 address, or an IPv6 address in brackets; `parse_host` decides which are real.
_AUTHORITY = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(r"http://([^/?#]*)(/.*)?")
# RFC 3986's characters of a path and a query, and the brackets that clients leave as they are.
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]-]|%[0-9A-Fa-f]{2})*")
_NUL = "%00"
_LENGTH = re.compile(r"0|[1-9][0-9]{0,14}")
# What belongs to one connection (RFC 9110, 7.6.1), and what a proxy is told.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect"}
)
_FOR_PROXY = "proxy-"
_CONNECTIONS = frozenset({"keep-alive", "close"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRequest:
    """An accepted head. Of its headers those are left that are the target's business."""

    target: Target
    method: str
    path: str
    """In origin form, with the query; empty for CONNECT."""
    headers: Mapping[str, str]
    """Names in lower case, each once; Host is the target, in its own form."""
    length: int | None
    """Of the body in bytes; None: it comes in chunks."""
    expects_continue: bool
    """Whether the client waits for a 100 before it sends the body."""
    keep_alive: bool
    """Whether the client wants the connection kept."""


def is_for_proxy(raw: bytes) -> bool:
    """Whether a head asks for the proxy: CONNECT, or a target that begins with a scheme."""
    return _ABOUT_PROXY.match(raw) is not None


def parse_proxy_head(raw: bytes) -> ProxyRequest | Denial:
    """Parse a head, `raw` up to and with the empty line; a Denial for an odd one. Never raises."""
    read = _read(raw)
    if isinstance(read, Denial):
        return read
    method, uri, minor, headers = read
    if method == CONNECT:
        return _parse_connect(uri, minor, headers)
    if minor != "1":
        return _version()
    match = _ABSOLUTE.fullmatch(uri)
    if match is None:
        return malformed("the target must be http://HOST/PATH; for https use CONNECT")
    target = parse_authority(match[1], Scheme.HTTP)
    if target is None:
        return malformed("the host in the target is not a plain one")
    return _parse_request(method, target, match[2] or "/", headers)


def parse_inner_head(raw: bytes, target: Target) -> ProxyRequest | Denial:
    """As `parse_proxy_head`, for a request in origin form to a target that is known already."""
    read = _read(raw)
    if isinstance(read, Denial):
        return read
    method, uri, minor, headers = read
    if minor != "1":
        return _version()
    if method == CONNECT:
        return malformed("a tunnel in a tunnel is not offered")
    return _parse_request(method, target, uri, headers)


def parse_authority(text: str, scheme: Scheme, *, needs_port: bool = False) -> Target | None:
    """The target that HOST or HOST:PORT names; None for any other form. Never raises."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    host = parse_host(match[1])
    port = parse_port(match[2]) if match[2] is not None else DEFAULT_PORTS[scheme]
    if host is None or port is None or (needs_port and match[2] is None):
        return None
    return Target(host=host, port=port, scheme=scheme)


def _read(raw: bytes) -> tuple[str, str, str, dict[str, str]] | Denial:
    """Method, target, minor version and headers, with what is refused in any request."""
    if len(raw) > MAX_HEAD_BYTES:
        return head_too_large()
    if not raw.endswith(END_OF_HEAD):
        return malformed("the head must end with an empty line")
    first, *lines = raw[: -len(END_OF_HEAD)].split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        return malformed("the request line is not of the form METHOD TARGET HTTP/1.1")
    headers = parse_headers(lines)
    if isinstance(headers, Denial):
        return headers
    if "upgrade" in headers or "http2-settings" in headers:
        return _refusal(400, DenialReason.UPGRADE, "Upgrades are not offered here.")
    if "te" in headers or "trailer" in headers:
        return _framing("Trailers are not passed on.")
    for name in ("connection", "proxy-connection"):
        if headers.get(name, "close").lower() not in _CONNECTIONS:
            return malformed("Connection may say keep-alive or close")
    return line[1].decode("ascii"), line[2].decode("ascii"), line[3].decode("ascii"), headers


def _parse_connect(uri: str, minor: str, headers: Mapping[str, str]) -> ProxyRequest | Denial:
    target = parse_authority(uri, Scheme.HTTPS, needs_port=True)
    if target is None:
        return malformed("CONNECT takes a plain HOST:PORT")
    # Python's client, which says 1.0, names no host.
    if not (minor == "0" and "host" not in headers) and _host_of(headers, target) != target:
        return _other_host()
    if headers.keys() & {"content-length", "transfer-encoding", "expect"}:
        return _framing("CONNECT has no body.")
    return ProxyRequest(
        target=target,
        method=CONNECT,
        path="",
        headers={},
        length=0,
        expects_continue=False,
        keep_alive=False,
    )


def _parse_request(
    method: str, target: Target, path: str, headers: Mapping[str, str]
) -> ProxyRequest | Denial:
    if method not in _METHODS:
        return _refusal(
            405, DenialReason.ROUTE, f"The proxy passes on {', '.join(sorted(_METHODS))}."
        )
    if _PATH.fullmatch(path) is None or _NUL in path:
        return _refusal(400, DenialReason.ODD_TARGET, "The path has characters that it may not.")
    if _host_of(headers, target) != target:
        return _other_host()
    length = _body_length(headers)
    if isinstance(length, Denial):
        return length
    expect = headers.get("expect")
    if expect is not None and expect.lower() != "100-continue":
        return _refusal(417, DenialReason.FRAMING, "Expect may say 100-continue.")
    return ProxyRequest(
        target=target,
        method=method,
        path=path,
        headers=_end_to_end(headers, target),
        length=length,
        expects_continue=expect is not None and length != 0,
        keep_alive=headers.get("connection", "").lower() != "close",
    )


def _host_of(headers: Mapping[str, str], target: Target) -> Target | None:
    return parse_authority(headers.get("host", ""), target.scheme)


def _body_length(headers: Mapping[str, str]) -> int | Denial | None:
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if length is not None:
            return _framing("A body has Content-Length or Transfer-Encoding, not both.")
        return None if coding.lower() == "chunked" else _framing("A body may come in chunks only.")
    if length is not None and _LENGTH.fullmatch(length) is None:
        return _framing("Content-Length must be a plain number.")
    return int(length or 0)


def _end_to_end(headers: Mapping[str, str], target: Target) -> dict[str, str]:
    kept = {
        name: value
        for name, value in headers.items()
        if name not in _HOP_BY_HOP and not name.startswith(_FOR_PROXY)
    }
    return {**kept, "host": str(target)}


def _other_host() -> Denial:
    return _refusal(
        400, DenialReason.HOST_HEADER, "The Host header must name the same host as the target."
    )


def _version() -> Denial:
    return _refusal(505, DenialReason.VERSION, "Only HTTP/1.1 is spoken here.")


def _framing(message: str) -> Denial:
    return _refusal(400, DenialReason.FRAMING, message)


def _refusal(status: int, reason: DenialReason, message: str) -> Denial:
    return Denial(status=status, reason=reason, message=message, kind="invalid_request_error")
