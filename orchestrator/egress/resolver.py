"""DNS, here and nowhere else: names of allowed hosts, looked up for a room within its own bounds.

A lookup is asked once for each connection, and what it answered is what is connected to; a second
answer could be another one. A lookup can't be ended, only given up: its thread keeps one of the
room's places until the system's resolver returns, so slow name servers make their own room wait.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping

from orchestrator.call_threads import CallThreads
from orchestrator.core.egress_rules import is_address
from orchestrator.core.proxy_policy import IpAddress

Lookup = Callable[[str], tuple[IpAddress, ...]]
"""The addresses of a name, in the order to try them. Blocks; OSError where there are none."""

# Lookups of one room at once. npm opens 15 connections at once, to one host.
_LOOKUPS = 4
# The system's resolver gives up after 5 s for each server, twice: a slow answer still counts.
_LOOKUP_S = 12.0
# More than any site needs; a name may have thousands.
_MAX_ADDRESSES = 64


class LookupFailedError(Exception):
    """A name has no address, or none was found in time."""


class Resolver:
    """Resolves for one room; at most _LOOKUPS threads at any time."""

    def __init__(self, lookup: Lookup, hosts: Mapping[str, IpAddress]) -> None:
        """`hosts` stands before what the lookup says."""
        self._lookup = lookup
        self._hosts = hosts
        self._threads = CallThreads(_LOOKUPS, "egress lookup")

    def __repr__(self) -> str:
        return f"Resolver({self._threads}, hosts={sorted(self._hosts)})"

    async def resolve(self, host: str) -> tuple[IpAddress, ...]:
        """All addresses of a host, at least one. Cancel-safe.

        Raises:
            LookupFailedError: none was found in time.
        """
        if is_address(host):
            return (ipaddress.ip_address(host),)
        if host in self._hosts:
            return (self._hosts[host],)
        try:
            async with asyncio.timeout(_LOOKUP_S):
                found = await self._threads.run(lambda: self._lookup(host))
        except (OSError, ValueError) as e:  # TimeoutError is an OSError
            raise LookupFailedError from e
        if not 0 < len(found) <= _MAX_ADDRESSES:
            raise LookupFailedError
        return found


def look_up(host: str) -> tuple[IpAddress, ...]:
    """What the system's resolver says: its files, then DNS."""
    # As bytes: a name is in its one form already, and is not to be encoded once more.
    answers = socket.getaddrinfo(
        host.encode("ascii"), None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return tuple(dict.fromkeys(ipaddress.ip_address(answer[4][0]) for answer in answers))
