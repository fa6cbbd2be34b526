"""A person at a plain Matrix client: HTTP requests and nothing else, as any other program would.

Every wait is bounded. What the homeserver refuses raises `MatrixRefusalError`; a 429 does, too,
unless `patient` is set: then the user waits as told, as clients do.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp

from tests.support.synapse import Account

Json = dict[str, Any]
_REQUEST_TIMEOUT_S = 60.0
_SYNC_TIMEOUT_MS = 2000
_TIMELINE_LIMIT = 200
_CLIENT = "/_matrix/client/v3"


class MatrixRefusalError(Exception):
    """The homeserver refused; `status`, `errcode` and `retry_after_s` say how."""

    def __init__(self, status: int, answer: Json) -> None:
        self.status = status
        self.errcode: str = answer.get("errcode", "M_UNKNOWN")
        self.retry_after_s: float = answer.get("retry_after_ms", 1000) / 1000
        super().__init__(f"{status} {self.errcode}: {answer.get('error', '')}")


class MatrixUser:
    """One logged-in user. Every event that a sync brought is kept, in order, in `timeline`."""

    def __init__(self, http: aiohttp.ClientSession, user_id: str, *, patient: bool) -> None:
        self._http = http
        self._patient = patient
        self._token = ""
        self._since: str | None = None
        self._txn = itertools.count()
        self._txn_prefix = secrets.token_hex(4)
        self.user_id = user_id
        self.timeline: list[Json] = []
        """Room events, each with its `room_id`."""
        self.invites: set[str] = set()
        self.ephemeral: list[Json] = []
        """Typing notices and receipts, each with its `room_id`."""

    def __repr__(self) -> str:
        return f"MatrixUser({self.user_id}, {len(self.timeline)} events)"

    async def login(self, password: str) -> None:
        """Log in; a device of its own each time."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.user_id},
            "password": password,
        }
        self._token = (await self.request("POST", f"{_CLIENT}/login", body))["access_token"]

    async def request(self, method: str, path: str, body: Json | None = None) -> Json:
        """One request with this user's token; its JSON answer.

        Raises:
            MatrixRefusalError: any status of 400 and above.
        """
        while True:
            try:
                return await self._request_once(method, path, body)
            except MatrixRefusalError as e:
                if e.status != 429 or not self._patient:
                    raise
                await asyncio.sleep(e.retry_after_s)

    async def create_room(
        self, *invite: str, name: str = "test", direct: bool = False, **options: Any
    ) -> str:
        """Make a private room; its id."""
        body = {"preset": "private_chat", "name": name, "invite": list(invite)}
        answer = await self.request(
            "POST", f"{_CLIENT}/createRoom", {**body, "is_direct": direct, **options}
        )
        room_id: str = answer["room_id"]
        return room_id

    async def send(self, room_id: str, text: str, **content: Any) -> str:
        """Send a text; the event's id. More keys of the content can be given, msgtype too."""
        return await self.send_event(
            room_id, "m.room.message", {"msgtype": "m.text", "body": text, **content}
        )

    async def send_event(
        self, room_id: str, kind: str, content: Json, *, txn_id: str | None = None
    ) -> str:
        """Send an event of any kind; its id."""
        txn = txn_id or f"{self._txn_prefix}{next(self._txn)}"
        path = f"{_room(room_id)}/send/{quote(kind, safe='')}/{quote(txn, safe='')}"
        event_id: str = (await self.request("PUT", path, content))["event_id"]
        return event_id

    async def set_typing(self, room_id: str, *, typing: bool) -> None:
        """Show or hide the typing notice."""
        path = f"{_room(room_id)}/typing/{quote(self.user_id, safe='')}"
        await self.request("PUT", path, {"typing": typing, "timeout": 30000})

    async def invite(self, room_id: str, user_id: str) -> None:
        """Invite someone."""
        await self.request("POST", f"{_room(room_id)}/invite", {"user_id": user_id})

    async def join(self, room_id: str) -> None:
        """Join a room, by its id or its alias."""
        await self.request("POST", f"{_CLIENT}/join/{quote(room_id, safe='')}", {})

    async def leave(self, room_id: str) -> None:
        """Leave a room."""
        await self.request("POST", f"{_room(room_id)}/leave", {})

    async def kick(self, room_id: str, user_id: str) -> None:
        """Remove someone from a room."""
        await self.request("POST", f"{_room(room_id)}/kick", {"user_id": user_id})

    async def upgrade(self, room_id: str, *, version: str = "11") -> str:
        """Replace a room as clients do, all but the invitations; the new room's id."""
        body = {"new_version": version}
        answer = await self.request("POST", f"{_room(room_id)}/upgrade", body)
        new: str = answer["replacement_room"]
        return new

    async def set_state(self, room_id: str, kind: str, content: Json, *, key: str = "") -> None:
        """Set a state event."""
        path = f"{_room(room_id)}/state/{quote(kind, safe='')}/{quote(key, safe='')}"
        await self.request("PUT", path, content)

    async def members(self, room_id: str) -> set[str]:
        """Who has joined."""
        return set((await self.request("GET", f"{_room(room_id)}/joined_members"))["joined"])

    async def messages(self, room_id: str, *, limit: int = 200) -> list[Json]:
        """The room's latest events from the homeserver, oldest first."""
        answer = await self.request("GET", f"{_room(room_id)}/messages?dir=b&limit={limit}")
        return list(reversed(answer["chunk"]))

    async def get_state(self, room_id: str, kind: str) -> Json:
        """A room's state of a kind, with an empty key."""
        return await self.request("GET", f"{_room(room_id)}/state/{quote(kind, safe='')}")

    async def messages_page(self, room_id: str, place: str = "") -> Json:
        """One page of the room's events, newest first; `end` in it is the place of the next."""
        after = f"&from={quote(place, safe='')}" if place else ""
        return await self.request("GET", f"{_room(room_id)}/messages?dir=b&limit=500{after}")

    async def upload(self, data: bytes, *, mimetype: str = "application/octet-stream") -> str:
        """Put a file into the homeserver's media repository; its address."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": mimetype}
        async with self._http.post("/_matrix/media/v3/upload", data=data, headers=headers) as done:
            uri: str = (await done.json())["content_uri"]
            return uri

    async def download(self, uri: str) -> bytes:
        """A file of the homeserver's media repository."""
        path = f"/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
        headers = {"Authorization": f"Bearer {self._token}"}
        async with self._http.get(path, headers=headers) as answer:
            data = await answer.read()
            if answer.status >= 400:
                raise MatrixRefusalError(answer.status, {"error": repr(data[:200])})
            return data

    async def logout(self) -> None:
        """End the session."""
        await self.request("POST", f"{_CLIENT}/logout", {})

    async def sync(self) -> list[Json]:
        """One sync of at most 2 s; the new room events, which are also added to `timeline`."""
        query = f"timeout={_SYNC_TIMEOUT_MS if self._since else 0}"
        query += f"&filter={quote(_FILTER, safe='')}"
        if self._since:
            query += f"&since={quote(self._since, safe='')}"
        answer = await self.request("GET", f"{_CLIENT}/sync?{query}")
        self._since = answer["next_batch"]
        rooms = answer.get("rooms", {})
        self.invites.update(rooms.get("invite", {}))
        new: list[Json] = []
        for room_id, room in {**rooms.get("join", {}), **rooms.get("leave", {})}.items():
            new += [{**event, "room_id": room_id} for event in room["timeline"]["events"]]
            ephemeral = room.get("ephemeral", {}).get("events", [])
            self.ephemeral += [{**event, "room_id": room_id} for event in ephemeral]
        self.timeline += new
        return new

    async def wait_for(
        self, is_wanted: Callable[[Json], bool], *, timeout_s: float = 60, what: str = "an event"
    ) -> Json:
        """The first event so far or to come that is wanted.

        Raises:
            AssertionError: none came in time; says what came instead.
        """
        found = await self.collect(
            lambda events: any(map(is_wanted, events)), timeout_s=timeout_s, what=what
        )
        return next(event for event in found if is_wanted(event))

    async def collect(
        self,
        is_enough: Callable[[list[Json]], bool],
        *,
        timeout_s: float = 60,
        what: str = "enough events",
    ) -> list[Json]:
        """Sync until the whole timeline is enough; the timeline.

        Raises:
            AssertionError: it was not in time; says what came.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not is_enough(self.timeline):
                    await self.sync()
        except TimeoutError:
            raise AssertionError(self._describe_miss(what, timeout_s)) from None
        return self.timeline

    async def wait_for_text(
        self, room_id: str, part: str, *, sender: str | None = None, timeout_s: float = 60
    ) -> Json:
        """The room's first message with the part in its body; from the sender, or from others."""

        def is_wanted(event: Json) -> bool:
            is_sender = event["sender"] == sender if sender else event["sender"] != self.user_id
            return event["room_id"] == room_id and is_sender and part in body_of(event)

        return await self.wait_for(is_wanted, timeout_s=timeout_s, what=f"a message with {part!r}")

    async def wait_for_member(self, room_id: str, user_id: str, *, timeout_s: float = 60) -> None:
        """Wait until someone has joined the room."""

        def has_joined(event: Json) -> bool:
            return (
                event["type"] == "m.room.member"
                and event["room_id"] == room_id
                and event.get("state_key") == user_id
                and event["content"].get("membership") == "join"
            )

        await self.wait_for(has_joined, timeout_s=timeout_s, what=f"{user_id} in the room")

    def texts(self, room_id: str, *, sender: str) -> list[str]:
        """The bodies of the sender's messages in the room that were seen so far."""
        return [
            body_of(event)
            for event in self.timeline
            if event["room_id"] == room_id and event["sender"] == sender and body_of(event)
        ]

    def _describe_miss(self, what: str, timeout_s: float) -> str:
        seen = "\n".join(
            f"  {e['sender']} {e['type']} {str(e.get('content', {}))[:200]}"
            for e in self.timeline[-20:]
        )
        return f"{what} did not come within {timeout_s} s. The last events:\n{seen or '  none'}"

    async def _request_once(self, method: str, path: str, body: Json | None) -> Json:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        async with self._http.request(method, path, json=body, headers=headers) as answer:
            data: Json = await answer.json()
            if answer.status >= 400:
                raise MatrixRefusalError(answer.status, data)
            return data


@asynccontextmanager
async def open_matrix_user(
    base_url: str, account: Account, *, patient: bool = True
) -> AsyncIterator[MatrixUser]:
    """A logged-in user for as long as the context lasts."""
    timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(base_url, timeout=timeout) as http:
        user = MatrixUser(http, account.user_id, patient=patient)
        await user.login(account.password)
        yield user


def body_of(event: Json) -> str:
    """A message's text, or an empty one for any other event."""
    body = event.get("content", {}).get("body", "")
    return body if event["type"] == "m.room.message" and isinstance(body, str) else ""


def _room(room_id: str) -> str:
    return f"{_CLIENT}/rooms/{quote(room_id, safe='')}"


_FILTER = f'{{"room": {{"timeline": {{"limit": {_TIMELINE_LIMIT}}}}}}}'
