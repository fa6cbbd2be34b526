"""The audit log as a file: only added to, whole after a crash, rotated, checked."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from orchestrator import audit_log
from orchestrator.audit_log import AuditLog, open_audit_log, verify
from orchestrator.errors import PreconditionError
from orchestrator.log import AUDIT_ONLY, configure_logging, forget_secrets


def lines_of(folder: Path, name: str = "audit.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def write(folder: Path, *actions: str, **options: Any) -> None:
    log = AuditLog(folder, **options)
    for action in actions:
        log.write({"action": action})
    log.close()
    log.close()


def test_it_goes_on_where_the_last_life_ended(tmp_path: Path) -> None:
    for actions in (("a", "b"), (), ("c",)):
        write(tmp_path / "audit", *actions)
    assert [line["action"] for line in lines_of(tmp_path / "audit")] == ["a", "b", "c"]
    chain = verify(tmp_path)
    assert (chain.problem, chain.lines) == (None, 3)
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "audit" / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_it_is_rotated_and_the_chain_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    write(folder, *("x" * 100 for _ in range(10)), max_bytes=500)
    write(folder, "last", max_bytes=500)
    names = sorted(path.name for path in folder.iterdir())
    assert names[:2] == ["audit-000001.jsonl", "audit-000002.jsonl"]
    chain = verify(tmp_path)
    assert (chain.problem, chain.lines) == (None, 11)
    (folder / "audit-000002.jsonl").unlink()
    assert verify(tmp_path).problem is not None


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_half_a_line_is_no_end_of_it(tmp_path: Path, cut: int) -> None:
    folder = tmp_path / "audit"
    write(folder, "a", "b", "c")
    path = folder / "audit.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    write(folder, "d")
    chain = verify(tmp_path)
    assert chain.problem is None
    actions = [json.loads(line).get("action") for line in path.read_text().splitlines()[-1:]]
    assert actions == ["d"]
    assert chain.lines == (4 if cut == 1 else 5), "a line without its end is whole"


def test_what_was_changed_shows_and_names_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    write(folder, "a", "b", "c")
    path = folder / "audit.jsonl"
    path.write_text(path.read_text().replace('"b"', '"B"'))
    assert verify(tmp_path).problem == "audit.jsonl: line 3 does not follow the line before it"


def test_only_what_is_marked_goes_into_it_and_secrets_do_not(tmp_path: Path) -> None:
    log = io.StringIO()
    configure_logging(fmt="json", level="WARNING", sink=log, secrets=["a-secret-value"])
    with open_audit_log(tmp_path):
        logger.bind(action="not.this", room="!a").error("no")
        logger.bind(action="this", room="!a", audit=True).debug("yes a-secret-value")
    logger.bind(action="this", room="!a", audit=True).debug("after the end")
    forget_secrets()
    (line,) = lines_of(tmp_path / "audit")
    assert (line["action"], line["room"], line["number"]) == ("this", "!a", 1)
    assert "a-secret-value" not in (tmp_path / "audit" / "audit.jsonl").read_text()
    assert log.getvalue().count("\n") == 1, "below the log's level, and in the audit log"


def test_what_people_said_stands_in_the_audit_log_alone(tmp_path: Path) -> None:
    log = io.StringIO()
    configure_logging(fmt="json", level="DEBUG", sink=log)
    with open_audit_log(tmp_path):
        logger.bind(action="command", command="!steer a secret", audit=AUDIT_ONLY).info("given")
        logger.bind(action="turn.admitted", audit=True).info("one of both")
    assert [line["action"] for line in lines_of(tmp_path / "audit")] == ["command", "turn.admitted"]
    assert [json.loads(line)["action"] for line in log.getvalue().splitlines()] == ["turn.admitted"]


def test_a_log_longer_than_what_is_read_at_a_start_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "_TAIL_BYTES", 500)
    for _ in range(3):
        write(tmp_path / "audit", *("x" * 50 for _ in range(20)))
    assert (verify(tmp_path).problem, verify(tmp_path).lines) == (None, 60)


def test_a_full_disk_is_told_once_and_the_chain_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = io.StringIO()
    configure_logging(fmt="json", level="WARNING", sink=log)
    whole = os.write
    is_full = False

    def take(descriptor: int, data: bytes) -> int:
        if is_full and b"action" in data:
            whole(descriptor, data[:10])
            return 10
        return whole(descriptor, data)

    monkeypatch.setattr(audit_log.os, "write", take)
    with open_audit_log(tmp_path):
        logger.bind(action="one", audit=True).info("")
        is_full = True
        logger.bind(action="two", audit=True).info("")
        logger.bind(action="three", audit=True).info("")
        is_full = False
        logger.bind(action="four", audit=True).info("")
    assert [line["action"] for line in lines_of(tmp_path / "audit")] == ["one", "four"]
    assert verify(tmp_path).problem is None
    told = [json.loads(line)["action"] for line in log.getvalue().splitlines()]
    assert told == ["audit.failed"]


def test_one_that_can_not_be_opened_says_so(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("")
    with pytest.raises(PreconditionError, match="audit log"), open_audit_log(tmp_path):
        pass
    with pytest.raises(PreconditionError, match="there is no audit log"):
        verify(tmp_path / "elsewhere")


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links") as raised:
        AuditLog(tmp_path / "audit")
    assert raised.value.errno == errno.ELOOP
    assert not (tmp_path / "elsewhere").exists()
