"""What each scenario of the CLI has to come to in a room, recorded or run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.core.stream import parse_line
from orchestrator.core.turn_view import Ended, Show, TextReady, TurnView
from orchestrator.model import Seq, TurnOutcome
from tests.support.cli_scenarios import MESSAGE

DONE, FAILED, CANCELLED = TurnOutcome.DONE, TurnOutcome.FAILED, TurnOutcome.CANCELLED


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The texts in order, how the turn ends, and a part of the reason."""

    texts: tuple[str, ...] = ()
    outcome: TurnOutcome = DONE
    reason: str | None = None
    denied: tuple[str, ...] = ()


_DONE_TEXT = ("All **done**.",)

EXPECTED: Mapping[str, Expected] = {
    "answer": Expected(texts=("Hello **there**.",)),
    "two_texts_and_a_tool": Expected(texts=("I look first.", *_DONE_TEXT)),
    "tool_denied": Expected(texts=_DONE_TEXT, denied=("Bash",)),
    "tool_allowed": Expected(texts=_DONE_TEXT),
    "edit_accepted": Expected(texts=_DONE_TEXT),
    "plan_asks": Expected(texts=_DONE_TEXT, denied=("Write",)),
    "subagent": Expected(texts=_DONE_TEXT),
    "interrupted_answer": Expected(texts=("partial",), outcome=CANCELLED),
    "interrupted_question": Expected(outcome=CANCELLED, denied=("Bash",)),
    "retried": Expected(texts=_DONE_TEXT),
    "overloaded": Expected(outcome=FAILED, reason="the API is overloaded"),
    "bad_credential": Expected(outcome=FAILED, reason="did not accept the credential (401)"),
    "rate_limited": Expected(outcome=FAILED, reason="rate limit was met"),
    "usage_limit": Expected(outcome=FAILED, reason="You've hit your 5-hour limit · resets Jan 1"),
    "prompt_too_long": Expected(outcome=FAILED, reason="no longer fits the model's context"),
    "no_credit": Expected(outcome=FAILED, reason="Credit balance is too low"),
    "unknown_model": Expected(outcome=FAILED, reason="does not know the model"),
    "unknown_session": Expected(outcome=FAILED, reason="No conversation found"),
    "slash_is_text": Expected(texts=_DONE_TEXT),
    "lone_surrogate": Expected(texts=("a\N{REPLACEMENT CHARACTER}b \u202e \x1b[31mred",)),
}


def watch(lines: Iterable[str], view: TurnView | None = None, *, first: int = 1) -> list[Show]:
    """What a view shows of the lines, the first of which has the number `first`."""
    view = view or TurnView(message_uuid=MESSAGE, now=0.0)
    shows: list[Show] = []
    for number, line in enumerate(lines, first):
        shows += view.feed(parse_line(line), seq=Seq(number), now=float(number))
    return shows


def check(shows: list[Show], expected: Expected) -> None:
    """Fail unless the shows are what the room has to see."""
    ended = shows[-1]
    assert isinstance(ended, Ended), shows
    assert sum(isinstance(show, Ended) for show in shows) == 1
    assert tuple(show.text for show in shows if isinstance(show, TextReady)) == expected.texts
    assert ended.outcome is expected.outcome
    assert ended.denied_tools == expected.denied
    assert ended.text_already_shown == bool(expected.texts)
    if expected.reason is None:
        assert ended.reason is None
    else:
        assert expected.reason in (ended.reason or "")
