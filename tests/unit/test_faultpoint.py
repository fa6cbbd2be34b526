"""Fault points: where they are, that they do nothing unless asked, that a death there is one."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import faultpoint
from orchestrator.faultpoint import FAULT, TRACE, FaultPoint, arm, commit_point, reach
from orchestrator.store.database import open_database
from orchestrator.store.inbox_table import InboxTable

SOURCES = Path(faultpoint.__file__).parent

PROGRAM = """
import os, sys
from orchestrator.faultpoint import FaultPoint, arm, reach
arm(os.environ)
for _ in range(3):
    reach(FaultPoint.WINDOW_CLOSED)
    reach(FaultPoint.OFFER_STORED)
    sys.stdout.write("on\\n")
    sys.stdout.flush()
"""


def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(autouse=True)
def disarm() -> object:
    yield
    arm({})


def test_an_unarmed_process_passes_every_point() -> None:
    ended = run({})
    assert (ended.returncode, ended.stdout) == (0, "on\non\non\n")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("window:closed", ""),
        ("window:closed:1", ""),
        ("window:closed:2", "on\n"),
        ("offer:stored:3", "on\non\n"),
    ],
)
def test_an_armed_process_dies_by_sigkill_at_that_point_and_no_earlier(
    fault: str, said: str
) -> None:
    ended = run({FAULT: fault})
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, said)


def test_a_trace_has_every_point_that_was_reached_also_the_last_one(tmp_path: Path) -> None:
    ended = run({FAULT: "window:closed:2", TRACE: str(tmp_path / "trace")})
    assert ended.returncode == -signal.SIGKILL
    lines = (tmp_path / "trace").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["window:closed", "offer:stored", "window:closed"]


def test_a_point_that_does_not_exist_kills_nothing() -> None:
    assert run({FAULT: "no:such:point"}).returncode == 0


async def test_a_transaction_that_changes_something_is_passed_before_and_after_its_commit(
    tmp_path: Path,
) -> None:
    arm({TRACE: str(tmp_path / "trace")})
    async with open_database(tmp_path / "db") as database:
        inbox = InboxTable(database)
        await inbox.sync_token()
        await inbox.commit_sync([], "s1", now=1.0)
    names = [line.split()[1] for line in (tmp_path / "trace").read_text().splitlines()]
    assert names == ["commit:InboxTable.commit_sync:before", "commit:InboxTable.commit_sync:after"]


async def test_a_commit_that_is_died_before_leaves_nothing_and_after_leaves_all(
    tmp_path: Path,
) -> None:
    for side, expected in (("before", None), ("after", "s1")):
        path = tmp_path / side
        program = f"""
import asyncio, os
from pathlib import Path
from orchestrator.faultpoint import arm
from orchestrator.store.database import open_database
from orchestrator.store.inbox_table import InboxTable
async def main():
    arm(os.environ)
    async with open_database(Path({str(path)!r})) as database:
        await InboxTable(database).commit_sync([], "s1", now=1.0)
asyncio.run(main())
"""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            env={**os.environ, FAULT: f"commit:InboxTable.commit_sync:{side}"},
        )
        assert await process.wait() == -signal.SIGKILL
        async with open_database(path) as database:
            assert await InboxTable(database).sync_token() == expected


def test_every_named_point_is_somewhere_and_no_two_have_one_name() -> None:
    reached = set()
    for file in SOURCES.rglob("*.py"):
        reached.update(re.findall(r"reach\(FaultPoint\.(\w+)\)", file.read_text()))
    assert reached == set(FaultPoint.__members__)
    assert len({point.value for point in FaultPoint}) == len(FaultPoint.__members__)


def test_only_the_program_s_own_start_arms_and_only_from_the_environment() -> None:
    armed_by = [
        (file.relative_to(SOURCES).as_posix(), ast.unparse(node.args[0]))
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"arm", "faultpoint.arm"}
    ]
    assert armed_by == [("main.py", "os.environ")]


def test_a_commit_is_named_by_the_method_that_it_belongs_to() -> None:
    def work() -> None: ...

    work.__qualname__ = "TurnTable.admit.<locals>.work"
    assert commit_point(work, "before") == "commit:TurnTable.admit:before"
    reach(FaultPoint.SYNC_RECEIVED)  # inert: this process is not armed
