"""A Matrix session on disk: whole or not at all, 0600, so that one login serves all commands."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from orchestrator.errors import PreconditionError


class Session(BaseModel):
    """A device of ours on a homeserver."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    homeserver: str
    user_id: str
    device_id: str | None = None
    access_token: SecretStr
    agent_user_id: str | None = None


def load_session(path: Path) -> Session | None:
    """The stored session; None where there is none, or one that can't be understood.

    Raises:
        PreconditionError: it is there and can't be read.
    """
    try:
        return Session.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    except OSError as e:
        msg = f"{path} can't be read ({e.strerror}). Mend its rights, or remove it."
        raise PreconditionError(msg) from e


def save_session(path: Path, session: Session) -> None:
    """Replace the stored session; nobody else can read it at any moment.

    Raises:
        OSError: it can't be written; what was there is still there.
    """
    data = session.model_dump(mode="json")
    data["access_token"] = session.access_token.get_secret_value()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Two commands at once each write a file of their own; the last one to finish stays.
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
