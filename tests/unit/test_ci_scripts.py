"""What CI's own scripts decide: notes of a release, what broke and by which package, licences."""

from __future__ import annotations

import json
import random
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts import newest, vulnerabilities
from scripts.release_notes import find_section

ROOT = Path(__file__).resolve().parents[2]
# Made by scripts/scan.sh before these tests.
TOOLS = ROOT / ".cache" / "scan" / "tools" / "bin" / "python"
needs_tools = pytest.mark.pipeline

CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-01-02

### Added

- b

## [1.1.0] - 2026-01-01

- a
"""


@pytest.mark.parametrize(
    ("version", "section"),
    [("1.2.0", "### Added\n\n- b"), ("1.1.0", "- a"), ("Unreleased", ""), ("1.1", None)],
)
def test_the_notes_of_a_release_are_its_section(version: str, section: str | None) -> None:
    assert find_section(CHANGELOG, version) == section


def test_a_requirement_loses_its_upper_bound_and_nothing_else() -> None:
    assert newest.without_bound("matrix-nio[e2e]>=0.26,<0.27") == "matrix-nio[e2e]>=0.26"
    assert newest.without_bound("docker>=7.1") == "docker>=7.1"
    assert newest.bare_name("matrix-nio[e2e]>=0.26,<0.27") == "matrix-nio"
    assert newest.bare_name("types-PyYAML") == "types-pyyaml"


def test_the_failed_tests_of_a_run_are_named_as_pytest_takes_them() -> None:
    junit = (
        '<testsuites><testsuite><testcase classname="tests.unit.test_a" name="test_x[1]">'
        '<failure message="m"/></testcase><testcase classname="tests.unit.test_a" name="test_y"/>'
        '<testcase classname="tests.unit.test_b" name="test_z"><error message="m"/></testcase>'
        "</testsuite></testsuites>"
    )
    assert newest.read_failed(junit) == [
        "tests/unit/test_a.py::test_x[1]",
        "tests/unit/test_b.py::test_z",
    ]


def test_what_broke_is_told_by_package() -> None:
    changed = {"docker": ("7.1", "8.0"), "typer": ("1", "2"), "attrs": ("1", "2")}
    report = newest.Report(changed=changed)
    by_package = {"docker": ["t::a"], "typer": []}

    newest.attribute(report, ["t::a", "t::b"], ["docker", "typer"], by_package.__getitem__)

    assert report.broke == {
        "docker 7.1 → 8.0": ["t::a"],
        "several together, or what they need": ["t::b"],
    }
    assert "! docker 7.1 → 8.0 breaks 1:\n    t::a" in str(report)


def test_nothing_is_tried_again_where_nothing_failed() -> None:
    report = newest.Report(changed={})
    newest.attribute(report, [], ["docker"], lambda _: pytest.fail("tried again"))
    assert "nothing broke" in str(report)


@pytest.mark.parametrize(
    ("codes", "code"), [([0, 0], 0), ([0, 69], 69), ([69, 1, 0], 1), ([1, 0], 1)]
)
def test_a_hole_weighs_more_than_a_database_that_was_not_asked(codes: list[int], code: int) -> None:
    assert vulnerabilities.worst(codes) == code


def test_a_database_that_knows_nothing_is_not_taken_for_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mirror that has the packages and no vulnerabilities."""
    empty: dict[str, Any] = {"dependencies": [{"name": "requests", "version": "2", "vulns": []}]}
    monkeypatch.setattr(vulnerabilities, "_pip_audit", lambda *_: empty)
    monkeypatch.setattr(vulnerabilities, "_npm", lambda _: 0)
    assert vulnerabilities.main() == vulnerabilities.EX_UNAVAILABLE
    assert "nothing was looked for" in capsys.readouterr().out


def scan(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TOOLS, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@needs_tools
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("Anthropic credential", "sk-ant-api03-{40}"),
        ("Matrix access token", "syt_Y2xhdWRl_{20}_aB3dE6"),
        ("GitHub Token", "ghp_{36}"),
        ("Private Key", "-----BEGIN RSA PRIVATE " + "KEY-----"),
    ],
)
def test_a_planted_secret_is_found(tmp_path: Path, kind: str, text: str) -> None:
    for count in (20, 36, 40):
        letters = "".join(random.choices(string.ascii_letters, k=count))
        text = text.replace(f"{{{count}}}", letters)
    (tmp_path / "settings.py").write_text(f"one = 1\nkey = '{text}'\n")

    found = scan("scripts.secret_scan", tmp_path / "settings.py")

    assert (found.returncode, f"settings.py:2: {kind}" in found.stdout) == (1, True), found


@needs_tools
def test_a_file_without_a_secret_passes(tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text("one = 1\nname = 'nobody'\n")
    assert scan("scripts.secret_scan", tmp_path / "settings.py").returncode == 0


def component(name: str, licence: str | None, **more: Any) -> dict[str, Any]:
    said = [] if licence is None else [{"expression": licence}]
    return {"name": name, "version": "1", "licenses": said, **more}


@needs_tools
@pytest.mark.parametrize(
    ("found", "why"),
    [
        (component("a", "MIT"), None),
        (component("a", "GPL-3.0-only OR Apache-2.0"), None),
        (component("a", "MIT AND GPL-3.0-only"), "MIT AND GPL-3.0-only: not in the list"),
        (component("a", "whatever it says"), "not in the list"),
        (component("a", None), "it names no licence"),
        (
            component("a", None, purl="pkg:deb/debian/a@1", properties=[
                {"name": "aiagentchat:debian-section", "value": "non-free/libs"}
            ]),
            "which is not main",
        ),
    ],
)  # fmt: skip
def test_a_licence_that_is_not_allowed_is_named(
    tmp_path: Path, found: dict[str, Any], why: str | None
) -> None:
    (tmp_path / "sbom.json").write_text(json.dumps({"components": [found]}))
    done = scan("scripts.licences", tmp_path / "sbom.json")
    assert done.returncode == (0 if why is None else 1), done.stdout
    assert why is None or why in done.stdout
