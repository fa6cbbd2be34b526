"""From a target to a connected socket: resolve once, check every address, connect to one of them.

If any address of a name may not be reached, none is: a name that points both to the open internet
and inside is no accident.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import Sequence

from orchestrator.core.address import is_internal, is_public, is_translated
from orchestrator.core.egress_http import Denial, DenialReason
from orchestrator.core.egress_rules import Target, is_address, is_covered
from orchestrator.core.proxy_policy import IpAddress, ProxyPolicy
from orchestrator.egress.resolver import LookupFailedError, Resolver

# Of one address; a lost first packet is repeated after 1, 3 and 7 s.
_CONNECT_S = 8.0
_MAX_TRIES = 3
# No route, or no such family on this host: nothing can be connected to, so it is not our own.
_NO_ROUTE = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
)


class UnreachableError(Exception):
    """None of a target's addresses took the connection in time."""


class Dialer:
    """Connects for one room."""

    def __init__(self, resolver: Resolver, policy: ProxyPolicy) -> None:
        self._resolver = resolver
        self._policy = policy

    def __repr__(self) -> str:
        return f"Dialer({self._resolver}, internal={self._policy.internal})"

    async def find(self, target: Target) -> tuple[IpAddress, ...] | Denial:
        """The addresses to connect to, all checked; nothing is sent but the lookup. Cancel-safe."""
        try:
            addresses = await self._resolver.resolve(target.host)
        except LookupFailedError:
            return Denial(
                status=502,
                reason=DenialReason.UNREACHABLE,
                message=f"The name {target.host} could not be resolved.",
            )
        is_named = self._is_operators(target)
        if all(self._may_reach(address, is_named=is_named) for address in addresses):
            return addresses
        return Denial(
            status=403,
            reason=DenialReason.ADDRESS,
            message=(
                f"{target.host} has an address that is not public. "
                "The operator can allow its network in egress.internal."
            ),
        )

    async def connect(self, addresses: Sequence[IpAddress], port: int) -> socket.socket:
        """A connection to the first address that takes one; the caller closes it. Cancel-safe.

        Raises:
            UnreachableError: none did.
        """
        for address in addresses[:_MAX_TRIES]:
            with contextlib.suppress(OSError):  # TimeoutError is one
                return await _connect(address, port)
        raise UnreachableError

    def _may_reach(self, address: IpAddress, *, is_named: bool) -> bool:
        if is_internal(address, self._policy.internal) and (is_named or is_translated(address)):
            return True
        return is_public(address) and not is_own(address)

    def _is_operators(self, target: Target) -> bool:
        """Whether the target itself says that it may be internal, and not who owns its name.

        A name that was granted in the room is somebody's to point anywhere, also inside.
        """
        return (
            is_address(target.host)
            or target.host in self._policy.hosts
            or is_covered(target, self._policy.allow)
        )


def is_own(address: IpAddress) -> bool:
    """Whether an address is this host's: only then does the kernel answer it from the same one.

    Nothing is sent. Where it can't be told, it is taken to be ours.
    """
    family = _family(address)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Any port will do: a datagram socket only notes where it would send to.
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0]) == address
    except OSError as e:
        return e.errno not in _NO_ROUTE


async def _connect(address: IpAddress, port: int) -> socket.socket:
    sock = socket.socket(_family(address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(_CONNECT_S):
            # A literal: asyncio asks no resolver for it.
            await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def _family(address: IpAddress) -> socket.AddressFamily:
    return socket.AF_INET6 if isinstance(address, ipaddress.IPv6Address) else socket.AF_INET
