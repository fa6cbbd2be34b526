"""`make newest`: what breaks with the newest versions of what this is built on, and by which.

    python -m scripts.newest [--no-real] [PATH…]

PATH: of the tests that need nothing but Python, only these; --no-real: and none on real parts.

A copy of the sources gets the newest Claude Code CLI from npm, an environment of its own the newest
packages from PyPI, without the upper bounds of pyproject.toml. The unit tests run there, then some
on real parts. What fails is tried again with the locked packages and one of the newest at a time,
and with the newest CLI alone: the report names which it was. Exit code 1: something broke. It
changes nothing outside of .cache/newest, but for images of the newest CLI in the engine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PLACE = _ROOT / ".cache" / "newest"
_TREE = _PLACE / "tree"
_CLI = "@anthropic-ai/claude-code"
_REAL = "docker or synapse or cli or faults or pipeline"
# A conversation with the real CLI on a real homeserver, the stream that it prints, and the engine.
_REAL_TESTS = (
    "tests/e2e/test_conversation.py",
    "tests/integration/test_cli_stream.py",
    "tests/contract/test_runner_backend.py",
)
_NAME = re.compile(r"^([A-Za-z0-9._-]+)(\[[^\]]*\])?")


@dataclass
class Report:
    """What was tried, and what came of it."""

    changed: dict[str, tuple[str, str]]
    broke: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = ["newer than locked:"]
        lines += [f"  {name} {old} → {new}" for name, (old, new) in sorted(self.changed.items())]
        for what, tests in self.broke.items():
            lines.append(f"! {what} breaks {len(tests)}:")
            lines += [f"    {test}" for test in tests]
        if not self.broke:
            lines.append("· nothing broke")
        return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Try it; 1 where something broke."""
    cli = copy_sources()
    env = make_environment("all", newest=[without_bound(line) for line in _dependencies()])
    report = Report(changed=find_changed(locked_versions(), installed_versions(env)))
    if cli is not None:
        report.changed[_CLI] = cli
    direct = [n for n in map(bare_name, _dependencies()) if n in report.changed]

    paths = [word for word in arguments if not word.startswith("-")] or ["tests"]
    failed = run_tests(env, "unit", [*paths, "-m", f"not ({_REAL} or long)", "-n", "auto"])
    attribute(report, failed, direct, lambda name: run_tests(_with(name), "again", failed))
    if "--no-real" not in arguments:
        real = run_real(env)
        alone = run_real(make_environment("locked", newest=())) if real and cli else []
        if both := sorted(set(real) & set(alone)):
            report.broke[_CLI] = both
        rest = sorted(set(real) - set(alone))
        attribute(report, rest, direct, lambda name: run_tests(_with(name), "again", rest))
    print(report)
    return 1 if report.broke else 0


def attribute(report: Report, failed: Sequence[str], names: Sequence[str], rerun) -> None:  # noqa: ANN001 - a function of a name
    """Note in the report which package alone breaks what, and what only all of them break."""
    left = set(failed)
    for name in names if failed else ():
        if broken := sorted(set(rerun(name)) & set(failed)):
            old, new = report.changed[name]
            report.broke[f"{name} {old} → {new}"] = broken
            left -= set(broken)
    if left:
        report.broke["several together, or what they need"] = sorted(left)


def copy_sources() -> tuple[str, str] | None:
    """The sources with the newest CLI; the locked and the newest version, where they differ."""
    shutil.rmtree(_TREE, ignore_errors=True)
    listed = _output("git", "ls-files", "-z", cwd=_ROOT).split("\0")
    for name in filter(None, listed):
        if (_ROOT / name).is_file():
            (_TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(_ROOT / name, _TREE / name)
    pin = _TREE / "runner-image" / "claude-code.json"
    held = json.loads(pin.read_text())
    before, newest = held["version"], _output("npm", "view", _CLI, "version").strip()
    if newest == before:
        return None
    held["version"] = newest
    for platform in held["platforms"].values():
        package = f"{platform['package']}@{newest}"
        platform["integrity"] = _output("npm", "view", package, "dist.integrity").strip()
    pin.write_text(json.dumps(held, indent=2))
    return before, newest


def make_environment(name: str, *, newest: Sequence[str]) -> Path:
    """An environment with the locked packages, and then these as new as there are."""
    env = _PLACE / name
    if not (env / "bin" / "python").exists():
        _run(sys.executable, "-m", "venv", str(env))
    pip = (str(env / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input")
    _run(*pip, "--require-hashes", "--no-deps", "-r", str(_ROOT / "requirements-dev.lock"))
    if newest:
        strategy = "eager" if len(newest) > 1 else "only-if-needed"
        _run(*pip, "--upgrade", "--upgrade-strategy", strategy, *newest)
    # The commands, for tests that type them.
    _run(*pip, "--no-index", "--no-deps", "--no-build-isolation", "-e", str(_TREE))
    return env


def run_tests(env: Path, name: str, arguments: Sequence[str]) -> list[str]:
    """Run pytest in the copy; the tests that failed, by their ids."""
    if not arguments:
        return []
    results = _PLACE / f"{name}.xml"
    results.unlink(missing_ok=True)
    command = [str(env / "bin" / "python"), "-m", "pytest", "-q", "--dist", "loadfile"]
    with (_PLACE / f"{name}.log").open("w") as log:
        subprocess.run(
            [*command, f"--junitxml={results}", *arguments],
            cwd=_TREE,
            env=_environment(env),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    print(f"· {name}: the whole of it is in {_PLACE / f'{name}.log'}")
    if not results.exists():
        return ["pytest itself, which did not start"]
    return read_failed(results.read_text())


def read_failed(junit: str) -> list[str]:
    """The ids of the tests that failed, out of pytest's JUnit file."""
    found = []
    for case in ET.fromstring(junit).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            path = case.get("classname", "").replace(".", "/")
            name = case.get("name", "")
            found.append(f"{path}.py::{name}" if path else name)
    return sorted(found)


def run_real(env: Path) -> list[str]:
    """Build the image of the newest CLI, then some tests on real parts."""
    built = subprocess.run(
        [str(env / "bin" / "python"), "-m", "orchestrator", "image", "build"],
        cwd=_TREE,
        env=_environment(env),
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        print(built.stderr[-2000:] or built.stdout[-2000:])
        return ["the runner image, which can't be built"]
    return run_tests(env, "real", _REAL_TESTS)


def without_bound(requirement: str) -> str:
    """A requirement without its upper bound: `a>=1,<2` becomes `a>=1`."""
    return ",".join(part for part in requirement.split(",") if not part.startswith("<"))


def bare_name(requirement: str) -> str:
    """The package that a requirement names, as indexes write it."""
    found = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", found[1] if found else requirement).lower()


def find_changed(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Packages that are in both, in other versions."""
    return {
        name: (old[name], new[name]) for name in old.keys() & new.keys() if old[name] != new[name]
    }


def locked_versions() -> dict[str, str]:
    """What requirements-dev.lock holds."""
    lines = (_ROOT / "requirements-dev.lock").read_text().splitlines()
    pairs = (line.split(" ")[0].split("==") for line in lines if re.match(r"[A-Za-z0-9].*==", line))
    return {bare_name(name): version for name, version in pairs}


def installed_versions(env: Path) -> dict[str, str]:
    """What an environment holds."""
    listed = _output(str(env / "bin" / "python"), "-m", "pip", "list", "--format=json")
    return {bare_name(entry["name"]): entry["version"] for entry in json.loads(listed)}


def _with(name: str) -> Path:
    wanted = next(line for line in _dependencies() if bare_name(line) == name)
    return make_environment("one", newest=[without_bound(wanted)])


def _dependencies() -> list[str]:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["embedded"], *extras["build"], *extras["dev"]]


def _environment(env: Path) -> dict[str, str]:
    path = f"{env / 'bin'}:{os.environ['PATH']}"
    pythonpath = ":".join(str(_TREE / part) for part in ("", "cli", "runner-image"))
    # Short: the tests make sockets below it.
    temporary = tempfile.gettempdir() + "/newest"
    Path(temporary).mkdir(exist_ok=True)
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": pythonpath,
        "PYTEST_DEBUG_TEMPROOT": temporary,
    }


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _output(*command: str, cwd: Path = _PLACE) -> str:
    cwd.mkdir(parents=True, exist_ok=True)
    path = f"{_ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PATH": path},
    ).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
