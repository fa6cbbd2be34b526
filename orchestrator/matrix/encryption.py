"""End-to-end encryption of the agent's device: what comes in is opened, what goes out is sealed.

Rules: never plaintext into an encrypted room, and when in doubt ask the homeserver, never guess;
what others sent is hostile, and its failure stays with it; once encrypted, a room stays so.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal

from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import (
    LoginRefusedError,
    RequestRefusedError,
    StoreFullError,
    UndecryptableError,
)
from orchestrator.matrix import olm
from orchestrator.matrix.http import MatrixHttp, api_path
from orchestrator.matrix.keys import KeyExchange, Rotation
from orchestrator.matrix.login import Login
from orchestrator.matrix.olm import Machine
from orchestrator.matrix.rawjson import dump_json, parse_object
from orchestrator.matrix.translate import unreadable
from orchestrator.model import JsonObject, JsonValue, RoomId, UserId

Mode = Literal["required", "supported", "off"]

# A room that was not encrypted is believed to be so for this long; asking takes some milliseconds.
PLAIN_FOR_S = 60.0
# While there is no room for a key: how often that is looked at.
_ROOM_LOOK_S = 2.0
# Replays are known for this many messages; 14 MB at most.
_REPLAY_ENTRIES = 100_000
_MAX_ROTATION_MESSAGES = 10_000
_MIN_ROTATION_MS = 3_600_000
# Homeservers count reactions for their clients, so all clients send them in clear.
_NEVER_SEALED = frozenset({"m.reaction"})
_IN_ROOM = frozenset({"join", "invite"})


class _Outside(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, hide_input_in_errors=True)


class _RoomEncryption(_Outside):
    algorithm: str
    rotation_period_msgs: int = 100
    rotation_period_ms: int = 604_800_000


class _MegolmContent(_Outside):
    algorithm: Literal["m.megolm.v1.aes-sha2"]
    ciphertext: str
    session_id: str


class _MegolmEvent(_Outside):
    event_id: str
    sender: str
    origin_server_ts: int
    content: _MegolmContent


class _Plaintext(_Outside):
    type: str
    room_id: str
    content: dict[str, object]


class _DeviceLists(_Outside):
    changed: list[UserId] = []
    left: list[UserId] = []


@asynccontextmanager
async def open_encryption(
    mode: Mode, login: Login, http: MatrixHttp, state_dir: Path
) -> AsyncIterator[Encryption]:
    """The encryption of the session's device, keys loaded and published; closes the store at exit.

    Raises:
        LoginRefusedError: the device's keys are gone, and no password is given for a new device.
        StoreCorruptError: the keys can't be read.
        HomeserverUnreachableError, RateLimitedError, RequestRefusedError: from publishing.
    """
    with ExitStack() as stack:
        machine: Machine | None = None
        if mode != "off":
            machine = stack.enter_context(await _open_device(login, state_dir))
            login.note_keys_made()
        encryption = Encryption(
            mode, machine, http, directory=None if machine is None else state_dir / olm.STORE_DIR
        )
        if encryption.keys is not None:
            await encryption.keys.publish(None, ())
        yield encryption


async def _open_device(login: Login, state_dir: Path) -> AbstractContextManager[Machine]:
    session = login.session
    path = olm.store_path(state_dir, session.user_id, session.device_id)
    if session.has_keys and not path.exists():
        logger.bind(action="matrix.keys_gone", device=session.device_id).error(
            "this device's encryption keys are gone; logging in as a new device"
        )
        try:
            session = await login.log_in_as_new_device()
        except LoginRefusedError as e:
            msg = (
                f"The encryption keys of device {session.device_id} are gone ({path}). A new "
                f"device is needed: {e}"
            )
            raise LoginRefusedError(msg) from None
        path = olm.store_path(state_dir, session.user_id, session.device_id)
    return olm.open_machine(
        path,
        user_id=session.user_id,
        device_id=session.device_id,
        pickle_key=session.pickle_key.get_secret_value(),
    )


class Encryption:
    """Implements `ports.Encryption`. Invariant: a room in `_encrypted` never leaves it."""

    def __init__(
        self,
        mode: Mode,
        machine: Machine | None,
        http: MatrixHttp,
        clock: Callable[[], float] = time.monotonic,
        *,
        directory: Path | None = None,
    ) -> None:
        """`directory`: where the keys are stored; None: nobody minds its disk."""
        self._mode = mode
        self._machine = machine
        self._http = http
        self._directory = directory
        self._clock = clock
        self.keys = None if machine is None else KeyExchange(machine, http)
        self._encrypted: set[RoomId] = set()
        if machine is not None:
            self._encrypted |= {RoomId(room) for room in machine.store.load_encrypted_rooms()}
        self._plain_until: dict[RoomId, float] = {}
        self._rotation: dict[RoomId, Rotation] = {}
        self._members: dict[RoomId, frozenset[UserId]] = {}
        self._member_events: Counter[RoomId] = Counter()
        self._seen: OrderedDict[tuple[str, int], str] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Encryption {self._mode} encrypted_rooms={len(self._encrypted)}>"

    async def handle_to_device(self, raw: str) -> Sequence[RoomId]:
        """Take in one to-device event; the rooms for which a key arrived. Never raises for it.

        Waits while the disk has no room for a key.
        """
        if self._machine is None:
            return ()
        await self._wait_for_room()
        opened: list[RoomId] = []
        with olm.contained("to-device event"):
            room_id = olm.take_to_device(self._machine, parse_object(raw.encode()))
            opened += () if room_id is None else (room_id,)
        return opened

    async def handle_device_lists(self, raw: str) -> None:
        """Take in one `device_lists` object. Never raises for it."""
        if self.keys is None:
            return
        with olm.contained("device lists"):
            lists = _DeviceLists.model_validate_json(raw)
            self.keys.note_changed([*lists.changed, *lists.left])

    async def handle_state(self, room_id: RoomId, raw: str) -> None:
        """Take in a state event: encryption switched on, members come and gone."""
        with olm.contained("state event", room=room_id):
            event = parse_object(raw.encode())
            if event.get("type") == "m.room.encryption" and event.get("state_key") == "":
                self.note_encrypted(room_id)
                # Asked again before the next message, with what it says about rotation.
                self._rotation.pop(room_id, None)
            elif event.get("type") == "m.room.member":
                self._note_member(room_id, event)

    def note_encrypted(self, room_id: RoomId) -> None:
        """The room is encrypted, now and from here on, after a restart too."""
        if room_id in self._encrypted:
            return
        self._encrypted.add(room_id)
        self._plain_until.pop(room_id, None)
        if self._machine is not None:
            self._machine.store.save_encrypted_rooms([room_id])

    def forget_members(self, room_id: RoomId) -> None:
        """What is known of the members may be wrong: they are asked for before the next message."""
        self._members.pop(room_id, None)

    async def is_encrypted(self, room_id: RoomId) -> bool:
        """Whether the room is encrypted; asks the homeserver when that is not known for sure.

        Raises:
            MatrixError: the homeserver does not say; then nothing may be sent.
        """
        if room_id in self._encrypted:
            return True
        if self._plain_until.get(room_id, 0.0) > self._clock():
            return False
        if await self._ask_encryption(room_id) is not None:
            self.note_encrypted(room_id)
            return True
        self._plain_until[room_id] = self._clock() + PLAIN_FOR_S
        return False

    async def seals(self, room_id: RoomId) -> bool:
        """Whether what goes out to the room is encrypted.

        Raises:
            RequestRefusedError: ENCRYPTION_OFF or ENCRYPTION_REQUIRED, as the configuration says:
                nothing may go out.
            MatrixError: the homeserver does not say whether the room is encrypted.
        """
        return await self._sealer(room_id) is not None

    async def seal(
        self, room_id: RoomId, event_type: str, content: Mapping[str, JsonValue]
    ) -> tuple[str, Mapping[str, JsonValue]]:
        """The type and the content to send: encrypted where the room is, but for reactions.

        Raises:
            RequestRefusedError: as `seals`, or from the homeserver.
            HomeserverUnreachableError, RateLimitedError: keys could not be exchanged.
            StoreFullError: keys could not be stored.
        """
        sealer = await self._sealer(room_id)
        if sealer is None or event_type in _NEVER_SEALED:
            return event_type, content
        machine, keys = sealer
        rotation = await self._rotation_of(room_id)
        async with keys.room_lock(room_id):
            self._require_room()
            while (members := self._members.get(room_id)) is None:
                await self._fetch_members(room_id)
            with olm.stored():
                await keys.share_room_key(room_id, sorted(members), rotation)
            return "m.room.encrypted", _encrypt(machine, room_id, event_type, content)

    async def decrypt(self, raw: str, room_id: RoomId) -> str:
        """The event in clear as JSON: event_id, sender, origin_server_ts, room_id, type, content.

        Raises:
            UndecryptableError: no key for it (yet), or not what it says it is.
        """
        if self._machine is None:
            msg = "The event is encrypted, and matrix.encryption is 'off'."
            raise UndecryptableError(msg)
        try:
            return self._decrypt(self._machine, raw, room_id)
        except UndecryptableError:
            raise
        except BaseException as e:
            if not olm.is_containable(e):
                raise
            msg = f"The event can't be decrypted: {type(e).__name__}."
            raise UndecryptableError(msg) from None

    async def after_sync(self, body: JsonObject) -> None:
        """Publish keys as a /sync answer asks for, repair broken sessions.

        Raises MatrixError, or StoreFullError: nothing is published that can't be stored.
        """
        if self.keys is None:
            return
        self._require_room()
        counts = body.get("device_one_time_keys_count")
        unused = body.get("device_unused_fallback_key_types")
        with olm.stored():
            await self.keys.publish(
                counts if isinstance(counts, dict) else None,
                # A homeserver that does not speak of fallback keys gets none at each answer.
                unused if isinstance(unused, list) else ("signed_curve25519",),
            )
            await self.keys.unwedge()

    def _require_room(self) -> None:
        if self._directory is not None and not olm.has_room(self._directory):
            raise StoreFullError

    async def _wait_for_room(self) -> None:
        if self._directory is None or olm.has_room(self._directory):
            return
        logger.bind(action="matrix.keys_wait", directory=str(self._directory)).error(
            "no room for encryption keys on the disk; what needs them waits"
        )
        while not olm.has_room(self._directory):  # noqa: ASYNC110 - a disk tells nobody
            await asyncio.sleep(_ROOM_LOOK_S)
        logger.bind(action="matrix.keys_go_on").warning("there is room for encryption keys again")

    async def _sealer(self, room_id: RoomId) -> tuple[Machine, KeyExchange] | None:
        """What seals for the room; None where it is not encrypted."""
        if not await self.is_encrypted(room_id):
            if self._mode == "required":
                raise _refusal(
                    "ENCRYPTION_REQUIRED",
                    "The room is not encrypted, and matrix.encryption is 'required'. Switch "
                    "encryption on in the room, or set it to 'supported'.",
                )
            return None
        if self._machine is None or self.keys is None:
            raise _refusal(
                "ENCRYPTION_OFF",
                "The room is encrypted, and matrix.encryption is 'off'. Set it to 'supported'.",
            )
        return self._machine, self.keys

    def _decrypt(self, machine: Machine, raw: str, room_id: RoomId) -> str:
        source = parse_object(raw.encode())
        event = _MegolmEvent.model_validate(source)
        session_id = event.content.session_id
        sessions = [s for s in machine.sessions_with_id(session_id) if s.room_id == room_id]
        if not sessions:
            raise UndecryptableError
        device_of = machine.device_store.device_from_sender_key
        mine = [s for s in sessions if device_of(event.sender, s.sender_key) is not None]
        session = (mine or sessions)[0]
        if not mine and _belongs_to_other(machine, event.sender, session.sender_key):
            msg = "The event was encrypted with another user's key."
            raise UndecryptableError(msg)
        text, index = session.decrypt(event.content.ciphertext)
        self._check_replay(session_id, index, event.event_id)
        plain_json = parse_object(text.encode("utf-8", "surrogatepass"))
        plain = _Plaintext.model_validate(plain_json)
        if plain.room_id != room_id:
            msg = "The event was encrypted for another room."
            raise UndecryptableError(msg)
        return _clear_event(source, plain_json, room_id)

    def _check_replay(self, session_id: str, index: int, event_id: str) -> None:
        seen = self._seen.setdefault((session_id, index), event_id)
        if len(self._seen) > _REPLAY_ENTRIES:
            self._seen.popitem(last=False)
        if seen != event_id:
            msg = "The event repeats the ciphertext of another one."
            raise UndecryptableError(msg)

    def _note_member(self, room_id: RoomId, event: JsonObject) -> None:
        self._member_events[room_id] += 1
        known = self._members.get(room_id)
        content = event.get("content")
        membership = content.get("membership") if isinstance(content, dict) else None
        # An old event may be late: it never adds anyone, it makes us ask.
        if known is not None and (membership in _IN_ROOM) != (event.get("state_key") in known):
            self.forget_members(room_id)

    async def _ask_encryption(self, room_id: RoomId) -> _RoomEncryption | None:
        what = "asking whether a room is encrypted"
        path = api_path("rooms", room_id, "state", "m.room.encryption")
        try:
            answer = await self._http.get(f"{path}/", what=what)
        except RequestRefusedError as e:
            if e.errcode == "M_NOT_FOUND":
                return None
            raise
        try:
            return _RoomEncryption.model_validate(answer)
        except ValidationError:
            # Encrypted in a way that we can't read is still encrypted.
            self.note_encrypted(room_id)
            raise unreadable(what) from None

    async def _rotation_of(self, room_id: RoomId) -> Rotation:
        known = self._rotation.get(room_id)
        if known is not None:
            return known
        state = await self._ask_encryption(room_id)
        if state is None or state.algorithm != olm.MEGOLM_ALGORITHM:
            raise _refusal(
                "ENCRYPTION_UNSUPPORTED",
                "The room was encrypted, and the homeserver now names no method that we know.",
            )
        rotation = Rotation(
            messages=min(max(state.rotation_period_msgs, 1), _MAX_ROTATION_MESSAGES),
            period_ms=max(state.rotation_period_ms, _MIN_ROTATION_MS),
        )
        self._rotation[room_id] = rotation
        return rotation

    async def _fetch_members(self, room_id: RoomId) -> None:
        what = "reading a room's members"
        events_before = self._member_events[room_id]
        answer = await self._http.get(
            api_path("rooms", room_id, "members"), what=what, query={"not_membership": "leave"}
        )
        chunk = answer.get("chunk")
        if not isinstance(chunk, list):
            raise unreadable(what)
        # Not kept when a change arrived meanwhile: the answer may be from before it.
        if self._member_events[room_id] == events_before:
            self._members[room_id] = frozenset(filter(None, map(_member_in_room, chunk)))


def _member_in_room(event: JsonValue) -> UserId | None:
    if not isinstance(event, dict):
        return None
    content, user = event.get("content"), event.get("state_key")
    if not isinstance(content, dict) or not isinstance(user, str):
        return None
    return UserId(user) if content.get("membership") in _IN_ROOM else None


def _encrypt(
    machine: Machine, room_id: RoomId, event_type: str, content: Mapping[str, JsonValue]
) -> JsonObject:
    # Relations stay readable, as the specification wants it: the homeserver needs them.
    inner = {key: value for key, value in content.items() if key != "m.relates_to"}
    sealed: JsonObject = dict(
        machine.group_encrypt(room_id, {"type": event_type, "content": inner})
    )
    if "m.relates_to" in content:
        sealed["m.relates_to"] = content["m.relates_to"]
    return sealed


def _clear_event(source: JsonObject, plain: JsonObject, room_id: RoomId) -> str:
    content, outer = plain["content"], source["content"]
    if isinstance(content, dict) and isinstance(outer, dict) and "m.relates_to" in outer:
        content = {"m.relates_to": outer["m.relates_to"], **content}
    kept: JsonObject = {
        key: value
        for key, value in source.items()
        if key in ("event_id", "sender", "origin_server_ts", "unsigned")
    }
    return dump_json({**kept, "room_id": room_id, "type": plain["type"], "content": content})


def _belongs_to_other(machine: Machine, sender: str, sender_key: str) -> bool:
    return any(
        device.curve25519 == sender_key and device.user_id != sender
        for device in machine.device_store
    )


def _refusal(errcode: str, words: str) -> RequestRefusedError:
    error = RequestRefusedError(errcode=errcode, status=0, what=words)
    error.args = (words,)  # no homeserver was asked
    return error
