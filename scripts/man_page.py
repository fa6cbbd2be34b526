"""Write docs/man/orchestrator.1 and docs/man/cchat.1 from the two commands themselves.

python -m scripts.man_page
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer

from cchat.error import EXIT_HELP
from cchat.main import app as cchat
from orchestrator import __version__
from orchestrator.main import app as orchestrator

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "man"

_APPS = {"orchestrator": orchestrator, "cchat": cchat}
# In the NAME section, which `apropos` reads.
_NAMES = {
    "orchestrator": "AI agents in Matrix rooms, one isolated runner for each room",
    "cchat": "talk to agents in Matrix rooms, and see their runners",
}
_EXIT_CODES = {
    "orchestrator": """\
  0    done
  1    a check found something, or a failure that is none of the others
  2    the configuration or the arguments
  3    something that the host must offer is missing
  4    the database
  5    the homeserver or the login
  130  Ctrl-C
""",
    "cchat": EXIT_HELP,
}
_MORE = {
    "orchestrator": """\
.SH ENVIRONMENT
Secrets are read from the environment, each from the variable itself or from the file that the
variable with _FILE at its end names.
.TP
.BR MATRIX_PASSWORD ", " MATRIX_ACCESS_TOKEN
The agent's login.
.TP
.BR ANTHROPIC_API_KEY ", " CLAUDE_CODE_OAUTH_TOKEN
The credential for the Messages API.
.TP
.B MATRIX_ADMIN_TOKEN
Of a server admin, for
.BR "orchestrator matrix" .
.TP
.B ANTHROPIC_BASE_URL
Replaces the configuration's anthropic.upstream.
.TP
.B AIAGENTCHAT_STATE_DIR
The state directory, where \\-\\-state\\-dir does not name it.
.TP
.B DOCKER_HOST
Where the Docker Engine listens.
.SH SEE ALSO
.BR cchat (1)
""",
    "cchat": """\
.SH ENVIRONMENT
.TP
.BR CCHAT_HOMESERVER ", " CCHAT_USER_ID
The homeserver's address, and whom to log in as.
.TP
.BR CCHAT_ACCESS_TOKEN ", " CCHAT_PASSWORD
One of them; each also as a file that the variable with _FILE at its end names.
.TP
.B CCHAT_AGENT_USER_ID
The agent to listen to.
.TP
.B AIAGENTCHAT_STATE_DIR
The orchestrator's state directory, where \\-\\-state\\-dir does not name it.
.TP
.B CCHAT_DEBUG
Where a bug happened is shown.
.SH FILES
.TP
.I ~/.config/aiagentchat/cchat.json
The session that
.B cchat login
keeps.
.SH SEE ALSO
.BR orchestrator (1)
""",
}


def build_page(name: str) -> str:
    """The page as it has to be, in the macros of man(7)."""
    command = typer.main.get_command(_APPS[name])
    context = click.Context(command, info_name=name, **command.context_settings)
    lines = [
        '.\\" Written by python -m scripts.man_page; a test compares it.',
        f'.TH {name.upper()} 1 "" "aiagentchat {__version__}" "User Commands"',
        ".SH NAME",
        f"{name} \\- {_escape(_NAMES[name])}",
        ".SH SYNOPSIS",
        f".B {name}",
        _escape(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_prose(command.help or ""),
        ".SH OPTIONS",
        *_options(command, context),
        ".SH COMMANDS",
        *(line for part in _commands(command, context) for line in part),
        ".SH EXIT STATUS",
        *_statuses(_EXIT_CODES[name]),
    ]
    return "\n".join(lines) + "\n" + _MORE[name]


# Typer has a copy of click's classes of its own, which type checkers don't see.
def _commands(group: Any, context: Any) -> Iterator[list[str]]:  # noqa: ANN401
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = click.Context(command, info_name=name, parent=context)
        if hasattr(command, "commands"):
            yield from _commands(command, inner)
            continue
        yield [
            f'.SS "{_escape(inner.command_path)}"',
            ".PP",
            f".B {_escape(inner.command_path)}",
            _escape(" ".join(command.collect_usage_pieces(inner))),
            ".PP",
            # Of both commands all of them stand in a section of their own.
            *_prose((command.help or "").partition("\b\nExit codes:")[0]),
            *_options(command, inner),
        ]


def _options(command: Any, context: Any) -> Iterator[str]:  # noqa: ANN401
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is not None:
            yield from (".TP", f".B {_escape(record[0])}", *_prose(record[1] or "See above."))


def _prose(text: str) -> Iterator[str]:
    """Paragraphs, with click's mark for one that keeps its lines, as in `--help`."""
    paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
    for number, paragraph in enumerate(filter(str.strip, paragraphs)):
        lines = [line.rstrip() for line in paragraph.strip("\n").splitlines()]
        if number:
            yield ".PP"
        if lines[0] == "\b":
            yield from (".nf", *map(_escape, lines[1:]), ".fi")
        else:
            yield _escape(" ".join(line.strip() for line in lines))


def _statuses(text: str) -> Iterator[str]:
    """The exit codes, which stand as `--help` has them: a number and what it means on a line."""
    for line in text.splitlines():
        if found := re.fullmatch(r"\s+(\d+)\s+(.+)", line):
            yield from (".TP", f".B {found[1]}", _escape(found[2]))


def _escape(text: str) -> str:
    """Text that means nothing to roff, but for `code`, which is bold."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    text = text.replace('"', "\\(dq").replace("'", "\\(aq").replace("^", "\\(ha")
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text).replace("~", "\\(ti")
    text = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in text)
    return f"\\&{text}" if text.startswith((".", " ")) else text


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for page in _APPS:
        (FOLDER / f"{page}.1").write_text(build_page(page))
        sys.stdout.write(f"{FOLDER / page}.1 is written\n")
