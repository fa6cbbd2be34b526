"""docs/security/cli-advisories.md: the pinned CLI is newer than every fix that it lists."""

from __future__ import annotations

import json
import re
from pathlib import Path

from orchestrator.runners.image import image_dir

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security" / "cli-advisories.md"
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)( †)?")
Version = tuple[int, ...]


def fixes() -> dict[str, Version]:
    """Each advisory of the page and the version that fixed it."""
    found: dict[str, Version] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or cells[0] == "advisory" or set(cells[0]) <= {"-"}:
            continue
        name, fixed_in, what, here = cells
        match = _VERSION.fullmatch(fixed_in)
        assert match, f"{name}: {fixed_in} is no version"
        assert what
        assert here
        assert name not in found
        found[name] = tuple(int(part) for part in match.groups()[:3])
    return found


def test_the_page_lists_each_advisory_once_with_its_fix_and_what_it_means() -> None:
    assert len(fixes()) >= 20
    assert fixes()["CVE-2026-55607"] == (2, 1, 163)


def test_the_pinned_cli_is_not_older_than_any_fix() -> None:
    pin = json.loads((image_dir() / "claude-code.json").read_text())["version"]
    version = tuple(int(part) for part in pin.split("."))
    assert {name: fix for name, fix in fixes().items() if version < fix} == {}
