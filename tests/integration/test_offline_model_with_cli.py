"""The offline model as the real Claude Code CLI uses it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.embedded.messages_api import ReceivedRequest, open_messages_api
from orchestrator.embedded.offline_model import OfflineModel, open_offline_model
from tests.support.claude_cli import cli_environment, ensure_claude_cli
from tests.support.cli_process import CliProcess, open_cli

pytestmark = [pytest.mark.cli, pytest.mark.docker]

ARGUMENTS = (
    "-p",
    "--input-format",
    "stream-json",
    "--output-format",
    "stream-json",
    "--include-partial-messages",
    "--verbose",
    "--permission-prompt-tool",
    "stdio",
)


@pytest.fixture(scope="session")
def claude() -> Path:
    return ensure_claude_cli()


class Conversation:
    """One CLI; `ask` returns a turn's result, and `allow` says what happens to tool calls."""

    def __init__(self, cli: CliProcess) -> None:
        self._cli = cli
        self.allow = True
        self.asked_for: list[str] = []

    async def ask(self, text: str) -> dict[str, Any]:
        message = {"type": "user", "message": {"role": "user", "content": text}}
        await self._cli.send(json.dumps(message) + "\n")
        while (line := await self._cli.next_line()) is not None:
            event = json.loads(line)
            if event["type"] == "control_request":
                await self._decide(event)
            elif event["type"] == "result":
                return dict(event)
        raise AssertionError(await self._cli.stderr())

    async def say(self, text: str) -> str:
        result = await self.ask(text)
        assert result["subtype"] == "success"
        assert not result["is_error"]
        return str(result["result"])

    async def _decide(self, event: dict[str, Any]) -> None:
        request = event["request"]
        self.asked_for.append(request["tool_name"])
        decision = (
            {"behavior": "allow", "updatedInput": request["input"]}
            if self.allow
            else {"behavior": "deny", "message": "Denied by the room."}
        )
        response = {
            "subtype": "success",
            "request_id": event["request_id"],
            "response": decision,
        }
        await self._cli.send(json.dumps({"type": "control_response", "response": response}) + "\n")


@pytest.fixture
async def talk(claude: Path, tmp_path: Path) -> AsyncIterator[Conversation]:
    async with (
        open_offline_model() as base_url,
        open_cli([str(claude), *ARGUMENTS], env=env(base_url, tmp_path), cwd=work(tmp_path)) as cli,
    ):
        yield Conversation(cli)


def env(base_url: str, tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return cli_environment(base_url, home)


def work(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir(exist_ok=True)
    return path


async def test_a_conversation_is_remembered(talk: Conversation) -> None:
    assert "Ada" in await talk.say("my name is Ada")
    assert "Your name is Ada." in await talk.say("what is my name?")
    assert "“my name is Ada”" in await talk.say("what did I say first?")
    assert "message 4 of" in await talk.say("hm")


async def test_tools_really_run(talk: Conversation, tmp_path: Path) -> None:
    await talk.say("write notes.txt: forty-two")
    assert (work(tmp_path) / "notes.txt").read_text() == "forty-two\n"
    assert "forty-two" in await talk.say("read notes.txt")
    assert "43" in await talk.say("run: echo $((42 + 1)) > sum.txt; cat sum.txt")
    assert "Write" in talk.asked_for


async def test_a_failing_command_is_reported_and_the_turn_ends(talk: Conversation) -> None:
    said = await talk.say("run: echo before; exit 3")
    assert "did not work" in said
    assert "before" in said


async def test_a_denied_tool_ends_the_turn_with_the_reason(
    talk: Conversation, tmp_path: Path
) -> None:
    talk.allow = False
    assert "Denied by the room." in await talk.say("write notes.txt: forty-two")
    assert not (work(tmp_path) / "notes.txt").exists()
    assert "message 2 of" in await talk.say("hm")


async def test_nothing_that_the_cli_asks_for_is_refused(claude: Path, tmp_path: Path) -> None:
    """Side requests included: with the runner's environment there are none beside messages."""
    seen: list[ReceivedRequest] = []
    async with open_messages_api(OfflineModel(), on_request=seen.append) as base_url:
        settings = env(base_url, tmp_path)
        async with open_cli([str(claude), *ARGUMENTS], env=settings, cwd=work(tmp_path)) as cli:
            talk = Conversation(cli)
            await talk.say("hello")
            await talk.say("run: true")
    assert {(r.method, r.path.partition("?")[0]) for r in seen} == {("POST", "/v1/messages")}
    assert {r.headers["x-api-key"] for r in seen} == {"sk-ant-placeholder"}
    assert len(seen) == 3
