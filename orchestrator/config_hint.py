"""Settings that are in order one by one and come to nothing together.

They are named and not refused: what stays closed does no harm, but is hard to find the reason of.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from orchestrator.config import Config
from orchestrator.core.address import is_internal, is_public
from orchestrator.core.egress_rules import is_address, parse_rule
from orchestrator.room_profile import EgressConfig


def unreachable_addresses(config: Config) -> list[str]:
    """One line for each address that was named and is refused, since it is not public; in order."""
    found: list[str] = []
    places = [("defaults", config.defaults)]
    places += [(f"rooms.{room}", profile) for room, profile in config.rooms.items()]
    for place, profile in places:
        for line in _closed(profile.egress):
            # What `defaults` lacks is not said again for each room.
            if f"defaults.{line}" not in found:
                found.append(f"{place}.{line}")
    return found


def _closed(egress: EgressConfig) -> Iterator[str]:
    named = [(f"allow: {text}", parse_rule(text).host) for text in egress.allow]
    named = [(key, host) for key, host in named if is_address(host)]
    named += [(f"hosts.{name}: {address}", address) for name, address in egress.hosts.items()]
    for key, text in named:
        address = ipaddress.ip_address(text)
        if not is_public(address) and not is_internal(address, egress.networks):
            yield (
                f"egress.{key}: is not a public address, so it stays refused until egress.internal "
                "names its network"
            )
