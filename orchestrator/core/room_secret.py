"""Where a room's secrets replace their surrogates, and how they are kept out of its answers.

Rules: a secret goes into the value of a header, and nowhere else; to its own hosts; in the place of
this room's own surrogate, whole. Not into a body (unbounded, and what servers store and show) nor
into a path or a query (what proxies and servers write into their logs). A server may repeat what it
was sent, so its answers are searched for the values, and no answer may come in a form that can't be
searched.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from orchestrator.core.egress_rules import DEFAULT_PORTS, HostRule, Scheme, Target, is_covered

Headers = Sequence[tuple[str, str]]
"""Name and value, in order; names in any case."""

_BASIC = re.compile(r"(basic +)([A-Za-z0-9+/]{1,8192}={0,2})", re.IGNORECASE)
# They steer the connection, or are what servers repeat, store as data, and show to others.
_NEVER = re.compile(
    r"host|connection|content-.*|transfer-encoding|te|trailer|upgrade|expect|via|forwarded|from"
    r"|x-forwarded-.*|user-agent|referer|origin|accept|accept-.*|range|if-.*|date|cache-control"
    r"|access-control-.*|x-(?:amz|goog|ms|object)-meta-.*",
    re.IGNORECASE,
)
# Pieces of an answer, each too short to be recognised, could be asked for one by one.
_PIECEMEAL = frozenset({"range", "if-range"})
_WORD = "A-Za-z0-9"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSecret:
    """One secret of one room."""

    name: str
    surrogate: str
    value: str = field(repr=False)
    hosts: tuple[HostRule, ...]

    def __post_init__(self) -> None:
        if len(self.value) != len(self.surrogate) or self.value == self.surrogate:
            msg = f"{self.name}: a surrogate has its secret's length and is not the secret"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """One text that must not come back to the room, and what stands in its place there."""

    text: str = field(repr=False)
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A request's headers as they go out, and what its answer is searched for."""

    headers: list[tuple[str, str]] = field(repr=False)
    hidden: tuple[Hidden, ...]
    """Empty where no secret is for this target: the answer may come in any form."""
    used: tuple[str, ...]
    """Names of the secrets that were put in."""


def secrets_for(
    target: Target, secrets: Iterable[RoomSecret], *, intercept: Iterable[HostRule] = ()
) -> tuple[RoomSecret, ...]:
    """The secrets that may go to a target.

    In clear they go only where a rule names the port, which is not that of https, and nothing
    intercepts it: otherwise a room could choose http:// for a host that is meant for https, and
    show the secret to the network.
    """
    if target.scheme is Scheme.HTTPS:
        return tuple(secret for secret in secrets if is_covered(target, secret.hosts))
    opened = Target(host=target.host, port=target.port, scheme=Scheme.HTTPS)
    if target.port == DEFAULT_PORTS[Scheme.HTTPS] or is_covered(opened, intercept):
        return ()
    return tuple(
        secret
        for secret in secrets
        if is_covered(target, (rule for rule in secret.hosts if rule.port is not None))
    )


def seal_headers(headers: Headers, secrets: Sequence[RoomSecret]) -> Sealed:
    """The headers with values for surrogates; `secrets` are those for the request's target. Pure.

    With any secret for the target, also where no surrogate was found: what a server was sent
    before may come back later, so the answer has to be plain and whole, and is searched.
    """
    if not secrets:
        return Sealed(headers=list(headers), hidden=(), used=())
    swap = _Swap(secrets)
    out = [
        (name, value if _NEVER.fullmatch(name) else swap.value_of(name, value))
        for name, value in headers
        if name.lower() != "accept-encoding" and name.lower() not in _PIECEMEAL
    ]
    out.append(("accept-encoding", "identity"))
    # The longest first: where one text is a part of another, nothing of either stays.
    hidden = sorted(swap.hidden, key=lambda item: len(item.text), reverse=True)
    return Sealed(headers=out, hidden=tuple(hidden), used=tuple(sorted(swap.used)))


def is_searchable(headers: Headers) -> bool:
    """Whether an answer's body comes as it is: neither compressed nor in pieces of a whole."""
    return all(
        value.strip().lower() == "identity"
        for name, value in headers
        if name.lower() == "content-encoding"
    ) and not any(name.lower() == "content-range" for name, _ in headers)


def hide_in_headers(headers: Headers, hidden: Sequence[Hidden]) -> list[tuple[str, str]]:
    """An answer's headers with marks for what is hidden; without those that have it in the name.

    A name has no case of its own, so it is compared without.
    """
    return [
        (name, _hide(value, hidden))
        for name, value in headers
        if not any(item.text.lower() in name.lower() for item in hidden)
    ]


def _hide(text: str, hidden: Sequence[Hidden]) -> str:
    for item in hidden:
        text = text.replace(item.text, item.mark)
    return text


def _spellings(secret: RoomSecret) -> list[Hidden]:
    """The value as a page, a URL or a JSON text shows it. Length stays: punctuation is the same."""
    ways = (str, _in_url, html.escape, _in_json, _in_json_with_slashes)
    found = {way(secret.value): way(secret.surrogate) for way in ways}
    return [Hidden(text=text, mark=mark) for text, mark in found.items()]


def _in_url(text: str) -> str:
    return quote(text, safe="")


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _in_json_with_slashes(text: str) -> str:
    return _in_json(text).replace("/", "\\/")


class _Swap:
    """Puts values for surrogates, in one pass each, and remembers what it made."""

    def __init__(self, secrets: Sequence[RoomSecret]) -> None:
        self._by_surrogate = {secret.surrogate: secret for secret in secrets}
        longest_first = sorted(self._by_surrogate, key=len, reverse=True)
        found = "|".join(re.escape(surrogate) for surrogate in longest_first)
        self._pattern = re.compile(rf"(?<![{_WORD}])(?:{found})(?![{_WORD}])")
        self.hidden = [item for secret in secrets for item in _spellings(secret)]
        self.used: set[str] = set()

    def value_of(self, name: str, value: str) -> str:
        """A header's value as it goes out."""
        match = _BASIC.fullmatch(value) if name.lower() == "authorization" else None
        return self._plain(value) if match is None else match[1] + self._basic(match[2])

    def _plain(self, text: str) -> str:
        return self._pattern.sub(self._put, text)

    def _put(self, match: re.Match[str]) -> str:
        secret = self._by_surrogate[match[0]]
        self.used.add(secret.name)
        return secret.value

    def _basic(self, encoded: str) -> str:
        """`user:password` in base64; what is not ASCII inside stays as it is."""
        try:
            pair = base64.b64decode(encoded, validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            return encoded
        made = self._plain(pair)
        if made == pair:
            return encoded
        sent = base64.b64encode(made.encode()).decode()
        self.hidden.append(Hidden(text=sent.rstrip("="), mark=encoded.rstrip("=")))
        return sent
