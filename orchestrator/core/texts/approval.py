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
    until: float,
    asker: UserId | None,
    in_file: str | None = None,
) -> str:
    """The message that asks; its end says how to answer."""
    who = f"Approvers, and {quote(asker)}," if asker else "Approvers"
    body = f"All of it is in the file {quote(in_file)} above.\n\n{shown}" if in_file else shown
    return "\n\n".join(
        [f"**{_HEADS[kind]}**", body, _how(kind, details), f"{who} decide until {utc_time(until)}."]
    )


_HEADS = {
    ApprovalKind.TOOL: "May I do this?",
    ApprovalKind.PLAN: "This is my plan. May I go on?",
    ApprovalKind.QUESTION: "I have a question:",
}


def _how(kind: ApprovalKind, details: ToolDetails) -> str:
    match kind:
        case ApprovalKind.PLAN:
            return (
                "React with ✅ (go on) or ❌ (no); or reply with what is to be different. "
                "`!approve` and `!deny REASON` do the same."
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
                "`!approve` and `!deny REASON` do the same."
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


def refused_reason(by: str, reason: str | None) -> str:
    """What the model is told of a no."""
    if reason is None:
        return f"{by} did not allow it. Work without it, or ask what they would like instead."
    return f"{by} did not allow it, and said: {reason[:_REASON_CHARS]}"


def which(open_ones: Sequence[ToolDetails], command: str) -> str:
    """Several wait: the list of them, with the numbers that the command takes."""
    lines = [
        f"{number}. {quote(details.what, max_chars=_WHAT_CHARS)}"
        for number, details in enumerate(open_ones, 1)
    ]
    return f"Which one? Like this: `{command} 1`\n\n" + "\n".join(lines)
