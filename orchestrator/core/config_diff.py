"""What is different between two configurations, as plain values, and when it takes effect. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.model import JsonValue

Path = tuple[str, ...]


class Effect(StrEnum):
    """When a change is felt."""

    AT_ONCE = "at once"
    CLI = "from the next turn on: the CLI is started anew, the conversation goes on"
    CONVERSATION = "with the next conversation (`!new`): Claude Code keeps what one began with"
    RUNNER = "before the next turn: the container is replaced; files and conversation stay"
    RESTART = "not by a reload: stop the orchestrator and start it again"


# Who it is, and where its state is, is no matter of settings.
_RESTART: tuple[Path, ...] = (("state_dir",), ("matrix", "homeserver"), ("matrix", "user_id"))
_RUNNER: tuple[Path, ...] = (("docker", "image"), ("docker", "runtime"), ("limits",), ("project",))
# Kept by the host: the container knows nothing of them.
_NOT_IN_RUNNER: tuple[Path, ...] = (("limits", "disk"), ("limits", "output_bytes"))
_CLI: tuple[Path, ...] = (
    ("agents",),
    ("agent",),
    ("model",),
    ("effort",),
    ("permissions",),
    ("egress", "allow"),
    ("egress", "ask"),
    ("egress", "intercept"),
    ("api", "server_tools"),
    ("files", "sent_per_turn"),
    ("secrets",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One key, as the way to it. None: it is not there."""

    path: Path
    before: JsonValue
    after: JsonValue

    @property
    def effect(self) -> Effect:
        """When it is felt."""
        inner = self.in_profile
        if _is_below(self.path, _RESTART):
            return Effect.RESTART
        if _is_below(inner, _NOT_IN_RUNNER):
            return Effect.AT_ONCE
        if _is_below(inner, _RUNNER):
            return Effect.RUNNER
        if inner[-1:] == ("system_prompt",):
            return Effect.CONVERSATION
        return Effect.CLI if _is_below(inner, _CLI) else Effect.AT_ONCE

    @property
    def in_profile(self) -> Path:
        """The way within a room's profile; the whole one where it is of none."""
        if self.path[0] == "rooms":
            return self.path[2:]
        return self.path[1:] if self.path[0] == "defaults" else self.path

    def __str__(self) -> str:
        where = ".".join(self.path)
        return f"{where}: {_render(self.before)} → {_render(self.after)} ({self.effect})"


def find_changes(
    before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]
) -> Sequence[Change]:
    """Key by key, in order; what a room only has from `defaults` is not named again.

    A room that is named on one side alone has the `defaults` on the other.
    """
    old, new = _with_rooms_of(before, after), _with_rooms_of(after, before)
    found = list(_changes(old, new, ()))
    of_defaults = [
        (change.in_profile, change.before, change.after)
        for change in found
        if change.path[0] == "defaults"
    ]
    return [
        change
        for change in found
        if change.path[0] != "rooms"
        or (change.in_profile, change.before, change.after) not in of_defaults
    ]


def _with_rooms_of(
    one: Mapping[str, JsonValue], other: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    rooms, others = one.get("rooms"), other.get("rooms")
    if not isinstance(others, dict):
        return dict(one)
    named = rooms if isinstance(rooms, dict) else {}
    return {**one, "rooms": {**dict.fromkeys(others, one.get("defaults")), **named}}


def _changes(before: JsonValue, after: JsonValue, path: Path) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from _changes(before.get(key), after.get(key), (*path, key))
    elif before != after:
        yield Change(path=path, before=before, after=after)


def _is_below(path: Path, heads: Sequence[Path]) -> bool:
    return any(path[: len(head)] == head for head in heads)


def _render(value: JsonValue) -> str:
    return "–" if value is None else json.dumps(value, ensure_ascii=False)
