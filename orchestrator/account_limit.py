"""What the homeserver lets an account send: shown, and lifted, as `orchestrator matrix` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from orchestrator.config import DEFAULT_STATE_DIR, load_config, load_secrets
from orchestrator.embedded.account_setup import AGENT_USER_ID
from orchestrator.embedded.homeserver import read_embedded_admin
from orchestrator.errors import ConfigError
from orchestrator.model import UserId
from orchestrator.synapse_admin import SendLimit, open_synapse_admin


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminedAccount:
    """An account, and an admin who may ask about it."""

    homeserver: str
    user_id: UserId
    token: SecretStr


def find_account(config: Path | None, state_dir: Path | None, user: str | None) -> AdminedAccount:
    """The account that is meant: the file's, or without one the embedded homeserver's agent.

    Raises:
        ConfigError: the file is not usable, `user` is no user id, or no admin's token is given.
        PreconditionError: there is no embedded homeserver.
    """
    if user is not None and not (user.startswith("@") and ":" in user):
        raise ConfigError([f"--user: expected a user id such as @claude:example.org, not {user}"])
    if config is not None:
        matrix = load_config(config).matrix
        token = load_secrets().require_admin_token()
        return AdminedAccount(
            homeserver=matrix.homeserver, user_id=UserId(user or matrix.user_id), token=token
        )
    base_url, token = read_embedded_admin((state_dir or DEFAULT_STATE_DIR).absolute())
    return AdminedAccount(homeserver=base_url, user_id=UserId(user or AGENT_USER_ID), token=token)


async def read_limit(account: AdminedAccount) -> SendLimit:
    """What the account's limit is.

    Raises:
        AdminApiError, HomeserverUnreachableError: as `SynapseAdmin.send_limit` says.
    """
    async with open_synapse_admin(account.homeserver, account.token) as admin:
        return await admin.send_limit(account.user_id)


async def describe_limit(account: AdminedAccount) -> str:
    """A line about it. Raises as `read_limit` does."""
    return f"{account.user_id}: {await read_limit(account)}"


async def lift_limit(account: AdminedAccount) -> str:
    """Lift it, unless that is done; what was done, in words. Raises as `read_limit` does."""
    async with open_synapse_admin(account.homeserver, account.token) as admin:
        before = await admin.send_limit(account.user_id)
        if before.is_lifted:
            return f"{account.user_id}: no limit already; nothing was changed"
        after = await admin.lift_send_limit(account.user_id)
    return (
        f"{account.user_id}: {before} → {after}\n"
        "An orchestrator that has learnt the old limit tries a higher rate by itself while it has "
        "much to say: within two minutes of its start, later within about a quarter of an hour."
    )
