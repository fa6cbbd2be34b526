"""Opening what others encrypted, and the machine under poison. No network: keys are handed over."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import vodozemac
from peewee import OperationalError

from orchestrator.errors import StoreCorruptError, StoreFullError, UndecryptableError
from orchestrator.matrix import encryption as encryption_module
from orchestrator.matrix import olm
from orchestrator.matrix.encryption import Encryption
from orchestrator.matrix.http import MatrixHttp
from orchestrator.matrix.keys import Rotation
from orchestrator.matrix.olm import Machine
from orchestrator.model import RoomId, UserId

ME, ALICE, MALLORY = UserId("@agent:x"), UserId("@alice:x"), UserId("@mallory:x")
ROOM = RoomId("!r:x")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with open_one(tmp_path) as opened:
        yield opened


@pytest.fixture
async def encryption(machine: Machine) -> AsyncIterator[Encryption]:
    http = MatrixHttp("http://127.0.0.1:9", user_id=ME)
    yield Encryption("supported", machine, http)
    await http.close()


def open_one(path: Path, key: str = "pickle-key") -> Any:
    return olm.open_machine(
        path / "crypto" / "one.sqlite3", user_id=ME, device_id="OURS", pickle_key=key
    )


class Peer:
    """Another user's device: signs its keys, encrypts for the room."""

    def __init__(self, user_id: UserId, device_id: str = "THEIRS") -> None:
        self.user_id, self.device_id = user_id, device_id
        self.account = vodozemac.Account()
        self.group = vodozemac.GroupSession()
        self.curve = self.account.curve25519_key.to_base64()
        self.ed = self.account.ed25519_key.to_base64()

    def device(self) -> dict[str, Any]:
        keys = {f"curve25519:{self.device_id}": self.curve, f"ed25519:{self.device_id}": self.ed}
        return self.sign(
            {
                "algorithms": [olm.OLM_ALGORITHM],
                "device_id": self.device_id,
                "user_id": self.user_id,
                "keys": keys,
            }
        )

    def sign(self, value: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
        signature = self.account.sign(text.encode()).to_base64()
        return {**value, "signatures": {self.user_id: {f"ed25519:{self.device_id}": signature}}}

    def hand_key_to(self, machine: Machine, key: str | None = None) -> None:
        key = key or self.group.session_key.to_base64()
        machine.create_group_session(self.curve, self.ed, ROOM, self.group.session_id, key)

    def event(self, plaintext: bytes | Any, event_id: str = "$e") -> str:
        data = plaintext if isinstance(plaintext, bytes) else json.dumps(plaintext).encode()
        content = {
            "algorithm": olm.MEGOLM_ALGORITHM,
            "ciphertext": self.group.encrypt(data).to_base64(),
            "session_id": self.group.session_id,
        }
        return json.dumps(
            {
                "type": "m.room.encrypted",
                "event_id": event_id,
                "sender": self.user_id,
                "origin_server_ts": 1,
                "content": content,
            }
        )


def said(body: str, room_id: str = ROOM) -> dict[str, Any]:
    return {"type": "m.room.message", "room_id": room_id, "content": {"body": body}}


async def test_an_event_without_the_deprecated_sender_key_is_read(
    machine: Machine, encryption: Encryption
) -> None:
    alice = Peer(ALICE)
    alice.hand_key_to(machine)
    clear = json.loads(await encryption.decrypt(alice.event(said("hi")), ROOM))
    assert clear["content"] == {"body": "hi"}
    assert (clear["event_id"], clear["sender"], clear["room_id"]) == ("$e", ALICE, ROOM)


@pytest.mark.parametrize(
    "plaintext",
    [
        b"\xff\xfe",
        b"[1,2]",
        b"5",
        b"null",
        b"[" * 20_000,
        b'{"type":' + b"9" * 5000 + b"}",
        b"not json",
        b"{}",
        b'{"type":"t","content":[],"room_id":"!r:x"}',
        b'{"type":5,"content":{},"room_id":"!r:x"}',
        b'{"type":"t","content":{}}',
        json.dumps(said("elsewhere", "!other:x")).encode(),
    ],
    ids=lambda data: data[:20],
)
async def test_poisoned_plaintext_is_undecryptable_and_its_neighbour_is_read(
    machine: Machine, encryption: Encryption, plaintext: bytes
) -> None:
    alice = Peer(ALICE)
    alice.hand_key_to(machine)
    poisoned, good = alice.event(plaintext, "$bad"), alice.event(said("good"), "$good")
    with pytest.raises(UndecryptableError) as refused:
        await encryption.decrypt(poisoned, ROOM)
    assert "elsewhere" not in str(refused.value)
    assert json.loads(await encryption.decrypt(good, ROOM))["content"] == {"body": "good"}


async def test_odd_but_valid_plaintext_is_storable(
    machine: Machine, encryption: Encryption
) -> None:
    alice = Peer(ALICE)
    alice.hand_key_to(machine)
    raw = await encryption.decrypt(alice.event(said("\ud800\x00")), ROOM)
    assert raw.isascii()
    assert json.loads(raw)["content"]["body"] == "\ud800\x00"


@pytest.mark.parametrize(
    "event",
    [
        "",
        "[",
        "5",
        "{}",
        '{"content": 5}',
        "[" * 5000,
        '{"event_id":"$e","sender":"@a:x","origin_server_ts":1,"content":{"algorithm":"m.olm"}}',
    ],
)
async def test_malformed_encrypted_events_are_undecryptable(
    encryption: Encryption, event: str
) -> None:
    with pytest.raises(UndecryptableError):
        await encryption.decrypt(event, ROOM)


@pytest.mark.parametrize("change", ["!!!", "", "AAAA", 5, None])
async def test_a_damaged_ciphertext_is_undecryptable(
    machine: Machine, encryption: Encryption, change: Any
) -> None:
    alice = Peer(ALICE)
    alice.hand_key_to(machine)
    event = json.loads(alice.event(said("hi")))
    event["content"]["ciphertext"] = change
    with pytest.raises(UndecryptableError):
        await encryption.decrypt(json.dumps(event), ROOM)


async def test_a_key_is_not_replaced_by_a_later_state_of_it(
    machine: Machine, encryption: Encryption, tmp_path: Path
) -> None:
    alice, mallory = Peer(ALICE), Peer(MALLORY)
    first_key = alice.group.session_key.to_base64()
    early = alice.event(said("early"), "$early")
    later_key = alice.group.session_key.to_base64()
    alice.hand_key_to(machine, first_key)
    alice.hand_key_to(machine, later_key)
    # Mallory, who saw the key, sends a later state of it as her own.
    machine.create_group_session(mallory.curve, mallory.ed, ROOM, alice.group.session_id, later_key)
    take_devices(machine, alice)
    assert json.loads(await encryption.decrypt(early, ROOM))["content"]["body"] == "early"
    with open_one(tmp_path) as again:
        held = again.sessions_with_id(alice.group.session_id)
        assert [(s.sender_key, s.first_known_index) for s in held] == [(alice.curve, 0)]


async def test_an_event_under_another_users_key_is_refused(
    machine: Machine, encryption: Encryption
) -> None:
    alice = Peer(ALICE)
    alice.hand_key_to(machine)
    take_devices(machine, alice)
    forged = {**json.loads(alice.event(said("hi"))), "sender": MALLORY}
    with pytest.raises(UndecryptableError, match="another user's key"):
        await encryption.decrypt(json.dumps(forged), ROOM)


def test_a_key_that_is_not_of_the_session_it_names_is_refused(machine: Machine) -> None:
    alice = Peer(ALICE)
    with pytest.raises(ValueError, match="not that of the session"):
        machine.create_group_session(
            alice.curve, alice.ed, ROOM, "other", alice.group.session_key.to_base64()
        )
    assert machine.sessions_with_id("other") == []


@pytest.mark.parametrize(
    "poison",
    [
        5,
        {},
        {"keys": 5},
        {"keys": {"ed25519:D": "!!!", "curve25519:D": "!!!"}},
        {"keys": {"ed25519:D": "A" * 43, "curve25519:D": "zzz"}, "signatures": {}},
        {"keys": {"ed25519:D": "A" * 43, "curve25519:D": "A" * 43}, "unsigned": 5},
    ],
)
def test_one_users_malformed_device_hides_no_other_device(machine: Machine, poison: Any) -> None:
    alice, mallory = Peer(ALICE), Peer(MALLORY)
    devices = {
        MALLORY: {"D": poison, "THEIRS": mallory.device()},
        ALICE: {"THEIRS": alice.device()},
    }
    answered = olm.take_queried_devices(machine, {"device_keys": devices})
    assert answered == {ALICE, MALLORY}
    for user in (ALICE, MALLORY):
        assert [d.id for d in machine.device_store.active_user_devices(user)] == ["THEIRS"]


@pytest.mark.parametrize(
    "poison",
    [
        {},
        5,
        {"signed_curve25519:A": 5},
        {"signed_curve25519:A": {"key": "!!!", "signatures": {}}},
        {"signed_curve25519:A": {"key": "A" * 43}},
    ],
)
def test_one_bad_one_time_key_spoils_no_other(machine: Machine, poison: Any) -> None:
    alice, mallory = Peer(ALICE), Peer(MALLORY)
    take_devices(machine, mallory, alice)
    alice.account.generate_one_time_keys(1)
    key = next(iter(alice.account.one_time_keys.values())).to_base64()
    claimed = {
        MALLORY: {"THEIRS": poison},
        ALICE: {"THEIRS": {"signed_curve25519:A": alice.sign({"key": key})}},
    }
    olm.take_claimed_keys(machine, {"one_time_keys": claimed})
    assert machine.session_store.get(alice.curve) is not None
    assert machine.session_store.get(mallory.curve) is None


def test_a_forged_device_is_not_taken(machine: Machine) -> None:
    alice = Peer(ALICE)
    forged = {**alice.device(), "algorithms": ["changed"]}
    olm.take_queried_devices(machine, {"device_keys": {ALICE: {"THEIRS": forged}}})
    assert not list(machine.device_store.active_user_devices(ALICE))


def test_keys_that_were_not_sent_up_are_offered_again_and_not_made_anew(machine: Machine) -> None:
    first = olm.build_one_time_keys(machine, wanted=5)
    assert olm.build_one_time_keys(machine, wanted=5) == first
    fallback = olm.build_fallback_key(machine)
    assert olm.build_fallback_key(machine) == fallback
    olm.mark_published(machine)
    assert not set(first) & set(olm.build_one_time_keys(machine, wanted=5))


def test_a_store_of_another_key_or_of_garbage_is_refused(tmp_path: Path) -> None:
    with open_one(tmp_path):
        pass
    with (
        pytest.raises(StoreCorruptError, match="cannot be read"),
        open_one(tmp_path, key="another"),
    ):
        pass
    (tmp_path / "crypto" / "one.sqlite3").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreCorruptError), open_one(tmp_path):
        pass


async def test_a_room_once_encrypted_stays_so_after_a_restart(
    machine: Machine, encryption: Encryption, tmp_path: Path
) -> None:
    state = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "none"}}
    await encryption.handle_state(ROOM, json.dumps(state))
    await encryption.handle_state(ROOM, "[" * 5000)
    assert await encryption.is_encrypted(ROOM)
    with open_one(tmp_path) as again:
        http = MatrixHttp("http://127.0.0.1:9", user_id=ME)
        assert await Encryption("supported", again, http).is_encrypted(ROOM)
        await http.close()


@pytest.mark.parametrize("raw", ["", "5", "[" * 5000, "{}", '{"changed": 5}', '{"changed": [1]}'])
async def test_hostile_to_device_events_and_device_lists_raise_nothing(
    encryption: Encryption, raw: str
) -> None:
    assert list(await encryption.handle_to_device(raw)) == []
    await encryption.handle_device_lists(raw)


def take_devices(machine: Machine, *peers: Peer) -> None:
    devices = {peer.user_id: {peer.device_id: peer.device()} for peer in peers}
    olm.take_queried_devices(machine, {"device_keys": devices})


def fill(machine: Machine) -> None:
    """SQLite itself says that the disk is full: the file may not grow."""
    pages = machine.store.database.execute_sql("PRAGMA page_count").fetchone()[0]
    machine.store.database.execute_sql(f"PRAGMA max_page_count = {pages}")


async def test_no_key_is_touched_while_there_is_no_room_for_it(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []
    took: list[int] = []
    monkeypatch.setattr(encryption_module, "_ROOM_LOOK_S", 0.01)
    monkeypatch.setattr(olm, "take_to_device", lambda *_: took.append(len(looks)))
    monkeypatch.setattr(olm, "has_room", lambda _: looks.append(True) or len(looks) > 4)
    http = MatrixHttp("http://127.0.0.1:9", user_id=ME)
    encryption = Encryption("supported", machine, http, directory=tmp_path)
    await encryption.handle_to_device("{}")
    assert took == [5]
    monkeypatch.setattr(olm, "has_room", lambda _: False)
    encryption.note_encrypted(ROOM)
    encryption._rotation[ROOM] = Rotation()
    with pytest.raises(StoreFullError):
        await encryption.seal(ROOM, "m.room.message", {"body": "x"})
    with pytest.raises(StoreFullError):
        await encryption.after_sync({})
    await http.close()


def test_keys_that_cannot_be_stored_are_an_error_that_passes(machine: Machine) -> None:
    def take_many() -> None:
        with olm.stored():
            for i in range(500):
                Peer(ALICE, f"D{i}").hand_key_to(machine)

    fill(machine)
    with pytest.raises(StoreFullError):
        take_many()


def test_a_full_disk_is_not_taken_for_a_damaged_store_of_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        cause = sqlite3.OperationalError("database or disk is full")
        cause.sqlite_errorname = "SQLITE_FULL"
        raise OperationalError("database or disk is full") from cause

    with open_one(tmp_path):
        pass
    with monkeypatch.context() as patch:
        patch.setattr(olm, "SqliteStore", full)
        with pytest.raises(StoreFullError, match="Free some space"), open_one(tmp_path):
            pass
    with open_one(tmp_path):
        pass


async def test_after_a_restore_no_session_is_used_again_and_each_device_is_owed_a_new_one(
    tmp_path: Path,
) -> None:
    alice = Peer(ALICE)
    with open_one(tmp_path) as machine:
        olm.take_queried_devices(
            machine, {"device_keys": {ALICE: {alice.device_id: alice.device()}}}
        )
        claim_key_of(alice, machine)
        alice.hand_key_to(machine)
        identity = dict(machine.account.identity_keys)
        assert machine.session_store.get(alice.curve) is not None

    olm.begin_anew(tmp_path / "crypto" / "one.sqlite3")
    olm.begin_anew(tmp_path / "crypto" / "one.sqlite3")

    with open_one(tmp_path) as machine:
        assert machine.account.identity_keys == identity
        assert machine.session_store.get(alice.curve) is None
        assert [device.id for device in machine.wedged_devices] == [alice.device_id]
        assert machine.sessions_with_id(alice.group.session_id)
        claim_key_of(alice, machine)
        assert machine.session_store.get(alice.curve) is not None
        assert [message.recipient for message in machine.outgoing_to_device_messages] == [ALICE]
        machine.forget_begun_anew([alice.curve])
    with open_one(tmp_path) as machine:
        assert machine.wedged_devices == []


def claim_key_of(peer: Peer, machine: Machine) -> None:
    """What /keys/claim answers for the peer's device."""
    peer.account.generate_one_time_keys(1)
    ((key_id, key),) = peer.account.one_time_keys.items()
    peer.account.mark_keys_as_published()
    keys = {f"signed_curve25519:{key_id}": peer.sign({"key": key.to_base64()})}
    olm.take_claimed_keys(machine, {"one_time_keys": {peer.user_id: {peer.device_id: keys}}})
