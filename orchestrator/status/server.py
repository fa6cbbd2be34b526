"""The status page over HTTP, on an address of this host alone (`observability.status`).

    GET  /                  everything, and again every 5 s
    GET  /room/SLUG         one room; with the admin's token what may be done to it
    GET  /question/ID       one question, whole; with the admin's token what may be decided
    POST /login  /logout    a token becomes a cookie, and is none any more
    POST /act               an action: an inbox row (`core.page_action`)

Rules:
- a browser that was led here by another site gets nothing and does nothing: the name that it asked
  for must be this host's own, what it sends must come from a page of ours, with that page's number;
- a GET changes nothing; a form is taken once;
- what is allowed was shown whole: the form names the text, and it is compared with what is asked.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import parse_qsl

from aiohttp import web
from loguru import logger

from orchestrator.config import StatusTokens
from orchestrator.core.page_action import STATUS_PAGE, PageAction, PageVerb
from orchestrator.core.status_page import (
    POLICY,
    Visit,
    render_login,
    render_overview,
    render_question,
    render_room,
    render_words,
)
from orchestrator.core.status_view import StatusView, Subject
from orchestrator.core.texts import status_page as texts
from orchestrator.errors import AiAgentChatError, PreconditionError
from orchestrator.model import RoomId
from orchestrator.status.connection import MOST_S, BriefConnection
from orchestrator.status.guard import (
    SESSION_S,
    Guard,
    Level,
    Session,
    TooManyTriesError,
    is_form_of,
)

# A form has some ten short fields.
_MAX_BODY_BYTES = 8192
# A look takes milliseconds, and 3 s more where the engine hangs.
_ANSWER_S = 10.0
_SHUTDOWN_S = 1.0
_BACKLOG = 16
_OWN_NAME = re.compile(r"127(\.\d{1,3}){3}|localhost|\[::1\]")
_ONCE = re.compile(r"[A-Za-z0-9_-]{16,200}")
_SAID = {"taken": texts.TAKEN, "before": texts.TAKEN_BEFORE}
_FORM = "application/x-www-form-urlencoded"
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With `no-referrer` a browser would not say where a form comes from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "aiagentchat",
}


class PageSource(Protocol):
    """What there is to see."""

    async def view(self) -> StatusView:
        """Everything, now."""
        ...

    async def subject(self, approval_id: str) -> Subject | None:
        """One open question, whole."""
        ...


Act = Callable[[RoomId, str, PageAction], Awaitable[bool]]
"""Takes an action on, once for each form; False: that form was taken before."""


@asynccontextmanager
async def open_status(
    address: str | None,
    tokens: StatusTokens | None,
    source: PageSource,
    act: Act,
    *,
    most_s: float = MOST_S,
) -> AsyncIterator[None]:
    """Serve the page for as long as the context lasts, however it ends; no address: nowhere.

    Args:
        address: `HOST:PORT`, loopback.
        tokens: what opens it; there must be one where there is an address.
        source: what is shown; asked for each request.
        act: takes on what the admin's token asks for.
        most_s: how long a connection lasts at most.

    Raises:
        PreconditionError: the address can't be had.
    """
    if address is None or tokens is None:
        yield
        return
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    page = _Page(Guard(tokens, clock=loop.time), source, act, cookie=f"aiagentchat-status-{port}")
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_route("*", "/{tail:.*}", page.handle)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_S)
    try:
        await runner.setup()
        server = runner.server
        if server is None:
            raise AssertionError
        try:
            listener = await loop.create_server(
                lambda: BriefConnection(server, loop=loop, most_s=most_s),
                host.strip("[]"),
                int(port),
                backlog=_BACKLOG,
            )
        except (OSError, OverflowError) as e:
            raise _not_had(address, e) from None
        logger.bind(action="status.open", address=address).info("status page open")
        async with _closing(listener):
            yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _closing(listener: asyncio.Server) -> AsyncIterator[None]:
    try:
        yield
    finally:
        listener.close()


def _not_had(address: str, error: Exception) -> PreconditionError:
    why = getattr(error, "strerror", None) or type(error).__name__
    return PreconditionError(
        f"observability.status: {address} can't be used ({why}). Name another address there, or "
        "null for none."
    )


class _Refusal(Exception):  # noqa: N818 - an answer, and no failure
    """What is answered instead."""

    def __init__(self, status: int, text: str, *, is_login: bool = False) -> None:
        self.status = status
        self.text = text
        self.is_login = is_login
        super().__init__(text)


class _Page:
    """Answers requests; what it knows of people is the guard's."""

    def __init__(self, guard: Guard, source: PageSource, act: Act, *, cookie: str) -> None:
        self._guard = guard
        self._source = source
        self._act = act
        self._cookie = cookie

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, whatever it is; only cancellation comes out."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await self._answer(request)
        except _Refusal as refusal:
            body = render_login(refusal.text) if refusal.is_login else render_words(refusal.text)
            answer = _html(body, status=refusal.status)
        except web.HTTPException as e:  # a body that is too large
            answer = _html(render_words(e.reason), status=e.status)
        except TimeoutError:
            answer = _html(render_words(texts.LATE), status=503)
        except AiAgentChatError as e:
            answer = _html(render_words(f"Not now: {type(e).__name__}."), status=503)
        except Exception as e:  # noqa: BLE001 - the boundary: a request must not end the daemon
            log = logger.bind(action="status.failed", error=type(e).__name__)
            log.opt(exception=e).error("a request to the status page failed")
            answer = _html(render_words(texts.FAILED), status=500)
        answer.headers.update(_HEADERS)
        answer.force_close()
        return answer

    async def _answer(self, request: web.Request) -> web.Response:
        _require_own_name(request)
        match request.method, request.path:
            case "POST", "/login":
                _require_own_form(request)
                return await self._login(await _read_form(request))
            case "GET", path:
                return await self._show(path, self._visitor(request), request.query.get("said"))
            case "POST", "/logout" | "/act" as path:
                visitor = self._visitor(request)
                form = await _read_form(request)
                _require_own_form(request, visitor, form)
                return self._logout(visitor) if path == "/logout" else await self._do(visitor, form)
            case _:
                raise _Refusal(404 if request.method == "POST" else 405, texts.NOT_HERE)

    def _visitor(self, request: web.Request) -> Session:
        """Who asks, by a token of theirs or by the cookie that one became."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            # Of this request alone: there is no form of it, and no cookie.
            return Session(name="", csrf="", level=self._level_of(token.strip()), until=0)
        session = self._guard.find(request.cookies.get(self._cookie, ""))
        if session is None:
            raise _Refusal(401, "", is_login=True)
        return session

    def _level_of(self, token: str) -> Level:
        try:
            level = self._guard.level_of(token)
        except TooManyTriesError:
            raise _Refusal(429, texts.TOO_MANY_TRIES, is_login=True) from None
        if level is None:
            logger.bind(action="status.wrong_token", audit=True).warning(
                "a wrong token was shown to the status page"
            )
            raise _Refusal(401, texts.NOT_IT, is_login=True)
        return level

    async def _login(self, form: Mapping[str, str]) -> web.Response:
        session = self._guard.begin(self._level_of(form.get("token", "").strip()))
        logger.bind(action="status.login", level=session.level.value, audit=True).info(
            "somebody logged in to the status page"
        )
        answer = _see("/")
        answer.set_cookie(
            self._cookie,
            session.name,
            httponly=True,
            samesite="Strict",
            path="/",
            max_age=SESSION_S,
        )
        return answer

    def _logout(self, visitor: Session) -> web.Response:
        self._guard.end(visitor)
        answer = _see("/")
        answer.del_cookie(self._cookie, path="/", httponly=True, samesite="Strict")
        return answer

    async def _show(self, path: str, visitor: Session, said: str | None) -> web.Response:
        view = await self._source.view()
        visit = Visit(
            may_act=visitor.level is Level.ADMIN,
            csrf=visitor.csrf or None,
            once=secrets.token_urlsafe(16),
        )
        kind, _, name = path.removeprefix("/").partition("/")
        if path == "/":
            return _html(render_overview(view, visit, said=_SAID.get(said or "")))
        if kind == "room":
            for room in view.rooms:
                if room.slug == name:
                    return _html(render_room(view, room, visit))
        if kind == "question":
            subject = await self._source.subject(name)
            if subject is None:
                raise _Refusal(404, texts.OVER)
            return _html(render_question(view, subject, visit))
        raise _Refusal(404, texts.NOT_HERE)

    async def _do(self, visitor: Session, form: Mapping[str, str]) -> web.Response:
        if visitor.level is not Level.ADMIN:
            raise _Refusal(403, texts.READ_ONLY)
        once = form.get("once", "")
        if form.get("verb") not in set(PageVerb) or not _ONCE.fullmatch(once):
            raise _Refusal(400, texts.NO_FORM)
        action = PageAction(verb=PageVerb(form["verb"]), subject=form.get("subject", ""))
        if action.verb in (PageVerb.ALLOW, PageVerb.REFUSE):
            room_id = await self._find_asking(action, form.get("seen"))
        else:
            room_id = await self._find_room(form.get("room", ""))
        is_new = await self._act(room_id, once, action)
        logger.bind(action="status.act", verb=action.verb, new=is_new, sender=STATUS_PAGE).info(
            "an action was taken on"
        )
        return _see(f"/?said={'taken' if is_new else 'before'}")

    async def _find_room(self, slug: str) -> RoomId:
        for room in (await self._source.view()).rooms:
            if room.slug == slug:
                return room.room_id
        raise _Refusal(404, texts.NOT_HERE)

    async def _find_asking(self, action: PageAction, seen: str | None) -> RoomId:
        """The question's room. To allow, the form must be of a page that showed all that is asked.

        The id of a question of an agent's comes of all that it asks, so that what is decided later
        is what is compared here.
        """
        subject = await self._source.subject(action.subject)
        if subject is None:
            raise _Refusal(409, texts.OVER)
        is_shown = subject.whole is not None and seen == subject.digest
        if action.verb is PageVerb.ALLOW and not is_shown:
            raise _Refusal(409, texts.NOT_SHOWN)
        return subject.question.room_id


def _require_own_name(request: web.Request) -> None:
    """A name that somebody else's server gave this address is not ours (DNS rebinding)."""
    host = request.headers.get("Host", "")
    name = host[: host.rindex(":")] if re.search(r":\d{1,5}$", host) else host
    if len(request.headers.getall("Host", [])) != 1 or not _OWN_NAME.fullmatch(name.lower()):
        raise _Refusal(421, texts.NOT_THIS_NAME)


def _require_own_form(
    request: web.Request, visitor: Session | None = None, form: Mapping[str, str] | None = None
) -> None:
    """What is sent comes from a page of ours; who shows the token itself needs no page."""
    origin = request.headers.get("Origin")
    has_cookie = visitor is not None and bool(visitor.name)
    is_own = origin == f"http://{request.headers.get('Host', '')}"
    if not is_own and (origin is not None or has_cookie):
        raise _Refusal(403, texts.NOT_OURS)
    if visitor is not None and has_cookie and not is_form_of(visitor, (form or {}).get("csrf", "")):
        raise _Refusal(403, texts.NOT_OURS)


async def _read_form(request: web.Request) -> Mapping[str, str]:
    if request.content_type != _FORM:
        raise _Refusal(415, texts.NO_FORM)
    try:
        fields = parse_qsl((await request.read()).decode(), max_num_fields=20, strict_parsing=True)
    except ValueError:
        raise _Refusal(400, texts.NO_FORM) from None
    return dict(fields)


def _html(text: str, *, status: int = 200) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/html", charset="utf-8")


def _see(where: str) -> web.Response:
    """After a form: the page is fetched, and a reload sends nothing again."""
    return web.Response(status=303, headers={"Location": where})
