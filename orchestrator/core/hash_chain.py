"""Lines that each name the one before by its digest: what is changed or taken out shows. Pure.

Whoever may write the file can write a whole new chain; who keeps its last digest elsewhere sees
that, too. A cut at the end shows only so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from orchestrator.model import JsonValue

GENESIS = "0" * 64
"""What the first line names."""
TORN = "audit.torn"
"""The action of the line behind one that a loss of power left incomplete."""


def digest_of(line: str) -> str:
    """SHA-256 of a line without its end."""
    return hashlib.sha256(line.encode()).hexdigest()


def chain_line(fields: Mapping[str, JsonValue], *, number: int, before: str) -> str:
    """A line of the chain, without its end: one JSON object in ASCII."""
    return json.dumps({"number": number, **fields, "before": before}, allow_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What was found. `problem`: the first thing that is wrong, with its line."""

    lines: int = 0
    head: str = GENESIS
    """The last line's digest; to be kept elsewhere."""
    last_number: int = 0
    has_expected: bool = False
    """Whether a line has the digest that was asked for."""
    problem: str | None = None


def check_chain(lines: Iterable[str], start: Chain, *, expected: str | None = None) -> Chain:
    """Follow the chain through lines, from where `start` has come."""
    chain, torn = start, False
    for line in lines:
        read, count = _parse(line), chain.lines + 1
        if torn and (read is None or read.get("action") != TORN):
            return replace(chain, problem=f"line {count - 1} is no line of the log")
        torn = read is None
        if read is not None and read.get("before") != chain.head:
            return replace(chain, problem=f"line {count} does not follow the line before it")
        number = chain.last_number + (read is not None)
        if read is not None and read.get("number") != number:
            return replace(chain, problem=f"line {count} should have number {number}")
        head = digest_of(line)
        has_expected = chain.has_expected or head == expected
        chain = Chain(lines=count, head=head, last_number=number, has_expected=has_expected)
    if torn:
        return replace(chain, problem=f"line {chain.lines} is no line of the log")
    return chain


def _parse(line: str) -> dict[str, JsonValue] | None:
    try:
        read = json.loads(line)
    except ValueError:
        return None
    return read if isinstance(read, dict) else None
