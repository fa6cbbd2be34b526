"""The embedded homeserver's two accounts and its demo room, made over Synapse's HTTP interfaces.

Every step asks the homeserver first or is idempotent there, so that a set-up that was interrupted
anywhere is finished by the next start.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, SecretStr, ValidationError

from orchestrator.embedded.synapse_config import SERVER_NAME, SynapseSecrets
from orchestrator.errors import (
    HomeserverUnreachableError,
    LoginRefusedError,
    RequestRefusedError,
)
from orchestrator.model import JsonObject, RoomId, UserId
from orchestrator.synapse_admin import Nonce, SynapseAdmin, build_registration

USER_ID = UserId(f"@you:{SERVER_NAME}")
AGENT_USER_ID = UserId(f"@claude:{SERVER_NAME}")
ROOM_ALIAS = f"#demo:{SERVER_NAME}"
_ROOM_TOPIC = "Talk to the agent here. Send !help to see what it understands."
# Local requests answer in milliseconds; a slow disk at the first start takes seconds.
_REQUEST_TIMEOUT_S = 30.0


class _Login(BaseModel):
    access_token: SecretStr


class _Room(BaseModel):
    room_id: RoomId


class _Members(BaseModel):
    joined: dict[UserId, object]


class _Refusal(BaseModel):
    errcode: str = "M_UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What the set-up leaves behind."""

    room_id: RoomId
    user_token: SecretStr
    """Kept for the next start, so that it needs no login."""


async def ensure_demo(base_url: str, held: SynapseSecrets) -> Demo:
    """Make the accounts, the room and the agent's exemption from the message limit, where missing.

    Raises:
        HomeserverUnreachableError: no answer within 30 s, or a server error.
        LoginRefusedError: the user's password was changed, so that the set-up can't go on.
        RequestRefusedError: Synapse refused a step.
    """
    timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(base_url, timeout=timeout) as http:
        setup = _Setup(http)
        token = await _user_token(setup, held)
        setup.token = token.get_secret_value()
        room_id = await setup.ensure_room()
        await setup.ensure_agent_joined(room_id)
        await SynapseAdmin(http, token).lift_send_limit(AGENT_USER_ID)
    return Demo(room_id=room_id, user_token=token)


async def _user_token(setup: _Setup, held: SynapseSecrets) -> SecretStr:
    if held.user_token is not None:
        setup.token = held.user_token.get_secret_value()
        if await setup.is_token_valid():
            return held.user_token
        setup.token = None
    await setup.ensure_account(USER_ID, held.user_password, "You", held, admin=True)
    await setup.ensure_account(AGENT_USER_ID, held.agent_password, "Claude", held, admin=False)
    return await setup.login(USER_ID, held.user_password)


class _Setup:
    """One HTTP session with Synapse; `token` is the user's, once there is one."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self.token: str | None = None

    async def is_token_valid(self) -> bool:
        status, _ = await self._ask("GET", "/_matrix/client/v3/account/whoami", None)
        return status == 200

    async def ensure_account(
        self,
        user_id: UserId,
        password: SecretStr,
        name: str,
        held: SynapseSecrets,
        *,
        admin: bool,
    ) -> None:
        path = "/_synapse/admin/v1/register"
        nonce = Nonce.model_validate_json(await self._get(path, "registration")).nonce
        body = build_registration(
            nonce,
            user_id,
            password,
            secret=held.registration_shared_secret,
            name=name,
            admin=admin,
        )
        status, data = await self._ask("POST", path, body)
        if status != 200 and _errcode(data) != "M_USER_IN_USE":
            raise _refusal(f"registering {user_id}", status, data)

    async def login(self, user_id: UserId, password: SecretStr) -> SecretStr:
        body: JsonObject = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user_id},
            "password": password.get_secret_value(),
            "device_id": "SETUP",
            "initial_device_display_name": "aiagentchat set-up",
        }
        status, data = await self._ask("POST", "/_matrix/client/v3/login", body)
        if status == 403:
            msg = (
                f"The password of {user_id} on the embedded homeserver was changed. Set it back to "
                "the one in accounts.json of the state directory's embedded folder, or remove that "
                "folder to start with a new, empty homeserver."
            )
            raise LoginRefusedError(msg)
        if status != 200:
            raise _refusal(f"logging in {user_id}", status, data)
        return _Login.model_validate_json(data).access_token

    async def ensure_room(self) -> RoomId:
        alias = quote(ROOM_ALIAS, safe="")
        status, data = await self._ask("GET", f"/_matrix/client/v3/directory/room/{alias}", None)
        if status == 200:
            return _Room.model_validate_json(data).room_id
        if status != 404:
            raise _refusal(f"looking for {ROOM_ALIAS}", status, data)
        local = ROOM_ALIAS[1:].partition(":")[0]
        body: JsonObject = {
            "preset": "private_chat",
            "is_direct": True,
            "room_alias_name": local,
            "name": local,
            "topic": _ROOM_TOPIC,
            "invite": [AGENT_USER_ID],
        }
        made = await self._post("/_matrix/client/v3/createRoom", body, f"making {ROOM_ALIAS}")
        return _Room.model_validate_json(made).room_id

    async def ensure_agent_joined(self, room_id: RoomId) -> None:
        quoted = quote(room_id, safe="")
        path = f"/_matrix/client/v3/rooms/{quoted}/joined_members"
        members = _Members.model_validate_json(await self._get(path, "reading the members"))
        if AGENT_USER_ID in members.joined:
            return
        body: JsonObject = {"user_id": AGENT_USER_ID}
        # As the admin: the agent's only session is the one that the orchestrator opens.
        await self._post(f"/_synapse/admin/v1/join/{quoted}", body, "joining the agent")

    async def _get(self, path: str, what: str) -> bytes:
        status, data = await self._ask("GET", path, None)
        if status != 200:
            raise _refusal(what, status, data)
        return data

    async def _post(self, path: str, body: JsonObject, what: str) -> bytes:
        status, data = await self._ask("POST", path, body)
        if status != 200:
            raise _refusal(what, status, data)
        return data

    async def _ask(self, method: str, path: str, body: JsonObject | None) -> tuple[int, bytes]:
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        try:
            async with self._http.request(method, path, json=body, headers=headers) as answer:
                data = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as e:
            msg = f"the embedded homeserver does not answer ({type(e).__name__})"
            raise HomeserverUnreachableError(msg) from None
        if answer.status >= 500:
            msg = f"the embedded homeserver answered {answer.status}; see its log"
            raise HomeserverUnreachableError(msg)
        return answer.status, data


def _errcode(data: bytes) -> str:
    try:
        return _Refusal.model_validate_json(data).errcode
    except ValidationError:
        return "M_UNKNOWN"


def _refusal(what: str, status: int, data: bytes) -> RequestRefusedError:
    return RequestRefusedError(errcode=_errcode(data), status=status, what=what)
