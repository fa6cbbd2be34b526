"""The Messages API fails in every way that it has, and the real CLI meets it."""

from __future__ import annotations

import time

import pytest

from orchestrator.core.going_on import WAIT_MARGIN_S
from orchestrator.core.texts import utc_time
from orchestrator.embedded.messages_model import (
    CutStream,
    HttpError,
    Reply,
    Stall,
    StreamError,
    Text,
)
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

PASSING = {
    "429": HttpError(status=429, type="rate_limit_error", message="Slow down"),
    "500": HttpError(status=500, type="api_error", message="Internal server error"),
    "529": HttpError(status=529, type="overloaded_error", message="Overloaded"),
}
BROKEN_OFF = {
    "an error in mid-stream": Reply(blocks=(Text(text="Half of it."), StreamError())),
    "a cut in mid-stream": Reply(blocks=(Text(text="Half of it."), CutStream())),
}


async def ask(
    alice: MatrixUser, room: str, text: str, word: str, *, agent: str, timeout_s: float = 60
) -> str:
    """Send a message; what the room reads then, up to the message with the word."""
    before = len(alice.texts(room, sender=agent))
    await alice.send(room, text)
    await alice.wait_for_text(room, word, timeout_s=timeout_s)
    return "\n".join(alice.texts(room, sender=agent)[before:])


async def open_room(installation: Installation, timeout_s: float) -> tuple[MatrixUser, str]:
    orchestrator = await installation.configure(
        defaults={"permissions": "bypass", "timeout_s": timeout_s, "ceiling_s": 600}
    )
    await orchestrator.start()
    alice = await installation.person()
    return alice, await installation.room(alice)


async def test_a_fault_that_passes_is_asked_after_by_the_cli_and_the_turn_is_answered_once(
    installation: Installation,
) -> None:
    alice, room = await open_room(installation, 120)
    for number, (name, fault) in enumerate(PASSING.items()):
        installation.api.once(f"fault {number}", fault, f"Answered after {name}.")
        await alice.send(room, f"fault {number}")
        await alice.wait_for_text(room, f"Answered after {name}.", timeout_s=60)
        tried = [r for r in installation.api.asked if r.last_user_text == f"fault {number}"]
        assert len(tried) == 2, name
    for name, fault in BROKEN_OFF.items():
        # The CLI keeps what came and asks the model to go on; where it saw nothing, it asks again.
        installation.api.once(name, fault)
        for asked in (name, "cut off mid-stream"):
            installation.api.when(asked, f"Answered after {name}.")
        said = await ask(
            alice, room, name, f"Answered after {name}.", agent=installation.agent.user_id
        )
        assert said.count("Half of it.") <= 1, name
    said_in_all = alice.texts(room, sender=installation.agent.user_id)
    for name in (*PASSING, *BROKEN_OFF):
        assert sum(f"Answered after {name}." in text for text in said_in_all) == 1, name


async def test_a_fault_that_stays_ends_the_turn_with_its_reason_and_the_next_message_works(
    installation: Installation,
) -> None:
    refused = HttpError(status=401, type="authentication_error", message="invalid x-api-key")
    installation.api.when("refused", refused)
    broken = HttpError(status=500, type="api_error", message="Internal server error")
    installation.api.once("broken", *[broken] * 20)
    installation.api.when("stalls", [Text(text="and then"), Stall(seconds=600)])
    alice, room = await open_room(installation, 6)

    agent = installation.agent.user_id

    said = await ask(alice, room, "refused", "Failed:", agent=agent)
    assert "did not accept the credential (401)" in said
    said = await ask(alice, room, "broken", "Stopped:", agent=agent)
    assert "The Messages API answers 500." in said
    assert "nothing came for 6 s" in said
    # What came before the stall is shown together with the end.
    await ask(alice, room, "stalls", "and then", agent=agent)
    await ask(alice, room, "still there?", "You said: still there?", agent=agent)


async def test_a_usage_limit_is_shown_with_its_reset_waited_for_and_can_be_cancelled(
    installation: Installation,
) -> None:
    resets_at = int(time.time()) + 7200
    headers = {
        "status": "rejected",
        "reset": str(resets_at),
        "representative-claim": "five_hour",
        "5h-reset": str(resets_at),
        "5h-utilization": "1.0",
    }
    limit = HttpError(
        status=429,
        type="rate_limit_error",
        message="limit",
        headers=tuple((f"anthropic-ratelimit-unified-{k}", v) for k, v in headers.items()),
    )
    installation.api.once("work", limit)
    # The limits of a subscription are told to its own token alone, not to an API key.
    token = {"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-canary-0123456789"}
    orchestrator = await installation.configure(
        env=token, defaults={"permissions": "bypass", "on_usage_limit": "wait"}
    )
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    agent = installation.agent.user_id

    said = await ask(alice, room, "work", "Waiting:", agent=agent)
    assert "a usage limit was met: `You've hit your 5-hour limit" in said
    assert f"Going on with `work` at {utc_time(resets_at + WAIT_MARGIN_S)} (1 of 3)" in said
    await orchestrator.kill()
    await orchestrator.start()
    await ask(alice, room, "and me?", "All of them wait until", agent=agent)
    await alice.send(room, "!cancel")
    # The conversation has the message that was refused, too.
    await alice.wait_for_text(room, "work\nand me?", sender=agent)
    assert sum("Cancelled." in text for text in alice.texts(room, sender=agent)) == 1
    sent = installation.api.requests[-1].headers["authorization"]
    assert sent == f"Bearer {token['CLAUDE_CODE_OAUTH_TOKEN']}"
