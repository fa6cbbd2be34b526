"""Entry: `python3 -I -S /opt/aiagentchat/launcher KINDS PROGRAM ARGUMENT…`.

Becomes PROGRAM, with what it honours of the working directory's configuration added. KINDS is a
list with commas, of the names in `honoured.KINDS`.
"""

import os
import sys

# Run as a directory, sys.path starts with that directory; the package is found from its parent.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100,PTH120

from launcher.honoured import build_additions, parse_kinds  # noqa: E402 -- after the path
from launcher.workspace import read_object  # noqa: E402 -- after the path

_USAGE = 64  # as sysexits.h has it


def main(argv: list[str]) -> int:
    """Start the program in this process's place; an exit code when the arguments are wrong.

    Raises:
        OSError: the program can't be started.
    """
    try:
        kinds, command = parse_kinds(argv[1]), argv[2:]
        program = command[0]
    except (IndexError, ValueError) as e:
        sys.stderr.write(f"launcher: {e}\n")
        return _USAGE
    added = build_additions(kinds, lambda *path: read_object(".", *path), os.environ)
    for note in added.notes:
        sys.stderr.write(f"launcher: {note}\n")
    sys.stderr.flush()
    environment = {**os.environ, **added.environment}
    return os.execve(program, [*command, *added.arguments], environment)  # noqa: S606 -- no shell


if __name__ == "__main__":
    sys.exit(main(sys.argv))
