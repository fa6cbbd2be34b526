"""Which room is meant by what was typed: an id, an alias, a slug, or a name that is shown.

In this order: `!id` is taken as it is; a slug is looked up at the local orchestrator; `#alias` and
a bare word are asked for as an alias, on our own server unless one is named; then the rooms that we
are in are compared by name. What fits several rooms is refused; what fits none gets the nearest
names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable, Sequence

from cchat.chat import Chat, RoomNames
from cchat.error import UsageError
from orchestrator.control.models import RoomView

# As orchestrator.core.naming makes them: readable part, three dashes, 16 hexadecimal digits.
_SLUG = re.compile(r"[a-z0-9-]+---[0-9a-f]{16}")
_MAX_SUGGESTIONS = 3

LocalRooms = Callable[[], Awaitable[Sequence[RoomView]]]


async def find_room(chat: Chat, typed: str, *, me: str, local_rooms: LocalRooms) -> str:
    """The room's id.

    Raises:
        UsageError: no room, or several rooms, go by that name; with names to type instead.
    """
    typed = typed.strip()
    if typed.startswith("!"):
        return typed
    if _SLUG.fullmatch(typed):
        for room in await local_rooms():
            if room.slug == typed:
                return room.room_id
    alias = full_alias(typed, me)
    found = await chat.find_alias(alias) if alias else None
    return found or match_name(await chat.room_names(), typed)


def full_alias(typed: str, me: str) -> str | None:
    """`#name:server` of `name`, `#name` or `#name:server`; None for what can't be an alias."""
    local, _, server = typed.removeprefix("#").partition(":")
    if not local or re.search(r"\s", typed):
        return None
    return f"#{local}:{server or me.partition(':')[2]}"


def match_name(rooms: Sequence[RoomNames], typed: str) -> str:
    """The one room of that name: exactly so written, or else with other capitals.

    Raises:
        UsageError: none, or several.
    """
    for fold in (str, str.casefold):
        wanted = fold(typed)
        fitting = [room for room in rooms if wanted in map(fold, _names(room))]
        if len(fitting) == 1:
            return fitting[0].room_id
        if fitting:
            ids = ", ".join(sorted(room.room_id for room in fitting))
            msg = f"Several rooms are called {typed!r}. Use one of their ids: {ids}"
            raise UsageError(msg)
    raise UsageError(_unknown(rooms, typed))


def _names(room: RoomNames) -> list[str]:
    names = [room.name] if room.name else []
    if room.alias:
        local = room.alias.partition(":")[0]
        names += [room.alias, local, local.removeprefix("#")]
    return names


def _unknown(rooms: Sequence[RoomNames], typed: str) -> str:
    known = {name.casefold(): room.alias or name for room in rooms for name in _names(room)}
    bare = typed.casefold()
    # 0.5 lets one through that shares half of its letters: a hint costs nothing.
    near = difflib.get_close_matches(bare, known, n=_MAX_SUGGESTIONS * 3, cutoff=0.5)
    shown = list(dict.fromkeys(known[name] for name in near))[:_MAX_SUGGESTIONS]
    if shown:
        return f"There is no room {typed!r}. Did you mean: {', '.join(shown)}?"
    if not known:
        return f"There is no room {typed!r}, and you are in no room that has a name."
    some = sorted(set(known.values()))[:_MAX_SUGGESTIONS]
    return f"There is no room {typed!r}. Rooms that you are in: {', '.join(some)}"
