"""End-to-end encryption on a real Synapse, against a second client: nio's own, none of ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nio
import pytest

from orchestrator.config import MatrixConfig, Secrets
from orchestrator.errors import LoginRefusedError, RequestRefusedError, UndecryptableError
from orchestrator.matrix.client import MatrixClient, open_matrix
from orchestrator.matrix.olm import store_path
from orchestrator.model import RoomId, TxnId
from orchestrator.store.api import InboxKind
from tests.integration.test_matrix_sync import Syncing, password, syncing
from tests.support.matrix_server import (
    MatrixUser,
    SynapseServer,
    eventually,
    open_user,
    register,
    run_synapse,
)
from tests.support.memory_sync_store import MemorySyncStore
from tests.support.poison import to_device_poison

pytestmark = pytest.mark.synapse


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SynapseServer]:
    with run_synapse(tmp_path_factory.mktemp("synapse")) as synapse:
        yield synapse


def config_of(server: SynapseServer, user_id: str, encryption: str = "supported") -> MatrixConfig:
    return MatrixConfig.model_validate(
        {"homeserver": server.base_url, "user_id": user_id, "encryption": encryption}
    )


@asynccontextmanager
async def open_nio(server: SynapseServer, name: str, path: Path) -> AsyncIterator[nio.AsyncClient]:
    """An independent client with encryption, logged in."""
    path.mkdir(exist_ok=True)
    user_id = await register(server, name)
    config = nio.AsyncClientConfig(encryption_enabled=True)
    client = nio.AsyncClient(server.base_url, user_id, store_path=str(path), config=config)
    try:
        await client.login(f"pw-{name}")
        await nio_sync(client)
        yield client
    finally:
        await client.close()
        if client.store is not None:
            client.store.database.close()


async def nio_sync(client: nio.AsyncClient) -> None:
    """What nio's own loop does once."""
    await client.sync(timeout=0)
    if client.should_upload_keys:
        await client.keys_upload()
    if client.should_query_keys:
        await client.keys_query()
    await client.send_to_device_messages()


async def nio_say(client: nio.AsyncClient, room_id: str, text: str) -> str:
    await nio_sync(client)
    sent = await client.room_send(
        room_id,
        "m.room.message",
        {"msgtype": "m.text", "body": text},
        ignore_unverified_devices=True,
    )
    assert isinstance(sent, nio.RoomSendResponse), sent
    return sent.event_id


async def nio_read(client: nio.AsyncClient, room_id: str) -> list[str]:
    """The bodies that the other client sees, in clear."""
    await nio_sync(client)
    answer = await client.room_messages(room_id, limit=100)
    assert isinstance(answer, nio.RoomMessagesResponse)
    return [
        getattr(e, "body", f"<{type(e).__name__}>")
        for e in answer.chunk[::-1]
        if isinstance(e, nio.RoomMessageText | nio.MegolmEvent)
    ]


async def drain(loop: Syncing, client: MatrixClient) -> list[str]:
    """Handle the stored rows as an intake would; the bodies that could be read, in order."""
    bodies: list[str] = []
    for row in loop.store.rows:
        if row.kind is InboxKind.TO_DEVICE:
            await client.encryption.handle_to_device(row.raw)
        elif row.kind is InboxKind.DEVICE_LISTS:
            await client.encryption.handle_device_lists(row.raw)
        elif row.room_id and row.kind in (InboxKind.STATE, InboxKind.TIMELINE) and not row.history:
            event = json.loads(row.raw)
            if "state_key" in event:
                await client.encryption.handle_state(row.room_id, row.raw)
            elif event["type"] == "m.room.encrypted":
                try:
                    clear = json.loads(await client.encryption.decrypt(row.raw, row.room_id))
                except UndecryptableError:
                    bodies.append("<undecryptable>")
                else:
                    assert clear["event_id"] == row.event_id
                    bodies.append(clear["content"]["body"])
            elif event["type"] == "m.room.message":
                bodies.append(event["content"]["body"])
    loop.store.rows.clear()
    return bodies


def text(body: str) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body}


async def test_both_sides_read_each_other_also_after_a_restart(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "sealed")
    store = MemorySyncStore()
    state = tmp_path / "state"
    state.mkdir()
    async with open_nio(server, "bob", tmp_path / "bob") as bob:
        config = config_of(server, agent)
        async with open_matrix(config, password("sealed"), state) as client:
            async with syncing(client, store) as loop:
                async with open_user(server, "bob") as person:
                    room_id = RoomId(await person.create_room(agent, encrypted=True))
                await client.join(room_id)
                await nio_say(bob, room_id, "to the agent")
                await eventually(lambda: len(store.of(InboxKind.TIMELINE)) > 1)
                await eventually(lambda: any("ciphertext" in r.raw for r in store.rows))
                assert await drain(loop, client) == ["to the agent"]
                await client.send_event(room_id, "m.room.message", text("to bob"), TxnId("1"))
                relates = {**text("edited"), "m.relates_to": {"rel_type": "m.replace"}}
                await client.send_event(room_id, "m.room.message", relates, TxnId("2"))
            assert await nio_read(bob, room_id) == ["to the agent", "to bob", "edited"]
            own = await client.recent_own_events(room_id, 10)
            assert [(e.txn_id, e.content["body"]) for e in own] == [
                ("2", "edited"),
                ("1", "to bob"),
            ]
        await nio_say(bob, room_id, "while away")
        async with open_matrix(config, Secrets(), state) as client, syncing(client, store) as loop:
            await eventually(lambda: any("ciphertext" in r.raw for r in store.rows))
            bodies = await eventually(lambda: drain(loop, client))
            assert bodies[-1] == "while away"
            await client.send_event(room_id, "m.room.message", text("back"), TxnId("3"))
        assert (await nio_read(bob, room_id))[-1] == "back"
    async with open_user(server, "bob") as person:
        raw = json.dumps(await person.messages(room_id))
    assert not any(word in raw for word in ("to bob", 'edited"', "back", "while away"))
    assert '"rel_type": "m.replace"' in raw


async def test_a_key_that_comes_after_its_event_opens_it(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "late")
    store = MemorySyncStore()
    async with (
        open_nio(server, "carol", tmp_path / "carol") as carol,
        open_matrix(config_of(server, agent), password("late"), tmp_path) as client,
        open_user(server, "carol") as person,
        syncing(client, store) as loop,
    ):
        room_id = RoomId(await person.create_room(agent, encrypted=True))
        await client.join(room_id)
        await nio_say(carol, room_id, "early words")
        await eventually(lambda: any("ciphertext" in r.raw for r in store.of(InboxKind.TIMELINE)))
        await eventually(lambda: store.of(InboxKind.TO_DEVICE))
        event = next(r for r in store.of(InboxKind.TIMELINE) if "ciphertext" in r.raw)
        key = store.of(InboxKind.TO_DEVICE)[0]
        with pytest.raises(UndecryptableError):
            await client.encryption.decrypt(event.raw, room_id)
        assert await client.encryption.handle_to_device(key.raw) == [room_id]
        clear = json.loads(await client.encryption.decrypt(event.raw, room_id))
        assert clear["content"]["body"] == "early words"
        again = json.loads(await client.encryption.decrypt(event.raw, room_id))
        assert again == clear
        with pytest.raises(UndecryptableError):
            await client.encryption.decrypt(event.raw, RoomId("!other:test.example"))
        replayed = json.dumps({**json.loads(event.raw), "event_id": "$replayed"})
        with pytest.raises(UndecryptableError, match="repeats"):
            await client.encryption.decrypt(replayed, room_id)
        assert await client.encryption.handle_to_device(key.raw) == []
        assert await drain(loop, client) == ["early words"]


async def test_who_left_can_not_read_on_and_who_came_can(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "rotate")
    store = MemorySyncStore()
    async with (
        open_nio(server, "dora", tmp_path / "dora") as dora,
        open_nio(server, "emil", tmp_path / "emil") as emil,
        open_matrix(config_of(server, agent), password("rotate"), tmp_path) as client,
        open_user(server, "dora") as person,
        syncing(client, store) as loop,
    ):
        room_id = RoomId(await person.create_room(agent, encrypted=True))
        await client.join(room_id)
        await client.send_event(room_id, "m.room.message", text("for dora"), TxnId("1"))
        await person.ask("POST", f"/rooms/{room_id}/invite", {"user_id": emil.user_id})
        await emil.join(room_id)
        await handled(loop, client, emil.user_id, "join")
        await client.send_event(room_id, "m.room.message", text("for both"), TxnId("2"))
        assert await nio_read(dora, room_id) == ["for dora", "for both"]
        assert await nio_read(emil, room_id) == ["<MegolmEvent>", "for both"]
        sessions = {e["content"]["session_id"] for e in await encrypted(person, room_id)}
        await person.ask("POST", f"/rooms/{room_id}/kick", {"user_id": emil.user_id})
        await handled(loop, client, emil.user_id, "leave")
        await client.send_event(room_id, "m.room.message", text("without emil"), TxnId("3"))
        assert (await nio_read(dora, room_id))[-1] == "without emil"
        assert len(sessions) == 1
        last = (await encrypted(person, room_id))[-1]["content"]["session_id"]
        assert last not in sessions
        await nio_sync(emil)
        assert emil.olm is not None
        held = {s.id for s in emil.olm.inbound_group_store}
        assert last not in held
        assert sessions <= held


async def handled(loop: Syncing, client: MatrixClient, user_id: str, membership: str) -> None:
    """Wait for a membership change to arrive, and handle it."""
    needle = f'"membership":"{membership}"'
    await eventually(lambda: any(needle in r.raw and user_id in r.raw for r in loop.store.rows))
    await drain(loop, client)


async def encrypted(person: MatrixUser, room_id: str) -> list[Any]:
    return [e for e in await person.messages(room_id) if e["type"] == "m.room.encrypted"]


async def test_nothing_goes_into_an_encrypted_room_when_encryption_is_off(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "plain")
    async with open_user(server, "alice") as alice:
        sealed = RoomId(await alice.create_room(agent, encrypted=True))
        plain = RoomId(await alice.create_room(agent))
        async with open_matrix(
            config_of(server, agent, "off"), password("plain"), tmp_path
        ) as client:
            await client.join(sealed)
            await client.join(plain)
            with pytest.raises(RequestRefusedError, match="Set it to 'supported'") as refused:
                await client.send_event(sealed, "m.room.message", text("secret"), TxnId("1"))
            assert refused.value.errcode == "ENCRYPTION_OFF"
            await client.send_event(plain, "m.room.message", text("fine"), TxnId("2"))
        assert not (tmp_path / "crypto").exists()
        async with open_matrix(config_of(server, agent, "required"), Secrets(), tmp_path) as client:
            with pytest.raises(RequestRefusedError) as refused:
                await client.send_event(plain, "m.room.message", text("open"), TxnId("3"))
            assert refused.value.errcode == "ENCRYPTION_REQUIRED"
            await client.send_event(sealed, "m.room.message", text("closed"), TxnId("4"))
        assert "closed" not in json.dumps(await alice.messages(sealed))


async def test_a_room_that_becomes_encrypted_gets_no_more_plaintext(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "turns")
    store = MemorySyncStore()
    async with (
        open_user(server, "alice") as alice,
        open_matrix(config_of(server, agent), password("turns"), tmp_path) as client,
        syncing(client, store) as loop,
    ):
        room_id = RoomId(await alice.create_room(agent))
        await client.join(room_id)
        await client.send_event(room_id, "m.room.message", text("open"), TxnId("1"))
        path = f"/rooms/{room_id}/state/m.room.encryption"
        await alice.ask("PUT", path, {"algorithm": "m.megolm.v1.aes-sha2"})
        await eventually(lambda: any('"type":"m.room.encryption"' in r.raw for r in store.rows))
        await drain(loop, client)
        await client.send_event(room_id, "m.room.message", text("closed"), TxnId("2"))
        assert "closed" not in json.dumps(await alice.messages(room_id))


async def test_poison_from_a_stranger_takes_nothing_else_along(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "target")
    store = MemorySyncStore()
    async with (
        open_nio(server, "frank", tmp_path / "frank") as frank,
        open_user(server, "frank") as person,
        open_user(server, "mallory") as mallory,
        open_matrix(config_of(server, agent), password("target"), tmp_path) as client,
    ):
        async with syncing(client, store) as loop:
            room_id = RoomId(await person.create_room(agent, encrypted=True))
            plain = RoomId(await person.create_room(agent))
            await client.join(room_id)
            await client.join(plain)
            await eventually(lambda: len({r.room_id for r in store.of(InboxKind.TIMELINE)}) == 2)
            await drain(loop, client)
        mine = json.loads((tmp_path / "matrix-session.json").read_text())
        keys = await mallory.ask("POST", "/keys/query", {"device_keys": {agent: []}})
        device = keys["device_keys"][agent][mine["device_id"]]
        curve = device["keys"][f"curve25519:{mine['device_id']}"]
        for number, content in enumerate(to_device_poison(curve)):
            body = {"messages": {agent: {mine["device_id"]: content}}}
            kind = content.pop("_type", "m.room.encrypted")
            await mallory.ask("PUT", f"/sendToDevice/{kind}/p{number}", body)
        await nio_say(frank, room_id, "sealed words")
        await person.say(plain, "plain words")
        store.token, before = store.token, store.token
        async with syncing(client, store) as loop:
            await eventually(lambda: "plain words" in loop.bodies())
            await eventually(
                lambda: any("ciphertext" in r.raw for r in store.of(InboxKind.TIMELINE))
            )
            poisoned = len(store.of(InboxKind.TO_DEVICE)) - 1
            assert poisoned == len(to_device_poison(curve))
            bodies = await drain(loop, client)
            assert sorted(bodies) == ["plain words", "sealed words"]
            assert before != store.token
            await client.send_event(room_id, "m.room.message", text("alive"), TxnId("1"))
        assert (await nio_read(frank, room_id))[-1] == "alive"


async def test_lost_keys_are_told_or_replaced_by_a_new_device(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "lost")
    config = config_of(server, agent)
    async with open_matrix(config, password("lost"), tmp_path) as client:
        device = client.device_id
    store_path(tmp_path, client.user_id, device).unlink()
    with pytest.raises(LoginRefusedError, match="keys of device"):
        async with open_matrix(config, Secrets(), tmp_path):
            pass
    async with open_matrix(config, password("lost"), tmp_path) as client:
        assert client.device_id != device


async def test_one_time_keys_are_replaced_before_they_run_out_and_there_is_a_fallback(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "keys")
    store = MemorySyncStore()
    async with (
        open_user(server, "alice") as alice,
        open_matrix(config_of(server, agent), password("keys"), tmp_path) as client,
    ):
        ask = {"one_time_keys": {agent: {client.device_id: "signed_curve25519"}}}
        seen: set[str] = set()
        for _ in range(51):
            got = await alice.ask("POST", "/keys/claim", ask)
            seen |= {json.dumps(k) for k in got["one_time_keys"][agent].values()}
        assert len(seen) == 51
        assert '"fallback": true' in "".join(seen)
        async with syncing(client, store):
            alice.token = client.secret_values[0]

            async def replenished() -> bool:
                answer = await alice.ask("POST", "/keys/upload", {})
                return answer["one_time_key_counts"]["signed_curve25519"] == 50

            await eventually(replenished)
            # The first sync is answered from a cache when asked twice; ask from the loop's place.
            body = (await client.sync(store.token, timeout_ms=0)).body
        assert body["device_unused_fallback_key_types"] == ["signed_curve25519"]
