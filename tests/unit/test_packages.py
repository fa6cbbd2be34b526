"""Every package that the project names is locked with digests, and has its reason."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from scripts.newest import bare_name, locked_versions

ROOT = Path(__file__).resolve().parents[2]


def named() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = (project["dependencies"], *project["optional-dependencies"].values())
    return sorted(bare_name(one) for group in groups for one in group)


@pytest.mark.parametrize("name", named())
def test_each_package_is_locked_and_has_a_reason(name: str) -> None:
    reasons = (ROOT / "docs/decisions/0005-dependencies.md").read_text()
    given = {
        bare_name(found) for found in re.findall(r"\*\*([A-Za-z0-9-]+)(?:\[\w+\])?\*\*", reasons)
    }
    assert name in locked_versions()
    assert name in given


def test_the_program_that_writes_the_locks_is_installed_with_the_tools_for_tests() -> None:
    program = re.search(r"\.venv/bin/([a-z-]+)", (ROOT / "scripts/lock.sh").read_text())
    assert program is not None
    assert program[1] in named()
