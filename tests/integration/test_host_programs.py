"""What people's own programs make of ours: their manual, and their shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.man_page import FOLDER

pytestmark = pytest.mark.host

NAMES = ("orchestrator", "cchat")
PROGRAMS = Path(sys.executable).parent


def run(folder: Path, *command: str) -> tuple[str, str]:
    """What it prints, and what it complains of; with a home of its own."""
    environ = {
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "MANWIDTH": "80",
    }
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environ, timeout=60
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_manual_page_is_shown_without_a_warning(tmp_path: Path, name: str) -> None:
    page = str(FOLDER / f"{name}.1")
    assert run(tmp_path, "groff", "-man", "-ww", "-Tutf8", "-z", page) == ("", "")
    shown, complaints = run(tmp_path, "man", "--warnings", "-l", page)
    assert complaints == ""
    for words in ("NAME", "SYNOPSIS", "EXIT STATUS", f"{name} - ", "--state-dir"):
        assert words in " ".join(shown.split())


def test_groff_complains_of_a_page_that_is_not_in_order(tmp_path: Path) -> None:
    (tmp_path / "bad.1").write_text(".TH BAD 1\n.SH NAME\nbad \\[nosuchcharacter]\n.NOSUCH\n")
    _, complaints = run(tmp_path, "groff", "-man", "-ww", "-Tutf8", "-z", str(tmp_path / "bad.1"))
    assert "NOSUCH" in complaints
    assert "nosuchcharacter" in complaints


@pytest.mark.parametrize(
    ("name", "words", "offered"),
    [
        ("orchestrator", ("con",), {"config"}),
        ("orchestrator", ("config", ""), {"check", "diff"}),
        ("orchestrator", ("up", "--perm"), {"--permissions"}),
        ("orchestrator", ("up", "--permissions", "a"), {"ask", "accept_edits"}),
        ("cchat", ("r",), {"rooms", "runners"}),
        ("cchat", ("send", "--wa"), {"--wait"}),
    ],
)
def test_bash_completes_after_the_installation_that_is_documented(
    tmp_path: Path, name: str, words: tuple[str, ...], offered: set[str]
) -> None:
    run(tmp_path, "bash", "-c", f"{name} --install-completion && true")
    # As bash does at a tab: the function that the name is registered with, and what it leaves.
    script = """
        . ~/.bashrc
        function=$(complete -p "$1" | sed "s/.* -F \\([^ ]*\\) .*/\\1/")
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        "$function" "$1"
        printf "%s\\n" "${COMPREPLY[@]}"
    """
    shown, complaints = run(tmp_path, "bash", "-c", script, "bash", name, *words)
    assert complaints == ""
    assert set(shown.split()) == offered
