"""The status page's port: who gets in, what acts, what is refused."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import suppress

import aiohttp
import pytest
from loguru import logger
from pydantic import SecretStr

from orchestrator.config import StatusTokens
from orchestrator.core.page_action import PageVerb
from orchestrator.core.status_page import POLICY
from orchestrator.errors import PreconditionError, StoreCorruptError
from orchestrator.status import server as status_server
from orchestrator.status.server import open_status
from tests.support.status_site import ADMIN, READ, ROOM, TOKENS, Site, bearer, serve
from tests.support.status_view import MemoryPages, make_room, make_subject

# Getting in...


@pytest.mark.parametrize("path", ["/", f"/room/{ROOM}", "/question/a-1", "/x", "/v1/page"])
async def test_without_a_token_nothing_is_shown_but_the_form(path: str) -> None:
    async with serve() as site:
        for headers in ({}, {"Cookie": f"aiagentchat-status-{site.address[-5:]}=guess"}):
            status, text, _ = await site.get(path, **headers)
            assert status == 401
            assert "release" not in text
            assert 'name="token"' in text


async def test_a_token_becomes_a_cookie_that_no_script_and_no_other_site_gets() -> None:
    async with serve() as site:
        status, _, headers = await site.ask("POST", "/login", data={"token": READ})
        assert (status, headers["Location"]) == (303, "/")
        cookie = headers["Set-Cookie"]
        for part in ("HttpOnly", "SameSite=Strict", "Path=/"):
            assert part in cookie
        assert READ not in cookie
        status, text, _ = await site.get(Cookie=cookie.partition(";")[0])
        assert status == 200
        assert "npm publish" in text


async def test_the_token_itself_opens_it_for_programs() -> None:
    async with serve() as site:
        status, text, headers = await site.get(Authorization=bearer(READ))
        assert status == 200
        assert "npm publish" in text
        assert "/logout" not in text
        assert "Set-Cookie" not in headers


async def test_a_wrong_token_is_no_token_and_few_are_looked_at() -> None:
    seen: list[str] = []
    handler = logger.add(
        lambda m: seen.append(m.record["extra"].get("action", "")),
        filter=lambda r: r["extra"].get("audit") is True,
    )
    try:
        async with serve() as site:
            for token in (READ[:-1], READ + "x", ADMIN.upper(), "", "\u00e9" * 20, READ.swapcase()):
                status, text, headers = await site.ask("POST", "/login", data={"token": token})
                assert status == 401, token
                assert "not a token of this page" in text
                assert "Set-Cookie" not in headers
            # Now not even the right one is looked at: who guesses learns nothing from here on.
            for _ in range(3):
                status, text, _ = await site.ask("POST", "/login", data={"token": READ})
                assert status == 429
            status, _, _ = await site.get(Authorization=bearer(READ))
            assert status == 429
    finally:
        logger.remove(handler)
    assert seen == ["status.wrong_token"] * 6


async def test_who_is_in_stays_in_while_others_guess() -> None:
    async with serve() as site:
        cookie = await site.login(READ)
        for _ in range(8):
            await site.ask("POST", "/login", data={"token": "wrong"})
        assert (await site.get(Cookie=cookie))[0] == 200


async def test_who_logs_out_is_out() -> None:
    async with serve() as site:
        cookie = await site.login(ADMIN)
        _, text, _ = await site.get(Cookie=cookie)
        found = re.search(r'name="csrf" value="([^"]+)"', text)
        assert found is not None
        headers = {"Cookie": cookie, "Origin": site.origin}
        assert (await site.ask("POST", "/logout", data={"csrf": "x"}, headers=headers))[0] == 403
        assert (await site.get(Cookie=cookie))[0] == 200
        await site.ask("POST", "/logout", data={"csrf": found[1]}, headers=headers)
        assert (await site.get(Cookie=cookie))[0] == 401


async def test_without_an_admins_token_nobody_is_an_admin() -> None:
    async with serve(tokens=StatusTokens(read=SecretStr(READ))) as site:
        assert (await site.get(Authorization=bearer(ADMIN)))[0] == 401
        _, text, _ = await site.get(f"/room/{ROOM}", Authorization=bearer(READ))
        assert "/act" not in text


# Names...


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "0.0.0.0", "[::2]", ""])
async def test_a_name_that_is_not_this_hosts_gets_nothing_even_with_a_token(name: str) -> None:
    async with serve() as site:
        port = site.address.rpartition(":")[2]
        for host in (f"{name}:{port}", name):
            status, text, _ = await site.get(Host=host, Authorization=bearer(ADMIN))
            assert status in (400, 421)
            assert "release" not in text


@pytest.mark.parametrize(
    "host", ["localhost:9999", "127.0.0.1", "[::1]:80", "LOCALHOST", "127.0.1.1"]
)
async def test_a_forwarded_port_is_still_this_host(host: str) -> None:
    async with serve() as site:
        assert (await site.get(Host=host, Authorization=bearer(READ)))[0] == 200


async def test_two_names_are_none() -> None:
    async with serve() as site:
        head = f"GET / HTTP/1.1\r\nHost: {site.address}\r\nHost: evil.example\r\n"
        answer = await raw(site, f"{head}Authorization: {bearer(ADMIN)}\r\n\r\n".encode())
        assert b"release" not in answer


# Acting...


async def test_what_a_person_presses_is_taken_on_once(pages: MemoryPages) -> None:
    async with serve(pages) as site:
        cookie = await site.login(ADMIN)
        headers = {"Cookie": cookie, "Origin": site.origin}
        fields = await site.form(cookie, f"/room/{ROOM}", "cancel")
        assert fields["subject"] == "t1"
        said = []
        for _ in range(2):
            status, _, answer = await site.ask("POST", "/act", data=fields, headers=headers)
            assert status == 303
            said.append(answer["Location"])
        assert said == ["/?said=taken", "/?said=before"]
    ((room_id, _, action),) = pages.acts
    assert (room_id, action.verb, action.subject) == (make_room().room_id, PageVerb.CANCEL, "t1")


async def test_a_program_acts_with_the_admins_token_and_no_form(pages: MemoryPages) -> None:
    async with serve(pages) as site:
        data = {"verb": "restart", "room": ROOM, "once": "a" * 16}
        headers = {"Authorization": bearer(ADMIN)}
        assert (await site.ask("POST", "/act", data=data, headers=headers))[0] == 303
    assert [action.verb for _, _, action in pages.acts] == [PageVerb.RESTART]


@pytest.mark.parametrize("verb", ["cancel", "restart", "allow", "refuse"])
async def test_the_readers_token_acts_never(pages: MemoryPages, verb: str) -> None:
    async with serve(pages) as site:
        cookie = await site.login(READ)
        _, text, _ = await site.get(Cookie=cookie)
        csrf = re.findall(r'name="csrf" value="([^"]+)"', text)[0]
        data = {"verb": verb, "room": ROOM, "subject": "a-1", "once": "a" * 16}
        seen = {"csrf": csrf, "seen": make_subject().digest}
        for headers in (
            {"Cookie": cookie, "Origin": site.origin},
            {"Authorization": bearer(READ)},
        ):
            status, _, _ = await site.ask("POST", "/act", data={**data, **seen}, headers=headers)
            assert status == 403
    assert pages.acts == []


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "https://{address}", ""]
)
async def test_a_form_of_another_page_acts_never_though_the_browser_sends_the_cookie(
    pages: MemoryPages, origin: str | None
) -> None:
    async with serve(pages) as site:
        cookie = await site.login(ADMIN)
        fields = await site.form(cookie, f"/room/{ROOM}", "restart")
        headers = {"Cookie": cookie}
        if origin is not None:
            headers["Origin"] = origin.format(address=site.address)
        assert (await site.ask("POST", "/act", data=fields, headers=headers))[0] == 403
        assert (await site.ask("POST", "/logout", data=fields, headers=headers))[0] == 403
        if origin is not None:
            headers = {"Origin": headers["Origin"], "Authorization": bearer(ADMIN)}
            assert (await site.ask("POST", "/act", data=fields, headers=headers))[0] == 403
            data, headers = {"token": ADMIN}, {"Origin": headers["Origin"]}
            assert (await site.ask("POST", "/login", data=data, headers=headers))[0] == 403
    assert pages.acts == []


async def test_another_sessions_number_is_no_number(pages: MemoryPages) -> None:
    async with serve(pages) as site:
        mine, other = await site.login(ADMIN), await site.login(ADMIN)
        fields = await site.form(other, f"/room/{ROOM}", "restart")
        headers = {"Cookie": mine, "Origin": site.origin}
        for csrf in (fields["csrf"], "", fields["csrf"].lower()):
            data = {**fields, "csrf": csrf}
            assert (await site.ask("POST", "/act", data=data, headers=headers))[0] == 403
        data = {k: v for k, v in fields.items() if k != "csrf"}
        assert (await site.ask("POST", "/act", data=data, headers=headers))[0] == 403
    assert pages.acts == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_only_a_post_acts(pages: MemoryPages, method: str) -> None:
    async with serve(pages) as site:
        headers = {"Authorization": bearer(ADMIN)}
        query = f"?verb=restart&room={ROOM}&once={'a' * 16}"
        for path in (f"/act{query}", f"/login?token={ADMIN}", "/logout"):
            status, _, answer = await site.ask(method, path, headers=headers)
            assert status in (404, 405)
            assert "Set-Cookie" not in answer
    assert pages.acts == []


async def test_nothing_is_allowed_unseen(pages: MemoryPages) -> None:
    pages.subjects["hidden"] = make_subject(None, approval_id="hidden")
    async with serve(pages) as site:
        cookie = await site.login(ADMIN)
        headers = {"Cookie": cookie, "Origin": site.origin}
        fields = await site.form(cookie, "/question/a-1", "allow")
        for change in ({"seen": "x"}, {"subject": "hidden"}, {"subject": "gone"}):
            data = {**fields, **change}
            assert (await site.ask("POST", "/act", data=data, headers=headers))[0] == 409
        del_seen = {k: v for k, v in fields.items() if k != "seen"}
        assert (await site.ask("POST", "/act", data=del_seen, headers=headers))[0] == 409
        # It asks something else now, under whatever id.
        pages.subjects["a-1"] = make_subject("rm -rf /")
        status, text, _ = await site.ask("POST", "/act", data=fields, headers=headers)
        assert status == 409
        assert "nothing is allowed unseen" in text
        assert pages.acts == []
        pages.subjects["a-1"] = make_subject()
        assert (await site.ask("POST", "/act", data=fields, headers=headers))[0] == 303
        refusal = await site.form(cookie, "/question/hidden", "refuse")
        assert (await site.ask("POST", "/act", data=refusal, headers=headers))[0] == 303
    assert [(a.verb, a.subject) for _, _, a in pages.acts] == [
        (PageVerb.ALLOW, "a-1"),
        (PageVerb.REFUSE, "hidden"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"verb": "rm"},
        {"verb": ""},
        {"once": "short"},
        {"once": "x" * 201},
        {"once": "\u202e" * 20},
        {"once": "' OR 1=1 --------"},
        {"room": "no-such-room"},
        {"room": ""},
    ],
)
async def test_what_is_no_form_of_the_page_is_refused(
    pages: MemoryPages, change: dict[str, str]
) -> None:
    async with serve(pages) as site:
        data = {"verb": "restart", "room": ROOM, "once": "a" * 16, **change}
        headers = {"Authorization": bearer(ADMIN)}
        assert (await site.ask("POST", "/act", data=data, headers=headers))[0] in (400, 404)
    assert pages.acts == []


# Too much, too slow, and what fails...


@pytest.fixture
def pages() -> MemoryPages:
    return MemoryPages()


async def raw(site: Site, data: bytes) -> bytes:
    host, _, port = site.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_request_that_is_too_large_or_no_form_is_refused_unread(pages: MemoryPages) -> None:
    async with serve(pages) as site:
        headers = {"Authorization": bearer(ADMIN), "Content-Type": _FORM}
        for body in (b"x=" + b"y" * 100_000, b"a=b&" * 30 + b"c=d", b"\xff\xfe=x", b"&&&"):
            status, text, _ = await site.ask("POST", "/act", data=body, headers=headers)
            assert status in (400, 413), body[:10]
            assert "Traceback" not in text
        for kind in ("application/json", "multipart/form-data; boundary=x", "text/plain"):
            more = {**headers, "Content-Type": kind}
            assert (await site.ask("POST", "/act", data=b"{}", headers=more))[0] == 415
        assert (await site.get(f"/{'x' * 10_000}", Authorization=bearer(READ)))[0] == 400
        assert (await site.get(Authorization=bearer("x" * 10_000)))[0] == 400
        assert (await site.get(Authorization=bearer(READ)))[0] == 200
    assert pages.acts == []


_FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\nt",
    ],
)
async def test_who_says_nothing_or_half_is_cut(sent: bytes) -> None:
    async with serve(most_s=0.3) as site:
        async with asyncio.timeout(30):
            assert b"200 OK" not in await raw(site, sent)
        assert (await site.get(Authorization=bearer(READ)))[0] == 200


async def test_who_says_a_little_now_and_then_is_cut_all_the_same() -> None:
    async with serve(most_s=0.5) as site:
        host, _, port = site.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\n")
        with suppress(ConnectionError):
            for number in range(100):
                writer.write(f"X-{number}: y\r\n".encode())
                await writer.drain()
                await asyncio.sleep(0.1)
                if reader.at_eof():
                    break
            else:
                pytest.fail("it was listened to for 10 s")
        writer.close()


async def test_many_who_hold_connections_are_bounded_and_pass() -> None:
    async with serve(most_s=60.0) as site:
        host, _, port = site.address.rpartition(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(60)]
        for _, writer in held:
            writer.write(b"GET / HTTP/1.1\r\n")
        await asyncio.sleep(0.5)
        is_cut = [await has_ended(reader) for reader, _ in held]
        assert is_cut == [False] * 32 + [True] * 28
        for _, writer in held:
            writer.close()
        async with asyncio.timeout(30):
            while not await is_answered(site):  # noqa: ASYNC110 - the kernel's state
                await asyncio.sleep(0.05)


async def has_ended(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.01):
            return await reader.read(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


async def is_answered(site: Site) -> bool:
    try:
        return (await site.get(Authorization=bearer(READ)))[0] == 200
    except aiohttp.ClientError:
        return False


async def test_one_request_a_connection() -> None:
    async with serve() as site:
        request = f"GET / HTTP/1.1\r\nHost: {site.address}\r\n\r\n".encode()
        answer = await raw(site, request * 3)
        assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_look_that_fails_or_hangs_is_a_sentence_and_no_end(
    pages: MemoryPages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_server, "_ANSWER_S", 0.2)
    async with serve(pages) as site:
        for error, status in ((StoreCorruptError(), 503), (ValueError("secret-words"), 500)):
            pages.error = error
            got, text, _ = await site.get(Authorization=bearer(READ))
            assert got == status
            assert "secret-words" not in text
        pages.error, pages.is_stuck = None, True
        assert (await site.get(Authorization=bearer(READ)))[0] == 503
        pages.is_stuck = False
        assert (await site.get(Authorization=bearer(READ)))[0] == 200


async def test_every_answer_forbids_scripts_frames_and_keeping_it() -> None:
    async with serve() as site:
        answers = [
            await site.get(),
            await site.get(Authorization=bearer(READ)),
            await site.get("/nothing", Authorization=bearer(READ)),
            await site.get(Host="evil.example"),
            await site.ask("POST", "/login", data={"token": "x" * 10_000}),
            await site.ask("POST", "/login", data={"token": READ}),
            await site.ask("DELETE", "/"),
        ]
        for status, _, headers in answers:
            assert headers["Content-Security-Policy"] == POLICY, status
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "aiohttp" not in headers["Server"]
            assert "Access-Control-Allow-Origin" not in headers


async def test_an_address_that_can_not_be_had_ends_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        pages = MemoryPages()
        with pytest.raises(PreconditionError, match=r"observability\.status"):
            async with open_status(taken, TOKENS, pages, pages.act):
                pytest.fail("opened")


async def test_without_an_address_nothing_listens() -> None:
    pages = MemoryPages()
    async with open_status(None, None, pages, pages.act):
        pass
