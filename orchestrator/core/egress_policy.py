"""What may leave a room towards the Messages API, and what may come back: pure decisions.

Default deny, by allow-lists only: two routes, the room's placeholder as the only credential, named
request and response headers, named betas. What is on no list is refused where the API would read
the request in another way without it (routes, credentials, betas, headers of the API's own), and
left out where it would not (all other headers). The lists were taken from what Claude Code 2.1.330
sends and can send; a contract test runs the pinned CLI through the gateway, so that a new version
that needs more fails there first. The body's rules are in `egress_body`, the wire's in
`egress_http`, what a room's profile adds in `api_policy`.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core import api_policy as opened
from orchestrator.core.api_policy import ApiPolicy
from orchestrator.core.egress_http import Denial, DenialReason, RequestHead
from orchestrator.core.texts import NOT_LEAVING

OAUTH_BETA = "oauth-2025-04-20"
"""An OAuth token is accepted by the API only with this beta."""


class Route(StrEnum):
    """The two paths that exist for a room."""

    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"


_QUERIES = frozenset({"", "beta=true"})

# Sent by the CLI in every request, or (agent ids) for its subagents. None of them is a
# credential, and none of them makes the API call anybody.
_FORWARDED = frozenset(
    {
        "accept",
        "anthropic-dangerous-direct-browser-access",
        "anthropic-version",
        "content-type",
        "user-agent",
        "x-app",
        "x-claude-code-agent-id",
        "x-claude-code-parent-agent-id",
        "x-claude-code-session-id",
    }
)
_FORWARDED_PREFIX = re.compile(r"x-stainless-[a-z-]{1,40}")

# The API reads these; the gateway writes anthropic-beta itself.
_API_HEADER = re.compile(r"anthropic-.*")
_API_HEADERS = frozenset({"anthropic-beta", *(n for n in _FORWARDED if _API_HEADER.match(n))})

# All betas that the CLI knows, without those that reach beyond the request: files-api, mcp-servers,
# web-search*, code execution, environments, managed agents, stored threads and resumption, tunnels.
_BETAS = frozenset(
    {
        "advanced-tool-use-2025-11-20",
        "advisor-tool-2026-03-01",
        "afk-mode-2026-01-31",
        "auto-mode-classifier-2026-07-16",
        "cache-diagnosis-2026-04-07",
        "cache-keepalive-2026-09-03",
        "claude-code-20250219",
        "claude-code-side-query-2026-09-29",
        "context-1m-2025-08-07",
        "context-hint-2026-04-09",
        "context-management-2025-06-27",
        "dangerous-tool-use-2026-09-03",
        "effort-2025-11-24",
        "extended-cache-ttl-2025-04-11",
        "fallback-credit-2026-06-01",
        "fast-mode-2026-02-01",
        "inline-tools-2026-09-15",
        "interleaved-thinking-2025-05-14",
        "mid-conversation-system-2026-04-07",
        "mid-conversation-system-clear-at-2026-08-21",
        "mid-conversation-tool-changes-2026-07-01",
        "per-turn-control-2026-07-01",
        "prompt-caching-evict-2026-05-12",
        "prompt-caching-scope-2026-01-05",
        "redact-thinking-2026-02-12",
        "server-side-fallback-2026-06-01",
        "server-side-fallback-2026-07-01",
        "structured-outputs-2025-12-15",
        "task-budgets-2026-03-13",
        "thinking-binding-controls-2026-08-01",
        "thinking-display-updates-2026-08-18",
        "thinking-resumption-2026-07-17",
        "thinking-token-count-2026-05-13",
        "timing-2026-09-09",
        "token-counting-2024-11-01",
        "tool-search-tool-2025-10-19",
    }
)

# Goes with a subscription's token, which the gateway adds, and this with it.
_OWN_BETAS = frozenset({"", OAUTH_BETA})
_SHOWABLE_BETA = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_RETURNED = frozenset(
    {"content-type", "request-id", "retry-after", "retry-after-ms", "x-should-retry"}
)
_RETURNED_PREFIX = re.compile(r"anthropic-ratelimit-[a-z0-9-]{1,80}")
_PLAIN_VALUE = re.compile(r"[\x20-\x7e]{0,1024}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRequest:
    """An allowed request, as far as its head decides it; the credential is not in it."""

    route: Route
    query: str
    headers: Mapping[str, str]
    content_length: int


def check_request(
    head: RequestHead, *, placeholder: str, policy: ApiPolicy | None = None
) -> UpstreamRequest | Denial:
    """Decide by the head alone, before a byte of the body is read; None: the policy's defaults."""
    policy = policy or ApiPolicy()
    route = _route(head)
    if isinstance(route, Denial):
        return route
    refusal = (
        _check_credential(head.headers, placeholder)
        or _check_body_head(head, policy)
        or _check_api_headers(head.headers)
        or _check_betas(head.headers, policy)
    )
    if refusal is not None:
        return refusal
    return UpstreamRequest(
        route=route,
        query=head.query,
        headers=_forward_headers(head.headers),
        content_length=head.content_length,
    )


def merge_betas(headers: Mapping[str, str], beta: str) -> dict[str, str]:
    """The headers with `beta` in their anthropic-beta, once."""
    held = [b for b in headers.get("anthropic-beta", "").split(",") if b and b != beta]
    return {**headers, "anthropic-beta": ",".join([*held, beta])}


def return_headers(headers: Iterable[tuple[str, str]], *, secret: str) -> list[tuple[str, str]]:
    """Those response headers that a room may see, names in lower case, each once.

    A value with `secret` in it, or with anything but printable ASCII, is left out.
    """
    kept: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        named = lower in _RETURNED or _RETURNED_PREFIX.fullmatch(lower)
        if named and _PLAIN_VALUE.fullmatch(value) and secret not in value:
            kept.setdefault(lower, value)
    return list(kept.items())


def render_error(kind: str, message: str) -> bytes:
    """An error body in the API's own shape, which the CLI shows to its user."""
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


def _route(head: RequestHead) -> Route | Denial:
    refusal = Denial(
        status=403,
        reason=DenialReason.ROUTE,
        message="Only POST /v1/messages and POST /v1/messages/count_tokens leave a room.",
    )
    if head.method != "POST" or head.query not in _QUERIES:
        return refusal
    return next((route for route in Route if head.path == route.value), refusal)


def _check_credential(headers: Mapping[str, str], placeholder: str) -> Denial | None:
    """The placeholder must be the only credential; every one that is there must be it."""
    offered = [headers[h] for h in ("x-api-key",) if h in headers]
    if "authorization" in headers:
        scheme, _, token = headers["authorization"].partition(" ")
        offered.append(token if scheme.lower() == "bearer" else "")
    if not offered:
        return Denial(
            status=401,
            reason=DenialReason.NO_CREDENTIAL,
            message="The room's key is missing.",
            kind="authentication_error",
        )
    expected = placeholder.encode()
    if all([hmac.compare_digest(o.encode(), expected) for o in offered]):  # noqa: C419 (no early end)
        return None
    return Denial(
        status=403,
        reason=DenialReason.FOREIGN_CREDENTIAL,
        message="Another key than the room's own does not leave a room.",
    )


def _check_body_head(head: RequestHead, policy: ApiPolicy) -> Denial | None:
    if head.content_length > policy.max_body_bytes:
        return Denial(
            status=413,
            reason=DenialReason.BODY_TOO_LARGE,
            message=f"A request of this room may have {policy.max_body_bytes} bytes; "
            f"this one has {head.content_length}.",
            kind="request_too_large",
        )
    kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoded = head.headers.get("content-encoding", "identity").lower() != "identity"
    if kind != "application/json" or encoded:
        return Denial(
            status=415,
            reason=DenialReason.CONTENT_TYPE,
            message="The body must be application/json, without a content encoding.",
            kind="invalid_request_error",
        )
    return None


def _check_api_headers(headers: Mapping[str, str]) -> Denial | None:
    """A header of the API's own changes what a request is: whom it is billed to, where it runs."""
    for name in headers:
        if _API_HEADER.match(name) and name not in _API_HEADERS:
            return Denial(
                status=403,
                reason=DenialReason.HEADER,
                message=f"{NOT_LEAVING}: the header {name}.",
            )
    return None


def _check_betas(headers: Mapping[str, str], policy: ApiPolicy) -> Denial | None:
    for beta in _betas(headers):
        if beta in _BETAS or beta in policy.betas or policy.allows(opened.BETAS.get(beta)):
            continue
        shown = beta if _SHOWABLE_BETA.fullmatch(beta) else "(unnamed)"
        return Denial(
            status=403,
            reason=DenialReason.BETA,
            message=f"{NOT_LEAVING}: the beta {shown}.",
        )
    return None


def _betas(headers: Mapping[str, str]) -> list[str]:
    """Those that the client asks for, each once, without what the gateway decides itself."""
    named = (b.strip() for b in headers.get("anthropic-beta", "").split(","))
    return list(dict.fromkeys(b for b in named if b not in _OWN_BETAS))


def _forward_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Of a request whose betas were checked."""
    kept = {
        name: value
        for name, value in headers.items()
        if name in _FORWARDED or _FORWARDED_PREFIX.fullmatch(name)
    }
    if betas := _betas(headers):
        kept["anthropic-beta"] = ",".join(betas)
    return kept
