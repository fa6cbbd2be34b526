"""What is there once: each thing that is wrong is found, and the engine's own are warnings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.isolation import Judged, Result, Verdict
from orchestrator.core.isolation_evidence import FileFacts
from orchestrator.core.isolation_installation import (
    INSTALLATION_CONTROLS,
    Container,
    Daemon,
    InstallationEvidence,
    KnownRoom,
    judge_installation,
)
from orchestrator.core.isolation_report import (
    IsolationReport,
    RoomReport,
    render_json,
    render_text,
)
from orchestrator.model import RoomId
from tests.support.well_evidence import directory

STATE = Path("/srv/state")
RUNNER = Container(
    name="runner-a", slug="a", is_live=True, sources=("/srv/state/rooms/a/workspace",)
)


def file(name: str, mode: int = 0o600, kind: str = "file", uid: int = 0) -> FileFacts:
    return FileFacts(path=str(STATE / name), kind=kind, uid=uid, gid=0, mode=mode)


WELL = InstallationEvidence(
    state_dir=directory(STATE),
    entries=(
        file("state.sqlite3"),
        file("control.sock", kind="socket"),
        directory(STATE / "rooms"),
    ),
    rooms={"a": KnownRoom(runner="runner-a", is_joined=True)},
    containers=(RUNNER, Container(name="web", slug=None, is_live=True, sources=("/var/www",))),
    daemon=Daemon(
        version="28.2.2",
        runc="1.3.0",
        security=("name=seccomp,profile=builtin", "name=userns"),
        has_live_restore=True,
        swarm="inactive",
        is_on_tcp=False,
    ),
)
Change = Callable[[InstallationEvidence], InstallationEvidence]


def entry(facts: FileFacts) -> Change:
    return lambda e: replace(e, entries=(*e.entries, facts))


def container(**values: Any) -> Change:
    return lambda e: replace(e, containers=(*e.containers, replace(RUNNER, **values)))


def daemon(**values: Any) -> Change:
    return lambda e: replace(e, daemon=replace(e.daemon, **values))


WRONG: dict[str, tuple[Result, list[Change]]] = {
    "state-dir": (
        Result.FAIL,
        [
            lambda e: replace(e, state_dir=directory(STATE, 0, 0o755)),
            lambda e: replace(e, state_dir=directory(STATE, 1000)),
            lambda e: replace(e, state_dir=directory(STATE, kind="symlink")),
            entry(file("placeholder.key", 0o640)),
            entry(file("state.sqlite3.aside-2026", 0o644)),
            entry(file("ca.key", 0o644)),
            entry(file("notes", 0o622)),
            entry(file("notes", uid=1000)),
            entry(file("notes", kind="symlink")),
        ],
    ),
    "strays": (
        Result.FAIL,
        [
            container(name="stray", slug="unknown"),
            container(name="stray", slug=""),
            container(name="another", slug="a"),
        ],
    ),
    "strangers": (
        Result.FAIL,
        [container(name="thief", slug=None, sources=("/srv/state/rooms/a/home",))],
    ),
    "engine-address": (Result.WARN, [daemon(is_on_tcp=True)]),
    "engine-users": (Result.WARN, [daemon(security=())]),
    "engine-live-restore": (Result.WARN, [daemon(has_live_restore=False)]),
    "engine-swarm": (Result.WARN, [daemon(swarm="active")]),
    "engine-version": (Result.WARN, [daemon(version="20.10.24+dfsg1"), daemon(version="")]),
}
CASES = [(name, n) for name, (_, changes) in WRONG.items() for n in range(len(changes))]


def results(evidence: InstallationEvidence) -> dict[str, Result]:
    return {each.id: each.verdict.result for each in judge_installation(evidence)}


def test_an_installation_that_is_well_passes() -> None:
    well = results(WELL)
    assert well == {**dict.fromkeys(well, Result.PASS), "engine-bridge": Result.SKIP}


@pytest.mark.parametrize(("name", "number"), CASES)
def test_what_is_wrong_is_found_by_its_control_and_no_other(name: str, number: int) -> None:
    result, changes = WRONG[name]
    assert results(changes[number](WELL)) == {**results(WELL), name: result}


def test_no_control_lacks_an_example() -> None:
    assert {name for name, *_ in INSTALLATION_CONTROLS} == {*WRONG, "engine-bridge"}


def test_what_may_be_right_is_a_warning() -> None:
    left = replace(WELL, rooms={"a": KnownRoom(runner="runner-a", is_joined=False)})
    assert results(left)["strays"] is Result.WARN
    monitor = container(name="monitor", slug=None, sources=("/",))
    assert results(monitor(WELL))["strangers"] is Result.WARN


def test_a_report_is_clean_without_failures_and_counts_everything() -> None:
    judged = Judged(
        id="memory", title="Memory", required_by=("CIS 5.11",), verdict=Verdict(result=Result.FAIL)
    )
    room = RoomReport(room_id=RoomId("!a\x1b[2J:b"), slug="a", runner="runner-a", judged=(judged,))
    report = IsolationReport(rooms=(room,), installation=judge_installation(WELL), gone=("x",))
    assert not report.is_clean()
    assert replace(report, rooms=()).is_clean()
    text = render_text(report)
    assert "\x1b" not in text
    assert text.splitlines()[-1] == "1 live runner: 8 pass, 1 fail, 0 warn, 1 skip"
    assert "  FAIL memory: Memory [CIS 5.11]" in text
    assert '"clean": false' in render_json(report)
