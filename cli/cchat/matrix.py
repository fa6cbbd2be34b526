"""The few things that `cchat` asks a homeserver, with the waits and the logins that they need.

Rules: a request is repeated only where repeating is harmless (a message with its transaction id
included); a 429 is waited out as the homeserver says; a session is made once and kept.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from cchat.account import Account
from cchat.session import Session, load_session, save_session
from cchat.transport import Answer, Exchange, Transport
from cchat.wait import backoff_s, parse_retry_after_s
from orchestrator.errors import (
    HomeserverUnreachableError,
    LoginRefusedError,
    MatrixError,
    RequestRefusedError,
)

M = TypeVar("M", bound=BaseModel)
Sleep = Callable[[float], Awaitable[None]]
Say = Callable[[str], None]

_CLIENT = "/_matrix/client/v3"
# Longer than any wait that a stock homeserver names; a longer one is told instead of waited out.
_MAX_LIMIT_WAIT_S = 120.0
_MAX_LIMIT_WAITS = 20
# A homeserver that restarts is back within this; the transaction id makes the repeat harmless.
_SEND_PATIENCE_S = 60.0


class MatrixModel(BaseModel):
    """Something that a homeserver answers; what we don't use of it is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class _Refusal(MatrixModel):
    errcode: str = Field(default="M_UNKNOWN", max_length=100)


class _Login(MatrixModel):
    user_id: str
    access_token: SecretStr
    device_id: str | None = None


class _WhoAmI(MatrixModel):
    user_id: str


class Empty(MatrixModel):
    """An answer of which only its being there counts."""


class TokenRefusedError(MatrixError):
    """The homeserver does not know the session any more."""


class MatrixClient:
    """One account on one homeserver. Logs in when it is first needed.

    Every method may be cancelled and raises HomeserverUnreachableError (no answer),
    LoginRefusedError (the credentials) or RequestRefusedError (the request, for good).
    """

    def __init__(
        self,
        transport: Transport,
        account: Account,
        *,
        say: Say,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._transport = transport
        self._account = account
        self._say = say
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311 - no secret: it spreads retries
        self._token: SecretStr | None = None
        self._user_id: str | None = None

    def __repr__(self) -> str:
        return f"MatrixClient({self._account.homeserver!r}, {self._user_id!r})"

    @property
    def account(self) -> Account:
        """Who this is, as it was set up."""
        return self._account

    async def user_id(self) -> str:
        """Who we are, as the homeserver says."""
        await self._ensure_session()
        if self._user_id is None:
            found = await self.get("/account/whoami", _WhoAmI, what="asking who we are")
            self._user_id = found.user_id
        return self._user_id

    async def get(
        self,
        path: str,
        model: type[M],
        *,
        what: str,
        params: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> M:
        """Read something below /_matrix/client/v3; `what` names it in an error."""
        request = Exchange(
            method="GET", path=f"{_CLIENT}{path}", params=params or {}, timeout_s=timeout_s
        )
        return _parse(model, await self._authorized(request, what), what)

    async def put(self, path: str, body: Mapping[str, object], model: type[M], *, what: str) -> M:
        """Write something where repeating is harmless; tries again for up to a minute."""
        request = Exchange(method="PUT", path=f"{_CLIENT}{path}", body=body)
        waited_s, failures = 0.0, 0
        while True:
            try:
                return _parse(model, await self._authorized(request, what), what)
            except HomeserverUnreachableError:
                failures += 1
                wait_s = backoff_s(failures, self._rng)
                if waited_s + wait_s > _SEND_PATIENCE_S:
                    raise
                if failures == 1:
                    self._say("The homeserver does not answer; trying again.")
                waited_s += wait_s
                await self._sleep(wait_s)

    async def pause(self, failures: int) -> None:
        """Wait before the next attempt after so many failures in a row."""
        await self._sleep(backoff_s(failures, self._rng))

    async def login(self) -> Session:
        """Log in with the password and keep the session for the next command.

        Raises:
            LoginRefusedError: wrong credentials, or a homeserver without password logins.
        """
        account = self._account
        if account.password is None or account.user_id is None:
            raise LoginRefusedError(f"The homeserver refused the session. {account.login_hint}")
        old = self._stored()
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": account.user_id},
            "password": account.password.get_secret_value(),
            "initial_device_display_name": "cchat",
            **({"device_id": old.device_id} if old and old.device_id else {}),
        }
        request = Exchange(method="POST", path=f"{_CLIENT}/login", body=body)
        try:
            answer = await self._patient(request, "logging in")
        except RequestRefusedError as e:
            msg = (
                f"The homeserver refused the login of {account.user_id} ({e.errcode}). "
                f"{account.login_hint}"
            )
            raise LoginRefusedError(msg) from e
        return self._keep(_parse(_Login, answer, "logging in"))

    def _keep(self, login: _Login) -> Session:
        session = Session(
            homeserver=self._account.homeserver,
            user_id=login.user_id,
            device_id=login.device_id,
            access_token=login.access_token,
            agent_user_id=self._account.agent_user_id,
        )
        self._token, self._user_id = session.access_token, session.user_id
        if self._account.session_path is not None:
            try:
                save_session(self._account.session_path, session)
            except OSError as e:
                self._say(
                    f"The session could not be kept ({e.strerror}); the next command logs in."
                )
        return session

    def _stored(self) -> Session | None:
        path = self._account.session_path
        session = load_session(path) if path is not None else None
        mine = (self._account.homeserver, self._account.user_id)
        if session is None or (session.homeserver, session.user_id) != mine:
            return None
        return session

    async def _ensure_session(self) -> SecretStr:
        if self._token is None:
            stored = self._stored()
            if self._account.access_token is not None:
                self._token = self._account.access_token
                self._user_id = None
            elif stored is not None:
                self._token, self._user_id = stored.access_token, stored.user_id
            else:
                self._token = (await self.login()).access_token
        return self._token

    async def _authorized(self, request: Exchange, what: str) -> Answer:
        token = await self._ensure_session()
        try:
            return await self._patient(_with_token(request, token), what)
        except TokenRefusedError:
            # One new login, never a loop: the homeserver limits them.
            token = (await self.login()).access_token
        try:
            return await self._patient(_with_token(request, token), what)
        except TokenRefusedError as e:
            hint = self._account.login_hint
            msg = f"The homeserver refused a session that it has just made. {hint}"
            raise LoginRefusedError(msg) from e

    async def _patient(self, request: Exchange, what: str) -> Answer:
        """Ask, waiting out what the homeserver's limits ask us to wait."""
        wait_s = 0.0
        for _ in range(_MAX_LIMIT_WAITS):
            answer = await self._transport.exchange(request)
            if answer.status != 429:
                return _check(answer, what, self._account.homeserver)
            wait_s = parse_retry_after_s(answer.retry_after, answer.raw)
            if wait_s > _MAX_LIMIT_WAIT_S:
                break
            self._say(f"The homeserver limits requests; waiting {wait_s:.0f} s.")
            await self._sleep(wait_s)
        msg = f"{what}: the homeserver's limit is met. Try again in {max(1.0, wait_s):.0f} s."
        raise MatrixError(msg)


def segment(text: str) -> str:
    """One segment of a path: an id of any characters, percent-encoded."""
    return quote(text, safe="")


def _with_token(request: Exchange, token: SecretStr) -> Exchange:
    return Exchange(
        method=request.method,
        path=request.path,
        params=request.params,
        body=request.body,
        token=token.get_secret_value(),
        timeout_s=request.timeout_s,
    )


def _check(answer: Answer, what: str, homeserver: str) -> Answer:
    if 200 <= answer.status < 300:
        return answer
    if answer.status >= 500:
        msg = f"The homeserver {homeserver} failed ({answer.status}). Try again later."
        raise HomeserverUnreachableError(msg)
    try:
        errcode = _Refusal.model_validate_json(answer.raw).errcode
    except ValidationError:
        errcode = "with no Matrix error; is it the address of a homeserver?"
    if answer.status == 401 and errcode in {"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"}:
        raise TokenRefusedError
    raise RequestRefusedError(errcode=errcode, status=answer.status, what=what)


def _parse(model: type[M], answer: Answer, what: str) -> M:
    try:
        # The standard parser, not pydantic's: lone surrogates in a message are not our failure.
        return model.model_validate(json.loads(answer.raw))
    except (ValueError, RecursionError) as e:
        msg = f"{what}: the answer is not Matrix. Check the homeserver's address."
        raise HomeserverUnreachableError(msg) from e
