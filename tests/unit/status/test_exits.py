"""Connections out of rooms, from the end of the audit log."""

from __future__ import annotations

import json
from pathlib import Path

from loguru import logger

from orchestrator.audit_log import open_audit_log
from orchestrator.status.exits import read_exits


def note(**fields: object) -> None:
    logger.bind(component="egress", room="a---1", audit=True, **fields).info("x")


def allowed(host: str = "example.org") -> None:
    note(action="egress_proxy", host=host, port=443, bytes_up=2048, bytes_down=3 << 20)


def test_the_last_ones_are_read_the_newest_first_and_others_left_out(tmp_path: Path) -> None:
    with open_audit_log(tmp_path):
        allowed("first.example")
        note(action="command", sender="@a:b", command='"egress_proxy"')
        note(action="egress_proxy_denied", reason="host_not_allowed", host="evil", port=80)
        note(action="egress_proxy_denied", reason="bad_request")
        found = read_exits(tmp_path, limit=10)
        assert read_exits(tmp_path, limit=2) == found[:2]
    assert [(one.target, one.is_allowed, one.note, one.room) for one in found] == [
        ("?", False, "bad_request", "a---1"),
        ("evil:80", False, "host_not_allowed", "a---1"),
        ("first.example:443", True, "2 KiB up, 3 MiB down", "a---1"),
    ]
    assert found[0].at.startswith("20")


def test_of_a_long_log_the_end_alone_is_read(tmp_path: Path) -> None:
    with open_audit_log(tmp_path):
        allowed("early.example")
        for number in range(3000):
            allowed(f"{number}.example")
        found = read_exits(tmp_path, limit=5000)
    assert found[0].target == "2999.example:443"
    assert 100 < len(found) < 3000


def test_what_is_no_line_of_ours_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    lines = [
        '{"action": "egress_proxy"',
        '["egress_proxy"]',
        json.dumps({"action": "egress_proxy", "host": 1, "bytes_up": "x"}),
    ]
    (tmp_path / "audit" / "audit.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    (one,) = read_exits(tmp_path, limit=10)
    assert (one.target, one.note) == ("1:None", "")


def test_without_a_log_or_with_a_link_in_its_place_there_is_nothing(tmp_path: Path) -> None:
    assert read_exits(tmp_path, limit=10) == ()
    (tmp_path / "audit").mkdir()
    (tmp_path / "secret").write_text('{"action": "egress_proxy", "host": "x"}\n')
    (tmp_path / "audit" / "audit.jsonl").symlink_to(tmp_path / "secret")
    assert read_exits(tmp_path, limit=10) == ()
