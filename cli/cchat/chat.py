"""Rooms over Matrix: find, check, send, read back, follow."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping

from pydantic import Field

from cchat.error import UsageError
from cchat.event import MESSAGE_TYPE, SHOWN_TYPES, Said, parse_event
from cchat.matrix import Empty, MatrixClient, MatrixModel, Say, segment
from orchestrator.errors import HomeserverUnreachableError, RequestRefusedError

# A whole event may have 65,536 bytes as canonical JSON; the rest is left to the envelope.
MAX_CONTENT_BYTES = 60_000
# The longest that Synapse keeps a sync waiting is what we ask for; proxies often cut at 60 s.
_SYNC_WAIT_S = 30.0
_SYNC_GRACE_S = 20.0
_PAGE = 100
# 100 pages are 10,000 messages: more is not a gap in a conversation.
_MAX_PAGES = 100
_USER_ID = re.compile(r"(?<![\w@])@[a-z0-9._=/+\-]+:[A-Za-z0-9.\-]*[A-Za-z0-9](?::\d+)?")


class _Sent(MatrixModel):
    event_id: str


class _Alias(MatrixModel):
    room_id: str


class _Timeline(MatrixModel):
    events: tuple[object, ...] = ()
    limited: bool = False
    prev_batch: str | None = None


class _State(MatrixModel):
    events: tuple[Mapping[str, object], ...] = ()


class _JoinedRoom(MatrixModel):
    timeline: _Timeline = _Timeline()
    state: _State = _State()


class _Rooms(MatrixModel):
    join: dict[str, _JoinedRoom] = Field(default_factory=dict)
    leave: dict[str, object] = Field(default_factory=dict)


class _Sync(MatrixModel):
    next_batch: str
    rooms: _Rooms = _Rooms()


class _Page(MatrixModel):
    chunk: tuple[object, ...] = ()
    end: str | None = None


class RoomNames(MatrixModel):
    """What a room that we are in is called."""

    room_id: str
    name: str | None = None
    alias: str | None = None


class _Named(MatrixModel):
    name: str | None = None
    alias: str | None = None


class _StateEvent(MatrixModel):
    type: str
    state_key: str
    content: _Named = Field(default_factory=_Named)


class Chat:
    """One account's view of its rooms; errors as MatrixClient's. Every method may be cancelled."""

    def __init__(
        self, client: MatrixClient, *, say: Say, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._say = say
        self._clock = clock

    async def find_alias(self, alias: str) -> str | None:
        """The room of a full alias, `#name:server`, or None."""
        try:
            found = await self._client.get(
                f"/directory/room/{segment(alias)}", _Alias, what=f"looking for {alias}"
            )
        except RequestRefusedError as e:
            # 400: what was typed is no alias, and so no room's either.
            if e.status in {400, 404}:
                return None
            raise
        return found.room_id

    async def room_names(self) -> list[RoomNames]:
        """All rooms that we are in, with their names: one request, whatever their number."""
        types = ["m.room.name", "m.room.canonical_alias"]
        found = await self._sync(None, _build_filter(None, timeline=[], state=types), wait_s=0)
        return [_name_room(room_id, room) for room_id, room in found.rooms.join.items()]

    async def require_plain(self, room_id: str) -> None:
        """Make sure that we are in the room and can be read there.

        Raises:
            UsageError: we are not in it, or it is encrypted.
        """
        path = f"/rooms/{segment(room_id)}/state/m.room.encryption"
        try:
            await self._client.get(path, Empty, what=f"looking at {room_id}")
        except RequestRefusedError as e:
            if e.status == 404:
                return
            if e.status == 403:
                msg = f"You are not in {room_id}. Join it with a Matrix client, then try again."
                raise UsageError(msg) from e
            raise
        msg = (
            f"{room_id} is encrypted, and cchat does not encrypt. "
            "Use a Matrix client there, or a room without encryption."
        )
        raise UsageError(msg)

    async def here(self, room_id: str) -> str:
        """A token for now: `follow` from it misses nothing that is sent from here on."""
        one = _build_filter(room_id, timeline=list(SHOWN_TYPES), limit=1)
        return (await self._sync(None, one, wait_s=0)).next_batch

    async def send_text(
        self, room_id: str, text: str, *, txn_id: str, mention: str | None = None
    ) -> str:
        """Send one message, once, however often it is tried; its event id.

        Raises:
            UsageError: the text is too long for a message.
        """
        content = build_content(text, mention=mention)
        path = f"/rooms/{segment(room_id)}/send/{MESSAGE_TYPE}/{segment(txn_id)}"
        sent = await self._client.put(path, content, _Sent, what=f"sending to {room_id}")
        return sent.event_id

    async def last(self, room_id: str, token: str, count: int) -> list[Said]:
        """The last `count` shown things before the token, the oldest first."""
        found: list[Said] = []
        start: str | None = token
        for _ in range(_MAX_PAGES):
            if start is None or len(found) >= count:
                break
            page = await self._page(room_id, start, limit=min(_PAGE, count))
            found += [said for said in map(parse_event, page.chunk) if said is not None]
            start = page.end if page.chunk else None
        return found[:count][::-1]

    async def follow(
        self, room_id: str, since: str, *, give_up_s: float | None = None
    ) -> AsyncIterator[Said]:
        """What is said from the token on, in order, until cancelled; waits out a dead homeserver.

        Raises:
            HomeserverUnreachableError: it did not answer for `give_up_s` seconds on end.
            RequestRefusedError: we are no longer in the room.
        """
        failures, failing_since = 0, 0.0
        while True:
            try:
                events, since = await self._next(room_id, since)
            except HomeserverUnreachableError:
                failing_since = failing_since if failures else self._clock()
                failures += 1
                if give_up_s is not None and self._clock() - failing_since >= give_up_s:
                    raise
                if failures == 1:
                    self._say("The homeserver does not answer; still trying.")
                await self._client.pause(failures)
                continue
            failures = 0
            for said in filter(None, map(parse_event, events)):
                yield said

    async def _next(self, room_id: str, since: str) -> tuple[list[object], str]:
        """The next events, at the latest after 30 s, and the token after them."""
        filter_ = _build_filter(room_id, timeline=list(SHOWN_TYPES), limit=_PAGE)
        answer = await self._sync(since, filter_, wait_s=_SYNC_WAIT_S)
        if room_id in answer.rooms.leave:
            raise RequestRefusedError(
                errcode="M_FORBIDDEN", status=403, what=f"following {room_id}"
            )
        room = answer.rooms.join.get(room_id, _JoinedRoom())
        missed = await self._gap(room_id, room.timeline, since)
        return [*missed, *room.timeline.events], answer.next_batch

    async def _gap(self, room_id: str, timeline: _Timeline, since: str) -> list[object]:
        """What a limited timeline left out, the oldest first."""
        start = timeline.prev_batch if timeline.limited else None
        found: list[object] = []
        for _ in range(_MAX_PAGES):
            if start is None:
                break
            page = await self._page(room_id, start, limit=_PAGE, stop=since)
            found += page.chunk
            start = page.end if page.chunk else None
        return found[::-1]

    async def _page(
        self, room_id: str, start: str, *, limit: int, stop: str | None = None
    ) -> _Page:
        params = {
            "dir": "b",
            "from": start,
            "limit": str(limit),
            "filter": json.dumps({"types": list(SHOWN_TYPES)}),
            **({"to": stop} if stop else {}),
        }
        path = f"/rooms/{segment(room_id)}/messages"
        return await self._client.get(path, _Page, what=f"reading {room_id}", params=params)

    async def _sync(self, since: str | None, filter_: str, *, wait_s: float) -> _Sync:
        params = {"filter": filter_, "timeout": str(int(wait_s * 1000)), "set_presence": "offline"}
        if since is not None:
            params["since"] = since
        return await self._client.get(
            "/sync",
            _Sync,
            what="following the room",
            params=params,
            timeout_s=wait_s + _SYNC_GRACE_S,
        )


def build_content(text: str, *, mention: str | None = None) -> dict[str, object]:
    """The content of a message; user ids in the text become mentions, as clients do it.

    Without any, `m.mentions` is left out: its presence would tell the agent to ignore its name in
    the text.

    Raises:
        UsageError: it does not fit into an event.
    """
    mentioned = list(dict.fromkeys([*([mention] if mention else []), *_USER_ID.findall(text)]))
    content: dict[str, object] = {"msgtype": "m.text", "body": text}
    if mentioned:
        content["m.mentions"] = {"user_ids": mentioned}
    size = len(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    if size > MAX_CONTENT_BYTES:
        msg = (
            f"The text is too long for a message: {size} bytes, at most {MAX_CONTENT_BYTES}. "
            "Send it in pieces."
        )
        raise UsageError(msg)
    return content


def _build_filter(
    room_id: str | None, *, timeline: list[str], state: list[str] | None = None, limit: int = 1
) -> str:
    nothing: dict[str, object] = {"types": []}
    # Synapse answers an initial sync from a cache of two minutes where the whole request is the
    # same as before. Leaving out a sender that does not exist makes ours the only one of its kind.
    nobody = f"@{uuid.uuid4().hex}:invalid"
    room: dict[str, object] = {
        "timeline": {"types": timeline, "limit": limit, "not_senders": [nobody]},
        "state": {"types": state or []},
        "ephemeral": nothing,
        "account_data": nothing,
    }
    if room_id is not None:
        room["rooms"] = [room_id]
    return json.dumps({"room": room, "presence": nothing, "account_data": nothing})


def _name_room(room_id: str, room: _JoinedRoom) -> RoomNames:
    names: dict[str, str | None] = {}
    for raw in room.state.events:
        try:
            event = _StateEvent.model_validate(raw)
        except ValueError:
            continue
        if event.type == "m.room.name":
            names["name"] = event.content.name
        elif event.type == "m.room.canonical_alias":
            names["alias"] = event.content.alias
    return RoomNames(room_id=room_id, name=names.get("name"), alias=names.get("alias"))
