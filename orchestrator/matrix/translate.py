"""The one place where what a homeserver answers becomes an error of ours.

Rules: only an answer that speaks Matrix (an `errcode`) can refuse for good; anything else (a
proxy's page, a cut connection, half an answer) may be better next time. Nothing of a body but its
`errcode` reaches an error's text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

from orchestrator.errors import (
    HomeserverUnreachableError,
    LoginRefusedError,
    MatrixError,
    RateLimitedError,
    RequestRefusedError,
)
from orchestrator.matrix.rawjson import parse_object
from orchestrator.model import JsonObject

_ERRCODE = re.compile(r"[A-Za-z0-9_.]{1,100}")
_TOKEN_ERRCODES = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"})
_ENDED = (
    "The homeserver ended the session: its access token is not valid any more. Start again with "
    "MATRIX_PASSWORD set: that logs in anew. (Where MATRIX_ACCESS_TOKEN is used, set a new one.) "
    "Runners and what they work on were left alone."
)
_TOO_LARGE = 413
_TOO_MANY = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer, read to its end. `headers` is looked up without regard to case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_ok(self) -> bool:
        """Whether the request was carried out."""
        return 200 <= self.status < 300

    def json(self) -> JsonObject | None:
        """The body, when it is a JSON object."""
        try:
            return parse_object(self.body)
        except ValueError:
            return None

    def errcode(self) -> str | None:
        """The Matrix error code, when there is a well-formed one."""
        code = (self.json() or {}).get("errcode")
        return code if isinstance(code, str) and _ERRCODE.fullmatch(code) else None

    def is_token_refused(self) -> bool:
        """Whether the access token is not valid (any more)."""
        return self.status == 401 and self.errcode() in _TOKEN_ERRCODES

    def is_soft_logout(self) -> bool:
        """Whether the device is still there and only needs a new token."""
        return (self.json() or {}).get("soft_logout") is True


def error_from(answer: Answer, *, what: str, now: float) -> MatrixError:
    """The error that an answer stands for; `now` is Unix time, for a Retry-After with a date."""
    code = answer.errcode()
    if answer.status == _TOO_MANY or code == "M_LIMIT_EXCEEDED":
        return RateLimitedError(retry_after_s(answer, now=now))
    if answer.is_token_refused():
        return LoginRefusedError(_ENDED)
    if answer.status == _TOO_LARGE:
        return RequestRefusedError(errcode=code or "M_TOO_LARGE", status=_TOO_LARGE, what=what)
    if code is not None and 400 <= answer.status < 500:
        return RequestRefusedError(errcode=code, status=answer.status, what=what)
    return HomeserverUnreachableError(
        f"{what}: expected an answer of a Matrix homeserver, got HTTP status {answer.status}. "
        "Check matrix.homeserver, and any proxy before it."
    )


def unreadable(what: str) -> HomeserverUnreachableError:
    """The error for an answer with a good status whose body can't be used."""
    return HomeserverUnreachableError(
        f"{what}: the homeserver's answer was cut short or is not the expected JSON"
    )


def retry_after_s(answer: Answer, *, now: float) -> float | None:
    """Seconds to wait as the answer says: its Retry-After header first, then `retry_after_ms`."""
    waits = (
        _header_wait_s(answer.headers.get("Retry-After"), now),
        _body_wait_s(answer.json() or {}),
    )
    return next((wait for wait in waits if wait is not None), None)


@contextmanager
def transport_errors(what: str) -> Iterator[None]:
    """Turn whatever can go wrong on the way into HomeserverUnreachableError."""
    try:
        yield
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, OSError, EOFError) as e:
        # TimeoutError is an OSError. The text of these can hold a URL; their kind is enough.
        reason = "no answer in time" if isinstance(e, TimeoutError) else type(e).__name__
        msg = f"{what}: the homeserver does not answer ({reason})"
        raise HomeserverUnreachableError(msg) from None


def _header_wait_s(value: str | None, now: float) -> float | None:
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:  # up to 30 years
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.fromtimestamp(now, UTC)).total_seconds())


def _body_wait_s(body: JsonObject) -> float | None:
    value = body.get("retry_after_ms")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value / 1000 if value >= 0 and math.isfinite(value) else None
