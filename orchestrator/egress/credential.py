"""The operator's credential for the Messages API, and the placeholders that rooms have instead."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from orchestrator.core.egress_policy import OAUTH_BETA, merge_betas
from orchestrator.model import InstallationId, RoomSlug

# A real key is this prefix and 95 characters, of which the last two are "AA"; some clients check.
_PREFIX = "sk-ant-api03-"
_BODY_CHARS = 93
_SUFFIX = "AA"
_MIN_SECRET_BYTES = 16
_DOMAIN = b"aiagentchat room placeholder 1"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, sent as `x-api-key`."""

    secret: SecretStr

    def authorize(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers with the credential in them."""
        return {**headers, "x-api-key": self.secret.get_secret_value()}


@dataclass(frozen=True, slots=True)
class OAuthToken:
    """A token of `claude setup-token`, sent as a bearer token with the beta that it needs."""

    secret: SecretStr

    def authorize(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers with the credential in them."""
        bearer = f"Bearer {self.secret.get_secret_value()}"
        return {**merge_betas(headers, OAUTH_BETA), "authorization": bearer}


Credential = ApiKey | OAuthToken


def room_placeholder(installation: InstallationId, slug: RoomSlug, secret: bytes) -> str:
    """The key that a room's runner has: shaped like an API key, worth nothing outside its socket.

    Derived from the installation's secret, so that it is the same after a restart without being
    stored, and one room's says nothing about another's.

    Raises:
        ValueError: for a secret of fewer than 16 bytes.
    """
    if len(secret) < _MIN_SECRET_BYTES:
        msg = f"the installation's secret must have {_MIN_SECRET_BYTES} bytes or more"
        raise ValueError(msg)
    text = b"\0".join([_DOMAIN, installation.encode(), slug.encode()])
    # 64 and 32 bytes make 128 characters of base64, of which 93 are used.
    digest = hmac.digest(secret, text, hashlib.sha512) + hmac.digest(secret, text, hashlib.sha256)
    return _PREFIX + base64.urlsafe_b64encode(digest).decode()[:_BODY_CHARS] + _SUFFIX
