"""What people are told about what they may do, what they cost, and who else is in the room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.allowance import LimitName, Limits, Used
from orchestrator.core.quoting import quote
from orchestrator.core.texts import until_midnight, usd

ONLY_READER = (
    "You may ask how things stand here (`!status`, `!help`), and not run turns: this "
    "installation's operator has not listed you for that (access.users). Ask them to add you."
)


def may_not(name: str, who: str) -> str:
    """Somebody gave a command that is not theirs to give."""
    return f"`!{name}` is for {who} of this room. `!help` lists the commands."


def greeting(trigger: str) -> str:
    """Two lines for a room that the agent was invited to."""
    how = {
        "all": "Write what you want done; I take every message here as one for me.",
        "mention": "Mention me in a message to have something done.",
    }.get(trigger, "Write what you want done; where more than two are in the room, mention me.")
    return (
        "Hello. I am a Claude Code agent; this room has a computer of its own for its work.\n"
        f"{how} `!help` lists what else I can do."
    )


def agents_only(turns: int) -> str:
    """Agents have asked each other for long enough."""
    what = "1 turn" if turns == 1 else f"{turns} turns"
    return (
        f"Agents have asked for {what} in a row here, the most without a person in between. "
        "I hear agents again once a person has written something."
    )


# Inviting an agent...


def no_such_agent(name: str, known: Sequence[str]) -> str:
    """A name that the configuration does not have."""
    names = ", ".join(f"`{k}`" for k in known) or "none has an account"
    return (
        f"There is no agent {quote(name)} with an account of its own here ({names}). "
        "The form is `!invite-agent NAME`, or `!invite-agent @user:server`."
    )


def agent_is_here(user_id: str) -> str:
    """Nothing was done."""
    return f"{quote(user_id)} is in this room already."


def agent_invited(user_id: str, name: str | None) -> str:
    """The homeserver has taken the invitation."""
    if name is None:
        return (
            f"Invited {quote(user_id)}. No agent of this installation has this account: whether it "
            "comes and answers is up to whoever runs it."
        )
    return (
        f"Invited {quote(user_id)}, the account of the agent {quote(name)}. "
        "It answers once an orchestrator that runs this account has joined."
    )


def invite_refused(user_id: str, errcode: str) -> str:
    """The homeserver does not take the invitation."""
    why = {
        "M_FORBIDDEN": "I may not invite here, or it was banned; give me the power level for it",
        "M_NOT_FOUND": "there is no such account",
        "M_LIMIT_EXCEEDED": "too many invitations at once; try again in a minute",
    }.get(errcode, "see the operator's log")
    return f"{quote(user_id)} was not invited: {why} ({errcode})."


# Budgets...

_NAMES: Mapping[LimitName, str] = {
    LimitName.USD: "this room's budget",
    LimitName.TURNS: "this room's allowance of turns",
    LimitName.PERSON_USD: "what one person may spend",
    LimitName.PERSON_TURNS: "each person's allowance of turns",
}
BUDGET_FORM = (
    "The form is `!budget +5` (dollars more for today), `!budget +5 turns`, `!budget usd 20` "
    "(each day), `!budget turns 50`, `!budget person-usd 5`, `!budget person-turns 20`; "
    "`off` for no limit, `default` for what is configured."
)
BUDGET_TOO_MUCH = "That is more than a budget can be (1,000,000). Nothing was changed."
NO_LIMIT_TO_RAISE = "There is no such limit here, so nothing to raise for today."


def amount(name: LimitName, value: int) -> str:
    """Dollars or turns."""
    if name.is_money:
        return usd(value)
    return "1 turn" if value == 1 else f"{value:,} turns"


def limit_met(name: LimitName, limit: int, *, left_s: float) -> str:
    """Why a turn is not taken: a clause.

    What a person has used is not said: it may have been in other rooms.
    """
    what = {
        LimitName.USD: f"this room has spent its budget for today: {amount(name, limit)}",
        LimitName.TURNS: f"this room has had its {amount(name, limit)} for today",
        LimitName.PERSON_USD: (
            f"you have spent what one person may in a day: {amount(name, limit)}"
        ),
        LimitName.PERSON_TURNS: f"you have had the {amount(name, limit)} that one person may a day",
    }[name]
    more = "+1" if name is LimitName.USD else f"+1 {name}"
    return (
        f"{what}. Nothing more is taken until 00:00 UTC, in {until_midnight(left_s)}; an admin can "
        f"raise it for today with `!budget {more}`"
    )


def nearly_met(name: LimitName, limit: int, *, who: str | None, left_s: float) -> str:
    """Told once a day and limit."""
    whose = f" by {quote(who)}" if who else ""
    return (
        f"80 % of {_NAMES[name]} for today ({amount(name, limit)}) is used{whose}. At 100 % "
        f"nothing more is taken until 00:00 UTC, in {until_midnight(left_s)}; an admin can raise "
        "it: `!budget` shows how."
    )


def budget(limits: Limits, used: Used, *, extra: Mapping[LimitName, int], left_s: float) -> str:
    """What `!budget` shows."""
    lines = [
        _budget_line("Room", LimitName.USD, limits, used, extra),
        _budget_line("Room", LimitName.TURNS, limits, used, extra),
        _budget_line("You", LimitName.PERSON_USD, limits, used, extra),
        _budget_line("You", LimitName.PERSON_TURNS, limits, used, extra),
    ]
    return "\n".join(
        [
            *lines,
            f"- Begins anew at 00:00 UTC, in {until_midnight(left_s)}. What one person may counts "
            "over all rooms. Admins raise it: `!help budget`.",
        ]
    )


def _budget_line(
    who: str, name: LimitName, limits: Limits, used: Used, extra: Mapping[LimitName, int]
) -> str:
    limit, count = limits.get(name), used.get(name)
    more = f" (with {amount(name, extra[name])} more for today)" if extra.get(name) else ""
    if name.is_personal:
        # Of how much is not this room's to know.
        return f"- {who}: " + (
            f"no limit by person ({'dollars' if name.is_money else 'turns'})"
            if limit is None
            else f"at most {amount(name, limit)} a day{more}"
            + (", which are used up" if count >= limit else "")
        )
    if limit is None:
        return f"- {who}: {amount(name, count)} today, no limit"
    return f"- {who}: {amount(name, count)} of {amount(name, limit)} today{more}"


def budget_raised(name: LimitName, by: int, limit: int) -> str:
    """For today."""
    what = f"{_NAMES[name]} is {amount(name, limit)} until 00:00 UTC"
    return f"{amount(name, by)} more for today: {what}."


def budget_set(name: LimitName, limit: int | None) -> str:
    """For good."""
    if limit is None:
        return f"No limit any more for {_NAMES[name]}."
    return f"From now on, {_NAMES[name]} is {amount(name, limit)} a day."


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A part of what a room has cost."""

    name: str
    requests: int
    micro_usd: int


def cost(days: str, total: Share, people: Sequence[Share], models: Sequence[Share]) -> str:
    """What `!cost` shows. A room's total is counted even where a part of it is nobody's."""
    lines = [f"- Room: {usd(total.micro_usd)} in {total.requests:,} requests, {days} (UTC)"]
    lines += _shares("People", people)
    lines += _shares("Models", models)
    lines.append("- By list prices, as the gateway counts.")
    return "\n".join(lines)


_SHOWN = 10


def _shares(title: str, shares: Sequence[Share]) -> list[str]:
    if not shares:
        return []
    shown = [f"{quote(s.name)} {usd(s.micro_usd)}" for s in shares[:_SHOWN]]
    rest = sum(s.micro_usd for s in shares[_SHOWN:])
    if len(shares) > _SHOWN:
        shown.append(f"{len(shares) - _SHOWN} more {usd(rest)}")
    return [f"- {title}: " + ", ".join(shown)]


COST_FORM = "The form is `!cost`, `!cost day` or `!cost week`."
