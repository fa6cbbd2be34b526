"""nio's Olm machine, opened from its store, and kept from being poisoned.

Owns everything that runs on key material that others chose. Rules: whatever a stranger sends makes
one call fail, contained; a key that we have is never replaced by a worse one; what was changed is
on disk before anything is sent that depends on it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import vodozemac
from loguru import logger
from nio.crypto import InboundGroupSession, Olm
from nio.events import OlmEvent, RoomKeyEvent, ToDeviceEvent
from nio.responses import KeysClaimResponse, KeysQueryResponse
from nio.store import SqliteStore
from peewee import PeeweeException  # type: ignore[import-untyped]  # it has no stubs

from orchestrator.errors import StoreCorruptError, StoreFullError
from orchestrator.model import JsonObject, JsonValue, RoomId, UserId

STORE_DIR = "crypto"
# A table of ours beside nio's: devices that are owed a new session since a restore.
_BEGUN_ANEW = "aiagentchat_begun_anew"
# The store of an account in many rooms has some megabytes; a change of it, and the journal that
# makes the change whole, some hundred KiB.
RESERVE_BYTES = 2 << 20
# More than any honest account has; past it the rest of a user's devices get no keys.
MAX_DEVICES_PER_USER = 200
OLM_ALGORITHM = "m.olm.v1.curve25519-aes-sha2"
MEGOLM_ALGORITHM = "m.megolm.v1.aes-sha2"


def store_path(state_dir: Path, user_id: UserId, device_id: str) -> Path:
    """The store's file; its name is a hash, since a user id may hold a slash."""
    name = hashlib.sha256(f"{user_id}|{device_id}".encode()).hexdigest()[:16]
    return state_dir / STORE_DIR / f"{name}.sqlite3"


@contextmanager
def open_machine(
    path: Path, *, user_id: UserId, device_id: str, pickle_key: str
) -> Iterator[Machine]:
    """The machine of a device, from its store (made if it isn't there); closes the store at exit.

    Raises:
        StoreCorruptError: the store is there and can't be read, or another key encrypted it.
        StoreFullError: there is no room for it.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    store: SqliteStore | None = None
    try:
        try:
            store = SqliteStore(user_id, device_id, str(path.parent), pickle_key, path.name)
            machine = Machine(user_id, device_id, store)
            machine.queue_begun_anew()
        except (PeeweeException, sqlite3.Error, ValueError) as e:
            if is_disk_full(e):
                msg = f"The disk of {path} is full. Free some space, then start again."
                raise StoreFullError(msg) from None
            # vodozemac's errors are ValueErrors.
            msg = (
                f"The encryption keys in {path} cannot be read ({type(e).__name__}). Restore "
                "nothing older; to start as a new device delete that file and set MATRIX_PASSWORD."
            )
            raise StoreCorruptError(msg) from None
        yield machine
    finally:
        if store is not None:
            store.database.close()


def begin_anew(path: Path) -> None:
    """The store is of a backup: its sessions with other devices must not be used again.

    The devices have gone on with them since; the same ratchet would encrypt twice. What the device
    is, and what opens rooms' messages, stays. At the next start each of those devices is sent a
    message in a new session, so that it uses that one from then on.

    Raises:
        StoreCorruptError: the store can't be used.
    """
    try:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(f"CREATE TABLE IF NOT EXISTS {_BEGUN_ANEW} (sender_key TEXT PRIMARY KEY)")
            db.execute(
                f"INSERT OR IGNORE INTO {_BEGUN_ANEW} SELECT sender_key FROM olmsessions"  # noqa: S608 - a constant
            )
            db.execute("DELETE FROM olmsessions")
    except sqlite3.Error as e:
        msg = f"The encryption keys in {path.name} of the backup can't be used ({e})."
        raise StoreCorruptError(msg) from e


class Machine(Olm):
    """nio's machine, with its inbound keys guarded. Every method here may raise anything."""

    def create_group_session(
        self,
        sender_key: str,
        sender_fp_key: str,
        room_id: str,
        session_id: str,
        session_key: str,
    ) -> None:
        """Keep a room key, unless the one that we have from this sender reaches further back.

        nio replaces it, and its store goes by the session's id alone: anybody who has seen a key
        could send a later state of it and take away what came before.
        """
        session = InboundGroupSession(session_key, sender_fp_key, sender_key, room_id)
        if session.id != session_id:
            msg = "the room key is not that of the session it names"
            raise ValueError(msg)
        known = self.inbound_group_store.get(room_id, sender_key, session_id)
        if known is not None and known.first_known_index <= session.first_known_index:
            return
        foreign = any(
            (s.sender_key, s.room_id) != (sender_key, room_id)
            for s in self.sessions_with_id(session_id)
        )
        self.inbound_group_store.add(session)
        self._by_id.setdefault(session_id, []).append(session)
        if not foreign:
            self.save_inbound_group_session(session)

    def queue_begun_anew(self) -> None:
        """Devices whose sessions a restore dropped get new ones, as wedged ones do."""
        keys = self._begun_anew()
        known = [device for device in self.device_store if device.curve25519 in keys]
        self.wedged_devices.extend(d for d in known if d not in self.wedged_devices)

    def forget_begun_anew(self, reached: Iterable[str]) -> None:
        """These devices (by their identity key) have a new session."""
        if self._begun_anew():
            for key in reached:
                self.store.database.execute_sql(
                    f"DELETE FROM {_BEGUN_ANEW} WHERE sender_key = ?",  # noqa: S608 - a constant
                    (key,),
                )

    def _begun_anew(self) -> frozenset[str]:
        if _BEGUN_ANEW not in self.store.database.get_tables():
            return frozenset()
        rows = self.store.database.execute_sql(f"SELECT sender_key FROM {_BEGUN_ANEW}")  # noqa: S608 - a constant
        return frozenset(str(row[0]) for row in rows.fetchall())

    def sessions_with_id(self, session_id: str) -> list[InboundGroupSession]:
        """All sessions with this id, whoever sent them, the latest first."""
        return self._by_id.get(session_id, [])[::-1]

    def load(self) -> None:
        """Load from the store, and index the sessions by their id."""
        super().load()
        self._by_id: dict[str, list[InboundGroupSession]] = {}
        for session in self.inbound_group_store:
            self._by_id.setdefault(session.id, []).append(session)


def has_room(directory: Path) -> bool:
    """Whether what is changed of the keys can be stored.

    A key that was used and could not be stored is lost, or worse, used again after a crash: so none
    is touched on a disk that is nearly full.
    """
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize >= RESERVE_BYTES


def is_disk_full(error: BaseException) -> bool:
    """Whether the store's disk is full, or takes no writes."""
    cause: BaseException | None = error
    while cause is not None:
        code = getattr(cause, "sqlite_errorname", "")
        if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


@contextmanager
def stored() -> Iterator[None]:
    """Something that has to be stored before it is of use: a full disk is an error of its own.

    Raises:
        StoreFullError: it could not be stored.
    """
    try:
        yield
    except (PeeweeException, sqlite3.Error) as e:
        if not is_disk_full(e):
            raise
        msg = "The disk of the encryption keys is full. Free some space; it is tried again."
        raise StoreFullError(msg) from e


@contextmanager
def contained(what: str, **fields: str) -> Iterator[None]:
    """Run something on hostile input: its failure is logged by kind and goes no further."""
    try:
        yield
    except BaseException as e:
        if not is_containable(e):
            raise
        logger.bind(action="matrix.contained", what=what, error=type(e).__name__, **fields).warning(
            "input from outside could not be handled"
        )


def is_containable(error: BaseException) -> bool:
    """Any Exception, and a panic in the Rust library, which is none (pyo3's PanicException)."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def take_to_device(machine: Machine, event: JsonObject) -> RoomId | None:
    """Take in one to-device event; the room that a key arrived for. May raise anything.

    Only Olm messages are taken. Verification is not supported, and requests for keys are not
    served: nio would queue both without bound.
    """
    parsed = ToDeviceEvent.parse_event(dict(event))
    if not isinstance(parsed, OlmEvent):
        return None
    opened = machine.handle_to_device_event(parsed)  # type: ignore[no-untyped-call]
    if opened is not None:
        # A one-time key that was used up must not come back after a crash.
        machine.save_account()
    if not isinstance(opened, RoomKeyEvent):
        return None
    held = machine.inbound_group_store.get(opened.room_id, parsed.sender_key, opened.session_id)
    return None if held is None else RoomId(opened.room_id)


def take_queried_devices(machine: Machine, answer: JsonObject) -> set[UserId]:
    """Take in /keys/query user by user; the users that it has an answer for.

    One user's malformed device must not hide another's devices, as it would in nio.
    """
    answered: set[UserId] = set()
    for user_id, devices in _objects(answer.get("device_keys")).items():
        good: JsonObject = {}
        for device_id, payload in list(_objects(devices).items())[:MAX_DEVICES_PER_USER]:
            with contained("device keys", user=user_id):
                if _is_sound_device(machine, user_id, device_id, payload):
                    good[device_id] = payload
        with contained("device list", user=user_id):
            machine.handle_response(  # type: ignore[no-untyped-call]
                KeysQueryResponse({user_id: good}, {})
            )
            answered.add(UserId(user_id))
    return answered


def take_claimed_keys(machine: Machine, answer: JsonObject) -> None:
    """Take in /keys/claim device by device: one bad key must not spoil the others'."""
    for user_id, devices in _objects(answer.get("one_time_keys")).items():
        for device_id, keys in _objects(devices).items():
            with contained("one-time key", user=user_id):
                claimed = KeysClaimResponse({user_id: {device_id: keys}}, {})
                machine.handle_response(claimed)  # type: ignore[no-untyped-call]


def build_device_keys(machine: Machine) -> JsonObject:
    """Our device's identity, signed."""
    keys = machine.account.identity_keys
    device: JsonObject = {
        "algorithms": [OLM_ALGORITHM, MEGOLM_ALGORITHM],
        "device_id": machine.device_id,
        "user_id": machine.user_id,
        "keys": {
            f"curve25519:{machine.device_id}": keys["curve25519"],
            f"ed25519:{machine.device_id}": keys["ed25519"],
        },
    }
    return _signed(machine, device)


def build_one_time_keys(machine: Machine, *, wanted: int) -> JsonObject:
    """Unpublished one-time keys, `wanted` of them made now unless some are left from before."""
    account = machine.account
    if not account.one_time_keys["curve25519"] and wanted > 0:
        account.generate_one_time_keys(wanted)
    return {
        f"signed_curve25519:{key_id}": _signed(machine, {"key": key})
        for key_id, key in account.one_time_keys["curve25519"].items()
    }


def build_fallback_key(machine: Machine) -> JsonObject:
    """The key that serves when the one-time keys have run out; new unless one is unpublished."""
    # vodozemac's stubs leave the fallback key out.
    account: Any = machine.account._account  # noqa: SLF001 - nio has no way to it
    if not account.fallback_key:
        account.generate_fallback_key()
    return {
        f"signed_curve25519:{key_id}": _signed(machine, {"key": key.to_base64(), "fallback": True})
        for key_id, key in account.fallback_key.items()
    }


def mark_published(machine: Machine) -> None:
    """The homeserver has the keys that were built last."""
    machine.account.shared = True
    machine.mark_keys_as_published()
    machine.save_account()


def _signed(machine: Machine, value: JsonObject) -> JsonObject:
    signature = machine.sign_json(value)
    return {
        **value,
        "signatures": {machine.user_id: {f"ed25519:{machine.device_id}": signature}},
    }


def _is_sound_device(machine: Machine, user_id: str, device_id: str, payload: JsonValue) -> bool:
    """Whether nio's own checks, run on a copy, accept the device. May raise anything."""
    device = dict(_objects(payload))
    keys = _objects(device.get("keys"))
    unsigned = device.get("unsigned")
    if unsigned is not None and not isinstance(unsigned, dict):
        return False
    key = keys[f"ed25519:{device_id}"]
    vodozemac.Curve25519PublicKey.from_base64(str(keys[f"curve25519:{device_id}"]))
    verified = machine.verify_json(  # type: ignore[no-untyped-call]
        device, key, user_id, device_id
    )
    return bool(verified)


def _objects(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) else {}
