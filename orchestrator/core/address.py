"""Which addresses the proxy may connect to: public ones, and those that the operator named.

A name that a room may reach is somebody else's to point anywhere: at this host, at its neighbours,
at the metadata service of its cloud. So the address decides, too. IPv4 is public except for what is
listed here; of IPv6 only global unicast (2000::/3) can be, again without what is listed. The lists
are IANA's registries of special-purpose addresses, and what clouds answer on besides.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from orchestrator.core.proxy_policy import IpAddress, IpNetwork

_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network; 0.0.0.0 is this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT; Alibaba's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host
        "169.254.0.0/16",  # link-local; nearly everybody's metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",  # documentation, as 198.51.100.0/24 and 203.0.113.0/24
        "192.31.196.0/24",  # AS112, as 192.175.48.0/24
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# Outside of it: loopback, unspecified, IPv4-mapped and -compatible, NAT64 (64:ff9b::/96 and
# 64:ff9b:1::/48), discard, unique local (fd00:ec2::254 is AWS's metadata), link-local, site-local,
# multicast, and whatever is not assigned.
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks, AMT, AS112
        "2001:db8::/32",  # documentation, as 3fff::/20
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # given back
        "3fff::/20",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# ISATAP: an IPv4 address in the last 32 bits, after one of these.
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


def is_public(address: IpAddress) -> bool:
    """Whether an address is one of the open internet, for every host alike."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    if address.scope_id is not None or address not in _GLOBAL_6:
        return False
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return False
    return not any(address in network for network in _NOT_PUBLIC_6)


def is_internal(address: IpAddress, internal: Iterable[IpNetwork]) -> bool:
    """Whether the operator named a network with this address."""
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return False
    return any(address in network for network in internal)


def is_translated(address: IpAddress) -> bool:
    """Whether NAT64 leads from it to a public IPv4 address (64:ff9b::/96, RFC 6052)."""
    if not isinstance(address, ipaddress.IPv6Address) or address not in _NAT64:
        return False
    return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
