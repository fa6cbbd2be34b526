"""The agent's account on its homeserver: one session, one device, every request bounded.

`open_matrix` logs in or takes up the kept session; `MatrixClient` is `ports.Homeserver` and what
the sync loop reads from. Nothing here retries: whoever calls knows what a repeat means.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from loguru import logger
from pydantic import BaseModel, ValidationError

from orchestrator.config import MatrixConfig, Secrets
from orchestrator.core.attachment import Attachment
from orchestrator.errors import (
    HomeserverUnreachableError,
    MatrixError,
    RequestRefusedError,
    StoreFullError,
    UndecryptableError,
)
from orchestrator.matrix.encryption import Encryption, open_encryption
from orchestrator.matrix.http import MatrixHttp, api_path
from orchestrator.matrix.login import Login
from orchestrator.matrix.media import Media
from orchestrator.matrix.rawjson import dump_json, parse_object
from orchestrator.matrix.response import event_id_of
from orchestrator.matrix.sync import RawSync
from orchestrator.matrix.translate import unreadable
from orchestrator.model import EventId, JsonObject, JsonValue, RoomId, TxnId, UserId

SEND_TIMEOUT_S = 30.0
# A courtesy that takes longer is not worth its wait.
_COURTESY_TIMEOUT_S = 10.0
_TYPING_MS = 30_000
_KEYS_TIMEOUT_S = 15.0
PAGE_EVENTS = 100
# Past it the oldest of a gap are left out, and the log says so: a month away from a busy room must
# not fill the disk, nor be answered.
MAX_BACKFILL_EVENTS = 10_000
_GONE = frozenset({"M_FORBIDDEN", "M_NOT_FOUND"})


class _Sent(BaseModel):
    event_id: EventId


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    chunk: Sequence[JsonObject]
    end: str | None


class _Profile(BaseModel):
    display_name: str | None = None


class _JoinedMembers(BaseModel):
    joined: dict[UserId, _Profile]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnEvent:
    """An event that this account sent, in clear where that is possible."""

    event_id: EventId
    txn_id: TxnId | None
    """Set where this device sent it; Synapse keeps it longer than the 24 h of idempotency."""
    event_type: str
    content: JsonObject


@asynccontextmanager
async def open_matrix(
    config: MatrixConfig, secrets: Secrets, state_dir: Path
) -> AsyncIterator[MatrixClient]:
    """The agent's account, logged in, its keys loaded; closes connections and store at exit.

    `state_dir` exists and is ours alone (locked): two processes must not share a device.

    Raises:
        LoginRefusedError: with the variable to set.
        HomeserverUnreachableError: no usable answer within 30 s.
        StoreCorruptError: the store of encryption keys can't be read.
    """
    # Its debug lines hold tokens, its warnings parts of messages.
    logging.getLogger("nio").setLevel(logging.CRITICAL)
    http = MatrixHttp(config.homeserver, user_id=config.user_id)
    try:
        login = Login(http, config, secrets, state_dir)
        await login.open()
        async with open_encryption(config.encryption, login, http, state_dir) as encryption:
            logger.bind(
                action="matrix.open", user=config.user_id, device=login.session.device_id
            ).info("logged in")
            yield MatrixClient(http, login, encryption)
    finally:
        await http.close()


class MatrixClient:
    """One device of one account. Implements `ports.Homeserver` and `sync.SyncSource`."""

    def __init__(self, http: MatrixHttp, login: Login, encryption: Encryption) -> None:
        self._http = http
        self._login = login
        self._media = Media(http, encryption)
        self.encryption = encryption
        self.user_id = login.session.user_id

    def __repr__(self) -> str:
        return f"<MatrixClient {self.user_id} device={self.device_id}>"

    @property
    def device_id(self) -> str:
        """The device; transaction ids and encryption keys are its own."""
        return self._login.session.device_id

    @property
    def secret_values(self) -> tuple[str, ...]:
        """What the log has to redact: the token in use and the key of the key store."""
        pickle_key = self._login.session.pickle_key.get_secret_value()
        return tuple(value for value in (self._http.token, pickle_key) if value)

    async def send_event(
        self, room_id: RoomId, event_type: str, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        """Send one event, encrypted where the room is; see `ports.Homeserver`. At most 30 s."""
        what = "sending an event"
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                event_type, sealed = await self.encryption.seal(room_id, event_type, content)
                path = api_path("rooms", room_id, "send", event_type, txn_id)
                answer = await self._http.request("PUT", path, what=what, body=sealed)
        except TimeoutError:
            msg = f"{what}: not done within {SEND_TIMEOUT_S:.0f} s"
            raise HomeserverUnreachableError(msg) from None
        try:
            return _Sent.model_validate(answer).event_id
        except ValidationError:
            raise unreadable(what) from None

    async def upload_file(self, room_id: RoomId, data: bytes, *, mimetype: str) -> JsonObject:
        """Upload a file for a room; see `ports.Homeserver`. At most two minutes."""
        return await self._media.upload(room_id, data, mimetype=mimetype)

    async def download_file(self, attachment: Attachment) -> bytes:
        """A file that somebody sent, in clear. At most two minutes, and 64 MiB.

        Raises:
            ValueError: it is not what its sender encrypted.
            MatrixError: as every request; RequestRefusedError where the homeserver has none.
        """
        return await self._media.download(attachment)

    async def set_typing(self, room_id: RoomId, *, typing: bool) -> None:
        """Show or hide the typing notice (for 30 s). Failures are swallowed."""
        body: JsonObject = {"typing": typing, **({"timeout": _TYPING_MS} if typing else {})}
        await self._courtesy("PUT", api_path("rooms", room_id, "typing", self.user_id), body)

    async def mark_read(self, room_id: RoomId, event_id: EventId) -> None:
        """Send the read receipt. Failures are swallowed."""
        path = api_path("rooms", room_id, "receipt", "m.read", event_id)
        await self._courtesy("POST", path, {})

    async def join(self, room_id: RoomId) -> None:
        """Accept an invitation; see `ports.Homeserver`. Also raises RateLimitedError."""
        path = api_path("rooms", room_id, "join")
        await self._http.request("POST", path, what="joining a room", body={})

    async def invite(self, room_id: RoomId, user_id: UserId) -> None:
        """Invite an account; see `ports.Homeserver`."""
        path = api_path("rooms", room_id, "invite")
        await self._http.request("POST", path, what="inviting", body={"user_id": user_id})

    async def leave(self, room_id: RoomId) -> None:
        """Leave, or decline; see `ports.Homeserver`. A room that we are not in counts as left."""
        path = api_path("rooms", room_id, "leave")
        try:
            await self._http.request("POST", path, what="leaving a room", body={})
        except RequestRefusedError as e:
            if e.errcode not in _GONE:
                raise

    async def sync(
        self,
        since: str | None,
        *,
        timeout_ms: int,
        timeline_limit: int = PAGE_EVENTS,
        margin_s: float = 30.0,
    ) -> RawSync:
        """One /sync; takes at most `timeout_ms` plus `margin_s`. Looks at `next_batch` alone."""
        query = {"filter": _sync_filter(timeline_limit), "set_presence": "offline"}
        query |= {"timeout": str(timeout_ms)} | ({"since": since} if since is not None else {})
        body = await self._http.get(
            api_path("sync"),
            what="syncing",
            query=query,
            timeout_s=timeout_ms / 1000 + margin_s,
        )
        next_batch = body.get("next_batch")
        if not isinstance(next_batch, str) or not next_batch.isascii():
            raise unreadable("syncing")
        return RawSync(next_batch=next_batch, body=body)

    async def backfill(
        self, room_id: RoomId, *, start: str, end: str | None
    ) -> Sequence[JsonObject]:
        """The events from `end` (a /sync token) to `start` (a prev_batch), oldest first.

        At most MAX_BACKFILL_EVENTS: the newest. Raises as every request.
        """
        newest_first: list[JsonObject] = []
        token: str | None = start
        while token is not None and len(newest_first) < MAX_BACKFILL_EVENTS:
            page = await self._messages(room_id, start=token, end=end)
            newest_first += page.chunk
            token = page.end if page.chunk and page.end != token else None
        if token is not None:
            logger.bind(action="matrix.backfill_cut", room=room_id, kept=len(newest_first)).error(
                "too much was missed; the oldest of it is left out"
            )
            self.encryption.forget_members(room_id)
        return newest_first[::-1]

    async def after_sync(self, body: JsonObject) -> None:
        """Look after the device's keys, as an answer's counts ask for. Failures are logged only."""
        try:
            async with asyncio.timeout(_KEYS_TIMEOUT_S):
                await self.encryption.after_sync(body)
        except (MatrixError, StoreFullError, TimeoutError) as e:
            logger.bind(action="matrix.keys_failed", error=type(e).__name__).warning(
                "the device's keys could not be looked after; the next sync tries again"
            )

    async def fetch_event(self, room_id: RoomId, event_id: EventId) -> JsonObject | None:
        """An event as the homeserver has it (still encrypted), or None when it gives none."""
        path = api_path("rooms", room_id, "event", event_id)
        try:
            return await self._http.get(path, what="reading an event")
        except RequestRefusedError as e:
            if e.errcode in _GONE:
                return None
            raise

    async def resolve_alias(self, alias: str) -> RoomId | None:
        """The room that an alias stands for, or None where it stands for none."""
        path = api_path("directory", "room", alias)
        try:
            answer = await self._http.get(path, what="looking an alias up")
        except RequestRefusedError:
            return None
        room_id = answer.get("room_id")
        return RoomId(room_id) if isinstance(room_id, str) else None

    async def state_event(self, room_id: RoomId, event_type: str) -> JsonObject | None:
        """A state event of a room as it is now, with its sender; see `ports.Homeserver`."""
        path = api_path("rooms", room_id, "state", event_type, "")
        query = {"format": "event"}
        try:
            return await self._http.get(path, what="reading a room's state", query=query)
        except RequestRefusedError as e:
            if e.errcode in _GONE:
                return None
            raise

    async def find_event(self, room_id: RoomId, event_id: EventId) -> JsonObject | None:
        """An event of a room, in clear; None where there is none, or no key to it.

        Raises MatrixError as every request does.
        """
        path = api_path("rooms", room_id, "event", event_id)
        try:
            event = await self._http.get(path, what="reading an event of a room")
        except RequestRefusedError as e:
            if e.errcode in _GONE:
                return None
            raise
        return await self._in_clear(room_id, event)

    async def joined_members(self, room_id: RoomId) -> Mapping[UserId, str | None]:
        """The joined members and their names."""
        what = "reading a room's members"
        answer = await self._http.get(api_path("rooms", room_id, "joined_members"), what=what)
        try:
            joined = _JoinedMembers.model_validate(answer).joined
        except ValidationError:
            raise unreadable(what) from None
        return {user: profile.display_name for user, profile in joined.items()}

    async def recent_own_events(self, room_id: RoomId, limit: int) -> Sequence[OwnEvent]:
        """This account's last events in a room, newest first; at most `limit` (and 1,000).

        For rows of the outbox that are older than 24 h: the homeserver no longer knows their
        transaction ids, so sending them again could show them twice.
        """
        found: list[OwnEvent] = []
        token: str | None = None
        wanted = min(limit, 1000)
        while len(found) < wanted:
            page = await self._messages(room_id, start=token, end=None, sender=self.user_id)
            for event in page.chunk:
                found += await self._own_event(room_id, event)
            if not page.chunk or page.end is None or page.end == token:
                break
            token = page.end
        return found[:wanted]

    async def _own_event(self, room_id: RoomId, event: JsonObject) -> list[OwnEvent]:
        event_id = event_id_of(event)
        if event_id is None or event.get("sender") != self.user_id or "state_key" in event:
            return []
        clear = await self._in_clear(room_id, event)
        if clear is None:
            return []
        event = clear
        unsigned, content, kind = (event.get(key) for key in ("unsigned", "content", "type"))
        txn = unsigned.get("transaction_id") if isinstance(unsigned, dict) else None
        if not isinstance(content, dict) or not isinstance(kind, str):
            return []
        txn_id = TxnId(txn) if isinstance(txn, str) else None
        return [OwnEvent(event_id=event_id, txn_id=txn_id, event_type=kind, content=content)]

    async def _in_clear(self, room_id: RoomId, event: JsonObject) -> JsonObject | None:
        if event.get("type") != "m.room.encrypted":
            return event
        try:
            clear = await self.encryption.decrypt(dump_json(event), room_id)
        except UndecryptableError:
            return None
        return parse_object(clear.encode())

    async def _messages(
        self, room_id: RoomId, *, start: str | None, end: str | None, sender: UserId | None = None
    ) -> _Page:
        what = "reading a room's history"
        query = {"dir": "b", "limit": str(PAGE_EVENTS)}
        query |= {"from": start} if start is not None else {}
        query |= {"to": end} if end is not None else {}
        if sender is not None:
            query["filter"] = json.dumps({"senders": [sender]})
        answer = await self._http.get(
            api_path("rooms", room_id, "messages"), what=what, query=query
        )
        chunk = answer.get("chunk")
        if not isinstance(chunk, list):
            raise unreadable(what)
        end_token = answer.get("end")
        return _Page(
            chunk=[event for event in chunk if isinstance(event, dict)],
            end=end_token if isinstance(end_token, str) else None,
        )

    async def _courtesy(self, method: str, path: str, body: JsonObject) -> None:
        try:
            await self._http.request(
                method, path, what="a courtesy", body=body, timeout_s=_COURTESY_TIMEOUT_S
            )
        except MatrixError as e:
            logger.bind(action="matrix.courtesy_failed", error=type(e).__name__).debug(
                "typing notice or receipt not sent"
            )


def _sync_filter(timeline_limit: int) -> str:
    nothing: JsonObject = {"not_types": ["*"]}
    room: JsonObject = {
        "timeline": {"limit": timeline_limit, "lazy_load_members": True},
        "state": {"lazy_load_members": True},
        "ephemeral": {"types": ["m.typing"]},
        "account_data": nothing,
    }
    return json.dumps({"room": room, "presence": nothing, "account_data": nothing})
