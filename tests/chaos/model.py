"""The model that the chaos tests' rooms talk to: what it answers follows from the message alone.

A message is `ID KIND`; a turn's prompt is one or more of them. Each id is of one message, so that
what was said, what was asked and what was run can be counted by it:

    m7 text        answers `m7 is answered.`
    m7 tool        says `m7 begins.`, runs a command that adds m7 to the ledger, says `m7 is done.`
    m7 long 30     answers 30 sentences, slowly
    m7 huge 6000   answers 6000 sentences, at once: more than messages are made of

It goes on where the conversation says that it was cut, so that an answer that was streamed in two
pieces still is the whole answer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.embedded.messages_model import (
    Message,
    MessagesRequest,
    Reply,
    Text,
    ToolUse,
    text_reply,
)
from orchestrator.embedded.offline_model import side_reply
from orchestrator.model import JsonObject

LEDGER = "ledger"
"""The file in a room's workspace to which each tool call adds its message's id."""
_MESSAGE = re.compile(r"^(\w+) (text|tool|long|huge)(?: (\d+))?$", re.MULTILINE)
# What the CLI says for the user after a stream that broke off, and after an interrupted turn.
_CONTINUE = re.compile(r"^Your response above was cut off mid-stream\b")
_INTERRUPTED = re.compile(r"\[Request interrupted by user[^\]]*\]\s*")
# A sentence of a long answer every so often: 30 of them take about three seconds.
_PACE_S = 0.05
_LONG_CHARS = 200
_HUGE_CHARS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One message's part of a turn."""

    id: str
    kind: str
    count: int

    @property
    def before(self) -> str:
        """What is said before the tool is called."""
        return f"{self.id} begins." if self.kind == "tool" else ""

    @property
    def after(self) -> str:
        """What is said at the end."""
        if self.kind in {"long", "huge"}:
            return " ".join(f"{self.id} has sentence {n}." for n in range(self.count))
        return f"{self.id} is {'done' if self.kind == 'tool' else 'answered'}."


def parse_prompt(prompt: str) -> list[Task]:
    """The messages that a prompt is made of."""
    return [Task(id=i, kind=k, count=int(n or 0)) for i, k, n in _MESSAGE.findall(prompt)]


def build_answer(tasks: Sequence[Task]) -> str:
    """All that is to be said about these, without its white space."""
    return squeeze("".join(t.before for t in tasks) + "".join(t.after for t in tasks))


def squeeze(text: str) -> str:
    """Without white space: a cut may fall into it, and blocks are joined with some."""
    return "".join(text.split())


class ChaosModel:
    """Stateless but for its record. Invariant: `starts` has every way in which an id was begun."""

    def __init__(self) -> None:
        self.starts: defaultdict[str, set[str]] = defaultdict(set)
        """By id: what was said in the conversation before it, once for each different past."""
        self.requests = 0

    def __repr__(self) -> str:
        return f"<ChaosModel ids={len(self.starts)} requests={self.requests}>"

    def reply(self, request: MessagesRequest) -> Reply:
        """The next step of what the last prompt asks for."""
        side = side_reply(request)
        if side is not None:
            return side
        self.requests += 1
        past, since = _split(request.messages)
        self._record(past)
        tasks = parse_prompt(past[-1]) if past else []
        if not tasks:
            return text_reply("There is nothing to do.")
        return _next_step(tasks, since)

    def _record(self, past: Sequence[str]) -> None:
        said = ""
        for text in past:
            for found in _MESSAGE.finditer(text):
                self.starts[found[1]].add(said + text[: found.start()])
            said += f"{text}\n"

    def begun_twice(self) -> list[str]:
        """Ids that were begun in more than one place of a conversation, or in two."""
        return sorted(i for i, pasts in self.starts.items() if len(pasts) > 1)


def _split(messages: Sequence[Message]) -> tuple[list[str], list[Message]]:
    """What people said, oldest first, and what the agent did since the last of it."""
    past: list[str] = []
    since: list[Message] = []
    for message in messages:
        prompts = _prompts(message)
        if prompts:
            past += prompts
            since = []
        elif message.role != "system":
            since.append(message)
    return past, since


def _prompts(message: Message) -> list[str]:
    """What people say in a message; after a turn without an answer the CLI puts two in one."""
    if message.role != "user":
        return []
    parts = (Message(role="user", content=(part,)).text for part in message.content)
    texts = (_INTERRUPTED.sub("", part) for part in parts)
    return [t for t in texts if _MESSAGE.search(t) and not _CONTINUE.match(t)]


def _next_step(tasks: Sequence[Task], since: Sequence[Message]) -> Reply:
    said = squeeze("".join(m.text for m in since if m.role == "assistant"))
    called = {str(p.input.get("command", "")) for m in since for p in m.content if p.name}
    missing = [t for t in tasks if t.kind == "tool" and _command(t) not in called]
    if missing:
        text = _rest("".join(f"{t.before} " for t in tasks), said)
        calls = [ToolUse(name="Bash", input=_bash(_command(t))) for t in missing]
        return Reply(blocks=(*_texts(text), *calls))
    whole = "".join(f"{t.before} " for t in tasks) + " ".join(t.after for t in tasks)
    return Reply(blocks=_texts(_rest(whole, said)) or (Text(text=" "),))


def _texts(text: str) -> tuple[Text, ...]:
    if not text.strip():
        return ()
    size = len(text)
    if size > _HUGE_CHARS:
        return (Text(text=text.strip(), chunk_chars=_HUGE_CHARS // 4),)
    return (Text(text=text.strip(), delay_s=_PACE_S if size > _LONG_CHARS else 0.0),)


def _rest(whole: str, said: str) -> str:
    """What is left of it after `said`, of which the white space does not count."""
    left = len(said)
    for place, char in enumerate(whole):
        if left == 0:
            return whole[place:]
        left -= not char.isspace()
    return ""


def _command(task: Task) -> str:
    return f"echo {task.id} >> {LEDGER}"


def _bash(command: str) -> JsonObject:
    return {"command": command, "description": "adds to the ledger"}
