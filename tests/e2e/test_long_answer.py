"""An answer of 1 MB: its beginning in the room, and a file with every byte of it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nio
import pytest
from nio.crypto.attachments import decrypt_attachment

from orchestrator.embedded.messages_model import Text
from tests.e2e.conftest import Installation
from tests.support.encrypted_user import create_encrypted_room, say, sync
from tests.support.long_answer import long_answer
from tests.support.matrix_user import body_of
from tests.support.messages_api import open_scripted_api
from tests.support.synapse import run_synapse

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

MB = 1_000_000
TURN_KEY = "org.aiagentchat.turn"


def script_long(installation: Installation, size_bytes: int) -> str:
    answer = long_answer(size_bytes)
    installation.api.when("everything", [Text(text=answer, chunk_chars=8192)])
    return answer


def is_final(event: Any) -> bool:
    return event["content"].get(TURN_KEY, {}).get("final") is True


async def test_an_answer_of_1_mb_is_its_beginning_and_a_file_with_every_byte(
    installation: Installation,
) -> None:
    answer = script_long(installation, MB)
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)

    await alice.send(room, "Tell me everything")
    last = await alice.wait_for(is_final, timeout_s=120, what="the end of the answer")

    preview, file = [e for e in alice.timeline if TURN_KEY in e["content"]]
    beginning, _, sentence = body_of(preview).partition("\n\n…\n\n")
    assert answer.startswith(beginning)
    assert len(beginning) > 1000
    assert "in the file below" in sentence
    assert file == last
    assert file["content"]["msgtype"] == "m.file"
    assert file["content"]["filename"] == "answer.md"
    assert file["content"]["info"] == {"mimetype": "text/markdown", "size": MB}
    assert file["content"][TURN_KEY]["outcome"] == "done"
    assert await alice.download(file["content"]["url"]) == answer.encode()


async def test_in_an_encrypted_room_the_file_is_sealed_and_its_key_is_in_the_event(
    installation: Installation, person: nio.AsyncClient
) -> None:
    answer = script_long(installation, MB)
    orchestrator = await installation.configure()
    await orchestrator.start()
    room = await create_encrypted_room(person, installation.agent.user_id)

    await say(person, room, "Tell me everything")
    files: list[Any] = []
    async with asyncio.timeout(120):
        while not files:
            await sync(person)
            answered = await person.room_messages(room, limit=50)
            assert isinstance(answered, nio.RoomMessagesResponse)
            files = [e for e in answered.chunk if isinstance(e, nio.RoomEncryptedFile)]

    (file,) = files
    assert file.decrypted
    uploaded = await person.download(file.url)
    assert isinstance(uploaded, nio.MemoryDownloadResponse), uploaded
    sealed = uploaded.body
    assert isinstance(sealed, bytes)
    assert b"Paragraph" not in sealed
    data = decrypt_attachment(sealed, file.key["k"], file.hashes["sha256"], file.iv)
    assert data == answer.encode()
    assert file.source["content"]["file"]["v"] == "v2"
    assert "url" not in file.source["content"]


async def test_a_homeserver_that_takes_no_file_of_that_size_gets_the_answer_as_messages(
    tmp_path: Path,
) -> None:
    with run_synapse(stock_limits=False, max_upload_size="100K") as server:
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(open_scripted_api())
            agent = server.register("claude")
            installation = Installation(tmp_path, server, api, agent, stack)
            answer = script_long(installation, 200_000)
            orchestrator = await installation.configure()
            await orchestrator.start()
            alice = await installation.person()
            room = await installation.room(alice)

            await alice.send(room, "Tell me everything")
            await alice.wait_for(is_final, timeout_s=120, what="the end of the answer")

            said = [e["content"] for e in alice.timeline if TURN_KEY in e["content"]]
            assert [c["msgtype"] for c in said[:2]] == ["m.text", "m.notice"]
            assert not any(c["msgtype"] == "m.file" for c in said)
            read = " ".join(str(c["body"]) for c in said[2:])
            for number in (1, 2, 3, 100, 200):
                assert read.count(f" {number}: ") == answer.count(f" {number}: ")
            assert read.rstrip().endswith("end")
