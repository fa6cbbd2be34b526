"""`cchat` as a user types it, against a real Synapse; the agent's side is played by the test."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio
import yaml

from orchestrator.control.server import open_control
from orchestrator.embedded import homeserver as embedded
from orchestrator.embedded.homeserver import (
    EmbeddedHomeserver,
    open_embedded_homeserver,
    write_embedded_json,
)
from orchestrator.embedded.synapse_config import SynapseSecrets, render_config
from tests.support.port import free_port
from tests.unit.control.source import MemorySource, make_room

pytestmark = [pytest.mark.synapse, pytest.mark.asyncio(loop_scope="module")]

_CCHAT = Path(sys.executable).with_name("cchat")
_KEY = "org.aiagentchat.turn"
_CLIENT = "/_matrix/client/v3"


@dataclass(slots=True)
class Matrix:
    """A plain client of Synapse, as whoever logs in."""

    http: aiohttp.ClientSession
    token: str = ""
    user_id: str = ""

    async def login(self, user_id: str, password: str) -> Matrix:
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user_id},
            "password": password,
        }
        self.token = str((await self.ask("POST", f"{_CLIENT}/login", body))["access_token"])
        self.user_id = user_id
        return self

    async def ask(
        self, method: str, path: str, body: object = None, **params: str
    ) -> dict[str, object]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with self.http.request(
            method, path, json=body, params=params, headers=headers
        ) as answer:
            assert answer.status == 200, (path, answer.status, await answer.text())
            found: dict[str, object] = await answer.json()
            return found

    async def send(
        self, room_id: str, content: Mapping[str, object], kind: str = "m.room.message"
    ) -> str:
        path = f"{_CLIENT}/rooms/{quote(room_id)}/send/{kind}/{uuid.uuid4().hex}"
        return str((await self.ask("PUT", path, dict(content)))["event_id"])

    async def make_room(self, **options: object) -> str:
        body = {"preset": "private_chat", **options}
        return str((await self.ask("POST", f"{_CLIENT}/createRoom", body))["room_id"])

    async def join(self, room_id: str) -> None:
        await self.ask("POST", f"{_CLIENT}/rooms/{quote(room_id)}/join", {})

    async def token_now(self) -> str:
        return str((await self.ask("GET", f"{_CLIENT}/sync", timeout="0"))["next_batch"])

    async def next_message(self, room_id: str, since: str, text: str) -> dict[str, object]:
        """The next message with that text, as the homeserver has it."""
        while True:
            found = await self.ask("GET", f"{_CLIENT}/sync", timeout="10000", since=since)
            since = str(found["next_batch"])
            rooms: dict[str, object] = found.get("rooms", {})  # type: ignore[assignment]
            room = rooms.get("join", {}).get(room_id, {})  # type: ignore[attr-defined]
            for event in room.get("timeline", {}).get("events", []):
                if event["content"].get("body") == text:
                    return dict(event)


@dataclass(slots=True)
class World:
    """Synapse, the two people, and how to run cchat beside them."""

    state_dir: Path
    homeserver: EmbeddedHomeserver
    user: Matrix
    agent: Matrix
    home: Path
    source: MemorySource = field(default_factory=MemorySource)

    @property
    def room_id(self) -> str:
        return self.homeserver.room_id

    def environ(self, **more: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {**kept, "HOME": str(self.home), "PYTHONWARNINGS": "error", **more}

    @asynccontextmanager
    async def start(
        self, *args: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            str(_CCHAT),
            *args,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environ(AIAGENTCHAT_STATE_DIR=str(self.state_dir)) if env is None else env,
            cwd=self.home,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def run(
        self, *args: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        async with self.start(*args, stdin=stdin, env=env) as process, asyncio.timeout(60):
            out, err = await process.communicate(stdin)
        assert process.returncode is not None
        assert "Traceback" not in err.decode(), err.decode()
        return process.returncode, out.decode(), err.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="world")
async def _world(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[World]:
    state_dir = tmp_path_factory.mktemp("installation") / "state"
    state_dir.mkdir(mode=0o700)
    _lift_login_limit(request)
    async with (
        open_embedded_homeserver(state_dir, port=free_port(), say=print) as homeserver,
        aiohttp.ClientSession(homeserver.base_url) as http,
    ):
        write_embedded_json(state_dir, homeserver)
        user = await Matrix(http).login(homeserver.user_id, homeserver.user_password)
        agent = await Matrix(http).login(homeserver.agent_user_id, homeserver.agent_password)
        world = World(
            state_dir=state_dir,
            homeserver=homeserver,
            user=user,
            agent=agent,
            home=tmp_path_factory.mktemp("home"),
        )
        await _limit(user, per_second=0, burst=0)
        async with open_control(state_dir, world.source):
            yield world


def _lift_login_limit(request: pytest.FixtureRequest) -> None:
    """Synapse allows five logins, then one in five minutes; the tests need some more."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    plenty = {"per_second": 100, "burst_count": 100}
    limits = {"rc_login": {"address": plenty, "account": plenty, "failed_attempts": plenty}}

    def render(directory: Path, *, port: int, held: SynapseSecrets) -> str:
        return render_config(directory, port=port, held=held) + yaml.safe_dump(limits)

    patch.setattr(embedded, "render_config", render)


async def _limit(admin: Matrix, *, per_second: int, burst: int) -> None:
    path = f"/_synapse/admin/v1/users/{quote(admin.user_id)}/override_ratelimit"
    await admin.ask("POST", path, {"messages_per_second": per_second, "burst_count": burst})


def _mark(asked: str, part: int, outcome: str | None = None) -> dict[str, object]:
    mark: dict[str, object] = {"turn": "t1", "asked": [asked], "part": part, "final": False}
    return mark if outcome is None else {**mark, "final": True, "outcome": outcome}


def _text(body: str, mark: Mapping[str, object] | None = None) -> dict[str, object]:
    return {"msgtype": "m.text", "body": body, **({_KEY: dict(mark)} if mark else {})}


def _notice(body: str, mark: Mapping[str, object] | None = None) -> dict[str, object]:
    return {**_text(body, mark), "msgtype": "m.notice"}


def _unique(word: str) -> str:
    return f"{word} {uuid.uuid4().hex[:8]}"


@pytest.mark.parametrize("room", ["demo", "#demo", "#demo:localhost", "!id", "DEMO"])
async def test_a_message_reaches_the_room_whatever_it_is_called(world: World, room: str) -> None:
    text = _unique("hello")
    since = await world.agent.token_now()
    code, out, err = await world.run("send", world.room_id if room == "!id" else room, text)
    assert (code, out, err) == (0, "", "")
    event = await world.agent.next_message(world.room_id, since, text)
    assert event["sender"] == world.homeserver.user_id
    assert event["content"] == {"msgtype": "m.text", "body": text}


async def test_a_slug_of_the_local_orchestrator_names_its_room(world: World) -> None:
    world.source.room_views = (make_room(room_id=world.room_id),)
    since = await world.agent.token_now()
    text = _unique("by slug")
    assert (await world.run("send", "demo---0123456789abcdef", text))[0] == 0
    await world.agent.next_message(world.room_id, since, text)


@pytest.mark.parametrize("args", [("demo",), ("demo", "-")])
async def test_text_comes_from_standard_input(world: World, args: tuple[str, ...]) -> None:
    text = _unique("line one\nline two ü")
    since = await world.agent.token_now()
    code, _, err = await world.run("send", *args, stdin=f"{text}\n".encode())
    assert (code, err) == (0, "")
    await world.agent.next_message(world.room_id, since, text)


async def test_the_answer_is_printed_as_it_comes_and_status_goes_to_stderr(world: World) -> None:
    text = _unique("question")
    since = await world.agent.token_now()
    async with world.start("send", "demo", "--wait", "--timeout", "50", text) as cchat:
        assert cchat.stdout is not None
        event = await world.agent.next_message(world.room_id, since, text)
        asked = str(event["event_id"])
        assert event["content"]["m.mentions"] == {  # type: ignore[index]
            "user_ids": [world.homeserver.agent_user_id]
        }
        await world.agent.send(world.room_id, _notice("the machine is busy"))
        await world.agent.send(world.room_id, _text("of another turn", _mark("$other", 0)))
        await world.agent.send(world.room_id, _text("first \x1b[31mpart", _mark(asked, 0)))
        async with asyncio.timeout(20):
            assert await cchat.stdout.readline() == b"first part\n"
        assert cchat.returncode is None
        await world.agent.send(world.room_id, _notice("a tool was denied", _mark(asked, 1)))
        await world.agent.send(world.room_id, _text("last part", _mark(asked, 1, "done")))
        await world.agent.send(world.room_id, _text("too late", _mark(asked, 2)))
        async with asyncio.timeout(20):
            out, err = await cchat.communicate()
    assert out == b"last part\n"
    assert await cchat.wait() == 0
    assert err == b"the machine is busy\na tool was denied\n"


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ("done", 0),
        ("failed", 1),
        ("timed_out", 4),
        ("interrupted", 5),
        ("cancelled", 6),
        ("out_of_memory", 7),
        ("refused", 8),
        ("invented later", 1),
    ],
)
async def test_the_exit_code_tells_the_outcome(world: World, outcome: str, code: int) -> None:
    text = _unique("question")
    since = await world.agent.token_now()
    async with world.start("send", "demo", "--wait", "--json", text) as cchat:
        asked = str((await world.agent.next_message(world.room_id, since, text))["event_id"])
        if outcome == "done":
            # The end of a turn whose whole text was sent before is an event of its own type.
            await world.agent.send(world.room_id, _text("all of it", _mark(asked, 0)))
            await world.agent.send(world.room_id, {_KEY: _mark(asked, 1, "done")}, kind=_KEY)
        else:
            await world.agent.send(world.room_id, _notice("it ended", _mark(asked, 0, outcome)))
        async with asyncio.timeout(30):
            out, err = await cchat.communicate()
    lines = [json.loads(line) for line in out.splitlines()]
    assert cchat.returncode == code
    assert err == b""
    assert lines[0] == {"type": "sent", "room_id": world.room_id, "event_id": asked}
    assert lines[1]["type"] == ("text" if outcome == "done" else "notice")
    assert lines[1]["turn"]["asked"] == [asked]
    assert lines[-1] == {"type": "end", "turn": "t1", "outcome": outcome, "exit_code": code}


async def test_an_answer_that_is_forged_by_somebody_else_is_not_shown(world: World) -> None:
    text = _unique("question")
    since = await world.agent.token_now()
    async with world.start("send", "demo", "--wait", text) as cchat:
        asked = str((await world.agent.next_message(world.room_id, since, text))["event_id"])
        await world.user.send(world.room_id, _text("forged", _mark(asked, 0, "done")))
        await world.agent.send(world.room_id, _text("true", _mark(asked, 0, "done")))
        async with asyncio.timeout(30):
            out, _ = await cchat.communicate()
    assert out == b"true\n"


async def test_a_room_commands_answer_is_the_answer(world: World) -> None:
    since = await world.agent.token_now()
    async with world.start("send", "demo", "!status", "--wait") as cchat:
        event = await world.agent.next_message(world.room_id, since, "!status")
        assert "m.mentions" not in event["content"]  # type: ignore[operator]
        to = str(event["event_id"])
        for body, final in (("all is well", False), ("and quiet", True)):
            mark = {"org.aiagentchat.answer": {"to": to, "final": final}}
            await world.agent.send(world.room_id, {**_notice(body), **mark})
        async with asyncio.timeout(30):
            out, _ = await cchat.communicate()
    assert (cchat.returncode, out) == (0, b"all is well\nand quiet\n")


async def test_a_gap_of_more_than_a_page_is_read_back_in_order(world: World) -> None:
    text = _unique("question")
    since = await world.agent.token_now()
    async with world.start("send", "demo", "--wait", text) as cchat:
        asked = str((await world.agent.next_message(world.room_id, since, text))["event_id"])
        # While it is stopped more comes than one sync brings.
        cchat.send_signal(signal.SIGSTOP)
        for part in range(130):
            await world.agent.send(world.room_id, _text(f"part {part}", _mark(asked, part)))
        await world.agent.send(world.room_id, _text("end", _mark(asked, 130, "done")))
        cchat.send_signal(signal.SIGCONT)
        async with asyncio.timeout(40):
            out, _ = await cchat.communicate()
    assert out.decode().splitlines() == [*(f"part {part}" for part in range(130)), "end"]
    assert cchat.returncode == 0


async def test_no_end_within_the_timeout_is_124(world: World) -> None:
    code, out, err = await world.run("send", "#demo", "--wait", "--timeout", "1", _unique("q"))
    assert (code, out) == (124, "")
    # A shell would take #demo for a comment.
    assert "cchat tail '#demo'" in err


async def test_ctrl_c_says_how_to_stop_the_turn(world: World) -> None:
    text = _unique("question")
    since = await world.agent.token_now()
    async with world.start("send", "demo", "--wait", text) as cchat:
        await world.agent.next_message(world.room_id, since, text)
        cchat.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            _, err = await cchat.communicate()
    assert cchat.returncode == 130
    assert b"!cancel" in err
    assert b"Traceback" not in err


async def test_a_limit_is_waited_out_and_every_message_arrives_once_and_in_order(
    world: World,
) -> None:
    texts = [_unique(f"limited {i}") for i in range(3)]
    since = await world.agent.token_now()
    await _limit(world.user, per_second=1, burst=1)
    try:
        results = [await world.run("send", "demo", text) for text in texts]
    finally:
        await _limit(world.user, per_second=0, burst=0)
    assert [code for code, _, _ in results] == [0, 0, 0]
    for text in texts:
        await world.agent.next_message(world.room_id, since, text)
    filter_ = json.dumps({"room": {"timeline": {"limit": 100}}})
    found = await world.agent.ask("GET", f"{_CLIENT}/sync", since=since, filter=filter_)
    room = found["rooms"]["join"][world.room_id]  # type: ignore[index]
    bodies = [event["content"].get("body") for event in room["timeline"]["events"]]
    assert [body for body in bodies if body in texts] == texts


async def test_one_login_serves_all_commands_and_is_for_its_owner_alone(world: World) -> None:
    await world.run("send", "demo", _unique("a"))
    path = world.state_dir / "embedded" / "cchat-session.json"
    before = json.loads(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await world.run("send", "demo", _unique("b"))
    assert json.loads(path.read_text()) == before


async def test_a_refused_session_is_made_anew_on_the_same_device(world: World) -> None:
    await world.run("send", "demo", _unique("a"))
    path = world.state_dir / "embedded" / "cchat-session.json"
    session = json.loads(path.read_text())
    path.write_text(json.dumps({**session, "access_token": "syt_refused"}))
    assert (await world.run("send", "demo", _unique("b")))[0] == 0
    assert json.loads(path.read_text())["device_id"] == session["device_id"]


async def test_an_unknown_room_gets_the_nearest_names(world: World) -> None:
    code, out, err = await world.run("send", "dmeo", "hi")
    assert (code, out) == (2, "")
    assert "Did you mean: #demo:localhost?" in err


async def test_a_room_that_we_are_not_in_is_a_sentence(world: World) -> None:
    room_id = await world.agent.make_room(room_alias_name="private")
    for typed in (room_id, "private"):
        code, _, err = await world.run("send", typed, "hi")
        assert code == 2
        assert "You are not in" in err


async def test_an_encrypted_room_is_refused_with_words_and_nothing_is_sent(world: World) -> None:
    encryption = {
        "type": "m.room.encryption",
        "state_key": "",
        "content": {"algorithm": "m.megolm.v1.aes-sha2"},
    }
    await world.user.make_room(name="Hidden things", initial_state=[encryption])
    for command in (("send", "Hidden things", "hi"), ("tail", "hidden things", "--no-follow")):
        code, _, err = await world.run(*command)
        assert code == 2
        assert "is encrypted" in err


async def test_a_name_of_several_rooms_is_refused_with_their_ids(world: World) -> None:
    ids = {await world.user.make_room(name="Twins") for _ in range(2)}
    code, _, err = await world.run("send", "Twins", "hi")
    assert code == 2
    assert all(room_id in err for room_id in ids)


async def test_tail_shows_the_last_lines_and_then_what_comes(world: World) -> None:
    room_id = await world.user.make_room(name="Tailed", invite=[world.agent.user_id])
    await world.agent.join(room_id)
    for i in range(120):
        await world.agent.send(room_id, _text(f"old {i}"))
    await world.agent.send(room_id, _text("two\nlines \x1b]0;title\x07\u202eend"))
    async with world.start("tail", "tailed", "-n", "110") as cchat:
        assert cchat.stdout is not None
        async with asyncio.timeout(20):
            shown = [(await cchat.stdout.readline()).decode() for _ in range(111)]
        assert [line.split(": ", 1)[1] for line in shown[:109]] == [
            f"old {i}\n" for i in range(11, 120)
        ]
        assert f"{world.agent.user_id}: two\n" in shown[109]
        assert shown[110] == "    lines end\n"
        await world.agent.send(room_id, _notice("news"))
        async with asyncio.timeout(20):
            assert b"(notice): news" in await cchat.stdout.readline()


async def test_tail_for_programs_is_one_object_a_line_with_the_exact_text(world: World) -> None:
    room_id = await world.user.make_room(name="Machine", invite=[world.agent.user_id])
    await world.agent.join(room_id)
    body = "exact \x1b[31m text\n"
    await world.agent.send(room_id, _text(body, _mark("$asked", 0)))
    code, out, _ = await world.run("tail", "Machine", "--no-follow", "--json")
    (line,) = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert (line["type"], line["body"], line["turn"]["asked"]) == ("text", body, ["$asked"])
    assert "\x1b" not in out


async def test_tail_into_a_closed_pipe_ends_quietly(world: World) -> None:
    async with world.start("tail", "demo") as cchat:
        assert cchat.stdout is not None
        await cchat.stdout.readline()
        cchat.stdout._transport.close()  # type: ignore[attr-defined]
        await world.agent.send(world.room_id, _text("nobody reads this"))
        async with asyncio.timeout(20):
            assert cchat.stderr is not None
            assert await cchat.stderr.read() == b""
            assert await cchat.wait() == 141


async def test_runners_and_rooms_come_from_the_control_socket(world: World) -> None:
    code, out, err = await world.run("runners")
    assert (code, err) == (0, "")
    assert "#demo:localhost" in out
    assert "135 MB / 2.0 GB" in out
    code, out, _ = await world.run("runners", "--json")
    (runner,) = json.loads(out)
    assert (runner["room_id"], runner["container_id"]) == ("!demo:localhost", "0123456789ab")
    code, out, _ = await world.run("rooms", "--json")
    assert code == 0
    assert json.loads(out)[0]["alias"] == "#demo:localhost"


async def test_an_account_from_the_environment_needs_no_state_directory(world: World) -> None:
    secret = world.home / "password"
    secret.write_text(f"{world.homeserver.user_password}\n")
    env = world.environ(
        CCHAT_HOMESERVER=f"{world.homeserver.base_url}/",
        CCHAT_USER_ID=world.homeserver.user_id,
        CCHAT_PASSWORD_FILE=str(secret),
    )
    text = _unique("from the environment")
    since = await world.agent.token_now()
    code, _, err = await world.run("send", "demo", text, env=env)
    assert (code, err) == (0, "")
    await world.agent.next_message(world.room_id, since, text)
    (kept,) = (world.home / ".config" / "aiagentchat").glob("session-*.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    env = world.environ(
        CCHAT_HOMESERVER=world.homeserver.base_url, CCHAT_ACCESS_TOKEN=world.user.token
    )
    assert (await world.run("send", "demo", _unique("by token"), env=env))[0] == 0


async def test_login_keeps_a_session_that_later_commands_use(world: World) -> None:
    env = world.environ()
    args = (
        "login",
        "--homeserver",
        world.homeserver.base_url,
        "--user",
        world.homeserver.user_id,
    )
    password = world.homeserver.user_password
    code, _, err = await world.run(*args, stdin=f"{password}\n".encode(), env=env)
    assert code == 0
    assert password not in err
    stored = world.home / ".config" / "aiagentchat" / "cchat.json"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert password not in stored.read_text()
    assert (await world.run("send", "demo", _unique("logged in"), env=env))[0] == 0
    stored.write_text(stored.read_text().replace("syt_", "syt_x"))
    code, _, err = await world.run("send", "demo", "hi", env=env)
    assert code == 9
    assert "cchat login" in err


async def test_a_wrong_password_is_a_sentence_that_does_not_show_it(world: World) -> None:
    env = world.environ(
        CCHAT_HOMESERVER=world.homeserver.base_url,
        CCHAT_USER_ID="@nobody:localhost",
        CCHAT_PASSWORD="wrong-and-secret",
    )
    code, out, err = await world.run("send", "demo", "hi", env=env)
    assert (code, out) == (9, "")
    assert "CCHAT_PASSWORD" in err
    assert "wrong-and-secret" not in err


async def test_an_embedded_homeserver_without_orchestrator_warns_or_refuses(
    world: World, tmp_path: Path
) -> None:
    # A Synapse that outlived its orchestrator: embedded.json is there, the control socket is not.
    (tmp_path / "embedded.json").write_bytes((world.state_dir / "embedded.json").read_bytes())
    env = world.environ(AIAGENTCHAT_STATE_DIR=str(tmp_path))
    text = _unique("nobody hears")
    since = await world.agent.token_now()
    code, _, err = await world.run("send", "demo", text, env=env)
    assert code == 0
    assert "make up" in err
    await world.agent.next_message(world.room_id, since, text)
    code, _, err = await world.run("send", "demo", "--wait", "refused", env=env)
    assert code == 3
    assert "No orchestrator is running" in err
