"""`make vulnerabilities`: what is known of the locked packages, or that nobody could be asked.

    python -m scripts.vulnerabilities

pip-audit for the Python packages, npm audit for those of the tests. A mirror may answer without
knowing anything: so a package with a hole that is known for years is asked for first. Exit codes:
0 none known; 1 some are; 69 (EX_UNAVAILABLE) a database could not be asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EX_UNAVAILABLE = 69
_LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-ci.lock")
_NPM = ("tests/web", "tests/pipeline")
# CVE-2018-18074 and others: in every database.
_KNOWN = "requests==2.19.1"
_LONGEST_S = 300

Json = dict[str, Any]


def main() -> int:
    """Ask for each lock file; the worst of the answers."""
    return worst([*_python(), *map(_npm, _NPM)])


def worst(codes: Sequence[int]) -> int:
    """One exit code for several: a hole that was found weighs more than one that may be there."""
    return 1 if 1 in codes else EX_UNAVAILABLE if EX_UNAVAILABLE in codes else 0


def _python() -> list[int]:
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "known.txt"
        known.write_text(f"{_KNOWN}\n")
        answer = _pip_audit("--no-deps", "-r", str(known))
    if answer is None or not _holes_of_pip(answer):
        knows = "could not be asked" if answer is None else f"knows nothing of {_KNOWN}"
        print(f"? Python packages: the database {knows}; nothing was looked for")
        return [EX_UNAVAILABLE]
    return [_one_lock(lock) for lock in _LOCKS]


def _one_lock(lock: str) -> int:
    answer = _pip_audit("--require-hashes", "-r", lock)
    if answer is None:
        print(f"? {lock}: the database could not be asked")
        return EX_UNAVAILABLE
    return _say(lock, _holes_of_pip(answer))


def _pip_audit(*arguments: str) -> Json | None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [str(Path(sys.executable).parent / "pip-audit"), "--disable-pip", *arguments]
        _run([*command, "--progress-spinner", "off", "-f", "json", "-o", str(out)])
        return _loads(out.read_text()) if out.exists() else None


def _holes_of_pip(answer: Json) -> list[str]:
    return [
        f"{package['name']} {package.get('version')}: {hole['id']}"
        for package in answer["dependencies"]
        for hole in package.get("vulns", [])
    ]


def _npm(folder: str) -> int:
    done = _run(["npm", "audit", "--json", "--prefix", folder])
    answer = None if done is None else _loads(done.stdout)
    if answer is None or "vulnerabilities" not in answer:
        why = "npm is not here" if done is None else str((answer or {}).get("message", "no answer"))
        print(f"? {folder}: the database could not be asked ({why})")
        return EX_UNAVAILABLE
    return _say(folder, sorted(answer["vulnerabilities"]))


def _say(where: str, holes: list[str]) -> int:
    print(f"{'!' if holes else '·'} {where}: {', '.join(holes) or 'none known'}")
    return 1 if holes else 0


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_LONGEST_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _loads(text: str) -> Json | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


if __name__ == "__main__":
    sys.exit(main())
