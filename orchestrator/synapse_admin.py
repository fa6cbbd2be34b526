"""Synapse's admin API, as far as it says and sets what an account may send, and makes accounts.

Shared by the embedded homeserver's set-up, `orchestrator matrix`, `doctor` and `init`. Every
request is bounded and follows no redirect (a token goes where it was meant to go). Only a
registration is not safe to repeat: the second one finds the name taken.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from orchestrator.errors import AdminApiError, HomeserverUnreachableError
from orchestrator.model import JsonObject, UserId

TOKEN_NAME = "MATRIX_ADMIN_TOKEN"  # noqa: S105 - the variable's name
_REQUEST_TIMEOUT_S = 30.0
# An answer has two numbers, a refusal a sentence; more than this is not Synapse's.
_MAX_ANSWER_BYTES = 64 * 1024


class _Outside(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class _Override(_Outside):
    messages_per_second: float | None = None
    burst_count: float | None = None


class Nonce(_Outside):
    """What a registration has to be signed with, once."""

    nonce: str


class _Refusal(_Outside):
    errcode: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendLimit:
    """What an account may send by its override; without one, the homeserver's own limits hold."""

    per_second: float | None
    """None: no override. 0: no limit at all, whatever `burst` says."""
    burst: float | None

    @property
    def is_lifted(self) -> bool:
        """Whether nothing limits the account."""
        return self.per_second == 0

    def __str__(self) -> str:
        if self.per_second is None:
            return "the homeserver's own limit (no override)"
        if self.is_lifted:
            return "no limit"
        return f"{self.per_second:g} messages/s, {self.burst or 0:g} at once (override)"


class SynapseAdmin:
    """One admin's requests; make it with `open_synapse_admin`, or around a session of your own."""

    def __init__(self, http: aiohttp.ClientSession, token: SecretStr) -> None:
        """`http` has the homeserver as its base; its timeout bounds each request."""
        self._http = http
        self._token = token

    def __repr__(self) -> str:
        return "SynapseAdmin()"

    async def send_limit(self, user_id: UserId) -> SendLimit:
        """What the account's override is.

        Raises:
            AdminApiError: not Synapse, not an admin's token, or no such account; says which.
            HomeserverUnreachableError: no answer in time, or a server error.
        """
        return await self._ask("GET", user_id, None)

    async def lift_send_limit(self, user_id: UserId) -> SendLimit:
        """Set the override that means no limit; what it is now. Raises as `send_limit` does."""
        # Zero and zero is Synapse's way to say it.
        return await self._ask("POST", user_id, {"messages_per_second": 0, "burst_count": 0})

    async def _ask(self, method: str, user_id: UserId, body: JsonObject | None) -> SendLimit:
        path = f"_synapse/admin/v1/users/{quote(user_id, safe='')}/override_ratelimit"
        headers = {"Authorization": f"Bearer {self._token.get_secret_value()}"}
        try:
            async with self._http.request(
                method, path, json=body, headers=headers, allow_redirects=False
            ) as answer:
                data = await answer.content.read(_MAX_ANSWER_BYTES)
        except (aiohttp.ClientError, TimeoutError) as e:
            msg = f"the homeserver does not answer ({type(e).__name__})"
            raise HomeserverUnreachableError(msg) from None
        if answer.status >= 500:
            raise HomeserverUnreachableError(f"the homeserver answered {answer.status}")
        if answer.status != 200:
            raise AdminApiError(_why(answer.status, data, user_id))
        return _parse_limit(data)


@asynccontextmanager
async def open_synapse_admin(base_url: str, token: SecretStr) -> AsyncIterator[SynapseAdmin]:
    """An admin of the homeserver at `base_url`, for as long as the context lasts."""
    timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(base_url.rstrip("/") + "/", timeout=timeout) as http:
        yield SynapseAdmin(http, token)


def build_registration(
    nonce: str, user_id: UserId, password: SecretStr, *, secret: SecretStr, name: str, admin: bool
) -> JsonObject:
    """The body of a registration with the homeserver's `registration_shared_secret`."""
    local = user_id[1:].partition(":")[0]
    parts = (nonce, local, password.get_secret_value(), "admin" if admin else "notadmin")
    key = secret.get_secret_value().encode()
    # SHA-1 is what Synapse's interface asks for; HMAC does not depend on its collisions.
    mac = hmac.new(key, "\0".join(parts).encode(), hashlib.sha1).hexdigest()
    return {
        "nonce": nonce,
        "username": local,
        "password": password.get_secret_value(),
        "displayname": name,
        "admin": admin,
        "mac": mac,
        "inhibit_login": True,
    }


async def register_account(
    homeserver: str, user_id: UserId, password: SecretStr, *, secret: SecretStr, name: str
) -> None:
    """Make an account, which is no admin.

    Raises:
        AdminApiError: the secret is refused, the name is taken, or it is no Synapse; says which.
        HomeserverUnreachableError: no answer in time, or a server error.
    """
    timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
    url = f"{homeserver.rstrip('/')}/_synapse/admin/v1/register"
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http:
            async with http.get(url, allow_redirects=False) as answer:
                nonce = _parse_nonce(answer.status, await answer.content.read(_MAX_ANSWER_BYTES))
            body = build_registration(
                nonce, user_id, password, secret=secret, name=name, admin=False
            )
            async with http.post(url, json=body, allow_redirects=False) as answer:
                status, data = answer.status, await answer.content.read(_MAX_ANSWER_BYTES)
    except (aiohttp.ClientError, TimeoutError) as e:
        msg = f"the homeserver does not answer ({type(e).__name__})"
        raise HomeserverUnreachableError(msg) from None
    if status >= 500:
        raise HomeserverUnreachableError(f"the homeserver answered {status}")
    if status != 200:
        raise AdminApiError(_why_not_registered(status, data, user_id))


def _parse_nonce(status: int, data: bytes) -> str:
    if status >= 500:
        raise HomeserverUnreachableError(f"the homeserver answered {status}")
    try:
        return Nonce.model_validate_json(data).nonce
    except ValidationError:
        raise AdminApiError(_NOT_SYNAPSE.format(str(status))) from None


def _why_not_registered(status: int, data: bytes, user_id: UserId) -> str:
    try:
        refusal = _Refusal.model_validate_json(data)
    except ValidationError:
        refusal = _Refusal()
    if refusal.errcode == "M_USER_IN_USE":
        return f"{user_id} exists already: give its password, or choose another name"
    if status == 403:
        return "the registration secret is not the homeserver's registration_shared_secret"
    return f"the homeserver refuses to register {user_id}: {refusal.error or status}"


def _parse_limit(data: bytes) -> SendLimit:
    try:
        held = _Override.model_validate_json(data)
    except ValidationError:
        raise AdminApiError(_NOT_SYNAPSE.format("200")) from None
    return SendLimit(per_second=held.messages_per_second, burst=held.burst_count)


_NOT_SYNAPSE = (
    "/_synapse/admin is not there (the answer was {}). The homeserver is not Synapse, or what "
    "stands before it keeps the admin API back: use its inner address as matrix.homeserver for "
    "this, or lift the limit in the homeserver's own way."
)


def _why(status: int, data: bytes, user_id: UserId) -> str:
    """What to tell a person about a refusal."""
    try:
        refusal = _Refusal.model_validate_json(data)
    except ValidationError:
        refusal = _Refusal()
    match status, refusal.errcode:
        case 401, str(code) if code:
            return f"the token in {TOKEN_NAME} is not valid ({code}). Set a new one."
        case 403, "M_FORBIDDEN":
            return (
                f"the token in {TOKEN_NAME} is of an account that is no server admin. "
                "Use an admin's."
            )
        case 404, "M_NOT_FOUND":
            return f"the homeserver has no account {user_id}. Check matrix.user_id, or --user."
        case 400, str(code) if code:
            return f"the homeserver refuses for {user_id}: {refusal.error or code}"
        case _:
            return _NOT_SYNAPSE.format(f"{status} {refusal.errcode}".strip())
