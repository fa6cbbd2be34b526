"""The variables by which programs in a runner find the proxy; each was tried with the program.

| program | what it reads |
|---|---|
| curl, git, apt | `http_proxy`, `https_proxy` (the first in lower case alone) |
| pip, wget, Python | the same |
| npm, cargo, go, the CLI's WebFetch | also those in upper case |
| Node's own fetch | nothing before version 22.21, then NODE_USE_ENV_PROXY |

The CLI's requests to the Messages API go to loopback, and so past the proxy.
"""

from __future__ import annotations

from orchestrator.core.cli_command import GATEWAY_URL

_LOOPBACK = "127.0.0.1,localhost,::1"


def build_proxy_env(url: str = GATEWAY_URL) -> tuple[tuple[str, str], ...]:
    """Name and value of each. They say where the proxy is, not what it lets through."""
    return (
        ("HTTP_PROXY", url),
        ("HTTPS_PROXY", url),
        ("NODE_USE_ENV_PROXY", "1"),
        ("NO_PROXY", _LOOPBACK),
        ("http_proxy", url),
        ("https_proxy", url),
        ("no_proxy", _LOOPBACK),
    )
