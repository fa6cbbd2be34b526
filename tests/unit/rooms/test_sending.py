"""Files that the agent sends: once each, from its workspace alone, and no more than so many."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from files import __main__ as files_program
from orchestrator.core.image_size import read_size
from orchestrator.core.room_tools import build_answer, parse_call
from orchestrator.core.texts import file as texts
from orchestrator.errors import RequestRefusedError
from orchestrator.model import JsonObject, RoomId
from tests.support.memory_claude import Turn
from tests.support.outbox import MemoryHomeserver
from tests.support.room_rig import Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import run, tell

PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\0\x02\x80" + b"\0\0\x01\xe0" + b"x" * 20


def ask_for(turn: Turn, number: int, path: str, **more: Any) -> None:
    """Call the tool."""
    arguments = {"path": path, **more}
    meta = {"claudecode/toolUseId": f"toolu_{number}"}
    message = {
        "jsonrpc": "2.0",
        "id": number,
        "method": "tools/call",
        "params": {"name": "send_file", "arguments": arguments, "_meta": meta},
    }
    request = {"subtype": "mcp_message", "server_name": "room", "message": message}
    turn.line(type="control_request", request_id=f"m{number}", request=request)


async def call(turn: Turn, number: int, path: str, **more: Any) -> dict[str, Any]:
    """Call the tool, and what it said."""
    ask_for(turn, number, path, **more)
    answer = await turn.wait_answer(f"m{number}")
    result: dict[str, Any] = answer["response"]["mcp_response"]["result"]
    return result


def sends(*paths: str, **more: Any) -> Any:
    async def script(turn: Turn) -> None:
        said = []
        for number, path in enumerate(paths):
            result = await call(turn, number, path, **more)
            said.append(f"{result['isError']}: {result['content'][0]['text']}")
        turn.text("\n".join(said))
        turn.result("\n".join(said))

    return script


def fill(rig: Rig) -> None:
    root = rig.claude.workspace
    (root / "out").mkdir(parents=True)
    (root / "out" / "chart.png").write_bytes(PNG)
    (root / "a.txt").write_text("words")
    (root / "link").symlink_to("/etc/passwd")


def test_an_image_is_sent_as_one_with_its_size_and_caption_and_other_files_as_files(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        fill(rig)
        rig.claude.scripts["go"] = sends("out/chart.png", caption="so it\nlooks")
        rig.claude.scripts["text"] = sends("/workspace/a.txt")
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
            await tell(rig, life, "text")
            await rig.wait_ended(2)
        image, answer, file, _ = await rig.said()
        assert (image["msgtype"], image["body"], image["filename"]) == (
            "m.image",
            "so it looks",
            "chart.png",
        )
        assert image["info"] == {"mimetype": "image/png", "size": len(PNG), "w": 640, "h": 480}
        assert image["m.mentions"] == {}
        assert answer["body"] == f"False: {texts.SENT}"
        assert (file["msgtype"], file["body"]) == ("m.file", "a.txt")

    run(tmp_path, test)


def test_what_is_outside_a_link_gone_or_too_large_is_not_sent_and_the_agent_is_told(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        fill(rig)
        (rig.claude.workspace / "big").write_bytes(b"x" * 3000)
        paths = ("link", "../../etc/passwd", "/etc/passwd", "nothing", "out", "big", "")
        rig.claude.scripts["go"] = sends(*paths)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
        (said,) = await rig.bodies()
        lines = said.split("\n")
        assert len(lines) == len(paths)
        assert all(line.startswith("True: ") for line in lines)
        assert "root:" not in said

    run(tmp_path, test, defaults={"files": {"max_size": 2000}})


def test_no_more_than_so_many_are_sent_in_one_turn(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        fill(rig)
        rig.claude.scripts["go"] = sends("a.txt", "a.txt", "a.txt")
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
        *files, answer = await rig.said()
        assert [file["msgtype"] for file in files] == ["m.file", "m.file"]
        assert str(answer["body"]).endswith(texts.sent_enough(2))

    run(tmp_path, test, defaults={"files": {"sent_per_turn": 2}})


async def send_through_a_crash(rig: Rig, name: str, step: int) -> MemoryHomeserver:
    """A turn sends a file, over a crash at this step; what the homeserver has in the end."""
    server = rig.account = MemoryHomeserver()
    rig.claude.scripts["go"] = sends(name)
    await rig.receive("go")
    async with rig.life(crash_at=step) as life:
        await rig.wait_ended(1, life=life)
    async with rig.life():
        await rig.wait_ended(1)
        await asyncio.sleep(10)
    return server


@pytest.mark.parametrize("step", range(0, 36, 2))
def test_a_crash_at_any_step_sends_it_once(tmp_path: Path, step: int) -> None:
    async def main() -> None:
        async with open_rig(tmp_path) as rig:
            fill(rig)
            server = await send_through_a_crash(rig, "a.txt", step)
            files = [c for c in server.contents if c.get("msgtype") == "m.file"]
            assert len(files) == 1
            assert server.bodies("!room:test").count(f"False: {texts.SENT}") == 1

    run_rooms(main())


def test_a_cli_that_has_just_started_is_told_of_the_tool_in_a_turn_and_before_one(
    tmp_path: Path,
) -> None:
    async def asking(turn: Turn) -> None:
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        request = {"subtype": "mcp_message", "server_name": "room", "message": message}
        turn.line(type="control_request", request_id="list", request=request)
        answer = await turn.wait_answer("list")
        turn.text(json.dumps(answer["response"]["mcp_response"]))
        turn.result("x")

    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = asking
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
        assert "send_file" in (await rig.bodies())[0]
        (argv,) = [a for a in rig.claude.started if "--permission-mode" in a]
        assert "--mcp-config" in argv

    run(tmp_path, test)


def test_a_file_that_the_homeserver_refuses_is_told_and_the_room_goes_on(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        fill(rig)
        (rig.claude.workspace / "raw").write_bytes(b"\xff\x00" * 50)
        server = rig.account = RefusingUploads()
        rig.claude.scripts["go"] = sends("raw")
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
            await tell(rig, life, "and now")
            await rig.wait_ended(2)
            await asyncio.sleep(5)
        shown = [str(body) for body in server.bodies("!room:test")]
        assert sum("does not take the file (100 B)" in body for body in shown) == 1
        assert "You said: and now" in shown

    run(tmp_path, test)


@dataclass(slots=True)
class RefusingUploads(MemoryHomeserver):
    """Takes messages and no files."""

    async def upload_file(self, room_id: RoomId, data: bytes, *, mimetype: str) -> JsonObject:
        """As one whose limit is small."""
        raise RequestRefusedError(errcode="M_TOO_LARGE", status=413, what="uploading")


def test_nobody_is_asked_whether_our_own_tool_may_be_used(tmp_path: Path) -> None:
    async def script(turn: Turn) -> None:
        answer = await turn.ask("mcp__room__send_file", "r1", {"path": "a.txt"})
        turn.result(str(answer["response"]["behavior"]))

    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = script
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
        assert await rig.bodies() == ["allow"]

    run(tmp_path, test)


LARGE = PNG[:16] + b"\0\0\x0f\xa0" + b"\0\0\x0b\xb8" + b"x" * 3000
SMALL = PNG[:16] + b"\0\0\x03\x20" + b"\0\0\x02\x58" + b"small"
OF_SMALL = {"mimetype": "image/png", "size": len(SMALL), "w": 800, "h": 600}


@pytest.mark.parametrize("asks", ["a call", "!get"])
def test_a_large_image_goes_with_the_thumbnail_that_its_room_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    made: list[tuple[bytes, tuple[int, ...]]] = []

    def make(image: FileIO, *numbers: int) -> bytes:
        made.append((image.read(), numbers))
        return SMALL

    async def test(rig: Rig) -> None:
        fill(rig)
        (rig.claude.workspace / "photo.png").write_bytes(LARGE)
        server = rig.account = MemoryHomeserver()
        rig.claude.scripts["go"] = sends("photo.png", "out/chart.png")
        async with rig.life() as life:
            await tell(rig, life, "go" if asks == "a call" else "!get photo.png")
            await rig.wait(lambda: has_image(server))
            await asyncio.sleep(5)
        image = next(c for c in server.contents if c.get("msgtype") == "m.image")
        info = {"mimetype": "image/png", "size": len(LARGE), "w": 4000, "h": 3000}
        named = {"thumbnail_info": OF_SMALL, "thumbnail_url": "mxc://memory/2"}
        assert image["info"] == info | named
        assert image["url"] == "mxc://memory/1"
        assert [data for _, _, data in server.uploads[:2]] == [LARGE, SMALL]
        assert made == [(LARGE, (800, 600, 256 << 10))], "of the smaller one none"

    monkeypatch.setattr(files_program, "make_thumbnail", make)
    run(tmp_path, test)


async def has_image(server: MemoryHomeserver) -> bool:
    return any(c.get("msgtype") == "m.image" for c in server.contents)


@pytest.mark.parametrize(
    "made", [None, b"", b"GIF89a....", LARGE, SMALL + b"x" * (256 << 10), b"<svg/>", OSError()]
)
def test_an_image_whose_thumbnail_is_none_is_sent_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bytes | OSError | None
) -> None:
    def make(*_: object) -> bytes | None:
        if isinstance(made, OSError):
            raise made
        return made

    async def test(rig: Rig) -> None:
        fill(rig)
        (rig.claude.workspace / "photo.png").write_bytes(LARGE)
        rig.claude.scripts["go"] = sends("photo.png", "a.txt")
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
        image, file, answer = await rig.said()
        assert image["info"] == {"mimetype": "image/png", "size": len(LARGE), "w": 4000, "h": 3000}
        assert file["msgtype"] == "m.file"
        assert answer["body"] == f"False: {texts.SENT}\nFalse: {texts.SENT}"

    monkeypatch.setattr(files_program, "make_thumbnail", make)
    run(tmp_path, test)


@pytest.mark.parametrize("step", range(1, 40, 3))
def test_a_crash_at_any_step_sends_an_image_and_its_thumbnail_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    async def main() -> None:
        async with open_rig(tmp_path) as rig:
            fill(rig)
            (rig.claude.workspace / "photo.png").write_bytes(LARGE)
            server = await send_through_a_crash(rig, "photo.png", step)
            (image,) = [c for c in server.contents if c.get("msgtype") == "m.image"]
            info: Any = image["info"]
            assert info["thumbnail_info"] == OF_SMALL
            urls = (image["url"], info["thumbnail_url"])
            stored = [server.uploads[int(str(url).rpartition("/")[2]) - 1][2] for url in urls]
            assert stored == [LARGE, SMALL]

    monkeypatch.setattr(files_program, "make_thumbnail", lambda *_: SMALL)
    run_rooms(main())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
keys = st.sampled_from(["method", "params", "id", "name", "arguments", "_meta"])
messages = st.dictionaries(
    keys,
    json_values
    | st.sampled_from(["tools/call", "tools/list", "initialize", "ping"])
    | st.dictionaries(keys | st.just("path"), json_values | st.just("send_file")),
)


@given(messages)
def test_any_message_to_the_tool_server_is_answered(message: dict[str, Any]) -> None:
    parse_call(message)
    answer = build_answer(message)
    assert ("result" in answer) is not ("error" in answer)
    json.dumps(answer)


@given(
    st.binary(max_size=60)
    | st.sampled_from([b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8", b"RIFF....WEBPVP8X"]).flatmap(
        lambda start: st.binary(max_size=60).map(lambda rest: start + rest)
    )
)
def test_any_bytes_have_a_size_or_none(data: bytes) -> None:
    size = read_size(data)
    assert size is None or all(0 < side < 1 << 24 for side in size)


def test_the_sizes_of_images_of_each_kind() -> None:
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08\x00\x64\x00\xc8"
    assert read_size(jpeg) == (200, 100)
    assert read_size(b"GIF89a\x0a\x00\x14\x00") == (10, 20)
    vp8x = b"RIFF....WEBPVP8X" + b"\0" * 8 + b"\x63\0\0" + b"\x31\0\0"
    assert read_size(vp8x) == (100, 50)
    vp8 = b"RIFF....WEBPVP8 " + b"\0" * 10 + b"\x20\x03\x58\x02"
    assert read_size(vp8) == (800, 600)
    assert read_size(PNG) == (640, 480)
