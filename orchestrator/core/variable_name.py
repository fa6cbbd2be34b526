"""Which environment variables a secret may not be named: they steer programs, or are ours."""

from __future__ import annotations

import re

_EXACT = re.compile(
    r"""
    LANG | LANGUAGE | AWS_CA_BUNDLE
    | PATH | HOME | PWD | OLDPWD | USER | LOGNAME | SHELL | TERM | TZ | TMP | TMPDIR | TEMP | IFS
    | ENV | PS[0-9] | CDPATH | PROMPT_COMMAND | SHELLOPTS | GLOBIGNORE | POSIXLY_CORRECT | HOSTNAME
    | HOSTALIASES | LOCALDOMAIN | RES_OPTIONS | GCONV_PATH | GLIBC_TUNABLES | LOCPATH | NLSPATH
    | CLAUDECODE | API_TIMEOUT_MS | MAX_THINKING_TOKENS | USE_BUILTIN_RIPGREP | BROWSER | EDITOR
    | VISUAL | PAGER | LESSOPEN | RUBYOPT | RUBYLIB | CLASSPATH | JAVA_HOME | JAVA_TOOL_OPTIONS
    | JDK_JAVA_OPTIONS | GOPATH | GOFLAGS | GOPROXY | MAKEFLAGS | CC | CXX | CFLAGS | CXXFLAGS
    | LDFLAGS | CI | DEBUG | FORCE_COLOR | NO_COLOR | COLUMNS | LINES | GNUPGHOME | TAR_OPTIONS
    | GZIP
    """,
    re.VERBOSE,
)
# Always: these configure the dynamic linker, the shell, the CLI, the proxy and trust in TLS.
_FAMILIES = (
    "LD_", "LC_", "MALLOC_", "BASH", "ANTHROPIC_", "CLAUDE_", "AIAGENTCHAT_", "DISABLE_",
    "ENABLE_", "SSL_", "XDG_", "DBUS_", "DYLD_",
)  # fmt: skip
# Of tools: all but what is named as a secret is (NODE_AUTH_TOKEN, GIT_PASSWORD, PIP_TOKEN).
_TOOLS = (
    "BUN_", "CARGO_", "CURL_", "DENO_", "GIT_", "MCP_", "NODE_", "NPM_CONFIG_", "OTEL_", "PERL",
    "PIP_", "PYTHON", "REQUESTS_", "RUBY", "SSH_", "UV_", "VERTEX_", "WGET", "YARN_",
)  # fmt: skip
_PROXY = re.compile(r"(?:.*_)?PROXY(?:_.*)?")
_SECRET_LIKE = re.compile(r".*_(?:TOKEN|PASSWORD|SECRET|APIKEY|API_KEY|PAT)")


def is_reserved(name: str) -> bool:
    """Whether a secret of this name would change how the CLI or another program works."""
    if _EXACT.fullmatch(name) or _PROXY.fullmatch(name) or name.startswith(_FAMILIES):
        return True
    return name.startswith(_TOOLS) and _SECRET_LIKE.fullmatch(name) is None
