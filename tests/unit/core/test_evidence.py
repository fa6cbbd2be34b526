from __future__ import annotations

from orchestrator.core.evidence import build_digest


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert build_digest({"a": 1, "b": [2]}) == build_digest({"b": [2], "a": 1})
    assert build_digest({"a": 1}) != build_digest({"a": 2})
