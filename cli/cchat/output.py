"""What `cchat` prints: results on stdout, everything else on stderr; for people or as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TextIO

from cchat.answer import Line
from cchat.event import Kind, Said
from cchat.terminal import clean, clean_line

_INDENT = "    "


def _stdout() -> TextIO:
    return sys.stdout


def _stderr() -> TextIO:
    return sys.stderr


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Two streams. Each line is flushed: whoever reads a pipe sees it when it comes."""

    as_json: bool = False
    out: TextIO = field(default_factory=_stdout)
    err: TextIO = field(default_factory=_stderr)

    def say(self, text: str) -> None:
        """Something about the work, for people."""
        print(f"cchat: {clean(text)}", file=self.err, flush=True)

    def show_text(self, text: str) -> None:
        """A result as text; what other people wrote in it obeys no terminal."""
        print(clean(text), file=self.out, flush=True)

    def show_json(self, value: object) -> None:
        """One JSON value on one line, ASCII only: also no terminal obeys it."""
        print(json.dumps(value), file=self.out, flush=True)

    def show_sent(self, room_id: str, event_id: str) -> None:
        """The message was accepted."""
        if self.as_json:
            self.show_json({"type": "sent", "room_id": room_id, "event_id": event_id})

    def show_answer(self, room_id: str, line: Line) -> None:
        """A piece of an answer on stdout, or what is said about the turn on stderr."""
        if self.as_json:
            self.show_json(describe(room_id, line.said))
        elif line.is_answer:
            self.show_text(line.said.body)
        else:
            print(clean(line.said.body), file=self.err, flush=True)

    def show_end(self, turn: str | None, outcome: str, exit_code: int) -> None:
        """The turn has ended, or what was answered without one."""
        if self.as_json:
            end = {"type": "end", "turn": turn, "outcome": outcome, "exit_code": exit_code}
            self.show_json(end)
        elif exit_code:
            what = "it" if turn is None else "the turn"
            self.say(f"{what} ended: {clean_line(outcome)}")

    def show_said(self, room_id: str, said: Said) -> None:
        """One line of a room that is followed; further lines of a message are indented."""
        if self.as_json:
            self.show_json(describe(room_id, said))
        elif said.kind is not Kind.MARK:
            self.show_text(render_said(said))


def describe(room_id: str, said: Said) -> dict[str, object]:
    """A message as a JSON object; its names stand in the help of `cchat tail`."""
    return {
        "type": said.kind.value,
        "room_id": room_id,
        "event_id": said.event_id,
        "sender": said.sender,
        "time": said.at_s,
        "body": said.body,
        "edit": said.is_edit,
        "turn": said.mark.model_dump(mode="json") if said.mark else None,
    }


def render_said(said: Said) -> str:
    """`[time] sender: text`; nothing in the text can look like a line of somebody else."""
    suffix = {Kind.NOTICE: " (notice)", Kind.FILE: " (file)", Kind.EMOTE: " *"}.get(said.kind, "")
    body = clean(said.body).rstrip("\n").replace("\n", f"\n{_INDENT}")
    edited = " (edited)" if said.is_edit else ""
    return f"[{_render_time(said.at_s)}] {clean_line(said.sender)}{suffix}{edited}: {body}"


def _render_time(at_s: float) -> str:
    try:
        local = datetime.fromtimestamp(at_s, tz=UTC).astimezone()
    except (OverflowError, ValueError, OSError):
        # Any server may claim any time.
        return "?"
    return local.strftime("%Y-%m-%d %H:%M:%S")
