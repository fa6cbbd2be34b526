"""The `orchestrator` command: arguments in, exit codes out.

Exit codes: 0 done; 1 a failure that is none of the others; 2 the configuration or the arguments;
3 something that the host must offer is missing; 4 the database; 5 the homeserver or the login.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from orchestrator import __version__, faultpoint
from orchestrator.account_limit import describe_limit, find_account, lift_limit
from orchestrator.audit.isolation import IsolationPlan, audit_isolation
from orchestrator.audit.messages import AuditPlan, audit_messages, render_json, render_text
from orchestrator.config import (
    DEFAULT_STATE_DIR,
    Config,
    load_config,
    load_secrets,
    not_built,
    parse_config,
)
from orchestrator.config_hint import unreachable_addresses
from orchestrator.core import isolation_report, texts
from orchestrator.daemon import Plan, run_daemon
from orchestrator.embedded.account_setup import AGENT_USER_ID, USER_ID
from orchestrator.embedded.homeserver import DEFAULT_PORT, EmbeddedHomeserver
from orchestrator.embedded.synapse_config import BIND_ADDRESS
from orchestrator.errors import AiAgentChatError, PreconditionError, first_error
from orchestrator.log import configure_logging
from orchestrator.model import Permissions
from orchestrator.recovery import back_up
from orchestrator.recovery import restore as recover
from orchestrator.room_secret import load_room_secrets, uncovered_secrets
from orchestrator.runners.engine import open_engine
from orchestrator.runners.image import Base, ensure_image
from orchestrator.store.copying import COPIES_DIR, copy_name

app = typer.Typer(
    name="orchestrator",
    help="AI agents and people in Matrix rooms: one isolated Claude Code runner for each room.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
image_app = typer.Typer(
    help="The image that the rooms' runners are made from.", no_args_is_help=True
)
config_app = typer.Typer(help="The configuration file.", no_args_is_help=True)
audit_app = typer.Typer(help="Is everything accounted for?", no_args_is_help=True)
matrix_app = typer.Typer(help="The agent's account on the homeserver.", no_args_is_help=True)
app.add_typer(image_app, name="image")
app.add_typer(audit_app, name="audit")
app.add_typer(matrix_app, name="matrix")
app.add_typer(config_app, name="config")

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


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"aiagentchat {__version__}")
        raise typer.Exit


@app.command()
def up(
    config: Annotated[
        Path | None,
        typer.Option(help="The configuration file; without it, the embedded homeserver."),
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Run on the embedded homeserver (for trying it out).")
    ] = False,
    state_dir: StateDir = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="The embedded homeserver's port on 127.0.0.1. Default: the last one, or 8008.",
        ),
    ] = None,
    permissions: Annotated[
        Permissions | None,
        typer.Option(help="Replaces the configuration's defaults.permissions."),
    ] = None,
    base: BaseOption = Base.AUTO,
) -> None:
    """Serve the rooms until Ctrl-C (stops the runners too) or SIGTERM (leaves them running)."""
    with _exit_codes():
        faultpoint.arm(os.environ)
        secrets = load_secrets()
        on_embedded = embedded or config is None
        overrides = {"defaults": {"permissions": permissions.value}} if permissions else {}

        def build(homeserver: EmbeddedHomeserver | None) -> Config:
            return _build_config(
                config, _on_homeserver(homeserver) if on_embedded else {}, overrides
            )

        _require_root()
        checked = build(None)
        _name_not_built(checked)
        room_secrets = load_room_secrets(checked)
        if not on_embedded:
            secrets.require_api_credential()
        hidden = [*secrets.values(), *room_secrets.values()]
        is_silent = "observability" not in checked.model_fields_set
        _configure_logging(checked, hidden, for_a_person=on_embedded and is_silent)
        where = (state_dir or checked.state_dir).absolute()
        plan = Plan(
            state_dir=where,
            secrets=secrets,
            room_secrets=room_secrets,
            build_config=build,
            embedded_port=(port or _remembered_port(where)) if on_embedded else None,
            base=base,
        )
        asyncio.run(run_daemon(plan, _say))
        _say("Stopped.")


@image_app.command("build")
def image_build(base: BaseOption = Base.AUTO) -> None:
    """Build the runner image of this version, unless it is there."""
    with _exit_codes():
        configure_logging(fmt="text", level="WARNING", secrets=())
        _say(f"The runner image is ready: {asyncio.run(_build_image(base))}")


@config_app.command("check")
def config_check(
    file: Annotated[Path, typer.Argument(help="The configuration file.")],
    embedded: Annotated[
        bool, typer.Option("--embedded", help="It is one for `up --embedded`, without `matrix`.")
    ] = False,
) -> None:
    """Read and validate a configuration file; one line for each mistake."""
    with _exit_codes():
        _name_not_built(load_config(file, overrides=_on_homeserver(None) if embedded else {}))
        _say(f"{file}: fine")


@app.command()
def backup(
    config: ConfigFile = None,
    state_dir: StateDir = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="The copy's file. Default: a new one in STATE_DIR/backups."),
    ] = None,
) -> None:
    """Copy the database, also while it is in use; prints the copy's path and size.

    Rooms' files, the login and the encryption keys are not part of it.
    """
    with _exit_codes():
        configure_logging(fmt="text", level="WARNING", secrets=())
        where = _state_dir(config, state_dir)
        target = (to or where / COPIES_DIR / copy_name(time.time())).absolute()
        size = back_up(where, target)
        _say(f"{target}: {size:,} bytes")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="The copy, as `orchestrator backup` made it.")],
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Go on from a copy of the database; only while no orchestrator runs.

    What happened after the copy is not run again; each room is told once.
    """
    with _exit_codes():
        configure_logging(fmt="text", level="WARNING", secrets=())
        where = _state_dir(config, state_dir)
        done = recover(file.absolute(), where)
        _say(f"{where} is as of {texts.utc_time(done.copied_at)} again.")
        if done.turns:
            _say(f"{done.turns} turn(s) that had not ended then are ended; their rooms are told.")
        if done.put_aside is not None:
            _say(f"The database that was there is now {done.put_aside}.")
        _say("Encryption keys, login and the rooms' files were left as they are.")


@audit_app.command("messages")
def audit_messages_command(
    config: ConfigOption = None,
    embedded: EmbeddedOption = False,
    state_dir: StateDir = None,
    settled: Annotated[
        bool, typer.Option("--settled", help="Count what is still in hand as a failure, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look for messages without a final state, beside a running orchestrator or without it.

    Reads the database and the homeserver, writes nothing. Exit code 1 when something is amiss.
    """
    with _exit_codes():
        secrets = load_secrets()
        on_embedded = embedded or config is None
        checked = _build_config(config, _on_homeserver(None) if on_embedded else {}, {})
        configure_logging(fmt="text", level="WARNING", secrets=secrets.values())
        plan = AuditPlan(
            config=checked,
            secrets=secrets,
            state_dir=(state_dir or checked.state_dir).absolute(),
            is_embedded=on_embedded,
        )
        report = asyncio.run(audit_messages(plan))
        _say(render_json(report) if as_json else render_text(report))
        if not report.is_clean(settled=settled):
            raise typer.Exit(1)


@audit_app.command("isolation")
def audit_isolation_command(
    config: ConfigOption = None,
    embedded: EmbeddedOption = False,
    state_dir: StateDir = None,
    outside: Annotated[
        bool, typer.Option("--outside", help="Start nothing inside: the host's view alone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look at every live runner from outside and inside: does the policy hold?

    Beside a running orchestrator or without it, as root; changes nothing. Exit code 1 when a
    control fails.
    """
    with _exit_codes():
        secrets = load_secrets()
        on_embedded = embedded or config is None
        checked = _build_config(config, _on_homeserver(None) if on_embedded else {}, {})
        configure_logging(fmt="text", level="WARNING", secrets=secrets.values())
        plan = IsolationPlan(
            config=checked,
            secrets=secrets,
            state_dir=(state_dir or checked.state_dir).absolute(),
            asks_inside=not outside,
        )
        report = asyncio.run(audit_isolation(plan))
        render = isolation_report.render_json if as_json else isolation_report.render_text
        _say(render(report))
        if not report.is_clean():
            raise typer.Exit(1)


@matrix_app.command("limit")
def matrix_limit(
    config: ConfigOption = None,
    embedded: EmbeddedOption = False,
    user: UserOption = None,
    state_dir: StateDir = None,
) -> None:
    """Show what the homeserver lets the account send (Synapse; with MATRIX_ADMIN_TOKEN)."""
    with _exit_codes():
        account = find_account(None if embedded else config, state_dir, user)
        _say(asyncio.run(describe_limit(account)))


@matrix_app.command("unlimit")
def matrix_unlimit(
    config: ConfigOption = None,
    embedded: EmbeddedOption = False,
    user: UserOption = None,
    state_dir: StateDir = None,
) -> None:
    """Lift the account's message limit on the homeserver (Synapse; with MATRIX_ADMIN_TOKEN)."""
    with _exit_codes():
        account = find_account(None if embedded else config, state_dir, user)
        _say(asyncio.run(lift_limit(account)))


def main() -> NoReturn:
    """Run the command line."""
    app()
    raise AssertionError


async def _build_image(base: Base) -> str:
    async with open_engine(None) as engine:
        return await ensure_image(engine, base=base, on_line=_say)


def _build_config(path: Path | None, matrix: dict[str, Any], overrides: dict[str, Any]) -> Config:
    """The file's configuration, with what the command line and the environment replace."""
    replaced = {**matrix, **overrides}
    if upstream := os.environ.get("ANTHROPIC_BASE_URL"):
        replaced["anthropic"] = {"upstream": upstream.rstrip("/")}
    if path is not None:
        return load_config(path, overrides=replaced)
    return parse_config(replaced, source="the command line and the environment")


def _on_homeserver(homeserver: EmbeddedHomeserver | None) -> dict[str, Any]:
    """What the embedded homeserver decides; before it runs, the same with an address to come."""
    return {
        "matrix": {
            "homeserver": homeserver.base_url if homeserver else f"http://{BIND_ADDRESS}",
            "user_id": AGENT_USER_ID,
        },
        "access": {"admins": [USER_ID]},
    }


def _state_dir(config: Path | None, given: Path | None) -> Path:
    """Where the state is: as said, as configured, or where it is without a configuration."""
    configured = DEFAULT_STATE_DIR if config is None else load_config(config).state_dir
    return (given or configured).absolute()


def _configure_logging(config: Config, secrets: list[str], *, for_a_person: bool) -> None:
    """Logs go to stderr; on the embedded homeserver a person reads along, so only warnings do.

    Unless the configuration says something about logs.
    """
    settings = config.observability
    if for_a_person:
        configure_logging(fmt="text", level="WARNING", secrets=secrets)
    else:
        configure_logging(fmt=settings.log_format, level=settings.log_level, secrets=secrets)


def _name_not_built(config: Config) -> None:
    for path in not_built(config):
        sys.stderr.write(f"orchestrator: {path}: read, and without effect yet\n")
    for line in (*unreachable_addresses(config), *uncovered_secrets(config)):
        sys.stderr.write(f"orchestrator: {line}\n")


def _require_root() -> None:
    """Each room's files get an owner of their own, which only root can set up.

    Raises:
        PreconditionError: we are somebody else.
    """
    if os.geteuid() != 0:
        msg = (
            "it must run as root, because each room's files get an owner of their own. "
            "Type: sudo make up (or sudo -E with the command that you typed)."
        )
        raise PreconditionError(msg)


def _remembered_port(state_dir: Path) -> int:
    """The port that this state directory's homeserver had the last time, or the usual one."""
    try:
        held = json.loads((state_dir / "embedded.json").read_text(encoding="utf-8"))
        return int(str(held["homeserver"]).rpartition(":")[2])
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_PORT


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def _exit_codes() -> Iterator[None]:
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
