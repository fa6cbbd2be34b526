"""What the doctor says, for people and for programs."""

from __future__ import annotations

import json

from orchestrator.core.diagnosis import (
    failed,
    is_healthy,
    passed,
    render_json,
    render_text,
    warned,
)

FOUND = [
    passed("python", "3.11.2"),
    warned("disk", "2 GiB free", "free some"),
    failed("login", "refused", "export MATRIX_PASSWORD=…"),
]


def test_what_failed_stands_out_and_what_mends_it_is_below_it() -> None:
    assert render_text(FOUND).splitlines() == [
        "pass  python  3.11.2",
        "warn  disk    2 GiB free",
        "              → free some",
        "FAIL  login   refused",
        "              → export MATRIX_PASSWORD=…",
        "1 passed, 1 to look at, 1 failed",
    ]


def test_programs_read_the_same() -> None:
    read = json.loads(render_json(FOUND))
    assert read["healthy"] is False
    assert [check["verdict"] for check in read["checks"]] == ["pass", "warn", "fail"]
    assert read["checks"][2] == {
        "name": "login",
        "verdict": "fail",
        "found": "refused",
        "mend": "export MATRIX_PASSWORD=…",
    }


def test_a_warning_is_no_failure() -> None:
    assert is_healthy(FOUND[:2])
    assert not is_healthy(FOUND)
    assert is_healthy([])
