"""Which credentials the daemon uses: the operator's, or what the embedded homeserver needs."""

from __future__ import annotations

from secrets import token_urlsafe

from pydantic import SecretStr

from orchestrator.config import Secrets
from orchestrator.egress.credential import ApiKey, Credential, OAuthToken
from orchestrator.embedded.homeserver import EmbeddedHomeserver


def find_credential(secrets: Secrets) -> Credential | None:
    """The operator's, the API key first; None: there is none."""
    if secrets.anthropic_api_key is not None:
        return ApiKey(secrets.anthropic_api_key)
    if secrets.claude_code_oauth_token is not None:
        return OAuthToken(secrets.claude_code_oauth_token)
    return None


def choose_credential(secrets: Secrets, *, embedded: bool) -> tuple[Credential, bool]:
    """The credential for the API, and whether the offline model stands in for it.

    Raises:
        ConfigError: there is none, and no embedded homeserver to try things out on.
    """
    if (credential := find_credential(secrets)) is not None:
        return credential, False
    if not embedded:
        secrets.require_api_credential()
    # Any text would do; a random one can't occur in what the gateway redacts from answers.
    return ApiKey(SecretStr(token_urlsafe(32))), True


def agent_secrets(embedded: EmbeddedHomeserver) -> Secrets:
    """The agent's login on the embedded homeserver."""
    return Secrets(matrix_password=SecretStr(embedded.agent_password))
