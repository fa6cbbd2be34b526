"""What one room may do through the proxy, as values; `egress_rules` says what a rule covers."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.egress_rules import HostRule

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# The figures' reasons stand in docs/decisions/0016.
_CONNECTIONS = 32
_BYTES_PER_S = 16 << 20
_BYTES_PER_DAY = 10 << 30
_IDLE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyPolicy:
    """By default no host can be reached. Grants of the room come on top (`Door.grants`)."""

    allow: tuple[HostRule, ...] = ()
    internal: tuple[IpNetwork, ...] = ()
    hosts: Mapping[str, IpAddress] = field(default_factory=dict)
    intercept: tuple[HostRule, ...] = ()
    asks: bool = True
    """Whether refused hosts are passed on to the room."""
    connections: int = _CONNECTIONS
    bytes_per_s: int = _BYTES_PER_S
    bytes_per_day: int = _BYTES_PER_DAY
    idle_s: float = _IDLE_S
