"""The audit of a real installation: zero when it is well, and each thing that is amiss by name."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orchestrator.audit.messages import AuditPlan
from orchestrator.audit.messages import audit_messages as judge_messages
from orchestrator.config import Secrets, load_config
from orchestrator.embedded.messages_model import HttpError, ToolUse
from tests.e2e.conftest import Installation
from tests.support.audit import Audit, audit_messages, wait_settled
from tests.support.encrypted_user import create_encrypted_room, open_encrypted_user, say, sync
from tests.support.matrix_user import MatrixUser, open_matrix_user

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]
TURN = "org.aiagentchat.turn"


def config(installation: Installation) -> tuple[str, str]:
    return "--config", str(installation.config_path)


async def audit(installation: Installation, state_dir: Path, **options: Any) -> Audit:
    return await audit_messages(state_dir, *config(installation), **options)


async def start(installation: Installation) -> tuple[MatrixUser, str]:
    await installation.configure(access={"users": ["@alice-*:*"]})
    await installation.orchestrator.start()
    alice = await installation.person()
    return alice, await installation.room(alice)


async def test_a_system_that_is_well_has_no_message_without_a_final_state(
    installation: Installation,
) -> None:
    """Beside the running orchestrator, and after it: nothing depends on which."""
    sleep = ToolUse(name="Bash", input={"command": "sleep 4247", "description": "test"})
    refusal = HttpError(status=400, type="invalid_request_error", message="Not today")
    installation.api.when("take long", [sleep])
    installation.api.when("fail", refusal)
    alice, first = await start(installation)
    second, agent = await installation.room(alice), installation.agent.user_id
    state_dir = installation.orchestrator.state_dir

    await alice.send(first, "hello")
    await alice.send(second, "hello, too")
    await alice.wait_for_text(first, "You said: hello", sender=agent)
    await alice.wait_for_text(second, "You said: hello, too", sender=agent)
    await alice.send(first, "!status")
    await alice.send(first, "take long")
    await alice.send(second, "fail")
    await alice.wait_for_text(second, "Failed", sender=agent)
    await alice.send(second, "a picture", msgtype="m.image")
    await alice.wait_for_text(second, "was not taken")
    await installation.api.wait_until(
        lambda api: any(r.last_user_text == "take long" for r in api.asked)
    )
    in_between = await audit(installation, state_dir)
    await alice.send(first, "!cancel")
    await alice.wait_for_text(first, "Cancelled.")
    mallory = await installation.person("mallory")
    await alice.invite(second, mallory.user_id)
    await mallory.join(second)
    for text in ("let me in", "do let me in", "unrelated"):
        mention = {} if text == "unrelated" else {"m.mentions": {"user_ids": [agent]}}
        await mallory.send(second, text, **mention)
    await mallory.wait_for_text(second, "only take turns from people", sender=agent)
    running = await wait_settled(state_dir, *config(installation))
    assert await installation.orchestrator.stop(signal.SIGTERM) == 0
    settled = await audit_messages(state_dir, *config(installation), "--settled")
    shown = await audit(installation, state_dir, as_json=False)

    # hello, hello too, !status, !cancel; take long; fail; a picture and two of a stranger's.
    assert (in_between.code, in_between.report["missing"]) == (0, 0)
    assert in_between.report["in_hand"] >= 1
    for found in (running, settled):
        assert (found.code, found.report["findings"], found.report["remarks"]) == (0, [], [])
        counted = {k: found.report[k] for k in ("answered", "failed", "cancelled", "refused")}
        assert counted == {"answered": 4, "failed": 1, "cancelled": 1, "refused": 3}
    assert shown.out.splitlines()[-1] == (
        "9 messages: 4 answered, 1 failed, 1 cancelled, 3 refused, 0 in hand, "
        "0 without a final state"
    )


async def test_each_thing_that_was_tampered_with_is_found(
    installation: Installation, tmp_path: Path
) -> None:
    alice, room = await start(installation)
    agent, state_dir = installation.agent.user_id, installation.orchestrator.state_dir
    hello = await alice.send(room, "hello")
    answer = await alice.wait_for_text(room, "You said: hello", sender=agent)
    help_ = await alice.send(room, "!help")
    await alice.wait_for_text(room, "!cancel", sender=agent)
    assert (await wait_settled(state_dir, *config(installation))).code == 0
    assert await installation.orchestrator.stop(signal.SIGTERM) == 0

    async def found_after(statement: str, *values: str) -> list[tuple[str, str]]:
        return await find_in_copy(installation, tmp_path, statement, *values)

    final = f"content LIKE '%{TURN}%' AND content LIKE '%\"final\": true%'"
    refused = "UPDATE outbox SET state = 'refused', reason = 'M_FORBIDDEN' WHERE "
    lost = "DELETE FROM inbox WHERE event_id = ?"
    assert await found_after(lost, hello) == [("not_received", hello)]
    assert await found_after("DELETE FROM turns") == [("no_turn", hello)]
    assert await found_after(f"DELETE FROM outbox WHERE {final}") == [("no_end", hello)]
    assert await found_after(refused + final) == [("not_shown", hello)]
    about_help = await found_after(refused + "content LIKE ?", f"%{help_}%")
    assert about_help == [("not_shown", help_)]
    failed = "UPDATE inbox SET state = 'failed', turn_id = NULL WHERE event_id = ?"
    assert await found_after(failed, hello) == [("not_told", hello)]
    gone = "UPDATE outbox SET event_id = '$gone' WHERE event_id = ?"
    assert ("gone", hello) in await found_after(gone, answer["event_id"])

    before = _digest(state_dir)
    async with open_matrix_user(installation.server.base_url, installation.agent) as twin:
        again = await twin.send_event(room, answer["type"], answer["content"])
    doubled = await audit(installation, state_dir)
    assert (doubled.code, doubled.report["doubled"]) == (1, 1)
    assert doubled.problems(again) == ["doubled"]
    assert _digest(state_dir) == before


async def test_a_sealed_room_is_accounted_for_by_its_events(
    installation: Installation, tmp_path: Path
) -> None:
    """No content can be compared there: ids and transaction ids can."""
    await installation.configure()
    await installation.orchestrator.start()
    agent, state_dir = installation.agent.user_id, installation.orchestrator.state_dir
    async with open_encrypted_user(installation.server, tmp_path) as person:
        room = await create_encrypted_room(person, agent)
        await say(person, room, "hello")
        async with asyncio.timeout(120):
            while not (
                found := await wait_settled(state_dir, *config(installation), timeout_s=120)
            ).report["messages"]:
                await sync(person)
    assert (found.code, found.report["answered"], found.report["remarks"]) == (0, 1, [])
    assert await installation.orchestrator.stop(signal.SIGTERM) == 0

    gone = "UPDATE outbox SET event_id = '$gone' WHERE priority = 'final'"
    problems = [problem for problem, _ in await find_in_copy(installation, tmp_path, gone)]
    assert sorted(problems) == ["doubled", "gone"]


async def test_an_audit_that_can_not_read_says_so_by_its_exit_code(
    installation: Installation, tmp_path: Path
) -> None:
    await start(installation)
    state_dir = installation.orchestrator.state_dir
    assert await installation.orchestrator.stop(signal.SIGTERM) == 0

    broken = tmp_path / "broken.yaml"
    broken.write_text("matrix: 3\n")
    assert (await audit_messages(state_dir, "--config", str(broken))).code == 2
    missing = await audit(installation, tmp_path / "missing")
    assert (missing.code, "does not exist" in missing.err) == (3, True)
    (tmp_path / "nothing").mkdir()
    nothing = await audit(installation, tmp_path / "nothing")
    assert (nothing.code, "start the orchestrator" in nothing.err) == (5, True)

    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(state_dir / "matrix-session.json", empty)
    assert (await audit(installation, empty)).code == 4
    session = json.loads((empty / "matrix-session.json").read_text())
    (empty / "matrix-session.json").write_text(json.dumps({**session, "access_token": "syt_no"}))
    shutil.copy(state_dir / "state.sqlite3", empty)
    ended = await audit(installation, empty)
    assert (ended.code, "syt_no" in ended.err) == (5, False)


async def find_in_copy(
    installation: Installation, directory: Path, statement: str, *values: str
) -> list[tuple[str, str]]:
    """The audit of a copy in which the statement was executed: problems and their events."""
    state_dir, copy = installation.orchestrator.state_dir, directory / "tampered"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in ("state.sqlite3", "matrix-session.json"):
        shutil.copy(state_dir / name, copy)
    with closing(sqlite3.connect(copy / "state.sqlite3")) as db, db:
        assert db.execute(statement, values).rowcount == 1
    plan = AuditPlan(
        config=load_config(installation.config_path),
        secrets=Secrets(),
        state_dir=copy,
        is_embedded=False,
    )
    report = await judge_messages(plan)
    assert not report.is_clean(settled=False)
    return [(f.problem.name.lower(), f.event_id) for f in report.findings]


def _digest(state_dir: Path) -> list[tuple[str, bytes]]:
    """Every file's content. SQLite's readers lock in `-shm`, and leave it and an empty `-wal`."""
    files = [path for path in state_dir.iterdir() if path.is_file()]
    held = sorted((path.name, path.read_bytes()) for path in files)
    return [(name, data) for name, data in held if data and not name.endswith("-shm")]
