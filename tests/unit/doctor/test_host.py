"""Each check of the host, made to fail on purpose."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.diagnosis import Check, Verdict
from orchestrator.doctor.host import (
    check_address,
    check_database,
    check_disk,
    check_host,
    check_python,
    check_root,
    check_socket,
    check_state_dir,
)
from orchestrator.store.database import hold_state_dir
from orchestrator.store.opening import DATABASE_NAME, open_for_writing
from orchestrator.store.schema import MIGRATIONS

GIB = 1 << 30


def one(found: Iterator[Check]) -> Check:
    (check,) = found
    return check


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    made = tmp_path / "state"
    made.mkdir(mode=0o700)
    return made


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ((3, 10, 9), Verdict.FAIL),
        ((2, 7, 18), Verdict.FAIL),
        ((3, 11, 0), Verdict.PASS),
        ((3, 13, 1), Verdict.PASS),
    ],
)
def test_an_old_python_is_named(version: tuple[int, ...], verdict: Verdict) -> None:
    assert check_python(version).verdict is verdict


def test_only_root_can_give_rooms_owners() -> None:
    assert check_root(1000).verdict is Verdict.FAIL
    assert check_root(0).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("free", "verdict"),
    [
        (GIB - 1, Verdict.FAIL),
        (GIB, Verdict.WARN),
        (5 * GIB - 1, Verdict.WARN),
        (5 * GIB, Verdict.PASS),
    ],
)
def test_room_on_the_disk(tmp_path: Path, free: int, verdict: Verdict) -> None:
    check = check_disk(tmp_path / "not" / "there", free)
    assert check.verdict is verdict
    assert str(tmp_path) in check.found


def test_a_state_directory_that_others_may_read_is_named_with_the_command(state_dir: Path) -> None:
    state_dir.chmod(0o750)
    check = one(check_state_dir(state_dir))
    assert check.verdict is Verdict.FAIL
    assert check.mend == f"chown {os.geteuid()} {state_dir} && chmod 700 {state_dir}"


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    assert one(check_state_dir(tmp_path / "state")).verdict is Verdict.FAIL
    assert one(check_state_dir(tmp_path / "state" / "below")).verdict is Verdict.FAIL


def test_one_that_is_not_there_yet_is_made_by_the_start(tmp_path: Path) -> None:
    assert one(check_state_dir(tmp_path / "new")).verdict is Verdict.PASS
    assert not (tmp_path / "new").exists()


def test_the_control_socket_is_ours_alone(state_dir: Path) -> None:
    path = state_dir / "control.sock"
    assert check_socket(state_dir).found == "nothing runs"
    with hold_state_dir(state_dir):
        assert check_socket(state_dir).verdict is Verdict.FAIL, "it runs, and cchat can't reach it"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        check = check_socket(state_dir)
        assert check.verdict is Verdict.FAIL
        assert f"chmod 600 {path}" in str(check.mend)
        path.chmod(0o600)
        with hold_state_dir(state_dir):
            assert check_socket(state_dir).found == "an orchestrator runs"
        assert check_socket(state_dir).verdict is Verdict.PASS
    path.unlink()
    path.write_text("")
    assert check_socket(state_dir).verdict is Verdict.FAIL


def test_a_database_that_is_whole_passes_and_an_older_one_is_migrated(state_dir: Path) -> None:
    assert check_database(state_dir).found == "will be made"
    open_for_writing(state_dir / DATABASE_NAME).close()
    assert check_database(state_dir).found == f"whole, schema {len(MIGRATIONS)}"
    with hold_state_dir(state_dir):
        assert "in use" in check_database(state_dir).found


def test_a_database_of_a_newer_version_is_refused_with_words(state_dir: Path) -> None:
    path = state_dir / DATABASE_NAME
    open_for_writing(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    check = check_database(state_dir)
    assert check.verdict is Verdict.FAIL
    assert "newer version" in str(check.mend)


def test_a_damaged_database_names_the_way_back(state_dir: Path) -> None:
    (state_dir / DATABASE_NAME).write_bytes(b"not a database" * 1000)
    check = check_database(state_dir)
    assert check.verdict is Verdict.FAIL
    assert "orchestrator restore FILE" in str(check.mend)


def test_an_address_that_somebody_else_has_is_named(state_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        check = check_address("metrics", address, state_dir)
        assert check.verdict is Verdict.WARN
        assert check.mend == "name another: observability.metrics"
        with hold_state_dir(state_dir):
            assert check_address("metrics", address, state_dir).verdict is Verdict.PASS
    assert check_address("metrics", address, state_dir).verdict is Verdict.PASS
    assert check_address("metrics", "no.such.host.invalid:1", state_dir).verdict is Verdict.WARN
    assert check_address("metrics", "127.0.0.1:99999", state_dir).verdict is Verdict.WARN


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    names = [check.name for check in check_host(None, tmp_path / "state")]
    assert names == ["python", "root", "state directory", "disk", "database"]
    assert list(tmp_path.iterdir()) == []
