"""The exchange of keys with the homeserver: ours go up, other devices' come down, room keys go out.

Rooms share their keys independently (`room_lock`), so one that waits delays no other. Progress
survives a cancelled or failed attempt: what was claimed or shared is remembered.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loguru import logger

from orchestrator.errors import RequestRefusedError
from orchestrator.matrix import olm
from orchestrator.matrix.http import MatrixHttp, api_path
from orchestrator.matrix.olm import Machine
from orchestrator.model import JsonObject, JsonValue, UserId

# Keys are sent up when fewer than this are left: half of what an account holds, as others do.
_LOW_WATER = 25
_FULL = 50
_USERS_PER_QUERY = 100
_DEVICES_PER_CLAIM = 100
# A device that could not be reached (no one-time key) is tried again after this.
RETRY_DEVICE_S = 600.0
# How long the homeserver may wait for other homeservers, in ms.
_FEDERATION_MS = 10_000
_CURVE = "signed_curve25519"

Device = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """When a room's key has to be replaced, as the room asks for it."""

    messages: int = 100
    period_ms: int = 604_800_000


class KeyExchange:
    """Invariant: of a user in `_fresh` the machine has the devices as last answered."""

    def __init__(
        self, machine: Machine, http: MatrixHttp, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._machine = machine
        self._http = http
        self._clock = clock
        self._fresh: set[UserId] = set()
        self._shared_with: dict[str, frozenset[Device]] = {}
        self._retry_at: dict[str, float] = {}
        self._ask_again_at: dict[UserId, float] = {}
        self._publishing = asyncio.Lock()
        self._querying = asyncio.Lock()
        self._room_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def __repr__(self) -> str:
        return f"<KeyExchange fresh={len(self._fresh)} rooms={len(self._shared_with)}>"

    def room_lock(self, room_id: str) -> asyncio.Lock:
        """Held while a room's key is shared and used."""
        return self._room_locks[room_id]

    def note_changed(self, users: Sequence[UserId]) -> None:
        """These users' devices changed: they are asked for before the next message to them."""
        self._fresh.difference_update(users)
        for user in users:
            self._ask_again_at.pop(user, None)

    async def publish(
        self, counts: Mapping[str, JsonValue] | None, unused: Sequence[object]
    ) -> None:
        """Send up what the homeserver is short of. `counts` and `unused` as in a /sync answer.

        Raises:
            MatrixError: it could not be sent; the same keys go up at the next attempt.
        """
        async with self._publishing:
            body = self._due_keys(counts, unused)
            if not body:
                return
            # On disk first: a key that the homeserver gave out must not be lost in a crash.
            self._machine.save_account()
            try:
                await self._http.request(
                    "POST", api_path("keys", "upload"), what="publishing keys", body=body
                )
            except RequestRefusedError as e:
                # It has other keys under these names (a restored backup): new names will do.
                logger.bind(action="matrix.keys_refused", errcode=e.errcode).error(
                    "the homeserver refused this device's keys; making new ones"
                )
                if "device_keys" in body:
                    raise
            olm.mark_published(self._machine)

    async def unwedge(self) -> None:
        """Start new sessions with devices that we can't read any more. Raises MatrixError."""
        if not self._machine.wedged_devices:
            return
        wedged = list(self._machine.wedged_devices)[:_DEVICES_PER_CLAIM]
        await self._claim([(device.user_id, device.id) for device in wedged])
        # What is still there could not be reached; the next unreadable message tries again.
        self._machine.wedged_devices.clear()
        for message in list(self._machine.outgoing_to_device_messages):
            content: JsonObject = dict(message.content)
            messages: JsonObject = {message.recipient: {message.recipient_device: content}}
            await self._send_to_device(message.type, {"messages": messages})
            self._machine.outgoing_to_device_messages.remove(message)
        self._machine.forget_begun_anew(
            d.curve25519 for d in wedged if self._machine.session_store.get(d.curve25519)
        )

    async def share_room_key(
        self, room_id: str, users: Sequence[UserId], rotation: Rotation
    ) -> None:
        """Make sure that every device of these users that can be reached has the room's key.

        Someone left, or a device did: a new key. Someone came: they get the present one, which
        opens nothing older. Under `room_lock`. Raises MatrixError; what was sent is remembered.
        """
        await self._query(users)
        devices = self._devices_of(users)
        if not self._is_share_due(room_id, devices):
            return
        await self._claim(self._without_session(devices))
        session = self._machine.outbound_group_sessions[room_id]
        session.max_messages = rotation.messages
        session.max_age = type(session.max_age)(milliseconds=rotation.period_ms)
        session.shared = False
        await self._send_room_key(room_id, users)
        session.shared = True
        self._shared_with[room_id] = devices
        self._note_unreached(room_id, devices - session.users_shared_with)

    def _due_keys(
        self, counts: Mapping[str, JsonValue] | None, unused: Sequence[object]
    ) -> JsonObject:
        machine = self._machine
        body: JsonObject = {}
        count = None if counts is None else counts.get(_CURVE, 0)
        if not machine.account.shared:
            body["device_keys"] = olm.build_device_keys(machine)
            count = 0
        if isinstance(count, int) and count < _LOW_WATER:
            wanted = _FULL - max(count, 0)
            body["one_time_keys"] = olm.build_one_time_keys(machine, wanted=wanted)
        if body.get("device_keys") or (counts is not None and _CURVE not in unused):
            body["fallback_keys"] = olm.build_fallback_key(machine)
        return body

    async def _query(self, users: Sequence[UserId]) -> None:
        async with self._querying:
            now = self._clock()
            due = [
                user
                for user in users
                if user not in self._fresh and self._ask_again_at.get(user, 0.0) <= now
            ]
            for start in range(0, len(due), _USERS_PER_QUERY):
                await self._query_page(due[start : start + _USERS_PER_QUERY])

    async def _query_page(self, users: Sequence[UserId]) -> None:
        # Before the request: a change that arrives meanwhile takes them out again.
        self._fresh.update(users)
        answered: set[UserId] = set()
        body: JsonObject = {
            "device_keys": {user: [] for user in users},
            "timeout": _FEDERATION_MS,
        }
        try:
            answer = await self._http.request(
                "POST", api_path("keys", "query"), what="reading device keys", body=body
            )
            answered = olm.take_queried_devices(self._machine, answer)
        finally:
            self._fresh.difference_update(set(users) - answered)
        # Their homeserver does not answer: their messages go on with what is known.
        for user in set(users) - answered:
            self._ask_again_at[user] = self._clock() + RETRY_DEVICE_S

    async def _claim(self, devices: Sequence[Device]) -> None:
        for start in range(0, len(devices), _DEVICES_PER_CLAIM):
            wanted: dict[str, JsonValue] = {}
            for user_id, device_id in devices[start : start + _DEVICES_PER_CLAIM]:
                mine = wanted.setdefault(user_id, {})
                if isinstance(mine, dict):
                    mine[device_id] = _CURVE
            body: JsonObject = {"one_time_keys": wanted, "timeout": _FEDERATION_MS}
            answer = await self._http.request(
                "POST", api_path("keys", "claim"), what="claiming keys", body=body
            )
            with self._machine.store.database.atomic():
                olm.take_claimed_keys(self._machine, answer)

    def _devices_of(self, users: Sequence[UserId]) -> frozenset[Device]:
        store = self._machine.device_store
        own = (self._machine.user_id, self._machine.device_id)
        found = {(user, device.id) for user in users for device in store.active_user_devices(user)}
        # nio shares with no device that has our own device's name, whoever's it is.
        return frozenset(d for d in found if d != own and d[1] != own[1])

    def _is_share_due(self, room_id: str, devices: frozenset[Device]) -> bool:
        session = self._machine.outbound_group_sessions.get(room_id)
        before = self._shared_with.get(room_id, frozenset())
        had = before | (session.users_shared_with if session else set())
        if session is None or session.expired or had - devices:
            self._machine.create_outbound_group_session(room_id)
            self._shared_with.pop(room_id, None)
            return True
        retry_at = self._retry_at.get(room_id)
        late = retry_at is not None and self._clock() >= retry_at
        return not session.shared or bool(devices - before) or late

    def _without_session(self, devices: frozenset[Device]) -> list[Device]:
        machine = self._machine
        return sorted(
            (user, device)
            for user, device in devices
            if not machine.session_store.get(machine.device_store[user][device].curve25519)
        )

    async def _send_room_key(self, room_id: str, users: Sequence[UserId]) -> None:
        session = self._machine.outbound_group_sessions[room_id]
        batches = self._machine.share_group_session_parallel(
            room_id, list(users), ignore_unverified_devices=True
        )
        while True:
            # One transaction for a batch of 20 devices instead of one for each.
            with self._machine.store.database.atomic():
                batch = next(batches, None)
            if batch is None:
                return
            devices, body = batch
            await self._send_to_device("m.room.encrypted", body)
            session.users_shared_with.update(devices)

    def _note_unreached(self, room_id: str, devices: frozenset[Device]) -> None:
        self._retry_at.pop(room_id, None)
        if devices:
            self._retry_at[room_id] = self._clock() + RETRY_DEVICE_S
            logger.bind(
                action="matrix.devices_unreached", room=room_id, count=len(devices)
            ).warning("some devices get no key of the room: they have none for us to use")

    async def _send_to_device(self, event_type: str, body: Mapping[str, JsonValue]) -> None:
        path = api_path("sendToDevice", event_type, secrets.token_hex(16))
        await self._http.request("PUT", path, what="sending keys", body=body)
