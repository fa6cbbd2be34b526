"""The `orchestrator` command: arguments in, exit codes out (`command_line` lists them)."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import SecretStr

from orchestrator import __version__, faultpoint
from orchestrator.audit_commands import audit_app, matrix_app
from orchestrator.backup.making import backup_name, describe, make_backup
from orchestrator.backup.restoring import is_archive, restore_backup
from orchestrator.clean_up import CleanUpPlan, clean_up
from orchestrator.command_line import (
    BaseOption,
    ConfigFile,
    ConfigOption,
    StateDir,
    build_config,
    exit_codes,
    find_state_dir,
    name_state_dir,
    on_homeserver,
    require_state_dir,
    say,
)
from orchestrator.config import (
    Config,
    given_upstream,
    load_config,
    load_secrets,
    read_secret,
)
from orchestrator.config_hint import unreachable_addresses
from orchestrator.config_watch import WatchedFile, plain, read_applied
from orchestrator.control.client import ControlClient
from orchestrator.core import diagnosis, texts
from orchestrator.core.config_diff import find_changes
from orchestrator.daemon import Plan
from orchestrator.doctor.examination import ExaminationPlan, examine
from orchestrator.doctor.host import check_disk
from orchestrator.embedded.homeserver import DEFAULT_PORT, EmbeddedHomeserver
from orchestrator.errors import PreconditionError
from orchestrator.first_setup import (
    ENVIRONMENT_NAME,
    Given,
    Terminal,
    set_up,
)
from orchestrator.log import configure_logging
from orchestrator.model import Permissions
from orchestrator.recovery import back_up
from orchestrator.recovery import restore as recover
from orchestrator.reloading import serve
from orchestrator.room_secret import load_room_secrets, uncovered_secrets
from orchestrator.runners.engine import open_engine
from orchestrator.runners.image import Base, ensure_image
from orchestrator.socket_proxy.command import socket_proxy
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
app.add_typer(image_app, name="image")
app.add_typer(audit_app, name="audit")
app.add_typer(matrix_app, name="matrix")
app.add_typer(config_app, name="config")
app.command("socket-proxy")(socket_proxy)


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
    with exit_codes():
        faultpoint.arm(os.environ)
        on_embedded = embedded or config is None
        overrides = {"defaults": {"permissions": permissions.value}} if permissions else {}

        def build(homeserver: EmbeddedHomeserver | None) -> Config:
            return build_config(config, on_homeserver(homeserver) if on_embedded else {}, overrides)

        def make_plan() -> Plan:
            secrets, checked = load_secrets(), build(None)
            _give_hints(checked)
            room_secrets = load_room_secrets(checked)
            status_tokens = secrets.status_tokens(checked.observability)
            if not on_embedded:
                secrets.require_api_credential()
            hidden = [*secrets.values(), *room_secrets.values()]
            is_silent = "observability" not in checked.model_fields_set
            _configure_logging(checked, hidden, for_a_person=on_embedded and is_silent)
            where = (state_dir or checked.state_dir).absolute()
            return Plan(
                state_dir=where,
                secrets=secrets,
                room_secrets=room_secrets,
                build_config=partial(_on, checked),
                embedded_port=(port or _remembered_port(where)) if on_embedded else None,
                base=base,
                file=None if config is None else WatchedFile(config, build),
                status_tokens=status_tokens,
            )

        _require_root()
        plan = make_plan()
        _warn_of_disk(plan.state_dir)
        serve(plan, make_plan, say)
        say("Stopped.")


@image_app.command("build")
def image_build(base: BaseOption = Base.AUTO) -> None:
    """Build the runner image of this version, unless it is there."""
    with exit_codes():
        configure_logging(fmt="text", level="WARNING", secrets=())
        say(f"The runner image is ready: {asyncio.run(_build_image(base))}")


@config_app.command("diff")
def config_diff(
    file: Annotated[Path, typer.Argument(help="The configuration file.")],
    embedded: Annotated[
        bool, typer.Option("--embedded", help="It is one for `up --embedded`, without `matrix`.")
    ] = False,
    state_dir: StateDir = None,
) -> None:
    """What the file changes of what is in force, key by key, and when that takes effect."""
    with exit_codes():
        new = build_config(file, on_homeserver(None) if embedded else {}, {})
        where = require_state_dir(state_dir or new.state_dir)
        applied = read_applied(where)
        if applied is None:
            msg = (
                f"nothing is in force in {where}: no orchestrator has run there yet. "
                "Start it, or name another directory with --state-dir."
            )
            raise PreconditionError(msg)
        changes = [
            change
            for change in find_changes(applied, plain(new))
            if not (embedded and change.path == ("matrix", "homeserver"))
        ]
        for change in changes:
            say(str(change))
        say(f"{len(changes)} difference(s)" if changes else f"{file}: as it is in force")


@config_app.command("check")
def config_check(
    file: Annotated[Path, typer.Argument(help="The configuration file.")],
    embedded: Annotated[
        bool, typer.Option("--embedded", help="It is one for `up --embedded`, without `matrix`.")
    ] = False,
) -> None:
    """Read and validate a configuration file; one line for each mistake."""
    with exit_codes():
        _give_hints(load_config(file, overrides=on_homeserver(None) if embedded else {}))
        say(f"{file}: fine")


@app.command()
def init(
    folder: Annotated[
        Path, typer.Option(help="Where config.yaml, aiagentchat.env and secrets/ are written.")
    ] = Path(),
    homeserver: Annotated[
        str | None, typer.Option(help="Its address or its name: https://m.example.org, example.org")
    ] = None,
    user_id: Annotated[
        str | None, typer.Option(help="The agent's account, @claude:example.org")
    ] = None,
    admin: Annotated[str | None, typer.Option(help="Your account, which may do everything")] = None,
) -> None:
    """Write a configuration and its secret files; each answer is tried out at once.

    What is not given is asked for. Secrets come from the environment, or are asked for unseen:
    MATRIX_PASSWORD, or MATRIX_REGISTRATION_SECRET to make the agent's account on Synapse;
    ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN; each also as NAME_FILE.
    """
    with exit_codes():
        configure_logging(fmt="text", level="ERROR", secrets=())
        secrets = load_secrets()
        registration = read_secret("MATRIX_REGISTRATION_SECRET", os.environ)
        given = Given(
            folder=folder.absolute(),
            homeserver=homeserver,
            user_id=user_id,
            password=secrets.matrix_password,
            registration_secret=SecretStr(registration) if registration else None,
            admin=admin,
            credential=secrets.anthropic_api_key or secrets.claude_code_oauth_token,
            upstream=given_upstream(os.environ),
        )
        written = set_up(given, Terminal(say=say, ask=_ask if sys.stdin.isatty() else None))
        for path in written:
            say(f"wrote {path}")
        config, environment = written[0], given.folder / ENVIRONMENT_NAME
        say("Start it:")
        start = [str(Path(sys.executable).parent / "orchestrator"), "up", "--config", str(config)]
        say(f"  set -a; . {shlex.quote(str(environment))}; set +a")
        say(f"  sudo -E {shlex.join(start)}")


@app.command()
def doctor(
    config: ConfigOption = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="It is for `up --embedded`, without `matrix`.")
    ] = False,
    state_dir: StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Try out all that `up` needs: this host, the engine, the homeserver, secrets, the API.

    Beside a running orchestrator or without one; changes nothing. Exit code 1 when a check fails.
    """
    with exit_codes():
        configure_logging(fmt="text", level="ERROR", secrets=())
        path = config
        matrix = on_homeserver(None) if embedded else {}
        plan = ExaminationPlan(
            load=None if path is None else lambda: build_config(path, matrix, {}),
            is_embedded=embedded or path is None,
            state_dir=state_dir,
        )
        found = asyncio.run(examine(plan))
        say(diagnosis.render_json(found) if as_json else diagnosis.render_text(found))
        if not diagnosis.is_healthy(found):
            raise typer.Exit(1)


@app.command()
def status(
    config: ConfigFile = None,
    state_dir: StateDir = None,
    html: Annotated[
        bool, typer.Option("--html", help="The page of observability.status, to be read only.")
    ] = False,
) -> None:
    """What is now: rooms, runners, turns, questions to people, costs, connections, health.

    Asks the orchestrator that runs on this host, over its control socket.
    """
    with exit_codes():
        where = require_state_dir(find_state_dir(config, state_dir))
        say(asyncio.run(ControlClient(where).page(as_html=html)).rstrip("\n"))


@app.command()
def backup(
    config: ConfigFile = None,
    state_dir: StateDir = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            help="The backup's file. Default: aiagentchat-TIME.tar here, or with --database-only a "
            "new one in STATE_DIR/backups.",
        ),
    ] = None,
    database_only: Annotated[
        bool, typer.Option("--database-only", help="A copy of the database, and nothing else.")
    ] = False,
) -> None:
    """Put everything into one file: database, login, keys, rooms' files; also while it is in use.

    It is as secret as the host. The configuration and what it names are not part of it.
    """
    with exit_codes():
        configure_logging(fmt="text", level="WARNING", secrets=())
        where = find_state_dir(config, state_dir)
        if database_only:
            target = (to or where / COPIES_DIR / copy_name(time.time())).absolute()
            say(f"{target}: {back_up(where, target):,} bytes")
            return
        target = (to or Path(backup_name(time.time()))).absolute()
        for line in describe(make_backup(where, target, tell=say)):
            say(line)


@app.command()
def gc(
    config: ConfigFile = None,
    state_dir: StateDir = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove it. Without this it is only listed.")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Also files and copies of rooms that the agent is not in any more, and databases "
            "that a restore put aside; only while no orchestrator runs.",
        ),
    ] = False,
) -> None:
    """List what this installation left behind, and remove it: only its own, nothing that runs.

    Stopped containers, images of other versions. Exit code 1 when something could not be removed.
    """
    with exit_codes():
        configure_logging(fmt="text", level="WARNING", secrets=())
        plan = CleanUpPlan(
            state_dir=find_state_dir(config, state_dir), is_dry=not yes, takes_all=everything
        )
        if asyncio.run(clean_up(plan, say)):
            raise typer.Exit(1)


@app.command()
def restore(
    file: Annotated[
        Path, typer.Argument(help="What `orchestrator backup` made, or a copy of the database.")
    ],
    config: ConfigFile = None,
    state_dir: StateDir = None,
    expect: Annotated[
        str | None,
        typer.Option(help="The SHA-256 that `orchestrator backup` printed; for a whole backup."),
    ] = None,
) -> None:
    """Go on from a backup, in an empty directory, or from a copy of the database, in its place.

    Only while no orchestrator runs. What happened since is not run again; each room is told once.
    """
    with exit_codes():
        configure_logging(fmt="text", level="WARNING", secrets=())
        where = name_state_dir(config, state_dir)
        if expect is not None or is_archive(file):
            put = restore_backup(file.absolute(), where, expected=expect)
            say(f"{where} is as of {texts.utc_time(put.made_at)}: {put.rooms} room(s) with files.")
            if put.turns:
                say(f"{put.turns} turn(s) that had not ended then are ended; their rooms are told.")
            say("The installation it was made of must not be started again: the account is one.")
            return
        done = recover(file.absolute(), require_state_dir(where))
        say(f"{where} is as of {texts.utc_time(done.copied_at)} again.")
        if done.turns:
            say(f"{done.turns} turn(s) that had not ended then are ended; their rooms are told.")
        if done.put_aside is not None:
            say(f"The database that was there is now {done.put_aside}.")
        say("Encryption keys, login and the rooms' files were left as they are.")


def main() -> NoReturn:
    """Run the command line."""
    app()
    raise AssertionError


async def _build_image(base: Base) -> str:
    async with open_engine(None) as engine:
        return await ensure_image(engine, base=base, on_line=say)


def _on(config: Config, homeserver: EmbeddedHomeserver | None) -> Config:
    """The configuration, on the embedded homeserver where that runs."""
    if homeserver is None:
        return config
    matrix = config.matrix.model_copy(update={"homeserver": homeserver.base_url})
    return config.model_copy(update={"matrix": matrix})


def _configure_logging(config: Config, secrets: list[str], *, for_a_person: bool) -> None:
    """Logs go to stderr; on the embedded homeserver a person reads along, so only warnings do.

    Unless the configuration says something about logs.
    """
    settings = config.observability
    if for_a_person:
        configure_logging(fmt="text", level="WARNING", secrets=secrets)
    else:
        configure_logging(fmt=settings.log_format, level=settings.log_level, secrets=secrets)


def _give_hints(config: Config) -> None:
    for line in (*unreachable_addresses(config), *uncovered_secrets(config)):
        sys.stderr.write(f"orchestrator: {line}\n")


def _warn_of_disk(state_dir: Path) -> None:
    """The one of the doctor's checks of this host that a start would not make by itself."""
    check = check_disk(state_dir)
    if check.verdict is not diagnosis.Verdict.PASS:
        sys.stderr.write(f"orchestrator: disk: {check.found}. To mend it: {check.mend}.\n")


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


def _ask(question: str, is_secret: bool) -> str:
    text: str = typer.prompt(question, hide_input=is_secret)
    return text
