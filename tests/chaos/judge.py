"""Counts what became of every message, from what the homeserver, the files and the API have.

The verdict asks nothing of the orchestrator: what it believes is what is being tested. Only when
there is nothing more to wait for is read from its database.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.rooms.outgoing import TURN_KEY
from tests.chaos.model import LEDGER, ChaosModel, build_answer, parse_prompt, squeeze
from tests.support.matrix_user import body_of

Json = dict[str, Any]
_DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message that was sent: a prompt (`ID KIND`) or a room command, and its event."""

    event_id: str
    room_id: str
    text: str

    @property
    def is_command(self) -> bool:
        """Whether it is one for the orchestrator."""
        return self.text.startswith("!")

    @property
    def name(self) -> str:
        """How it is named in a report."""
        return f"{self.text} ({self.event_id})"


@dataclass(slots=True)
class Verdict:
    """What became of the messages; the lists name each one, with what is wrong with it."""

    sent: int = 0
    answered: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    sentences: Counter[str] = field(default_factory=Counter)
    """What rooms were told at ends that are no answers."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Answered once, but not with the whole answer. Files are not read."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled or run twice."""
        return not (self.lost or self.doubled or self.twice or self.wrong)

    def describe(self) -> str:
        """One line for each thing that is wrong."""
        kinds = {"lost": self.lost, "doubled": self.doubled, "twice": self.twice}
        rows = [f"{kind}: {name}" for kind, names in kinds.items() for name in names]
        return "\n".join([*rows, *(f"not the whole answer: {name}" for name in self.wrong)])

    def summary(self) -> str:
        """The one line that counts."""
        return (
            f"sent={self.sent} answered={self.answered} lost={len(self.lost)} "
            f"doubled={len(self.doubled)} twice={len(self.twice)}"
        )


def judge(
    sent: Sequence[Sent],
    events: Mapping[str, Sequence[Json]],
    *,
    agent: str,
    model: ChaosModel,
    ledger: Mapping[str, int],
    refused: Iterable[str] = (),
) -> Verdict:
    """The verdict.

    Args:
        sent: what was sent.
        events: by room, all that the homeserver has, oldest first.
        agent: whose answers count.
        model: what the API was asked.
        ledger: by message id, how often its tool ran.
        refused: events whose answers the room refused to take; nothing can stand there.
    """
    verdict, refused = Verdict(sent=len(sent)), frozenset(refused)
    own = {room: [e for e in all_ if e["sender"] == agent] for room, all_ in events.items()}
    for message in sent:
        if message.event_id in refused:
            verdict.outcomes["refused by the room"] += 1
        elif message.is_command:
            _judge_command(message, own.get(message.room_id, ()), verdict)
        else:
            _judge_prompt(message, own.get(message.room_id, ()), verdict)
    _judge_events(sent, own, refused, verdict)
    _judge_tools(sent, model, ledger, verdict)
    return verdict


def _judge_command(message: Sent, events: Sequence[Json], verdict: Verdict) -> None:
    replies = [e for e in events if replied_to(e) == message.event_id]
    if len(replies) == 1:
        verdict.answered += 1
    elif not replies:
        verdict.lost.append(message.name)
    else:
        verdict.doubled.append(f"{message.name}: {len(replies)} replies")


def _judge_prompt(message: Sent, events: Sequence[Json], verdict: Verdict) -> None:
    finals = [
        event
        for event in events
        if mark_of(event).get("final") and message.event_id in mark_of(event)["asked"]
    ]
    if not finals:
        verdict.lost.append(message.name)
    elif len(finals) > 1:
        verdict.doubled.append(f"{message.name}: {len(finals)} ends")
    else:
        outcome = mark_of(finals[0])["outcome"]
        verdict.outcomes[outcome] += 1
        verdict.answered += outcome == _DONE
        if outcome != _DONE:
            verdict.sentences[body_of(finals[0])] += 1


def _judge_events(
    sent: Sequence[Sent], own: Mapping[str, Sequence[Json]], refused: Set[str], verdict: Verdict
) -> None:
    """No event of a turn stands in its room twice, and its texts together are the whole answer."""
    asked = {message.event_id: message.text for message in sent}
    for events in own.values():
        turns: defaultdict[str, list[Json]] = defaultdict(list)
        for event in events:
            if mark := mark_of(event):
                turns[mark["turn"]].append(event)
        for turn, parts in turns.items():
            keys = Counter((mark_of(e)["part"], e["type"], body_of(e)) for e in parts)
            verdict.doubled += [f"{turn}: {key}" for key, count in keys.items() if count > 1]
            # Where the room took the end of a turn again, but not what it said.
            if not set(mark_of(parts[0])["asked"]) <= refused:
                _judge_answer(turn, parts, asked, verdict)


def _judge_answer(
    turn: str, parts: Sequence[Json], asked: Mapping[str, str], verdict: Verdict
) -> None:
    final = next((m for m in map(mark_of, parts) if m["final"]), None)
    is_file = any(e["content"].get("msgtype") == "m.file" for e in parts)
    if final is None or final["outcome"] != _DONE or is_file:
        return
    prompt = "\n\n".join(asked[event] for event in final["asked"])
    said = squeeze("".join(body_of(e) for e in parts if e["content"].get("msgtype") == "m.text"))
    if said != build_answer(parse_prompt(prompt)):
        verdict.wrong.append(f"{turn} ({prompt!r}): {said!r}")


def _judge_tools(
    sent: Sequence[Sent], model: ChaosModel, ledger: Mapping[str, int], verdict: Verdict
) -> None:
    verdict.twice += [f"{id_} ran {count} times" for id_, count in ledger.items() if count > 1]
    verdict.twice += [f"{id_} was begun in two turns" for id_ in model.begun_twice()]
    ids = {task.id for message in sent for task in parse_prompt(message.text)}
    verdict.twice += [f"{id_} was never sent" for id_ in sorted(set(ledger) - ids)]


def mark_of(event: Json) -> Json:
    """The turn's mark on an event, or nothing."""
    mark: Json = event.get("content", {}).get(TURN_KEY, {})
    return mark


def replied_to(event: Json) -> str | None:
    """The event that this one answers, if it is a reply."""
    relation = event.get("content", {}).get("m.relates_to", {})
    found: str | None = relation.get("m.in_reply_to", {}).get("event_id")
    return found


def read_ledger(state_dir: Path) -> Counter[str]:
    """By message id, how often its tool ran, in any room."""
    files = (state_dir / "rooms").glob(f"*/workspace/{LEDGER}")
    return Counter(line for file in files for line in file.read_text().split())


def read_pending(state_dir: Path) -> dict[str, int]:
    """What the database still has to do: items to look at, turns, messages to send."""
    questions = {
        "inbox": "SELECT count(*) FROM inbox WHERE state IN ('new', 'pending_keys')",
        "turns": "SELECT count(*) FROM turns WHERE state <> 'ended'",
        "outbox": "SELECT count(*) FROM outbox WHERE state = 'queued'",
    }
    return {name: read_value(state_dir, query) for name, query in questions.items()}


def read_value(state_dir: Path, query: str, *values: str) -> int:
    """One number of the database, beside the orchestrator that has it open."""
    return int(_read(state_dir, query, *values))


def read_text(state_dir: Path, query: str, *values: str) -> str:
    """One text of the database."""
    return str(_read(state_dir, query, *values))


def _read(state_dir: Path, query: str, *values: str) -> Any:
    path = state_dir / "state.sqlite3"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
        return db.execute(query, values).fetchone()[0]
