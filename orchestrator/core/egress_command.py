"""What stands behind `!egress`: one order, or a line that says how to write one. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.egress_rules import HostRule, parse_rule
from orchestrator.core.texts import egress as egress_texts


class EgressVerb(StrEnum):
    """What is to be done."""

    LIST = "list"
    ALLOW = "allow"
    DENY = "deny"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressOrder:
    """An order that can be carried out. `rule` is set but for LIST; it has no wildcard."""

    verb: EgressVerb
    rule: HostRule | None = None
    always: bool = False


_SPANS = {"1h": False, "hour": False, "always": True}


def parse_order(argument: str, *, never: Collection[str]) -> EgressOrder | str:
    """The order, or the line to answer with. `never`: hosts that can't be granted."""
    words = argument.replace("`", " ").split()
    if not words or words == [EgressVerb.LIST]:
        return EgressOrder(verb=EgressVerb.LIST)
    verb, rest = words[0].lower(), words[1:]
    span = rest.pop().lower() if verb == EgressVerb.ALLOW and len(rest) == 2 else "1h"
    if verb not in tuple(EgressVerb)[1:] or len(rest) != 1 or span not in _SPANS:
        return egress_texts.USAGE
    try:
        rule = parse_rule(rest[0])
    except ValueError:
        return egress_texts.USAGE
    if rule.subdomains:
        return egress_texts.NO_WILDCARD
    if verb == EgressVerb.ALLOW and rule.host in never:
        return egress_texts.NOT_THE_API
    return EgressOrder(verb=EgressVerb(verb), rule=rule, always=_SPANS[span])
