"""Whatever stands behind a command, it is answered in words of ours, and breaks nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from orchestrator.core.command import COMMANDS, CommandName
from orchestrator.core.texts import approval as approval_texts
from orchestrator.core.texts import conversation as conversation_texts
from orchestrator.core.texts import egress as egress_texts
from orchestrator.core.texts import person as person_texts
from orchestrator.core.texts import setting as setting_texts
from orchestrator.core.texts import workspace as workspace_texts
from orchestrator.core.turn_mark import ANSWER_KEY
from tests.support.asking import rows
from tests.support.memory_claude import Turn
from tests.support.outbox import MemoryHomeserver
from tests.support.room_rig import Rig
from tests.unit.rooms.scenario import hang, run, tell, wait_running
from tests.unit.rooms.test_room_settings import ACCESS, CAROL, say

NASTY = (
    "x",
    "-1",
    "0",
    "99999999999999999999",
    "--help",
    "../../etc/passwd",
    "\u202e\u200b",
    "`",
    "a\nb",
    "drop 0",
    "remove 0",
    '"* * * * *" x',
    "@a:b",
    "x" * 3000,
    "\ud800",
    "%s {0}",
)


def _ends(contents: Iterable[Mapping[str, Any]], asked: str) -> list[str]:
    """What the messages in answer to an event say of the end, from the first end on."""
    marks = [content[ANSWER_KEY] for content in contents if ANSWER_KEY in content]
    ends = ["end" if mark["final"] else "more" for mark in marks if mark["to"] == asked]
    return ends[ends.index("end") :] if "end" in ends else ends


@pytest.mark.parametrize("name", CommandName)
def test_any_argument_is_answered_and_the_room_works_on(tmp_path: Path, name: CommandName) -> None:
    async def test(rig: Rig) -> None:
        server = rig.account = MemoryHomeserver()
        arguments = ["", *NASTY, *(e.partition(" ")[2] for e in COMMANDS[name].examples)]
        async with rig.life() as life:
            for argument in arguments:
                before = len(server.bodies("!room:test"))
                asked = await rig.receive(f"!{name} {argument}".strip(), sender=CAROL)
                life.notify()

                async def is_answered(least: int = before) -> bool:
                    return len(server.bodies("!room:test")) > least

                await rig.wait(is_answered, timeout_s=60)
                await asyncio.sleep(6)
                assert _ends(server.contents, asked) == ["end"]
            said = [str(body) for body in server.bodies("!room:test")]
            assert texts.FAILED_INSIDE not in said
            await rig.receive("still there?", sender=CAROL)
            life.notify()
            await rig.wait_body("You said: still there?")

    run(tmp_path, test, access=ACCESS)


# Words that stand behind a command that has no place for them, and what its answer says. None: it
# takes whatever follows, as text or as a path.
ONE_TOO_MANY: Mapping[CommandName, tuple[str, str] | None] = {
    CommandName.HELP: ("egress please", "There is no command"),
    CommandName.STATUS: ("please", texts.takes_nothing("status")),
    CommandName.CANCEL: ("it", texts.takes_nothing("cancel")),
    CommandName.STEER: None,
    CommandName.NEW: ("foo", texts.takes_nothing("new")),
    CommandName.RETRY: ("now", texts.takes_nothing("retry")),
    CommandName.APPROVE: ("1 please", approval_texts.APPROVE_FORM),
    CommandName.DENY: None,
    CommandName.EGRESS: ("allow example.org 1h please", egress_texts.USAGE),
    CommandName.COST: ("day please", person_texts.COST_FORM),
    CommandName.BUDGET: ("usd 20 please", person_texts.BUDGET_FORM),
    CommandName.MODEL: ("sonnet please", setting_texts.FORMS["model"]),
    CommandName.MODE: ("plan please", setting_texts.FORMS["mode"]),
    CommandName.EFFORT: ("high please", setting_texts.FORMS["effort"]),
    CommandName.TIMEOUT: ("10m please", setting_texts.FORMS["timeout"]),
    CommandName.SESSIONS: ("all", texts.takes_nothing("sessions")),
    CommandName.RESUME: ("1 please", conversation_texts.RESUME_FORM),
    CommandName.COMPACT: None,
    CommandName.QUEUE: ("drop 1 please", setting_texts.QUEUE_FORM),
    CommandName.SCHEDULE: ("remove 1 please", "Say `!schedule"),
    CommandName.LS: None,
    CommandName.GET: None,
    CommandName.DIFF: ("1 please", workspace_texts.DIFF_USAGE),
    CommandName.UNDO: ("files please", workspace_texts.UNDO_USAGE),
    CommandName.EXPORT: ("chat please", workspace_texts.EXPORT_USAGE),
    CommandName.CLONE: ("https://example.org/a a b", "Like this: `!clone"),
    CommandName.RESTART: ("now", texts.takes_nothing("restart")),
    CommandName.INVITE_AGENT: ("reviewer please", "The form is `!invite-agent"),
}
# Told beside a turn that they have to wait for its end, whatever follows them.
ALONE = (CommandName.UNDO, CommandName.CLONE)
KEPT = (
    "SELECT turn_id, state, outcome, cancelled_by FROM turns",
    "SELECT * FROM sessions",
    "SELECT * FROM settings",
    "SELECT * FROM schedules",
    "SELECT * FROM grants",
    "SELECT approval_id, state FROM approvals",
)


def test_what_may_follow_is_known_of_every_command() -> None:
    assert set(ONE_TOO_MANY) == set(CommandName)
    assert all(ONE_TOO_MANY[name] for name in CommandName if not COMMANDS[name].usage)


@pytest.mark.parametrize("name", [name for name in CommandName if ONE_TOO_MANY[name]])
def test_a_word_too_many_is_answered_with_the_form_and_nothing_is_done(
    tmp_path: Path, name: CommandName
) -> None:
    argument, hint = ONE_TOO_MANY[name] or ("", "")

    async def asks(turn: Turn) -> None:
        await turn.ask("Bash", "r1", {"command": "npm test"})

    async def test(rig: Rig) -> None:
        rig.claude.scripts |= {"fail": hang, "go": asks}
        async with rig.life() as life:
            await tell(rig, life, "fail")
            await wait_running(rig)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
            await tell(rig, life, '!schedule "0 9 * * 1" Look')
            await rig.wait_body("Scheduled for")
            if name not in ALONE:
                await tell(rig, life, "go")
                await rig.wait_body("May I do this?")
                await tell(rig, life, "another")
                await rig.wait_body("Queued")
            before = [await rows(rig, query) for query in KEPT]
            answer = await say(rig, life, f"!{name} {argument}", by=CAROL)
            await asyncio.sleep(3)
            assert hint in answer
            assert "\n" not in answer
            assert [await rows(rig, query) for query in KEPT] == before

    run(tmp_path, test, access=ACCESS)
