"""Write docs/commands.md from the table of orchestrator.core.command_table.

python -m scripts.commands_page
"""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.core.command import COMMANDS, CommandName, Group, form_of
from orchestrator.core.role import name_who_may

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"

_HEAD = """\
# Commands in a room

Written from the table in `orchestrator/core/command_table.py` by `python -m scripts.commands_page`;
a test compares them. Change the table, not this page.

A command is a message of its own that begins with `!`. What is mistyped gets a hint and changes
nothing; a command that a crash of the orchestrator interrupts takes effect once. Who may what is
said in [rooms.md](rooms.md). In a room, `!help` lists what one may use oneself.
"""


def build_page() -> str:
    """The page as it has to be."""
    parts = [_HEAD]
    for group in Group:
        parts.append(f"## {group}\n")
        parts += [_entry(name) for name in CommandName if COMMANDS[name].group is group]
    return "\n".join(parts)


def _entry(name: CommandName) -> str:
    spec = COMMANDS[name]
    summary = f"{spec.summary[0].upper()}{spec.summary[1:]}."
    lines = [f"### `{form_of(name)}`", "", " ".join([summary, spec.details]).rstrip(), ""]
    lines += [f"Who may: {name_who_may(spec.needs)}."]
    if spec.examples:
        lines += ["", "For instance: " + ", ".join(f"`{example}`" for example in spec.examples)]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE} is written\n")
    PAGE.write_text(build_page())
