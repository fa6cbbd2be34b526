"""A conversation out of the CLI's session file, for people and for programs. Pure.

The file is the room's own, so nothing in it is relied on: what does not parse is left out. Entries
name the one before them; what was undone hangs on a branch that the last entry does not lead to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.core.quoting import one_line
from orchestrator.core.sanitise import sanitise

_TOOL_CHARS = 2000
_MAX_ENTRIES = 200_000
_NAME_CHARS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One thing that was said; `kind` is `text`, `tool` or `result`."""

    who: str
    kind: str
    text: str
    at: str | None


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class _Text(_Model):
    type: Literal["text"]
    text: str


class _Tool(_Model):
    type: Literal["tool_use"]
    name: str
    input: dict[str, object] = Field(default_factory=dict)


class _Result(_Model):
    type: Literal["tool_result"]
    content: object = None


class _Other(_Model):
    type: str


_Block = Annotated[_Text | _Tool | _Result | _Other, Field(union_mode="left_to_right")]


class _Message(_Model):
    content: str | list[_Block] = ""


class _Entry(_Model):
    type: str
    uuid: str | None = None
    parentUuid: str | None = None  # noqa: N815 - the CLI's own name
    logicalParentUuid: str | None = None  # noqa: N815 - the CLI's own name
    leafUuid: str | None = None  # noqa: N815 - the CLI's own name
    isMeta: bool = False  # noqa: N815 - the CLI's own name
    isSidechain: bool = False  # noqa: N815 - the CLI's own name
    timestamp: str | None = None
    message: _Message | None = None


def read_transcript(text: str) -> list[Said]:
    """What the conversation holds now, in order."""
    entries = [entry for entry in map(_parse, text.splitlines()[-_MAX_ENTRIES:]) if entry]
    chain = _chain(entries)
    return [said for entry in chain for said in _said(entry)]


def render_markdown(said: Sequence[Said], *, title: str) -> str:
    """For people."""
    parts = [f"# {title}"]
    for one in said:
        text = sanitise(one.text).strip()
        if one.kind == "text":
            when = f" · {one_line(one.at, max_chars=30)}" if one.at else ""
            parts.append(f"## {one.who}{when}\n\n{text}")
        else:
            indented = "\n".join(f"    {line}" for line in text.splitlines())
            parts.append(f"*{'Tool' if one.kind == 'tool' else 'Result'}*\n\n{indented}")
    return "\n\n".join(parts) + "\n"


def render_jsonl(said: Sequence[Said]) -> str:
    """For programs: an object a line."""
    return "".join(
        json.dumps(
            {"who": one.who, "kind": one.kind, "text": sanitise(one.text), "at": one.at},
            ensure_ascii=False,
        )
        + "\n"
        for one in said
    )


def _parse(line: str) -> _Entry | None:
    try:
        return _Entry.model_validate_json(line)
    except (ValidationError, ValueError, RecursionError):
        return None


def _chain(entries: Sequence[_Entry]) -> list[_Entry]:
    """From the last leaf back to the first entry; each is taken once, whatever they name."""
    by_uuid = {e.uuid: e for e in entries if e.uuid and not e.isSidechain}
    # A message that was taken back leaves its entries, and a mark behind them that names the leaf
    # of before; what was said since comes behind that mark.
    leaves = (e.leafUuid if e.type == "last-prompt" else e.uuid for e in reversed(entries))
    uuid = next((leaf for leaf in leaves if leaf in by_uuid), None)
    chain: list[_Entry] = []
    while uuid is not None and (entry := by_uuid.pop(uuid, None)) is not None:
        chain.append(entry)
        uuid = entry.parentUuid or entry.logicalParentUuid
    chain.reverse()
    return chain


def _said(entry: _Entry) -> Iterator[Said]:
    if entry.message is None or entry.isMeta or entry.type not in {"user", "assistant"}:
        return
    who = "Person" if entry.type == "user" else "Agent"
    content = entry.message.content
    blocks = [_Text(type="text", text=content)] if isinstance(content, str) else content
    for block in blocks:
        match block:
            case _Text() if block.text.strip():
                yield Said(who=who, kind="text", text=block.text, at=entry.timestamp)
            case _Tool():
                given = json.dumps(block.input, ensure_ascii=False)[:_TOOL_CHARS]
                name = one_line(block.name, max_chars=_NAME_CHARS)
                yield Said(who="Agent", kind="tool", text=f"{name} {given}", at=entry.timestamp)
            case _Result():
                result = _result_text(block.content)[:_TOOL_CHARS]
                yield Said(who="Tool", kind="result", text=result, at=entry.timestamp)
            case _:
                pass


def _result_text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return ""
