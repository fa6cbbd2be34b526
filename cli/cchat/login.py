"""`cchat login`: a session for a homeserver that is not the embedded one."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from pydantic import SecretStr

from cchat.account import Account, account_of_environment, login_path
from cchat.error import Exit, UsageError
from cchat.matrix import MatrixClient
from cchat.output import Output
from cchat.transport import open_transport

_MAX_PASSWORD_CHARS = 4096


async def login(
    homeserver: str, user: str, agent: str | None, password: str, output: Output
) -> Exit:
    """Log in and keep the session, replacing an older one.

    Raises:
        ConfigError: the address or a user id is none.
        MatrixError: the homeserver does not answer, or refuses.
    """
    checked = _check(homeserver, user, agent, password)
    path = login_path(os.environ, Path.home())
    account = Account(
        homeserver=checked.homeserver,
        user_id=checked.user_id,
        password=SecretStr(password),
        session_path=path,
        agent_user_id=checked.agent_user_id,
        login_hint="Check the user id and the password.",
    )
    async with open_transport(account.homeserver) as transport:
        session = await MatrixClient(transport, account, say=output.say).login()
    output.say(f"Logged in as {session.user_id}; the session is kept in {path}.")
    return Exit.OK


def read_password(user: str) -> str:
    """The password, typed unseen, or the first line of standard input. Blocks.

    Raises:
        UsageError: there is none.
    """
    if sys.stdin.isatty():
        password = getpass.getpass(f"Password of {user}: ")
    else:
        password = sys.stdin.readline(_MAX_PASSWORD_CHARS).rstrip("\n")
    if not password:
        msg = "There is no password: type it, or give it on standard input."
        raise UsageError(msg)
    return password


def _check(homeserver: str, user: str, agent: str | None, password: str) -> Account:
    # The same rules as for the environment, and the same words.
    values = {
        "CCHAT_HOMESERVER": homeserver,
        "CCHAT_USER_ID": user,
        "CCHAT_PASSWORD": password,
        "CCHAT_AGENT_USER_ID": agent or "",
    }
    checked = account_of_environment(values, Path.home())
    if checked is None:
        raise UsageError
    return checked
