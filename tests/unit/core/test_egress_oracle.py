"""Our matching of hosts beside that of another sandbox, on 1,360 questions that were put to both.

Its answers are recorded: `isValidHost`, `canonicalizeHost` and `matchesDomainPatternWithPort` of
the npm package, called for each rule, host and port.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from orchestrator.core.egress_rules import Scheme, parse_rule
from orchestrator.core.proxy_http import parse_authority

_RECORDED = json.loads(
    (Path(__file__).parents[2] / "recorded" / "sandbox-runtime-0.0.78.json").read_text()
)
_STRICTER = {
    # Names that have no one form, or that no name server can hold.
    "good.example.",
    "localhost.",
    "a.wild.example.",
    ".wild.example",
    "a..wild.example",
    "..wild.example",
    "a_b.wild.example",
    "-a.wild.example",
    "a-.wild.example",
    f"{'a' * 64}.wild.example",
    # Addresses that are spelled in another way than the rule.
    "192.0.2.01",
    "192.0.2.1.",
    "0xc0.0.2.1",
    "3221225985",
    "192.0.513",
    "0300.0.2.1",
    "::ffff:192.0.2.1",
    "[::ffff:192.0.2.1]",
}
"""What the other one lets through and we don't."""


def _is_allowed(rule: str, host: str, port: int) -> bool:
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    target = parse_authority(f"{bracketed}:{port}", Scheme.HTTPS, needs_port=True)
    return target is not None and parse_rule(rule).covers(target)


def test_nothing_is_let_through_that_the_other_refuses_and_it_is_known_what_it_lets_through() -> (
    None
):
    questions = itertools.product(_RECORDED["rules"], _RECORDED["hosts"], _RECORDED["ports"])
    ours = {question for question in questions if _is_allowed(*question)}
    theirs = {tuple(answer) for answer in _RECORDED["allowed"]}
    assert ours <= theirs
    assert len(ours) >= 15
    assert {host for _, host, _ in theirs - ours} == _STRICTER
