"""The Messages API: reachable, and the credential is one that it takes. Costs no token."""

from __future__ import annotations

import aiohttp

from orchestrator.core.diagnosis import Check, failed, passed, warned
from orchestrator.egress.credential import Credential

_TIMEOUT_S = 15.0
_NAME = "messages api"
_VERSION = "2023-06-01"


async def check_messages_api(upstream: str, credential: Credential | None) -> Check:
    """Ask for the list of models, which any valid credential may read."""
    if credential is None:
        mend = "export ANTHROPIC_API_KEY=… (or CLAUDE_CODE_OAUTH_TOKEN, or NAME_FILE=/path)"
        return failed(_NAME, "no credential", mend)
    headers = credential.authorize({"anthropic-version": _VERSION})
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as http,
            http.get(
                f"{upstream}/v1/models?limit=1", headers=headers, allow_redirects=False
            ) as answer,
        ):
            return _judge(upstream, answer.status)
    except (aiohttp.ClientError, TimeoutError, ValueError) as e:
        mend = "check anthropic.upstream, DNS and the firewall: the orchestrator needs this host"
        return failed(_NAME, f"{upstream} does not answer ({type(e).__name__})", mend)


def _judge(upstream: str, status: int) -> Check:
    if status == 200:
        return passed(_NAME, f"{upstream} takes the credential")
    if status in (401, 403):
        mend = "set a valid ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN"
        return failed(_NAME, f"{upstream} refuses the credential ({status})", mend)
    if status == 429 or status >= 500:
        return warned(_NAME, f"{upstream} answers {status}", "try again; turns wait and repeat")
    mend = "if it is a gateway of yours without /v1/models, send a message to see"
    return warned(_NAME, f"{upstream} answers {status}: reachable, key not checked", mend)
