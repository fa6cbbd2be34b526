"""Every sentence about what the agent asks to be allowed, and about its questions."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.approval import ApprovalKind, ToolDetails
from orchestrator.core.quoting import quote
from orchestrator.core.texts import utc_time
from orchestrator.model import UserId

_REASON_CHARS = 1000
_WHAT_CHARS = 200

NOTHING_OPEN = "Nothing waits for a decision here."
APPROVE_FORM = "Say `!approve`, or `!approve NUMBER`; nothing was decided."
NOT_DECIDER = (
    "Only people whom the operator has listed can decide this (access.admins, access.approvers); "
    "agents never can."
)
TOO_LONG = (
    "It was not allowed: what it would do is too long to be shown, and nothing is allowed unseen. "
    "Do it in smaller steps."
)
TOO_LONG_NOTICE = (
    "Not run: what the agent wanted to do is too long to be shown here, so nobody could allow it."
)
TOO_MANY = "It was not allowed: too many questions are open in this room. Wait for their answers."
NOBODY = (
    "{tool} needs an approval, and nobody is named who may give it. It was not run. Work without "
    "it, or tell the user that the operator can name somebody (access.approvers)."
)
EXPIRED_REASON = (
    "Nobody decided in time, so it is not allowed. Work without it, or say what you need."
)
UNSHOWN_REASON = (
    "It was not allowed: the question about it did not reach the room, or is of no use any more. "
    "Work without it, or ask for less at once."
)
POLL_CLOSED = "The poll is closed."
ANSWER_EXPIRED = "Nobody answered in time. Go on as you think best, or end here with your question."


def nobody_notice(tool: str, mode: str) -> str:
    """What the room is told where nobody may decide."""
    return (
        f"Not run, because it would need an approval (permissions: {mode}): {quote(tool)}. Nobody "
        "is named who may give it: the operator can (access.approvers), or set `permissions: "
        "accept_edits` or `bypass` for this room."
    )


def question(
    kind: ApprovalKind,
    details: ToolDetails,
    shown: str,
    *,
    number: int,
    until: float,
    asker: UserId | None,
    in_file: str | None = None,
    has_poll: bool = False,
) -> str:
    """The message that asks; its end says how to answer."""
    who = f"Approvers, and {quote(asker)}," if asker else "Approvers"
    body = f"{_where(in_file)}\n\n{shown}" if in_file else shown
    return "\n\n".join(
        [
            f"**{_HEADS[kind]}**",
            body,
            _how(kind, details, number, has_poll=has_poll),
            f"{who} decide until {utc_time(until)}.",
        ]
    )


def _where(in_file: str) -> str:
    return (
        f"All of it is in the file {quote(in_file)}, sent before this; should the homeserver not "
        "take the file, in messages after this. Read it before you decide."
    )


_HEADS = {
    ApprovalKind.TOOL: "May I do this?",
    ApprovalKind.PLAN: "This is my plan. May I go on?",
    ApprovalKind.QUESTION: "I have a question:",
}


def _how(kind: ApprovalKind, details: ToolDetails, number: int, *, has_poll: bool) -> str:
    commands = f"`!approve {number}` and `!deny {number} REASON` do the same."
    match kind:
        case ApprovalKind.PLAN:
            return (
                "React with ✅ (go on) or ❌ (no); or reply with what is to be different. "
                f"{commands}"
            )
        case ApprovalKind.QUESTION if has_poll and details.is_multiple:
            return (
                "Vote in the poll below, or react with the numbers: all that apply. Then react to "
                "it with ✅, which takes what is chosen by then. Or reply in your own words."
            )
        case ApprovalKind.QUESTION if has_poll:
            return (
                "Vote in the poll below, or react with a number, 1️⃣ for the first; the first vote "
                "counts. Or reply in your own words."
            )
        case ApprovalKind.QUESTION if details.options and details.is_multiple:
            return "React with the numbers, then with ✅; or reply in your own words."
        case ApprovalKind.QUESTION if details.options:
            return "React with a number, 1️⃣ for the first; or reply in your own words."
        case ApprovalKind.QUESTION:
            return "Reply with your answer."
        case _:
            rule = quote(details.rule or "", max_chars=300)
            more = f", ♾️ (in this session also: {rule})" if details.rule else ""
            return (
                f"React with ✅ (once){more} or ❌ (no); a reply is a no with its reason. "
                f"{commands}"
            )


def allowed(details: ToolDetails, by: str, *, for_session: bool) -> str:
    """What the room reads once it was allowed."""
    what = quote(details.what, max_chars=_WHAT_CHARS)
    rule = quote(details.rule or "", max_chars=300)
    more = f" In this session I no longer ask about {rule}." if for_session else ""
    return f"✅ Allowed by {quote(by)}: {what}.{more}"


def answered(details: ToolDetails, by: str, answer: str) -> str:
    """What the room reads once a question was answered."""
    what = quote(details.what, max_chars=_WHAT_CHARS)
    return f"✅ {quote(by)} answered {what}: {quote(answer, max_chars=_WHAT_CHARS)}"


def refused(details: ToolDetails, by: str, reason: str | None) -> str:
    """What the room reads once it was refused."""
    what = quote(details.what, max_chars=_WHAT_CHARS)
    why = f" ({quote(reason, max_chars=_WHAT_CHARS)})" if reason else ""
    return f"❌ Refused by {quote(by)}: {what}{why}."


def expired(details: ToolDetails) -> str:
    """What the room reads when nobody decided."""
    return f"⏱ Nobody decided in time, so it is a no: {quote(details.what, max_chars=_WHAT_CHARS)}."


def over(details: ToolDetails) -> str:
    """To somebody who answers what is over."""
    return f"That is over already: {quote(details.what, max_chars=_WHAT_CHARS)}."


def no_poll(errcode: str) -> str:
    """What stands in place of a poll that the homeserver refuses; its question was asked above."""
    return f"Polls can't be sent here ({errcode}). React to the question with a number, or reply."


def refused_reason(by: str, reason: str | None) -> str:
    """What the model is told of a no."""
    if reason is None:
        return f"{by} did not allow it. Work without it, or ask what they would like instead."
    return f"{by} did not allow it, and said: {reason[:_REASON_CHARS]}"


def which(open_ones: Sequence[tuple[int, ToolDetails]], command: str) -> str:
    """It is not certain which one is meant: the list of them, with their numbers."""
    # No list of Markdown's: clients count those through.
    lines = [
        f"- **{number}**: {quote(details.what, max_chars=_WHAT_CHARS)}"
        for number, details in open_ones
    ]
    return f"Which one? Like this: `{command} {open_ones[0][0]}`\n\n" + "\n".join(lines)


def not_open(number: int, command: str) -> str:
    """A number that is no open question's, or of one that this command is no answer to."""
    return f"No question {number} waits for `{command}` here; nothing was decided."
