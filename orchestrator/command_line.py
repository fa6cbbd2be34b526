"""What the commands share: options, how errors become exit codes, how a configuration is read.

Exit codes: 0 done; 1 a check found something, or a failure that is none of the others; 2 the
configuration or the arguments; 3 something that the host must offer is missing; 4 the database;
5 the homeserver or the login; 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.config import DEFAULT_STATE_DIR, Config, load_config, parse_config
from orchestrator.embedded.account_setup import AGENT_USER_ID, USER_ID
from orchestrator.embedded.homeserver import EmbeddedHomeserver
from orchestrator.embedded.synapse_config import BIND_ADDRESS
from orchestrator.errors import AiAgentChatError, PreconditionError, first_error
from orchestrator.runners.image import Base

StateDir = Annotated[
    Path | None,
    typer.Option(
        envvar="AIAGENTCHAT_STATE_DIR",
        help="Where everything that must survive is kept. Default: ./state.",
    ),
]


ConfigOption = Annotated[
    Path | None,
    typer.Option(help="The configuration file; without it, the embedded homeserver."),
]
EmbeddedOption = Annotated[
    bool, typer.Option("--embedded", help="The embedded homeserver, which must be running.")
]
UserOption = Annotated[
    str | None, typer.Option(help="The account. Default: the agent's (matrix.user_id).")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="The configuration file, for its state_dir.")
]
BaseOption = Annotated[
    Base,
    typer.Option(
        help="The image's base: pulled, made from Debian's packages, or (auto) pulled and made "
        "where that fails."
    ),
]


def build_config(path: Path | None, matrix: dict[str, Any], overrides: dict[str, Any]) -> Config:
    """The file's configuration, with what the command line and the environment replace."""
    replaced = {**matrix, **overrides}
    if upstream := os.environ.get("ANTHROPIC_BASE_URL"):
        replaced["anthropic"] = {"upstream": upstream.rstrip("/")}
    if path is not None:
        return load_config(path, overrides=replaced)
    return parse_config(replaced, source="the command line and the environment")


def on_homeserver(homeserver: EmbeddedHomeserver | None) -> dict[str, Any]:
    """What the embedded homeserver decides; before it runs, the same with an address to come."""
    return {
        "matrix": {
            "homeserver": homeserver.base_url if homeserver else f"http://{BIND_ADDRESS}",
            "user_id": AGENT_USER_ID,
        },
        "access": {"admins": [USER_ID]},
    }


def find_state_dir(config: Path | None, given: Path | None) -> Path:
    """Where the state is, for a command that looks at it.

    Raises:
        ConfigError: as `name_state_dir` says.
        PreconditionError: as `require_state_dir` says.
    """
    return require_state_dir(name_state_dir(config, given))


def name_state_dir(config: Path | None, given: Path | None) -> Path:
    """Where the state is to be: as said, as configured, or as without a configuration; absolute.

    Raises:
        ConfigError: the file is not usable; one for the embedded homeserver is.
    """
    configured = DEFAULT_STATE_DIR
    if config is not None:
        configured = load_config(config, overrides=on_homeserver(None)).state_dir
    return (given or configured).absolute()


def require_state_dir(path: Path) -> Path:
    """The directory, absolute, for a command that looks at what an orchestrator has left there.

    Raises:
        PreconditionError: there is none.
    """
    where = path.absolute()
    if where.is_dir():
        return where
    what = "is no directory" if where.exists() else "does not exist"
    msg = (
        f"the state directory {where} {what}. Name the one of your orchestrator with --state-dir; "
        "a first start (make up, orchestrator up) makes it."
    )
    raise PreconditionError(msg)


def say(line: str) -> None:
    """To whoever typed the command."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Our errors as sentences on stderr and exit codes; anything else is a bug and shows as one."""
    try:
        yield
    except* AiAgentChatError as errors:
        error = first_error(errors)
        for line in str(error).splitlines():
            sys.stderr.write(f"orchestrator: {line}\n")
        sys.exit(error.exit_code)
    except* KeyboardInterrupt:
        sys.exit(130)
