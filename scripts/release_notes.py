"""What the changelog says of a release: `python scripts/release_notes.py [VERSION]`.

Without a version, of what is not released yet. A tag's `v` is left out. Exit code 1: nothing there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parents[1] / "CHANGELOG.md"


def find_section(changelog: str, version: str) -> str | None:
    """The section of a version, without its heading; None where there is none."""
    heading = re.compile(rf"^## \[{re.escape(version)}\].*\n", re.MULTILINE)
    found = heading.search(changelog)
    if found is None:
        return None
    return changelog[found.end() :].split("\n## [", 1)[0].strip()


def main(arguments: list[str]) -> int:
    """Print the section."""
    version = arguments[0].removeprefix("v") if arguments else "Unreleased"
    section = find_section(CHANGELOG.read_text(encoding="utf-8"), version)
    if not section:
        print(
            f"CHANGELOG.md has nothing under [{version}]. Write it, then try again.",
            file=sys.stderr,
        )
        return 1
    print(section)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
