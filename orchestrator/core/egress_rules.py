"""Which hosts a room's runner may reach besides the API: rules, targets, what covers what.

Rules: what is not named is refused, and an empty list refuses everything. Names are compared whole
and in one form (`parse_host`): lower case, ASCII, no empty label, no trailing dot. An address is
only ever covered by the same address in a rule, never by a wildcard.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

MAX_HOST_CHARS = 253
"""Of a host name in text (RFC 1035)."""
MAX_PORT = 65535
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


class Scheme(StrEnum):
    """How a target is spoken to: through a tunnel that the room's client encrypts, or in clear."""

    HTTPS = "https"
    HTTP = "http"


DEFAULT_PORTS = {Scheme.HTTPS: 443, Scheme.HTTP: 80}
"""What a rule without a port covers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a connection is to go. `host` has gone through `parse_host`."""

    host: str
    port: int
    scheme: Scheme

    def __str__(self) -> str:
        """As a rule would name it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRule:
    """One entry of an allow-list."""

    host: str
    subdomains: bool
    """Whether it covers every name below `host`, and not `host` itself (`*.host`)."""
    port: int | None
    """None: the scheme's own port."""

    def __str__(self) -> str:
        """As it was written."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (
            f"{'*.' if self.subdomains else ''}{host}{'' if self.port is None else f':{self.port}'}"
        )

    def covers(self, target: Target) -> bool:
        """Whether the target may be reached by this rule."""
        if target.port != (self.port or DEFAULT_PORTS[target.scheme]):
            return False
        if not self.subdomains:
            return target.host == self.host
        return not is_address(target.host) and target.host.endswith(f".{self.host}")


def parse_rule(text: str) -> HostRule:
    """A rule from `name`, `*.name`, `name:port`, `192.0.2.1` or `[2001:db8::1]:8443`.

    Raises:
        ValueError: it is none of these; says what was expected.
    """
    if "/" in text:
        msg = "expected a host alone, without https:// before it and without a path or a network"
        raise ValueError(msg)
    rest, subdomains = (text[2:], True) if text.startswith("*.") else (text, False)
    host, port = _split_port(rest)
    known = parse_host(host)
    if known is None or (subdomains and is_address(known)):
        msg = "expected a host such as example.org, *.example.org, example.org:8443 or 192.0.2.1"
        raise ValueError(msg)
    return HostRule(host=known, subdomains=subdomains, port=port)


def parse_host(text: str) -> str | None:
    """The one form of a host name or an address; None for everything else. Never raises.

    Refused: other forms of addresses (hexadecimal, one number, short, with a zone), empty labels,
    a trailing dot, underscores, control characters, and anything outside ASCII.
    """
    if text.startswith("[") and text.endswith("]"):
        return _parse_address(text[1:-1], ipaddress.IPv6Address)
    lower = text.lower() if text.isascii() else ""
    if not 0 < len(lower) <= MAX_HOST_CHARS:
        return None
    labels = lower.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        return None
    if labels[-1][0].isdigit():
        # A name's last label never starts with a digit (RFC 3696); this is an address, or a trick.
        return _parse_address(lower, ipaddress.IPv4Address)
    return lower


def is_address(host: str) -> bool:
    """Whether a parsed host is an address and not a name."""
    return ":" in host or host.rpartition(".")[2].isdigit()


def is_covered(target: Target, rules: Iterable[HostRule]) -> bool:
    """Whether any of the rules covers the target."""
    return any(rule.covers(target) for rule in rules)


def parse_port(text: str) -> int | None:
    """A port in plain decimal digits, 1 to 65,535; None for everything else."""
    if _PORT.fullmatch(text) is None or int(text) > MAX_PORT:
        return None
    return int(text)


def _split_port(text: str) -> tuple[str, int | None]:
    host, colon, digits = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, None
    port = parse_port(digits)
    if port is None:
        msg = f"expected a port between 1 and {MAX_PORT} after the colon"
        raise ValueError(msg)
    return host, port


def _parse_address(
    text: str, kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]
) -> str | None:
    if "%" in text:
        return None
    try:
        return str(kind(text))
    except ValueError:
        return None
