"""The `cchat` command: options in, exit codes out; the work is done elsewhere."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cchat import listing, login, talk
from cchat.error import EXIT_HELP, Exit, UsageError, exit_of_error
from cchat.output import Output
from orchestrator import __version__
from orchestrator.errors import AiAgentChatError

# A turn may wait behind others and then run for half an hour.
_DEFAULT_TIMEOUT_S = 3600.0
# A Matrix message holds less; reading stops soon after.
_MAX_STDIN_BYTES = 1 << 20

_SEND_HELP = (
    """\
Send a message to a room; TEXT "-" or none reads standard input.

ROOM is #alias, #alias:server, !id, a room's name or its slug; "demo" alone works, too.
With --wait the answer goes to standard output as it comes, everything else to standard error.

\b
With --json, one object per line:
  {"type": "sent", "room_id", "event_id"}
  {"type": "text" | "notice", "event_id", "sender", "time", "body", "turn", …}
  {"type": "end", "turn", "outcome", "exit_code"}

"""
    + EXIT_HELP
)
_TAIL_HELP = """\
Follow a room: its last messages, then what comes, until Ctrl-C.

\b
With --json, one object per line:
  {"type": "text" | "notice" | "emote" | "file" | "mark", "room_id", "event_id",
   "sender", "time" (Unix, seconds), "body", "edit", "turn"}
"turn" is null, or {"turn", "asked", "part", "final", "outcome"}.
"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help="The orchestrator's state directory. [env: AIAGENTCHAT_STATE_DIR; default: ./state]",
    ),
]
Room = Annotated[str, typer.Argument(metavar="ROOM", help="For instance: demo, #demo, !id")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON.")]


def _print_version(value: bool) -> None:
    if value:
        print(f"cchat {__version__}")
        raise typer.Exit


@app.callback(epilog=EXIT_HELP)
def _main(
    ctx: typer.Context,
    state_dir: StateDir = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Talk to agents in Matrix rooms, and see their runners.

    On the embedded homeserver (make up) nothing has to be set up. Elsewhere type "cchat login", or
    set CCHAT_HOMESERVER and CCHAT_ACCESS_TOKEN, or CCHAT_USER_ID and CCHAT_PASSWORD; secrets also
    as files, with _FILE at the end of the name. CCHAT_AGENT_USER_ID names the agent to listen to.
    """
    ctx.obj = state_dir


@app.command(help=_SEND_HELP)
def send(
    ctx: typer.Context,
    room: Room,
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="The message.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Print the answer as it comes.")] = False,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0.1,
            max=7 * 86400,
            help="The most that --wait waits.",
        ),
    ] = _DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
    state_dir: StateDir = None,
) -> None:
    """See _SEND_HELP."""
    output = Output(as_json=as_json)

    def work() -> Coroutine[None, None, Exit]:
        request = talk.SendRequest(
            state_dir=_state_dir(ctx, state_dir),
            room=room,
            text=_message_text(text or [], output),
            wait=wait,
            timeout_s=timeout,
        )
        return talk.send(request, output)

    _run(work, output)


@app.command(help=_TAIL_HELP)
def tail(
    ctx: typer.Context,
    room: Room,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, max=10000, help="Messages to begin with.")
    ] = 10,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Stay for what comes.")
    ] = True,
    as_json: AsJson = False,
    state_dir: StateDir = None,
) -> None:
    """See _TAIL_HELP."""
    output = Output(as_json=as_json)
    where = _state_dir(ctx, state_dir)
    _run(lambda: talk.tail(where, room, count=lines, follow=follow, output=output), output)


@app.command()
def runners(ctx: typer.Context, as_json: AsJson = False, state_dir: StateDir = None) -> None:
    """List the rooms' runners: state, turn, memory. Asks the orchestrator on this host."""
    output = Output(as_json=as_json)
    _run(lambda: listing.runners(_state_dir(ctx, state_dir), output), output)


@app.command()
def rooms(ctx: typer.Context, as_json: AsJson = False, state_dir: StateDir = None) -> None:
    """List the agent's rooms. Asks the orchestrator on this host."""
    output = Output(as_json=as_json)
    _run(lambda: listing.rooms(_state_dir(ctx, state_dir), output), output)


@app.command(name="login")
def login_command(
    homeserver: Annotated[
        str, typer.Option("--homeserver", metavar="URL", prompt=True, help="https://…")
    ],
    user: Annotated[str, typer.Option("--user", metavar="ID", prompt=True, help="@you:server")],
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="ID", help="The agent to listen to.")
    ] = None,
) -> None:
    """Log in once, and keep the session in ~/.config/aiagentchat/cchat.json (0600).

    The password is asked for; without a terminal it is read from standard input.
    """
    output = Output()
    _run(lambda: login.login(homeserver, user, agent, login.read_password(user), output), output)


def main() -> None:
    """Entry point; ends the process with one of the exit codes of `--help`."""
    for stream in (sys.stdout, sys.stderr):
        # In a locale that is not UTF-8 a letter is replaced; nothing fails for it.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    app()


def _run(work: Callable[[], Coroutine[None, None, Exit]], output: Output) -> NoReturn:
    code = Exit.BUG
    try:
        # What `work` reads, it reads before the loop runs: there, Ctrl-C does not end a read.
        code = asyncio.run(work())
    except AiAgentChatError as e:
        output.say(str(e))
        code = exit_of_error(e)
    except KeyboardInterrupt:
        code = Exit.CTRL_C
    except BrokenPipeError:
        # Whoever read us has enough; the interpreter must not fail at its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.BROKEN_PIPE
    except Exception as e:
        if os.environ.get("CCHAT_DEBUG"):
            raise
        output.say(
            f"A bug: {type(e).__name__}. Please report it; CCHAT_DEBUG=1 shows where it happened."
        )
    raise typer.Exit(code)


def _state_dir(ctx: typer.Context, given: Path | None) -> Path:
    from_environment = Path(os.environ.get("AIAGENTCHAT_STATE_DIR") or "state")
    # Absolute: messages name it, and it has to be right in another directory, too.
    chosen: Path = given or ctx.obj or from_environment
    return chosen.absolute()


def _message_text(words: list[str], output: Output) -> str:
    text = " ".join(words) if words and words != ["-"] else _read_stdin(output)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        msg = "The text is not UTF-8."
        raise UsageError(msg) from e
    if not text.strip():
        msg = "There is nothing to send: the text is empty."
        raise UsageError(msg)
    return text


def _read_stdin(output: Output) -> str:
    if sys.stdin.isatty():
        output.say("Type the message; Ctrl-D on a line of its own sends it.")
    raw = sys.stdin.buffer.read(_MAX_STDIN_BYTES)
    try:
        return raw.decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as e:
        msg = "What came on standard input is not UTF-8 text."
        raise UsageError(msg) from e
