"""`orchestrator audit` and `orchestrator matrix`: what is, and what the account may send."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.account_limit import AdminedAccount, describe_limit, find_account, lift_limit
from orchestrator.audit.isolation import IsolationPlan, audit_isolation
from orchestrator.audit.messages import AuditPlan, audit_messages, render_json, render_text
from orchestrator.audit_log import verify
from orchestrator.command_line import (
    ConfigFile,
    ConfigOption,
    EmbeddedOption,
    StateDir,
    UserOption,
    build_config,
    exit_codes,
    find_state_dir,
    on_homeserver,
    require_state_dir,
    say,
)
from orchestrator.config import DEFAULT_STATE_DIR, load_secrets
from orchestrator.core import isolation_report
from orchestrator.log import configure_logging
from orchestrator.room_secret import readable_secrets

log_app = typer.Typer(help="The audit log.", no_args_is_help=True)
audit_app = typer.Typer(help="Is everything accounted for?", no_args_is_help=True)
matrix_app = typer.Typer(help="The agent's account on the homeserver.", no_args_is_help=True)


audit_app.add_typer(log_app, name="log")


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
    with exit_codes():
        secrets = load_secrets()
        on_embedded = embedded or config is None
        checked = build_config(config, on_homeserver(None) if on_embedded else {}, {})
        configure_logging(fmt="text", level="WARNING", secrets=secrets.values())
        plan = AuditPlan(
            config=checked,
            secrets=secrets,
            state_dir=require_state_dir(state_dir or checked.state_dir),
            is_embedded=on_embedded,
        )
        report = asyncio.run(audit_messages(plan))
        say(render_json(report) if as_json else render_text(report))
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
    with exit_codes():
        secrets = load_secrets()
        on_embedded = embedded or config is None
        checked = build_config(config, on_homeserver(None) if on_embedded else {}, {})
        hidden = [*secrets.values(), *readable_secrets(checked).values()]
        configure_logging(fmt="text", level="WARNING", secrets=hidden)
        plan = IsolationPlan(
            config=checked,
            secrets=secrets,
            state_dir=require_state_dir(state_dir or checked.state_dir),
            asks_inside=not outside,
        )
        report = asyncio.run(audit_isolation(plan))
        render = isolation_report.render_json if as_json else isolation_report.render_text
        say(render(report))
        if not report.is_clean():
            raise typer.Exit(1)


@log_app.command("verify")
def audit_log_verify(
    config: ConfigFile = None,
    state_dir: StateDir = None,
    expect: Annotated[
        str | None,
        typer.Option(
            help="A digest that an earlier verification printed; one line must still have it."
        ),
    ] = None,
) -> None:
    """Follow the audit log's chain: was a line changed, taken out, or put in?

    Prints the last line's digest: kept elsewhere, it shows a log that was cut or written anew.
    Exit code 1 when something is wrong.
    """
    with exit_codes():
        chain = verify(find_state_dir(config, state_dir), expected=expect)
        say(f"{chain.lines} line(s), last digest {chain.head}")
        if chain.problem is not None:
            say(f"WRONG: {chain.problem}")
        if expect is not None and not chain.has_expected:
            say(f"WRONG: no line has the digest {expect}: the log was cut, or written anew")
        if chain.problem is not None or (expect is not None and not chain.has_expected):
            raise typer.Exit(1)


@matrix_app.command("limit")
def matrix_limit(
    config: ConfigOption = None,
    embedded: EmbeddedOption = False,
    user: UserOption = None,
    state_dir: StateDir = None,
) -> None:
    """Show what the homeserver lets the account send (Synapse; with MATRIX_ADMIN_TOKEN)."""
    with exit_codes():
        account = _find_account(None if embedded else config, state_dir, user)
        say(asyncio.run(describe_limit(account)))


@matrix_app.command("unlimit")
def matrix_unlimit(
    config: ConfigOption = None,
    embedded: EmbeddedOption = False,
    user: UserOption = None,
    state_dir: StateDir = None,
) -> None:
    """Lift the account's message limit on the homeserver (Synapse; with MATRIX_ADMIN_TOKEN)."""
    with exit_codes():
        account = _find_account(None if embedded else config, state_dir, user)
        say(asyncio.run(lift_limit(account)))


def _find_account(config: Path | None, state_dir: Path | None, user: str | None) -> AdminedAccount:
    """As `find_account`; the embedded homeserver's needs a state directory."""
    if config is None:
        require_state_dir(state_dir or DEFAULT_STATE_DIR)
    return find_account(config, state_dir, user)
