"""Failures that are tried again alone: what is load, and what is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.again import MOST, TIMES, main

# Fails as often as the file beside it says, then passes.
_PROGRAM = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("name", {names})
def test_it(name):
    left = Path(__file__).with_name(name)
    number = int(left.read_text())
    left.write_text(str(number - 1))
    assert number <= 0
"""


def run_once(folder: Path, **failures: int) -> int:
    """A project of which each test fails so often; it has run once."""
    names = sorted(failures)
    (folder / "test_it.py").write_text(_PROGRAM.format(names=names))
    for name, number in failures.items():
        (folder / name).write_text(str(number))
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(folder), "--cache-clear"]
    return subprocess.run(
        command, cwd=folder, check=False, capture_output=True, timeout=60
    ).returncode


def tried(folder: Path, name: str, failures: int) -> int:
    """How often a test ran."""
    return failures - int((folder / name).read_text())


def test_what_fails_once_and_then_passes_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_once(tmp_path, once=1, well=0) == 1
    assert main(tmp_path) == 0
    said = capfd.readouterr().out
    assert f"unsteady: test_it.py::test_it[once] failed beside others, and passed {TIMES}" in said
    assert "[well]" not in said
    assert tried(tmp_path, "once", 1) == 1 + TIMES


@pytest.mark.parametrize("failures", [2, 100])
def test_what_fails_again_is_broken(tmp_path: Path, failures: int) -> None:
    assert run_once(tmp_path, broken=failures, once=1) == 1
    assert main(tmp_path) == 1


def test_many_failures_are_not_tried_again(tmp_path: Path) -> None:
    assert run_once(tmp_path, **{f"t{number}": 1 for number in range(MOST + 1)}) == 1
    assert main(tmp_path) == 1
    assert tried(tmp_path, "t0", 1) == 1


@pytest.mark.parametrize("noted", [None, "{", "{}"])
def test_without_a_note_nothing_is_forgiven(tmp_path: Path, noted: str | None) -> None:
    if noted is not None:
        place = tmp_path / ".pytest_cache" / "v" / "cache"
        place.mkdir(parents=True)
        (place / "lastfailed").write_text(noted)
    assert main(tmp_path) == 1


def test_a_name_that_is_no_test_any_more_is_broken(tmp_path: Path) -> None:
    assert run_once(tmp_path, once=1) == 1
    noted = tmp_path / ".pytest_cache" / "v" / "cache" / "lastfailed"
    noted.write_text(json.dumps({"test_it.py::test_gone": True}))
    assert main(tmp_path) == 1
