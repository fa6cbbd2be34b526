"""Try what has just failed again, alone: was it the test, or the load of all the others?

python -m scripts.again [FOLDER]

Tests on real parts wait for containers, browsers and other programs, three files at a time on as
few as two processors. Of more than 1,400 one or two fail so now and then. Such a test is named, and
counts as passed where it passes three times in succession by itself. One that fails again is
broken, and so is the run where more than three have failed. Exit code 0 or 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOST = 3
"""Failures that may be tried again."""
TIMES = 3
_FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main(folder: Path) -> int:
    """Try again what pytest noted in this folder; the exit code."""
    try:
        failed = sorted(json.loads((folder / _FAILED).read_text()))
    except (OSError, ValueError):
        failed = []
    if not failed or len(failed) > MOST:
        _say(f"{len(failed)} failures: none is tried again (that is done for 1 to {MOST})")
        return 1
    for number in range(1, TIMES + 1):
        _say(f"tried again alone, {number} of {TIMES}: {', '.join(failed)}")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *failed]
        done = subprocess.run(command, cwd=folder, check=False)
        if done.returncode:
            _say("that is no matter of load")
            return 1
    for name in failed:
        _say(f"unsteady: {name} failed beside others, and passed {TIMES} times alone")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd()))
