"""What a room's people set: shown, bounded, kept, and in force from the next turn on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.room_setting import Setting, parse_duration, parse_setting
from orchestrator.core.texts import setting as texts
from orchestrator.core.texts import takes_nothing
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.room_settings import apply_settings
from tests.support.room_rig import ALICE, Life, Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import hang, run, tell, works_for

CAROL = "@carol:test"
ACCESS = {"users": [ALICE, "@bob:test"], "admins": [CAROL]}


async def say(rig: Rig, life: Life, text: str, *, by: str = ALICE) -> str:
    """What a command is answered with."""
    before = len(await rig.bodies())
    await rig.receive(text, sender=by)
    life.notify()

    async def is_answered() -> bool:
        return len(await rig.bodies()) > before

    await rig.wait(is_answered)
    return (await rig.bodies())[-1]


def argument(argv: list[str], name: str) -> str | None:
    with_value = [a.partition("=")[2] for a in argv if a.startswith(f"{name}=")]
    if name in argv:
        with_value.append(argv[argv.index(name) + 1])
    return with_value[0] if with_value else None


def test_each_is_in_force_from_the_next_turn_on_and_after_a_restart(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "first")
            await rig.wait_ended(1)
            assert "from the next turn on" in await say(rig, life, "!model sonnet")
            assert "from the next turn on" in await say(rig, life, "!mode plan")
            assert "from the next turn on" in await say(rig, life, "!effort high")
            await tell(rig, life, "second")
            await rig.wait_ended(2)
        async with rig.life() as life:
            assert "set by `@alice:test`" in await say(rig, life, "!model")
            await tell(rig, life, "third")
            await rig.wait_ended(3)
            assert "as configured" in await say(rig, life, "!model default")
            await tell(rig, life, "fourth")
            await rig.wait_ended(4)
        first, second, last = rig.claude.started
        assert argument(first, "--model") is None
        for argv in (second, last):
            assert argument(argv, "--permission-mode") == "plan"
            assert argument(argv, "--effort") == "high"
        assert argument(second, "--model") == "sonnet"
        assert argument(last, "--model") is None
        assert "--resume" in second, "the conversation goes on"

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("command", "is_taken"),
    [("!mode accept_edits", False), ("!mode bypass", False), ("!mode plan", True)],
)
def test_more_freedom_than_is_configured_is_for_admins(
    tmp_path: Path, command: str, is_taken: bool
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            answer = await say(rig, life, command)
            assert ("from the next turn on" in answer) is is_taken
            assert ("only an admin" in answer) is not is_taken
            assert "from the next turn on" in await say(rig, life, command, by=CAROL)

    run(tmp_path, test, access=ACCESS)


def test_a_time_limit_is_kept_to_and_more_than_configured_is_for_admins(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = hang
        async with rig.life() as life:
            assert "only an admin" in await say(rig, life, "!timeout 10m")
            await say(rig, life, "!timeout 20s")
            await tell(rig, life, "go")
            await rig.wait_ended(1, timeout_s=60)
            assert "nothing came for 20 s" in (await rig.bodies())[-1]
            assert "`600 s`" in await say(rig, life, "!timeout 10m", by=CAROL)

    run(tmp_path, test, access=ACCESS)


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("!model a b", texts.FORMS["model"]),
        ("!model --help", texts.FORMS["model"]),
        ("!mode everything", texts.FORMS["mode"]),
        ("!effort 11", texts.FORMS["effort"]),
        ("!timeout 5s", texts.FORMS["timeout"]),
        ("!timeout soon", texts.FORMS["timeout"]),
        ("!queue x", texts.QUEUE_FORM),
        ("!queue drop 0", texts.QUEUE_EMPTY),
        ("!restart now", takes_nothing("restart")),
    ],
)
def test_bad_input_gets_the_right_form_and_changes_nothing(
    tmp_path: Path, command: str, hint: str
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            assert await say(rig, life, command, by=CAROL) == hint
            assert await rig.store.settings.of_room((await rig.store.rooms.all())[0].room_id) == {}

    run(tmp_path, test, access=ACCESS)


def test_the_queue_is_listed_and_one_is_taken_back_by_whoever_asked(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = works_for(30)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_body("begun")
            for number, sender in ((1, ALICE), (2, "@bob:test"), (3, ALICE)):
                await rig.receive(f"wait {number}", sender=sender)
                life.notify()
                await asyncio.sleep(2)
            listed = await say(rig, life, "!queue")
            assert "**3**: `@bob:test`: `wait 2`" in listed
            assert listed.startswith("Running: `go`")
            assert await say(rig, life, "!queue drop 3") == texts.QUEUE_NOT_YOURS
            assert await say(rig, life, "!queue drop 2") == texts.dropped("wait 1")
            assert await say(rig, life, "!queue drop 3", by=CAROL) == texts.dropped("wait 2")
            assert "**4**: `@alice:test`: `wait 3`" in await say(rig, life, "!queue")
            await rig.wait_ended(4)
        assert rig.claude.asked == ["go", "wait 3"]
        outcomes = [str(turn.outcome) for turn in await rig.turns()]
        assert outcomes == ["done", "cancelled", "cancelled", "done"]

    run(tmp_path, test, access=ACCESS)


def test_a_restart_replaces_the_container_after_the_turn_and_the_conversation_goes_on(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = works_for(10)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_body("begun")
            assert await say(rig, life, "!restart") == texts.RESTART_BUSY
            await rig.wait_ended(1)
            assert (await rig.turns())[0].outcome == "done"
            await tell(rig, life, "again")
            await rig.wait_ended(2)
            assert await say(rig, life, "!restart") == texts.RESTARTED
            await tell(rig, life, "once more")
            await rig.wait_ended(3)
        assert len(rig.shims) == 3
        assert all("--resume" in argv for argv in rig.claude.started[1:])

    run(tmp_path, test)


@pytest.mark.parametrize("step", range(0, 12, 2))
def test_a_restart_is_done_although_a_crash_comes_between(tmp_path: Path, step: int) -> None:
    async def main() -> None:
        async with open_rig(tmp_path) as rig:
            async with rig.life() as life:
                await tell(rig, life, "one")
                await rig.wait_ended(1)
            await rig.receive("!restart")
            async with rig.life(crash_at=step) as life:

                async def is_over() -> bool:
                    return life.points.crashed.is_set() or texts.RESTARTED in await rig.bodies()

                await rig.wait(is_over)
            async with rig.life() as life:
                await asyncio.sleep(5)
                await tell(rig, life, "two")
                await rig.wait_ended(2)
            assert (await rig.bodies()).count(texts.RESTARTED) == 1
            assert len(rig.shims) == 2

    run_rooms(main())


@given(st.sampled_from(Setting), st.text(max_size=80))
def test_a_value_is_stored_in_one_form_or_not_at_all(setting: Setting, text: str) -> None:
    value = parse_setting(setting, text)
    if value is not None:
        assert parse_setting(setting, value) == value
        assert not value.startswith("-")
        apply_settings(RoomProfile(), {setting: value})


@given(st.dictionaries(st.sampled_from(Setting) | st.text(max_size=5), st.text(max_size=20)))
def test_what_can_not_be_read_counts_as_not_set(settings: dict[str, str]) -> None:
    apply_settings(RoomProfile(), settings)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("10 min", 600),
        ("2H", 7200),
        ("1d", 86400),
        ("", None),
        ("-1", None),
    ],
)
def test_durations(text: str, seconds: int | None) -> None:
    assert parse_duration(text) == seconds
