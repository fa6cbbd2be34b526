"""`STATE_DIR/matrix-session.json` (0600): the device and its token, kept for the next start.

A transaction id is idempotent only within one device, keys belong to one device, and homeservers
limit logins: so there is one login, and its session is used until the homeserver ends it.
"""

from __future__ import annotations

import errno
import secrets
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer

from orchestrator.errors import LoginRefusedError, StoreError, StoreFullError
from orchestrator.model import UserId
from orchestrator.private_file import write_private

SESSION_NAME = "matrix-session.json"
# 32 random bytes: the key that the stored encryption keys are encrypted with.
_PICKLE_KEY_BYTES = 32


class KeptSession(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    homeserver: str
    """Where the token may be sent; it goes nowhere else."""
    user_id: UserId
    device_id: Annotated[str, Field(min_length=1, max_length=255)]
    access_token: SecretStr | None
    """None before the first login is through, and when MATRIX_ACCESS_TOKEN is used."""
    pickle_key: SecretStr
    has_keys: bool = False
    """Whether this device's encryption keys were made; then they must still be there."""

    @field_serializer("access_token", "pickle_key")
    def _reveal(self, value: SecretStr | None) -> str | None:
        return None if value is None else value.get_secret_value()


def new_session(homeserver: str, user_id: UserId, *, before: KeptSession | None) -> KeptSession:
    """A session of a device that does not exist yet; we name it, so a crash makes no second."""
    made = SecretStr(secrets.token_urlsafe(_PICKLE_KEY_BYTES))
    return KeptSession(
        homeserver=homeserver,
        user_id=user_id,
        device_id=f"AAC{secrets.token_hex(4).upper()}",
        access_token=None,
        pickle_key=made if before is None else before.pickle_key,
    )


def load_session(state_dir: Path) -> KeptSession | None:
    """The kept session, or None when there is none.

    Raises:
        LoginRefusedError: the file is there and can't be used.
    """
    path = state_dir / SESSION_NAME
    try:
        data = path.read_bytes()
        return KeptSession.model_validate_json(data)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as e:
        msg = (
            f"{path} cannot be used ({type(e).__name__}). Restore it, or delete it and set "
            "MATRIX_PASSWORD: the next start then logs in as a new device."
        )
        raise LoginRefusedError(msg) from None


def save_session(state_dir: Path, session: KeptSession) -> None:
    """Replace the file: whole or not at all, for this user alone, on disk when it returns.

    Raises:
        StoreFullError: there is no room for it; the file is as it was.
        StoreError: it can't be written otherwise.
    """
    try:
        write_private(state_dir / SESSION_NAME, session.model_dump_json(indent=1).encode())
    except OSError as e:
        msg = f"{state_dir / SESSION_NAME} can't be written: {e.strerror}."
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFullError(f"{msg} Free some space, then start again.") from e
        raise StoreError(msg) from e
