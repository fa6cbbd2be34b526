"""The embedded Synapse's files: its secrets, its configuration, its signing key, its log set-up.

Owns every file in `STATE_DIR/embedded` except Synapse's own (database, media, log). Rendering is
pure; the same secrets and port give the same text, which is how a running Synapse is recognised as
current.
"""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from orchestrator.errors import PreconditionError
from orchestrator.model import JsonObject
from orchestrator.private_file import write_private

SERVER_NAME = "localhost"
BIND_ADDRESS = "127.0.0.1"
CONFIG_NAME = "homeserver.yaml"
LOG_NAME = "homeserver.log"
_SECRETS_NAME = "accounts.json"
_SIGNING_KEY_NAME = "signing.key"
_LOG_CONFIG_NAME = "log.yaml"
# 24 random bytes are 192 bits: nothing that has to be typed is guessable.
_SECRET_BYTES = 24


class SynapseSecrets(BaseModel):
    """What is made once per installation and kept in `accounts.json` (0600)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    user_password: SecretStr
    agent_password: SecretStr
    registration_shared_secret: SecretStr
    macaroon_secret_key: SecretStr
    form_secret: SecretStr
    user_token: SecretStr | None = None
    """The set-up's own session as the user; one login serves all later starts (login limits)."""


def load_or_make_secrets(directory: Path) -> tuple[SynapseSecrets, bool]:
    """The installation's secrets, and whether they were made just now. Idempotent.

    Raises:
        PreconditionError: the file is there and can't be used.
    """
    path = directory / _SECRETS_NAME
    try:
        return read_secrets(directory), False
    except FileNotFoundError:
        made = SynapseSecrets(
            user_password=_random_secret(),
            agent_password=_random_secret(),
            registration_shared_secret=_random_secret(),
            macaroon_secret_key=_random_secret(),
            form_secret=_random_secret(),
        )
        save_secrets(directory, made)
        return made, True
    except (OSError, ValidationError) as e:
        msg = (
            f"{path} cannot be used ({type(e).__name__}). Restore it, or remove {directory} "
            "to start with a new, empty homeserver."
        )
        raise PreconditionError(msg) from None


def read_secrets(directory: Path) -> SynapseSecrets:
    """The secrets as they stand there. Raises OSError or ValidationError."""
    return SynapseSecrets.model_validate_json((directory / _SECRETS_NAME).read_bytes())


def save_secrets(directory: Path, held: SynapseSecrets) -> None:
    """Write the secrets: whole or not at all, readable by this user alone."""
    # pydantic would write stars; this file is the one place for the values themselves.
    data = {name: value.get_secret_value() for name, value in held if value is not None}
    write_private(directory / _SECRETS_NAME, json.dumps(data, indent=1).encode() + b"\n")


def write_synapse_files(directory: Path, config: str) -> Path:
    """Write what Synapse reads at its start; the signing key only when there is none.

    Returns:
        The path of the configuration.
    """
    write_private(directory / _LOG_CONFIG_NAME, render_log_config(directory).encode())
    key = directory / _SIGNING_KEY_NAME
    if not key.exists():
        seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        write_private(key, f"ed25519 a_{secrets.token_hex(2)} {seed}\n".encode())
    path = directory / CONFIG_NAME
    write_private(path, config.encode())
    return path


def render_config(directory: Path, *, port: int, held: SynapseSecrets) -> str:
    """Synapse's configuration: one listener on loopback, no federation, closed registration."""
    listener: JsonObject = {
        "port": port,
        "bind_addresses": [BIND_ADDRESS],
        "type": "http",
        "tls": False,
        "x_forwarded": False,
        "resources": [{"names": ["client"], "compress": False}],
    }
    config: JsonObject = {
        "server_name": SERVER_NAME,
        "public_baseurl": f"http://{BIND_ADDRESS}:{port}/",
        "listeners": [listener],
        "database": {"name": "sqlite3", "args": {"database": str(directory / "homeserver.db")}},
        "media_store_path": str(directory / "media"),
        "signing_key_path": str(directory / _SIGNING_KEY_NAME),
        "log_config": str(directory / _LOG_CONFIG_NAME),
        "federation_domain_whitelist": [],
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "report_stats": False,
        "enable_metrics": False,
        "enable_registration": False,
        "registration_shared_secret": held.registration_shared_secret.get_secret_value(),
        "macaroon_secret_key": held.macaroon_secret_key.get_secret_value(),
        "form_secret": held.form_secret.get_secret_value(),
        "presence": {"enabled": False},
        "url_preview_enabled": False,
        # Two accounts and a few rooms: a twentieth of the stock caches is still more than they use.
        "event_cache_size": "500",
        "caches": {"global_factor": 0.05},
    }
    return yaml.safe_dump(config, sort_keys=False)


def render_log_config(directory: Path) -> str:
    """Warnings and worse, in a file that is rotated: at most 4 files of 2 MB."""
    handler: JsonObject = {
        "class": "logging.handlers.RotatingFileHandler",
        "formatter": "plain",
        "filename": str(directory / LOG_NAME),
        "maxBytes": 2_000_000,
        "backupCount": 3,
        "encoding": "utf-8",
    }
    config: JsonObject = {
        "version": 1,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
        "handlers": {"file": handler},
        "root": {"level": "WARNING", "handlers": ["file"]},
        "disable_existing_loggers": False,
    }
    return yaml.safe_dump(config, sort_keys=False)


def _random_secret() -> SecretStr:
    return SecretStr(secrets.token_urlsafe(_SECRET_BYTES))
