"""Every sentence that a room is shown about hosts that it may or may not reach.

What a room, a person or a configuration wrote stands in these as code (`code`): no client makes a
link, a pill or a format of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.egress_rules import Scheme, Target
from orchestrator.core.grant import Grant, is_usual_port
from orchestrator.core.quoting import quote
from orchestrator.core.texts import duration, size, utc_time

# Of a name: a host has at most 253, and a command around it some 30.
_CODE_CHARS = 300

MORE = (
    "More hosts were refused here than I ask about at once. `!egress` lists the latest; "
    "`!egress allow HOST` allows one."
)
NOT_APPROVER = (
    "Only people whom the operator has listed can change this (access.admins, access.approvers); "
    "agents never can. `!egress` shows what holds."
)
USAGE = (
    "Like this: `!egress`, `!egress allow HOST [1h|always]`, `!egress deny HOST`, "
    "`!egress revoke HOST`. HOST is a name such as `example.org` or `example.org:8443`."
)
NO_WILDCARD = (
    "A wildcard covers names that nobody has seen yet, so it can't be granted in a room; the "
    "operator can configure it (egress.allow)."
)
NOT_THE_API = (
    "The Messages API is reached through the gateway, with this installation's credential. A "
    "tunnel past it can't be granted."
)
NOT_PUBLIC = (
    "That is this host's own network or one like it, which stays refused whoever allows it; the "
    "operator can name networks that may be reached (egress.internal)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What `!egress` shows."""

    configured: Sequence[str]
    grants: Sequence[Grant]
    questions: Sequence[tuple[Target, float]]
    """What is asked, and until when."""
    refused: Sequence[tuple[Target, int]]
    """What was refused lately, and how often."""
    used_bytes: int
    """Of the day, booked a piece ahead: never less than what was moved."""
    bytes_per_day: int
    asks: bool
    has_approvers: bool


def overview(seen: Overview) -> str:
    """What may be reached from a room, by whose word, and what is asked."""
    granted = [
        f"{code(str(g.rule))} {_until(g.expires_at)} by {code(g.granted_by)}" for g in seen.grants
    ]
    asked = [f"{_full(target)} until {utc_time(until)}" for target, until in seen.questions]
    refused = [
        _full(target) + (f" ({count} times)" if count > 1 else "") for target, count in seen.refused
    ]
    used = size(seen.used_bytes) if seen.used_bytes == 0 else f"at most {size(seen.used_bytes)}"
    lines = [
        f"- Allowed by the configuration: {_codes(seen.configured)}",
        f"- Granted here: {_some(granted)}",
        f"- Asked, and open: {_some(asked)}",
        f"- Refused lately: {_some(refused) if seen.asks else 'not kept (egress.ask is off)'}",
        f"- Today: {used} of {size(seen.bytes_per_day)}",
    ]
    if not seen.has_approvers:
        lines.append("- Nobody can grant anything here: access.approvers names nobody")
    return "\n".join(lines)


def question(
    target: Target,
    *,
    tools: Sequence[str],
    asker: str | None,
    until: float,
) -> str:
    """A host was refused, and an approver may allow it. Only the host is surely what it says."""
    host, name = code(str(target)), str(target)
    return (
        f"**Refused: {host}**{_how_spoken(target)}. This room's runner tried to reach it and may "
        f"not.{_wanted(tools, asker)}\n\n"
        "Who may decide answers with a reaction to this message: ⏱️ allow it for 1 hour, ♾️ allow "
        f"it in this room for good, ❌ refuse it. Or: {code(f'!egress allow {name} 1h')}, "
        f"{code(f'!egress deny {name}')}. Open until {utc_time(until)}."
    )


def granted(target: str, by: str, expires_at: float | None) -> str:
    """What a decision allowed; a new connection works at once."""
    if expires_at is None:
        return (
            f"{code(target)} is allowed in this room for good, by {code(by)}. "
            f"{code(f'!egress revoke {target}')} takes it back."
        )
    return f"{code(target)} is allowed until {utc_time(expires_at)}, by {code(by)}."


def refused(target: str, by: str, again_s: float) -> str:
    """Somebody said no."""
    return (
        f"{code(target)} stays refused, by {code(by)}. "
        f"It is not asked about again within {duration(again_s)}."
    )


def expired(target: str) -> str:
    """Nobody decided in time."""
    return (
        f"Expired: nobody decided about {code(target)} in time, so it stays refused. "
        f"{code(f'!egress allow {target}')} still allows it."
    )


def late(target: str, how: str) -> str:
    """An answer to a question that has ended; `how` as a clause."""
    return f"Too late: {how}. {code('!egress')} shows what holds for {code(target)} now."


def nobody(target: Target) -> str:
    """A host was refused, and there is nobody to ask."""
    return (
        f"Refused: {code(str(target))}. Nobody can allow it from here: the operator can name "
        "people who may (access.approvers or access.admins), or the host (egress.allow)."
    )


def unmet(host: str, *, is_configured: bool, is_granted: bool) -> str:
    """`!egress deny` or `revoke` found nothing to change."""
    if is_granted:
        return f"{code(host)} is granted here: {code(f'!egress revoke {host}')} takes that back."
    if is_configured:
        return f"{code(host)} is allowed by the operator's configuration; only that can change it."
    return f"Nothing to change: {code(host)} is neither granted here nor asked about."


def revoked(hosts: Sequence[str], by: str) -> str:
    """What was granted is no longer."""
    return f"Taken back by {code(by)}: {_codes(hosts)}. New connections are refused from now on."


def not_moved(hosts: Sequence[str]) -> str:
    """What was granted in the room before doesn't hold in the one that replaces it."""
    return (
        f"What was granted in the room before does not hold here: {_codes(hosts)}. "
        "`!egress allow HOST` grants it in this room."
    )


def code(text: str) -> str:
    """As a piece of code: no link, no pill, no format comes of it, whoever wrote it."""
    return quote(text, max_chars=_CODE_CHARS)


def _codes(hosts: Sequence[str]) -> str:
    return _some([code(host) for host in hosts])


def _some(parts: Sequence[str], most: int = 20) -> str:
    """A list in a line, cut where it is long."""
    shown = ", ".join(parts[:most]) or "nothing"
    return shown if len(parts) <= most else f"{shown} and {len(parts) - most} more"


def _full(target: Target) -> str:
    """The same host is another target in clear, so the name alone would stand there twice."""
    return f"{code(str(target))}{_how_spoken(target)}"


def _until(expires_at: float | None) -> str:
    return "for good" if expires_at is None else f"until {utc_time(expires_at)}"


def _how_spoken(target: Target) -> str:
    if target.scheme is Scheme.HTTP:
        return f" (port {target.port}, not encrypted)"
    return "" if is_usual_port(target) else f" (port {target.port})"


def _wanted(tools: Sequence[str], asker: str | None) -> str:
    turn = f" in a turn of {code(asker)}" if asker else ""
    if not tools:
        return f" Which tool wanted it is not known; it was{turn or ' outside of any turn'}."
    return f" Running then{turn}, in the room's own words: {', '.join(code(t) for t in tools)}."
