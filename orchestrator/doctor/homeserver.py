"""The homeserver: reachable, its clock, a login that works, the device's keys, the account's limit.

A session that is kept is used as it is. Where there is none yet, a login is made and ended again.
"""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from orchestrator.config import MatrixConfig, Secrets
from orchestrator.core.diagnosis import Check, Verdict, failed, passed, warned
from orchestrator.errors import (
    AiAgentChatError,
    HomeserverUnreachableError,
    LoginRefusedError,
    StoreError,
)
from orchestrator.matrix.http import MatrixHttp, api_path
from orchestrator.matrix.login import build_password_login
from orchestrator.matrix.session import KeptSession, load_session
from orchestrator.matrix.translate import Answer
from orchestrator.model import JsonObject, UserId
from orchestrator.store.checking import opened_to_read
from orchestrator.store.meta_table import read_send_budget
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.synapse_admin import open_synapse_admin

_TRIAL_DEVICE = "aiagentchat-doctor"
# Tokens, schedules and budgets go by the clock; TLS fails at some minutes.
_CLOCK_WARN_S, _CLOCK_FAIL_S = 30.0, 300.0
_SPEC = "v1.5"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


async def check_homeserver(
    config: MatrixConfig, secrets: Secrets, state_dir: Path, *, wall: Callable[[], float]
) -> list[Check]:
    """All of it, in order; what needs a login is left out where there is none."""
    http = MatrixHttp(config.homeserver, user_id=config.user_id)
    try:
        found = await _check_address(http, wall)
        if found[0].verdict is Verdict.FAIL:
            return found
        login, device = await _check_login(http, config, secrets, state_dir)
        found.append(login)
        if device is not None and config.encryption != "off":
            found.append(await _check_keys(http, config, state_dir, device))
        found.append(await _check_limit(config, secrets, state_dir))
        return found
    finally:
        await http.close()


async def check_address(homeserver: str, *, wall: Callable[[], float]) -> list[Check]:
    """Whether a Matrix homeserver is there, and what time it has."""
    http = MatrixHttp(homeserver, user_id="@nobody:example.org")
    try:
        return await _check_address(http, wall)
    finally:
        await http.close()


async def check_password(homeserver: str, user_id: UserId, password: SecretStr) -> Check:
    """Log in, and out again."""
    http = MatrixHttp(homeserver, user_id=user_id)
    try:
        return await _try_password(http, user_id, password)
    except AiAgentChatError as e:
        return failed("login", str(e), "try again; logins are limited")
    finally:
        await http.close()


async def _check_address(http: MatrixHttp, wall: Callable[[], float]) -> list[Check]:
    try:
        answer = await http.exchange("GET", "/_matrix/client/versions", "asking for its versions")
    except HomeserverUnreachableError as e:
        mend = "check matrix.homeserver, that it runs, DNS and the firewall"
        return [failed("homeserver", f"{http.homeserver}: {e}", mend)]
    found = _judge_versions(http.homeserver, answer)
    return [found] if found.verdict is Verdict.FAIL else [found, _judge_clock(answer, wall())]


def _judge_versions(homeserver: str, answer: Answer) -> Check:
    body = answer.json() or {}
    versions = body.get("versions")
    if not answer.is_ok or not isinstance(versions, list):
        mend = "check matrix.homeserver: it must be the client API's address, without a path"
        return failed("homeserver", f"{homeserver} is no Matrix homeserver ({answer.status})", mend)
    parts = urlsplit(homeserver)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        mend = "use https: tokens and messages go over this connection in clear"
        return warned("homeserver", f"{homeserver}, not encrypted", mend)
    if _SPEC not in versions:
        return warned("homeserver", f"{homeserver} lacks Matrix {_SPEC}", "update the homeserver")
    return passed("homeserver", homeserver)


def _judge_clock(answer: Answer, now: float) -> Check:
    try:
        theirs = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except (ValueError, TypeError):
        return passed("clock", "not compared: the homeserver names no time")
    off_s = abs(now - theirs)
    found = f"{off_s:.0f} s off the homeserver's"
    mend = "timedatectl set-ntp true"
    if off_s > _CLOCK_FAIL_S:
        return failed("clock", found, mend)
    return warned("clock", found, mend) if off_s > _CLOCK_WARN_S else passed("clock", found)


async def _check_login(
    http: MatrixHttp, config: MatrixConfig, secrets: Secrets, state_dir: Path
) -> tuple[Check, str | None]:
    """And the device that the orchestrator uses or would use; None: there is none yet."""
    try:
        kept = load_session(state_dir)
    except LoginRefusedError as e:
        return failed("login", str(e), f"delete it: {_remove_session(state_dir)}"), None
    token, whose = secrets.matrix_access_token, "MATRIX_ACCESS_TOKEN"
    if token is None and kept is not None and _is_usable(kept, config):
        token, whose = kept.access_token, "the kept session"
    try:
        if token is not None:
            return await _check_token(http, config, token, whose, secrets)
        if secrets.matrix_password is not None:
            return await _try_password(http, config.user_id, secrets.matrix_password), None
    except AiAgentChatError as e:
        return failed("login", str(e), "try again; logins are limited"), None
    mend = "export MATRIX_PASSWORD=… (or MATRIX_ACCESS_TOKEN, or NAME_FILE=/path)"
    return failed("login", f"nothing to log in {config.user_id} with", mend), None


def _is_usable(kept: KeptSession, config: MatrixConfig) -> bool:
    is_same = kept.user_id == config.user_id and kept.homeserver == config.homeserver.rstrip("/")
    return is_same and kept.access_token is not None


async def _check_token(
    http: MatrixHttp, config: MatrixConfig, token: SecretStr, whose: str, secrets: Secrets
) -> tuple[Check, str | None]:
    http.token = token.get_secret_value()
    answer = await http.exchange("GET", api_path("account", "whoami"), "checking the session")
    if not answer.is_ok:
        http.token = None
        if secrets.matrix_password is not None and whose != "MATRIX_ACCESS_TOKEN":
            return await _try_password(http, config.user_id, secrets.matrix_password), None
        return failed("login", f"{whose} is refused", "export MATRIX_PASSWORD=…"), None
    body = answer.json() or {}
    user, device = body.get("user_id"), body.get("device_id")
    if user != config.user_id:
        mend = "change matrix.user_id, or use a token of that account"
        return failed("login", f"{whose} is {user}'s", mend), None
    if not isinstance(device, str):
        mend = "log in as a client does, and use that token"
        return failed("login", f"{whose} belongs to no device", mend), None
    return passed("login", f"{config.user_id} by {whose}, device {device}"), device


async def _try_password(http: MatrixHttp, user_id: UserId, password: SecretStr) -> Check:
    body = build_password_login(user_id, password, device_id=_TRIAL_DEVICE, name=_TRIAL_DEVICE)
    answer = await http.exchange("POST", api_path("login"), "logging in", None, body)
    if not answer.is_ok:
        if answer.status == 429:
            mend = "try again in some minutes"
            return warned("login", "not tried: the homeserver limits logins", mend)
        found = f"the password for {user_id} is refused ({answer.errcode()})"
        return failed("login", found, "check matrix.user_id and MATRIX_PASSWORD")
    held = (answer.json() or {}).get("access_token")
    http.token = held if isinstance(held, str) else None
    try:
        ended = await http.exchange("POST", api_path("logout"), "logging out", None, {})
    except HomeserverUnreachableError:
        ended = None
    finally:
        http.token = None
    if ended is None or not ended.is_ok:
        found = f"{user_id} by MATRIX_PASSWORD; the trial could not be logged out again"
        return warned("login", found, f"remove the device {_TRIAL_DEVICE} of that account")
    return passed("login", f"{user_id} by MATRIX_PASSWORD (tried, and ended again)")


async def _check_keys(
    http: MatrixHttp, config: MatrixConfig, state_dir: Path, device: str
) -> Check:
    kept = load_session(state_dir)
    if kept is None or not kept.has_keys or kept.device_id != device:
        return passed("encryption", "the device's keys are made at the first start")
    body: JsonObject = {"device_keys": {config.user_id: [device]}}
    try:
        answer = await http.request(
            "POST", "/_matrix/client/v3/keys/query", what="asking for keys", body=body
        )
    except AiAgentChatError as e:
        return warned("encryption", str(e), "try again")
    users = answer.get("device_keys")
    devices = users.get(config.user_id) if isinstance(users, dict) else None
    if isinstance(devices, dict) and device in devices:
        return passed("encryption", f"the homeserver has the keys of device {device}")
    mend = f"{_remove_session(state_dir)}: a new device is made (needs MATRIX_PASSWORD)"
    return failed("encryption", f"the homeserver has no keys of device {device}", mend)


def _remove_session(state_dir: Path) -> str:
    return f"rm {shlex.quote(str(state_dir / 'matrix-session.json'))}"


async def _check_limit(config: MatrixConfig, secrets: Secrets, state_dir: Path) -> Check:
    """What the account may send: by the homeserver's word, or as its refusals have taught."""
    name, lift = "message limit", "MATRIX_ADMIN_TOKEN=… orchestrator matrix unlimit --config FILE"
    if secrets.matrix_admin_token is not None:
        try:
            async with open_synapse_admin(config.homeserver, secrets.matrix_admin_token) as admin:
                limit = await admin.send_limit(config.user_id)
        except AiAgentChatError as e:
            return warned(name, str(e), "check MATRIX_ADMIN_TOKEN")
        return passed(name, str(limit)) if limit.is_lifted else warned(name, str(limit), lift)
    learnt = _learnt_rate_per_s(state_dir)
    if learnt is None:
        return passed(name, "none met so far (a stock Synapse has one: 0.2 messages a second)")
    return warned(name, f"{learnt:.2g} messages/s, as refusals have taught", lift)


def _learnt_rate_per_s(state_dir: Path) -> float | None:
    try:
        with opened_to_read(state_dir / DATABASE_NAME) as db:
            learnt = read_send_budget(db)
    except (StoreError, sqlite3.Error, OSError):
        return None
    return 1 / learnt.interval_s if learnt is not None and learnt.interval_s else None
