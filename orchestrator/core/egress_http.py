"""The head of one HTTP/1.1 request from a runner, parsed strictly; the body's framing, decided.

This is the narrow waist of the egress gateway, so it accepts a small subset of HTTP/1.1 and refuses
the rest instead of repairing it. General parsers repair (bare LF, folded lines, chunk extensions)
so that old programs work; each repair is a place where two readers can disagree. Here there is
nothing to disagree about: a body is framed by one Content-Length or it is refused, nothing of the
head is relayed as bytes, and the tests compare every accepted head with what the `h11` package
reads from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

# The CLI sends 20 headers of about 1.5 KB together (measured, 2.1.330); the rest is room for long
# lists of betas and for a user's own client.
MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 64
# The Messages API's own limit for a request (32 MB, in its documentation as 413 request_too_large).
MAX_BODY_BYTES = 32 * 1024 * 1024

END_OF_HEAD = b"\r\n\r\n"

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) ([\x21-\x7e]{1,8192}) HTTP/1\.1")
# White space around the value is taken away afterwards: a pattern that matches it in two places
# tries every way to divide it, which takes 10 s for a line as long as a head may be.
_HEADER_LINE = re.compile(rb"([A-Za-z0-9-]{1,128}):([\x20-\x7e\t]*)")
_LENGTH = re.compile(r"0|[1-9][0-9]{0,11}")
_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")
# What changes under decoding or normalising, or separates more than a path: %, //, /./, /../, ;,
# \, #.
_ODD_PATH = re.compile(r"%|//|/\.|;|\\|#|[^\x21-\x7e]")


class DenialReason(StrEnum):
    """Why a request was refused; safe to log and to show: nothing of the request is in it."""

    MALFORMED = "malformed"
    HEAD_TOO_LARGE = "head_too_large"
    TOO_SLOW = "too_slow"
    VERSION = "version"
    FRAMING = "framing"
    UPGRADE = "upgrade"
    ODD_TARGET = "odd_target"
    CONNECT = "connect"
    ROUTE = "route"
    NO_CREDENTIAL = "no_credential"
    FOREIGN_CREDENTIAL = "foreign_credential"
    CONTENT_TYPE = "content_type"
    BODY_TOO_LARGE = "body_too_large"
    BODY_INVALID = "body_invalid"
    BODY_FEATURE = "body_feature"
    HOST_HEADER = "host_header"
    HOST = "host"
    ADDRESS = "address"
    EARLY_DATA = "early_data"
    SERVER_NAME = "server_name"
    TOO_MANY = "too_many"
    DAY = "day"
    UNREACHABLE = "unreachable"
    BETA = "beta"
    HEADER = "header"
    BUDGET = "budget"
    OWN_FAILURE = "own_failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A refusal: the status and the API's error shape, so that the CLI shows `message`."""

    status: int
    reason: DenialReason
    message: str
    kind: str = "permission_error"
    """The API's error type."""
    may_retry: bool = False
    """Whether the same request can be answered later; the client asks again by itself then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """An accepted head. Header names are in lower case, and each is there once."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    content_length: int
    keep_alive: bool
    """Whether the client wants the connection kept."""


def parse_head(raw: bytes) -> RequestHead | Denial:
    """Parse a head, `raw` up to and with the empty line; a Denial for an odd one. Never raises.

    Refuses: any line end but CRLF, folded lines, a header twice, space before a colon, control or
    non-ASCII characters, any version but 1.1, Transfer-Encoding, Upgrade, Expect, targets that are
    not in origin form, and paths that decoding or normalising would change.
    """
    if len(raw) > MAX_HEAD_BYTES:
        return head_too_large()
    if not raw.endswith(END_OF_HEAD):
        return malformed("the head must end with an empty line")
    first, *lines = raw[: -len(END_OF_HEAD)].split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        return _bad_request_line(first)
    method, target = line[1].decode("ascii"), line[2].decode("ascii")
    headers = parse_headers(lines)
    if isinstance(headers, Denial):
        return headers
    if method == "CONNECT":
        return Denial(
            status=403,
            reason=DenialReason.CONNECT,
            message="No host besides the Messages API is allowed for this room.",
        )
    path, question, query = target.partition("?")
    if not path.startswith("/") or _ODD_PATH.search(path) or (question and not query):
        return Denial(
            status=400,
            reason=DenialReason.ODD_TARGET,
            message="The request target must be a plain path.",
            kind="invalid_request_error",
        )
    length = _framing(method, headers)
    if isinstance(length, Denial):
        return length
    return RequestHead(
        method=method,
        path=path,
        query=query,
        headers=headers,
        content_length=length,
        keep_alive=headers.get("connection", "").lower() != "close",
    )


def head_too_large() -> Denial:
    """The refusal of a head past MAX_HEAD_BYTES or MAX_HEADERS."""
    return Denial(
        status=431,
        reason=DenialReason.HEAD_TOO_LARGE,
        message=f"The headers may have {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} lines.",
        kind="invalid_request_error",
    )


def _bad_request_line(line: bytes) -> Denial:
    if re.fullmatch(rb"[A-Za-z]{1,16} [\x21-\x7e]+ HTTP/[0-9.]{1,8}", line):
        return Denial(
            status=505,
            reason=DenialReason.VERSION,
            message="Only HTTP/1.1 is spoken here.",
            kind="invalid_request_error",
        )
    return malformed("the request line is not of the form METHOD TARGET HTTP/1.1")


def parse_headers(lines: Sequence[bytes]) -> dict[str, str] | Denial:
    """The header lines, each without its line end; names in lower case, each once. Never raises."""
    if len(lines) > MAX_HEADERS:
        return head_too_large()
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER_LINE.fullmatch(line)
        if match is None:
            return malformed("a header line is not of the form Name: value")
        name = match[1].decode("ascii").lower()
        if name in headers:
            return malformed("a header may be there once")
        headers[name] = match[2].decode("ascii").strip(" \t")
    return headers


def _framing(method: str, headers: Mapping[str, str]) -> int | Denial:
    """How many bytes of body follow; the headers that would say it in another way are refused."""
    if "upgrade" in headers or "http2-settings" in headers:
        return Denial(
            status=400,
            reason=DenialReason.UPGRADE,
            message="Upgrades are not offered here.",
            kind="invalid_request_error",
        )
    if _HOST.fullmatch(headers.get("host", "")) is None:
        return malformed("one Host header is needed")
    if headers.get("connection", "keep-alive").lower() not in {"keep-alive", "close"}:
        return malformed("Connection may say keep-alive or close")
    if "transfer-encoding" in headers or "te" in headers or "trailer" in headers:
        status = 400 if "content-length" in headers else 411
        return _framing_denial(status, "A body must come with Content-Length, in one piece.")
    if "expect" in headers:
        return _framing_denial(417, "Expect is not supported; send the body at once.")
    text = headers.get("content-length")
    if text is None:
        needs = method in {"POST", "PUT", "PATCH"}
        return _framing_denial(411, "A body must come with Content-Length.") if needs else 0
    if _LENGTH.fullmatch(text) is None:
        return _framing_denial(400, "Content-Length must be a plain number.")
    return int(text)


def _framing_denial(status: int, message: str) -> Denial:
    return Denial(
        status=status, reason=DenialReason.FRAMING, message=message, kind="invalid_request_error"
    )


def malformed(detail: str) -> Denial:
    """The refusal of what can't be read."""
    return Denial(
        status=400,
        reason=DenialReason.MALFORMED,
        message=f"The request could not be read: {detail}.",
        kind="invalid_request_error",
    )
