"""The account on a real Synapse: logging in, sending, and what the homeserver refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.config import MatrixConfig, Secrets
from orchestrator.errors import LoginRefusedError, RateLimitedError, RequestRefusedError
from orchestrator.matrix.client import open_matrix
from orchestrator.matrix.session import SESSION_NAME
from orchestrator.model import EventId, RoomId, TxnId, UserId
from tests.support.matrix_server import (
    MatrixUser,
    SynapseServer,
    eventually,
    open_user,
    register,
    run_synapse,
)

pytestmark = pytest.mark.synapse

TEXT = {"msgtype": "m.text", "body": "hello"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SynapseServer]:
    with run_synapse(tmp_path_factory.mktemp("synapse")) as synapse:
        yield synapse


def config_of(server: SynapseServer, user_id: str, encryption: str = "supported") -> MatrixConfig:
    return MatrixConfig.model_validate(
        {"homeserver": server.base_url, "user_id": user_id, "encryption": encryption}
    )


def password(name: str) -> Secrets:
    return Secrets(matrix_password=SecretStr(f"pw-{name}"))


async def room_with(alice: MatrixUser, agent: str) -> RoomId:
    return RoomId(await alice.create_room(agent))


async def test_a_restart_keeps_the_device_and_does_not_log_in_again(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "keeps")
    async with open_matrix(config_of(server, agent), password("keeps"), tmp_path) as first:
        device = first.device_id
        assert first.user_id == agent
    assert (tmp_path / SESSION_NAME).stat().st_mode & 0o777 == 0o600
    async with open_matrix(config_of(server, agent), Secrets(), tmp_path) as second:
        assert second.device_id == device


async def test_a_wrong_password_names_the_variable_to_set(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "wrong")
    with pytest.raises(LoginRefusedError, match="MATRIX_PASSWORD"):
        async with open_matrix(config_of(server, agent), password("other"), tmp_path):
            pass
    with pytest.raises(LoginRefusedError, match=r"MATRIX_PASSWORD \(or MATRIX_ACCESS_TOKEN\)"):
        async with open_matrix(config_of(server, agent), Secrets(), tmp_path):
            pass


async def test_an_ended_session_logs_in_anew_with_a_password_and_says_what_to_do_without(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "revoked")
    async with open_matrix(config_of(server, agent), password("revoked"), tmp_path) as client:
        device = client.device_id
    token = json.loads((tmp_path / SESSION_NAME).read_text())["access_token"]
    async with open_user(server, "revoked") as other:
        other.token = token
        await other.ask("POST", "/logout", {})
    with pytest.raises(LoginRefusedError, match="Set MATRIX_PASSWORD and start again"):
        async with open_matrix(config_of(server, agent), Secrets(), tmp_path):
            pass
    async with open_matrix(config_of(server, agent), password("revoked"), tmp_path) as client:
        assert client.device_id != device


async def test_a_given_token_is_used_and_not_written_to_disk(
    server: SynapseServer, tmp_path: Path
) -> None:
    async with open_user(server, "token") as user:
        secrets = Secrets(matrix_access_token=SecretStr(user.token))
        async with open_matrix(config_of(server, user.user_id), secrets, tmp_path) as client:
            assert client.device_id == user.device_id
            assert user.token in client.secret_values
        assert user.token not in (tmp_path / SESSION_NAME).read_text()
        with pytest.raises(LoginRefusedError, match=r"matrix\.user_id is @someone"):
            async with open_matrix(config_of(server, "@someone:test.example"), secrets, tmp_path):
                pass
    bad = Secrets(matrix_access_token=SecretStr("syt_not_a_token"))
    with pytest.raises(LoginRefusedError, match="MATRIX_ACCESS_TOKEN"):
        async with open_matrix(config_of(server, user.user_id), bad, tmp_path):
            pass


async def test_the_same_transaction_id_is_one_event_also_after_a_restart(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "twice")
    config = config_of(server, agent)
    async with open_user(server, "alice") as alice:
        room_id = await room_with(alice, agent)
        async with open_matrix(config, password("twice"), tmp_path) as client:
            await client.join(room_id)
            await client.join(room_id)
            first = await client.send_event(room_id, "m.room.message", TEXT, TxnId("same"))
        async with open_matrix(config, Secrets(), tmp_path) as client:
            changed = {**TEXT, "body": "changed"}
            again = await client.send_event(room_id, "m.room.message", changed, TxnId("same"))
            own = await client.recent_own_events(room_id, 10)
        assert first == again
        assert [(e.event_id, e.txn_id, e.content["body"]) for e in own] == [
            (first, "same", "hello")
        ]
        bodies = [e["content"].get("body") for e in await alice.messages(room_id)]
        assert bodies.count("hello") == 1
        assert "changed" not in bodies


async def test_typing_and_receipts_reach_the_room(server: SynapseServer, tmp_path: Path) -> None:
    agent = await register(server, "polite")
    async with (
        open_user(server, "alice") as alice,
        open_matrix(config_of(server, agent), password("polite"), tmp_path) as client,
    ):
        room_id = await room_with(alice, agent)
        await client.join(room_id)
        event_id = await alice.say(room_id, "hi")
        await client.set_typing(room_id, typing=True)
        await client.mark_read(room_id, EventId(event_id))

        async def ephemeral() -> str:
            body = await alice.ask("GET", "/sync", timeout="0")
            return json.dumps(body["rooms"]["join"][room_id]["ephemeral"])

        async def both() -> bool:
            text = await ephemeral()
            return '"m.typing"' in text and event_id in text and agent in text

        await eventually(both)
        # A courtesy in a room that we are not in fails in silence.
        await client.set_typing(RoomId("!nowhere:test.example"), typing=True)
        await client.leave(room_id)
        await client.leave(room_id)


async def test_what_is_refused_for_good_says_so_and_text_that_is_not_unicode_is_sent(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "refused")
    async with (
        open_user(server, "alice") as alice,
        open_matrix(config_of(server, agent), password("refused"), tmp_path) as client,
    ):
        room_id = await room_with(alice, agent)
        await client.join(room_id)
        big = {"msgtype": "m.text", "body": "x" * 70_000}
        with pytest.raises(RequestRefusedError) as refused:
            await client.send_event(room_id, "m.room.message", big, TxnId("big"))
        assert refused.value.errcode == "M_TOO_LARGE"
        fits = {"msgtype": "m.text", "body": "x" * 55_000}
        await client.send_event(room_id, "m.room.message", fits, TxnId("fits"))
        nowhere = RoomId("!nowhere:test.example")
        with pytest.raises(RequestRefusedError) as stranger:
            await client.send_event(nowhere, "m.room.message", TEXT, TxnId("nowhere"))
        assert stranger.value.errcode == "M_FORBIDDEN"
        odd = {"msgtype": "m.text", "body": "a\ud800b\x00c"}
        event_id = await client.send_event(room_id, "m.room.message", odd, TxnId("odd"))
        event = await client.fetch_event(room_id, event_id)
        assert event is not None
        assert await client.fetch_event(room_id, EventId("$none")) is None
        members = await client.joined_members(room_id)
        assert set(members) == {agent, alice.user_id}


async def test_the_stock_message_limit_is_told_with_the_time_to_wait(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "flood", limited=True)
    async with (
        open_user(server, "alice") as alice,
        open_matrix(config_of(server, agent), password("flood"), tmp_path) as client,
    ):
        room_id = await room_with(alice, agent)
        await client.join(room_id)
        sent, limited = 0, None
        while limited is None and sent < 30:
            try:
                await client.send_event(room_id, "m.room.message", TEXT, TxnId(f"f{sent}"))
                sent += 1
            except RateLimitedError as e:
                limited = e
        # Synapse: burst 10, then 0.2 a second.
        assert 8 <= sent <= 12
        assert limited is not None
        assert limited.retry_after_s is not None
        assert 1 <= limited.retry_after_s <= 6


async def test_an_unknown_user_is_refused(server: SynapseServer, tmp_path: Path) -> None:
    with pytest.raises(LoginRefusedError, match=r"Check matrix\.user_id"):
        async with open_matrix(
            config_of(server, UserId("@nobody:test.example")), password("nobody"), tmp_path
        ):
            pass
