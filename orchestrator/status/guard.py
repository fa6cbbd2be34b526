"""Who may see the status page and act on it: tokens, sessions, and how many tries there are.

Rules: a token is compared by its digest, in constant time, and both are compared each time; wrong
ones are few a minute, whoever sends them; a session's cookie is a number of ours that says nothing,
known for as long as this process lives.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from orchestrator.config import StatusTokens

# Six in a row by a person who mistypes; a guess of 16 characters takes longer than there is time.
_TRIES = 6
_TRY_EVERY_S = 10.0
SESSION_S = 12 * 3600
_MAX_SESSIONS = 32
_NAME_BYTES = 32


class Level(Enum):
    """What a token is good for."""

    READ = "read"
    ADMIN = "admin"


class TooManyTriesError(Exception):
    """Too many wrong tokens came lately: none is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Somebody who showed a token. `csrf` has to be in what they send."""

    name: str
    csrf: str
    level: Level
    until: float


class Guard:
    """Invariant: at most _MAX_SESSIONS sessions, the oldest go first."""

    def __init__(self, tokens: StatusTokens, *, clock: Callable[[], float]) -> None:
        """`clock`: seconds that don't jump."""
        self._tokens = tokens
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._tries, self._counted_at = float(_TRIES), clock()

    def __repr__(self) -> str:
        return f"<Guard sessions={len(self._sessions)} tries={self._tries:.1f}>"

    def level_of(self, token: str) -> Level | None:
        """What this token is good for; None: it is none of ours, which costs a try.

        Raises:
            TooManyTriesError: it was not looked at.
        """
        now = self._clock()
        self._tries = min(_TRIES, self._tries + (now - self._counted_at) / _TRY_EVERY_S)
        self._counted_at = now
        if self._tries < 1:
            raise TooManyTriesError
        admin = self._tokens.admin
        is_admin = _is_same(token, admin.get_secret_value() if admin else secrets.token_hex(32))
        is_reader = _is_same(token, self._tokens.read.get_secret_value())
        if is_admin or is_reader:
            return Level.ADMIN if is_admin else Level.READ
        self._tries -= 1
        return None

    def begin(self, level: Level) -> Session:
        """A session for who has just shown a token of this level."""
        session = Session(
            name=secrets.token_urlsafe(_NAME_BYTES),
            csrf=secrets.token_urlsafe(_NAME_BYTES),
            level=level,
            until=self._clock() + SESSION_S,
        )
        while len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[session.name] = session
        return session

    def find(self, name: str) -> Session | None:
        """The session of a cookie; None where there is none any more."""
        session = self._sessions.get(name)
        if session is None or session.until <= self._clock():
            self._sessions.pop(name, None)
            return None
        return session

    def end(self, session: Session) -> None:
        """Log out. Idempotent."""
        self._sessions.pop(session.name, None)


def is_form_of(session: Session, csrf: str) -> bool:
    """Whether a form was made for this session."""
    return _is_same(csrf, session.csrf)


def _is_same(one: str, other: str) -> bool:
    return hmac.compare_digest(_digest(one), _digest(other))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
