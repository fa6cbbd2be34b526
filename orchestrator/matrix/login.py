"""Who we are on the homeserver: the kept session, a given token, or a login, in that order.

Every path ends in a session whose token the homeserver has just accepted, or in an error that says
which variable to set.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from loguru import logger
from pydantic import BaseModel, SecretStr, ValidationError

from orchestrator.config import MatrixConfig, Secrets
from orchestrator.errors import (
    HomeserverUnreachableError,
    LoginRefusedError,
    RateLimitedError,
    StoreFullError,
)
from orchestrator.log import register_secret
from orchestrator.matrix.http import MatrixHttp, api_path
from orchestrator.matrix.session import (
    SESSION_NAME,
    KeptSession,
    load_session,
    new_session,
    save_session,
)
from orchestrator.matrix.translate import Answer, error_from, unreadable
from orchestrator.model import JsonObject, UserId

# A homeserver that starts together with us is up within this time; past it, somebody should look.
OPEN_TIMEOUT_S = 30.0
_DEVICE_NAME = "aiagentchat"
_UNKNOWN_USER = frozenset({"M_FORBIDDEN", "M_USER_DEACTIVATED", "M_INVALID_USERNAME"})


class _Whoami(BaseModel):
    user_id: UserId
    device_id: str | None = None


class _Login(BaseModel):
    user_id: UserId
    device_id: str
    access_token: SecretStr


class Login:
    """Opens the session and renews it. Invariant: `session.access_token` is what `http` sends."""

    def __init__(
        self, http: MatrixHttp, config: MatrixConfig, secrets: Secrets, state_dir: Path
    ) -> None:
        self._http = http
        self._user_id = config.user_id
        self._password = secrets.matrix_password
        self._given_token = secrets.matrix_access_token
        self._state_dir = state_dir
        self._renewing = asyncio.Lock()
        self.session = KeptSession(
            homeserver=http.homeserver,
            user_id=config.user_id,
            device_id="none",
            access_token=None,
            pickle_key=SecretStr(""),
        )

    def __repr__(self) -> str:
        return f"<Login {self._user_id} device={self.session.device_id}>"

    async def open(self) -> KeptSession:
        """The session to use, checked with the homeserver; from here on `http` renews it by itself.

        Raises:
            LoginRefusedError: with the variable to set.
            HomeserverUnreachableError: no usable answer within 30 s.
        """
        await _patiently(self._open, self._http.homeserver)
        self._http.renew = self._renew
        return self.session

    async def log_in_as_new_device(self) -> KeptSession:
        """Give the device up, log in as a new one. Raises LoginRefusedError without a password."""
        self._http.token = None
        fresh = new_session(self._http.homeserver, self._user_id, before=self.session)
        await _patiently(lambda: self._log_in(fresh), self._http.homeserver)
        return self.session

    def note_keys_made(self) -> None:
        """Remember that this device has encryption keys."""
        if not self.session.has_keys:
            self._keep(self.session.model_copy(update={"has_keys": True}))

    async def _open(self) -> None:
        # Read at each attempt: an attempt that failed may have left the name of a new device.
        kept = load_session(self._state_dir)
        if kept is not None and kept.user_id != self._user_id:
            kept = new_session(self._http.homeserver, self._user_id, before=kept)
        if self._given_token is not None:
            await self._use_given_token(self._given_token, kept)
        elif kept is None or kept.access_token is None or kept.homeserver != self._http.homeserver:
            await self._log_in(
                kept or new_session(self._http.homeserver, self._user_id, before=None)
            )
        else:
            await self._use_kept(kept, kept.access_token)

    async def _use_given_token(self, token: SecretStr, kept: KeptSession | None) -> None:
        self._use(token)
        answer = await self._whoami()
        if answer.is_token_refused():
            msg = (
                f"The homeserver refused MATRIX_ACCESS_TOKEN for {self._user_id}. Set a new one, "
                "or set MATRIX_PASSWORD instead."
            )
            raise LoginRefusedError(msg)
        me = self._identity(answer)
        if me.device_id is None:
            msg = (
                "MATRIX_ACCESS_TOKEN belongs to no device. Log in as a client does, use its token."
            )
            raise LoginRefusedError(msg)
        if kept is None or kept.device_id != me.device_id:
            fresh = new_session(self._http.homeserver, self._user_id, before=kept)
            kept = fresh.model_copy(update={"device_id": me.device_id})
        self._keep(
            kept.model_copy(update={"homeserver": self._http.homeserver, "access_token": None})
        )

    async def _use_kept(self, kept: KeptSession, token: SecretStr) -> None:
        self._use(token)
        answer = await self._whoami()
        if not answer.is_token_refused():
            self._identity(answer)
            self.session = kept
            return
        if self._password is None:
            msg = (
                f"The homeserver ended the session kept in {self._state_dir / SESSION_NAME}. Set "
                "MATRIX_PASSWORD and start again: it logs in anew. (Or delete that file and set "
                "MATRIX_ACCESS_TOKEN.)"
            )
            raise LoginRefusedError(msg)
        await self._log_in_again(kept, answer)

    async def _log_in_again(self, kept: KeptSession, answer: Answer) -> None:
        same_device = answer.is_soft_logout()
        logger.bind(
            action="matrix.login_again", device=kept.device_id, same_device=same_device
        ).warning("the homeserver ended the session; logging in again")
        fresh = new_session(self._http.homeserver, self._user_id, before=kept)
        await self._log_in(kept if same_device else fresh)

    async def _log_in(self, session: KeptSession) -> None:
        if self._password is None:
            msg = (
                f"No session for {self._user_id} on {self._http.homeserver}. Set MATRIX_PASSWORD "
                "(or MATRIX_ACCESS_TOKEN)."
            )
            raise LoginRefusedError(msg)
        # Written before the request: after a crash in between it is the same device, not another.
        session = session.model_copy(
            update={"homeserver": self._http.homeserver, "access_token": None}
        )
        save_session(self._state_dir, session)
        login = await self._post_login(session.device_id, self._password)
        token = login.access_token
        self._keep(session.model_copy(update={"device_id": login.device_id, "access_token": token}))
        self._use(token)

    async def _post_login(self, device_id: str, password: SecretStr) -> _Login:
        body = build_password_login(self._user_id, password, device_id=device_id, name=_DEVICE_NAME)
        self._http.token = None
        what = f"logging in {self._user_id}"
        answer = await self._http.exchange("POST", api_path("login"), what, None, body)
        if answer.errcode() in _UNKNOWN_USER:
            msg = (
                f"The homeserver refused the password for {self._user_id}. Check matrix.user_id "
                "and MATRIX_PASSWORD."
            )
            raise LoginRefusedError(msg)
        if not answer.is_ok:
            raise error_from(answer, what=what, now=time.time())
        try:
            login = _Login.model_validate_json(answer.body)
        except ValidationError:
            raise unreadable(what) from None
        self._check_user(login.user_id)
        return login

    def _use(self, token: SecretStr) -> None:
        """Send it from here on; a renewed token is hidden in the log as the first one is."""
        register_secret(token.get_secret_value())
        self._http.token = token.get_secret_value()

    async def _whoami(self) -> Answer:
        what = "checking the session"
        answer = await self._http.exchange("GET", api_path("account", "whoami"), what)
        if not answer.is_ok and not answer.is_token_refused():
            raise error_from(answer, what=what, now=time.time())
        return answer

    def _identity(self, answer: Answer) -> _Whoami:
        try:
            me = _Whoami.model_validate_json(answer.body)
        except ValidationError:
            raise unreadable("checking the session") from None
        self._check_user(me.user_id)
        return me

    def _check_user(self, user_id: UserId) -> None:
        if user_id != self._user_id:
            msg = f"The login is {user_id}'s, but matrix.user_id is {self._user_id}. Change one."
            raise LoginRefusedError(msg)

    def _keep(self, session: KeptSession) -> None:
        save_session(self._state_dir, session)
        self.session = session

    async def _renew(self, refused: str | None, answer: Answer) -> bool:
        """A new token for the same device, where the homeserver asks for just that."""
        async with self._renewing:
            if self._http.token != refused:
                return True
            if self._given_token is not None or self._password is None:
                return False
            if not answer.is_soft_logout():
                return False
            try:
                await self._log_in_again(self.session, answer)
            except StoreFullError as e:
                # It is tried again with the request; a device that is not kept is not made.
                raise HomeserverUnreachableError(str(e)) from e
            return True


def build_password_login(
    user_id: UserId, password: SecretStr, *, device_id: str, name: str
) -> JsonObject:
    """The body of a login; `name` is the device's, for people."""
    return {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user_id},
        "password": password.get_secret_value(),
        "device_id": device_id,
        "initial_device_display_name": name,
    }


async def _patiently(attempt: Callable[[], Awaitable[None]], homeserver: str) -> None:
    """Repeat until it works, within 30 s."""
    last: HomeserverUnreachableError | RateLimitedError | None = None
    wait_s = 0.5
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            while True:
                try:
                    return await attempt()
                except (HomeserverUnreachableError, RateLimitedError) as e:
                    last = e
                if isinstance(last, RateLimitedError):
                    wait_s = max(wait_s, last.retry_after_s or 0.0)
                if wait_s > OPEN_TIMEOUT_S:
                    break
                logger.bind(action="matrix.open_retry", wait_s=wait_s).warning(
                    "the homeserver can't be used yet; trying again"
                )
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, 5.0)
    except TimeoutError:
        pass
    raise _gave_up(last, homeserver) from None


def _gave_up(
    last: HomeserverUnreachableError | RateLimitedError | None, homeserver: str
) -> HomeserverUnreachableError:
    if isinstance(last, RateLimitedError):
        wait = "" if last.retry_after_s is None else f" It asks to wait {last.retry_after_s:.0f} s."
        msg = f"The homeserver {homeserver} limits logins.{wait} Try again later."
    else:
        msg = (
            f"No homeserver could be used at {homeserver} within {OPEN_TIMEOUT_S:.0f} s: "
            f"{last or 'no answer'}. Check matrix.homeserver and the network."
        )
    return HomeserverUnreachableError(msg)
