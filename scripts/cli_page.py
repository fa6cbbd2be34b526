"""Write docs/cli.md from the two commands themselves.

python -m scripts.cli_page
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import typer
from typer.cli import get_docs_for_click

from cchat.main import app as cchat
from orchestrator.main import app as orchestrator

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"

_HEAD = """\
# Commands on the host

Written from the commands by `python -m scripts.cli_page`; a test compares them. What is typed in a
room is in [commands.md](commands.md).

Both complete in bash, zsh and fish, from the next shell on, after `orchestrator
--install-completion` and `cchat --install-completion`. Both have a manual page: `man orchestrator`
and `man cchat` where their directory is in `PATH`, else
`man -l .venv/share/man/man1/orchestrator.1`.

Exit codes of `orchestrator`: 0 done; 1 a failure that is none of the others; 2 the configuration or
the arguments; 3 something that the host must offer is missing; 4 the database; 5 the homeserver or
the login.

"""


def build_page() -> str:
    """The page as it has to be."""
    return _HEAD + "\n".join(
        _docs(app, name) for app, name in ((orchestrator, "orchestrator"), (cchat, "cchat"))
    )


def _docs(app: typer.Typer, name: str) -> str:
    command = typer.main.get_command(app)
    context = click.Context(command, info_name=name)
    text = get_docs_for_click(obj=command, ctx=context, name=name)
    # One level down: the page has a title of its own.
    lines = [f"#{line}" if line.startswith("#") else line.rstrip() for line in text.splitlines()]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE} is written\n")
    PAGE.write_text(build_page())
