"""What the sections of the configuration share: their base, and the types of single values."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from orchestrator.core.egress_rules import parse_rule
from orchestrator.model import UserId

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_USER_ID = r"^@[^:\s]+:[^\s]+$"


class Section(BaseModel):
    """A part of the file: no unknown keys, not changed later, no value repeated in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def parse_size(value: object) -> object:
    """Bytes from `512m`, `2g`, `100 MiB` or a number; powers of 1024, as Docker reads them.

    Raises:
        ValueError: for text that is not a size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        msg = "expected a size such as 512m or 2g"
        raise ValueError(msg)
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _check_rule(value: str) -> str:
    return str(parse_rule(value))


def _check_network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        msg = "expected a network such as 10.0.0.0/8 or fd00::/8"
        raise ValueError(msg) from None


def _check_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        msg = "expected an address such as 192.0.2.1 or 2001:db8::1"
        raise ValueError(msg) from None


def _check_loopback(value: str) -> str:
    host, _, port = value.rpartition(":")
    try:
        is_own = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        is_own = False
    if not is_own or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        msg = "expected an address of this host alone and a port, such as 127.0.0.1:9465"
        raise ValueError(msg)
    return value


Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
UserPattern = Annotated[UserId, Field(pattern=_USER_ID)]
HostPattern = Annotated[str, AfterValidator(_check_rule)]
"""What `core.egress_rules.parse_rule` takes, in its own form."""
Network = Annotated[str, AfterValidator(_check_network)]
LoopbackAddress = Annotated[str, AfterValidator(_check_loopback)]
"""`HOST:PORT` that nobody else can reach."""
Address = Annotated[str, AfterValidator(_check_address)]
