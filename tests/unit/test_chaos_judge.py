"""The chaos tests' judge finds what it is there to find, and nothing where nothing is."""

from __future__ import annotations

from typing import Any

from orchestrator.embedded.messages_model import Message, MessagesRequest, Text, ToolUse
from orchestrator.rooms.outgoing import TURN_KEY
from tests.chaos.judge import Sent, Verdict, judge
from tests.chaos.model import ChaosModel

AGENT, ROOM = "@agent:x", "!r:x"
ASKED = Sent(event_id="$1", room_id=ROOM, text="m1 tool")
COMMAND = Sent(event_id="$2", room_id=ROOM, text="!status")


def part(text: str, number: int, *, outcome: str | None = None, turn: str = "t1") -> dict[str, Any]:
    mark: dict[str, Any] = {"turn": turn, "asked": ["$1"], "part": number, "final": bool(outcome)}
    if outcome:
        mark["outcome"] = outcome
    content = {"msgtype": "m.text", "body": text, TURN_KEY: mark}
    return {"type": "m.room.message", "sender": AGENT, "content": content}


def reply(text: str) -> dict[str, Any]:
    content = {
        "msgtype": "m.notice",
        "body": text,
        "m.relates_to": {"m.in_reply_to": {"event_id": "$2"}},
    }
    return {"type": "m.room.message", "sender": AGENT, "content": content}


GOOD = [part("m1 begins.", 0), part("m1 is done.", 1, outcome="done"), reply("fine")]


def verdict_on(
    events: list[dict[str, Any]],
    *,
    ledger: dict[str, int] | None = None,
    model: ChaosModel | None = None,
    refused: tuple[str, ...] = (),
) -> Verdict:
    return judge(
        [ASKED, COMMAND],
        {ROOM: events},
        agent=AGENT,
        model=model or ChaosModel(),
        ledger=ledger if ledger is not None else {"m1": 1},
        refused=refused,
    )


def asks(*messages: tuple[str, str]) -> MessagesRequest:
    """A request with these messages: who, and what."""
    return MessagesRequest(
        model="m",
        max_tokens=100,
        messages=tuple(
            Message.model_validate({"role": role, "content": text}) for role, text in messages
        ),
    )


def test_what_was_answered_once_is_clean() -> None:
    verdict = verdict_on(GOOD)
    assert verdict.summary() == "sent=2 answered=2 lost=0 doubled=0 twice=0"
    assert verdict.is_clean


def test_a_message_without_an_end_and_a_command_without_a_reply_are_lost() -> None:
    assert verdict_on(GOOD[:1]).summary() == "sent=2 answered=0 lost=2 doubled=0 twice=0"


def test_a_second_end_a_second_reply_and_a_second_copy_are_doubled() -> None:
    again = part("m1 is done.", 0, outcome="done", turn="t2")
    assert len(verdict_on([*GOOD, again]).doubled) == 1
    assert len(verdict_on([*GOOD, reply("fine, too")]).doubled) == 1
    assert len(verdict_on([GOOD[0], *GOOD]).doubled) == 1


def test_text_that_is_missing_or_there_twice_in_an_answer_is_found() -> None:
    assert verdict_on(GOOD[1:]).wrong
    assert verdict_on([part("m1 begins.", 2), *GOOD]).wrong


def test_of_an_answer_that_the_room_refused_only_the_end_may_stand_there() -> None:
    end = [part("", 1, outcome="done"), reply("fine")]
    assert verdict_on(end).wrong
    assert verdict_on(end, refused=("$1",)).is_clean


def test_an_end_that_is_no_answer_is_not_lost_and_not_answered() -> None:
    verdict = verdict_on([part("Interrupted", 0, outcome="interrupted"), reply("fine")])
    assert verdict.summary() == "sent=2 answered=1 lost=0 doubled=0 twice=0"
    assert verdict.sentences == {"Interrupted": 1}


def test_a_tool_that_ran_twice_or_that_nobody_asked_for_is_found() -> None:
    assert len(verdict_on(GOOD, ledger={"m1": 2}).twice) == 1
    assert len(verdict_on(GOOD, ledger={"m1": 1, "m9": 1}).twice) == 1


def test_a_message_that_was_given_to_the_model_in_two_turns_is_found() -> None:
    model = ChaosModel()
    model.reply(asks(("user", "m1 tool")))
    model.reply(asks(("user", "m1 tool")))
    assert verdict_on(GOOD, model=model).is_clean, "the CLI may ask the API again"
    model.reply(asks(("user", "m0 text"), ("assistant", "m0 is answered."), ("user", "m1 tool")))
    assert verdict_on(GOOD, model=model).twice == ["m1 was begun in two turns"]


def test_the_model_goes_on_where_its_answer_was_cut() -> None:
    cut = "Your response above was cut off mid-stream. Resume directly."
    model = ChaosModel()
    first = model.reply(asks(("user", "m1 tool")))
    assert [type(b) for b in first.blocks] == [Text, ToolUse]
    rest = model.reply(asks(("user", "m2 text"), ("assistant", "m2 is "), ("user", cut)))
    assert [b.text for b in rest.blocks if isinstance(b, Text)] == ["answered."]
