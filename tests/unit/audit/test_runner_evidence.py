"""What comes from inside is a stranger's word; files are looked at without following a link."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from orchestrator.audit.file_evidence import (
    digest,
    find_listener,
    find_setuid,
    look,
    look_into,
)
from orchestrator.audit.process_evidence import (
    read_mounts,
    read_namespaces,
    read_tasks,
)
from orchestrator.audit.runner_evidence import PROBE, parse_answer
from orchestrator.core.isolation_confinement import ULIMITS
from orchestrator.core.isolation_evidence import Inside

ANSWER: dict[str, Any] = {
    "question": "q",
    "allowed": [],
    "interfaces": ["lo"],
    "reached": [],
    "written": [],
    "uids": [5, 5, 5],
    "gids": [5, 5, 5],
    "settings": "a" * 64,
}


def say(**changes: Any) -> Inside:
    return parse_answer(json.dumps({**ANSWER, **changes}).encode(), "q")


def test_an_answer_is_taken_as_it_is() -> None:
    assert say(written=["/etc"]) == Inside(
        interfaces=("lo",),
        written=("/etc",),
        uids=(5, 5, 5),
        gids=(5, 5, 5),
        settings_digest="a" * 64,
    )


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"question": "q"}',
        b"[" * 50_000,
        json.dumps({**ANSWER, "more": 1}).encode(),
        json.dumps(ANSWER).encode() * 2,
    ],
)
def test_what_is_no_answer_is_none_whatever_it_is(output: bytes) -> None:
    assert parse_answer(output, "q").problem == "what came is not an answer"


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": "../../etc/passwd"},
        {"settings": "A" * 64},
        {"interfaces": ["x" * 65]},
        {"allowed": ["x"] * 65},
        {"uids": ["root"]},
        {"uids": [1] * 300},
        {"uids": None},
        {"question": 7},
    ],
)
def test_an_answer_with_something_else_in_a_field_is_none(changes: dict[str, Any]) -> None:
    assert say(**changes).problem == "what came is not an answer"


def test_an_answer_to_another_question_is_none() -> None:
    assert parse_answer(json.dumps(ANSWER).encode(), "r").problem is not None


def test_the_probe_needs_nothing_of_this_package_and_fits_into_an_argument() -> None:
    assert "orchestrator" not in PROBE
    assert len(PROBE.encode()) < 64 << 10
    compile(PROBE, "probe", "exec")


# ---- files


def test_a_link_is_a_link_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert look(tmp_path / "real" / "file").kind == "file"
    assert look(tmp_path / "link").kind == "symlink"
    assert look(tmp_path / "link" / "file").kind == "symlink"
    assert look(tmp_path / "nothing").kind == "missing"
    assert digest(tmp_path / "link" / "file") is None
    assert digest(tmp_path / "real") is None
    assert len(digest(tmp_path / "real" / "file") or "") == 64
    assert [Path(facts.path).name for facts in look_into(tmp_path)] == ["link", "real"]
    assert look_into(tmp_path / "link") == ()


def test_nothing_waits_for_a_pipe_or_a_large_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    assert look(tmp_path / "pipe").kind == "other"
    assert digest(tmp_path / "pipe") is None
    assert digest(tmp_path / "large") is None


def test_who_listens_is_found_and_who_does_not_is_nobody(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        assert find_listener(path) is None
        sock.listen()
        assert find_listener(path) == os.getpid()
        (tmp_path / "link").symlink_to(path)
        assert find_listener(tmp_path / "link") is None
    assert find_listener(path) is None
    assert find_listener(tmp_path) is None


def test_setuid_files_are_found_below_and_not_through_links(tmp_path: Path) -> None:
    (tmp_path / "root" / "bin").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for path in (tmp_path / "root/bin/su", tmp_path / "elsewhere/su"):
        path.write_text("")
        path.chmod(0o4755)
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    assert find_setuid(str(tmp_path / "root")) == ("/bin/su",)


# ---- processes


def test_this_process_is_read_as_the_kernel_has_it() -> None:
    own = read_namespaces("self")
    # Without the host's to take away, every process that shares one of ours belongs to us.
    tasks = read_tasks(os.getpid(), "no such container", {})
    mine = next(task for task in tasks if task.pid == task.tid == os.getpid())
    assert mine.uids[0] == os.getuid()
    assert mine.parent == os.getppid()
    assert mine.namespaces == own
    assert set(mine.limits) == set(ULIMITS.values())
    assert any(mount.target == "/" for mount in read_mounts(os.getpid()))


def test_a_process_that_is_gone_is_nothing() -> None:
    gone = 2**22
    assert read_namespaces(gone) == {}
    assert read_mounts(gone) == ()
    assert read_tasks(gone, "no such container", {}) == ()
