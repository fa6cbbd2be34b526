""".gitlab-ci.yml as GitLab would read it, on this machine: what runs when, and one job for real."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("rsync") is None, reason="gitlab-ci-local needs rsync"),
]

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "pipeline" / "node_modules" / ".bin" / "gitlab-ci-local"
TARGETS = frozenset(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """What a job of the pipeline looks at, as a repository of its own."""
    folder = tmp_path / "sources"
    for name in (".gitlab-ci.yml", ".ci", "Makefile", "CHANGELOG.md", "scripts"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name)
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for words in (
        ("init", "-qb", "main"),
        ("config", "user.name", "Test"),
        ("config", "user.email", "test@localhost"),
        ("remote", "add", "origin", "git@gitlab.test:group/project.git"),
        ("add", "."),
        ("commit", "-qm", "sources"),
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def pipeline(sources: Path, *words: str) -> str:
    """gitlab-ci-local; what it says."""
    # Node.js comes with the locked packages.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    home = sources.parent / "home"
    done = subprocess.run(
        [PROGRAM, "--home", home, *words],
        cwd=sources,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path, "HOME": str(home), "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def jobs(sources: Path, **variables: str) -> dict[str, Any]:
    """The jobs that would run in such a pipeline, by name."""
    given = [word for k, v in variables.items() for word in ("--variable", f"{k}={v}")]
    quiet = ("--ignore-predefined-vars", ",".join(variables))
    text = pipeline(sources, "--list-json", *quiet, *given)
    listed = json.loads(text[text.index("[\n") :])
    return {job["name"]: job for job in listed if job["when"] != "never"}


EACH_TIME = {
    "lint", "type-check", "changelog", "unit", "integration", "security", "secrets",
    "vulnerabilities", "runner-image", "package",
}  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({"CI_PIPELINE_SOURCE": "push"}, EACH_TIME),
        ({"CI_PIPELINE_SOURCE": "merge_request_event"}, EACH_TIME),
        ({"CI_PIPELINE_SOURCE": "schedule"}, {"newest"}),
        (
            {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_TAG": "v1.0.0"},
            EACH_TIME | {"notes", "release"},
        ),
    ],
    ids=["push", "merge request", "schedule", "tag"],
)
def test_what_runs_when(sources: Path, variables: dict[str, str], names: set[str]) -> None:
    assert set(jobs(sources, **variables)) == names


def test_every_job_calls_a_target_that_there_is(sources: Path) -> None:
    text = pipeline(sources, "--preview")
    called = set(re.findall(r"^ *- '?\"?make ([a-z]+)", text, re.MULTILINE))
    assert called <= TARGETS
    assert called >= (EACH_TIME - {"type-check", "changelog", "runner-image"}) | {
        "types",
        "image",
        "sbom",
        "licences",
        "newest",
        "notes",
    }


def test_a_job_runs_on_this_machine(sources: Path) -> None:
    said = pipeline(sources, "--force-shell-executor", "changelog")
    assert "PASS  changelog" in said
    assert "### Added" in said


def test_a_job_that_fails_fails(sources: Path) -> None:
    (sources / "CHANGELOG.md").write_text("# Changelog\n")
    with pytest.raises(AssertionError, match=r"FAIL  changelog(.|\n)*nothing under \[Unreleased\]"):
        pipeline(sources, "--force-shell-executor", "changelog")
