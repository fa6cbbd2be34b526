"""A short fuzz at each run of the tests: random bytes, and recorded ones with some of them changed.

`make fuzz` goes on for longer, guided by coverage.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import seeds_of
from tests.fuzz.targets import TARGETS, check_content

EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", TARGETS)
@EXAMPLES
@given(st.binary(max_size=300))
def test_no_bytes_break_what_reads_a_room(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_well_formed_passes(name: str) -> None:
    for seed in seeds_of(name):
        TARGETS[name](seed)


def _mutate(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    data = bytearray(seed)
    for place, length, replacement in changes:
        start = place % (len(data) + 1)
        data[start : start + length] = replacement
    return bytes(data)


POKES = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"\0",
        b"\xff",
        b"\\ud800",
        b'"',
        b"[" * 70,
        b"9" * 5000,
        b"NaN",
        b"\x1b[2J",
        "\u202e".encode(),
        b"{}",
        b"true",
        b"<script>",
        b"[x](matrix:u/a:b)",
        b"@room",
        b": ",
        b"\r\n ",
    ]
)


@pytest.mark.parametrize("name", TARGETS)
@EXAMPLES
@given(st.data())
def test_no_change_of_what_is_well_formed_breaks_what_reads_a_room(
    name: str, data: st.DataObject
) -> None:
    seed = data.draw(st.sampled_from(seeds_of(name)))
    change = st.tuples(st.integers(0, 10_000), st.integers(0, 40), POKES | st.binary(max_size=8))
    TARGETS[name](_mutate(seed, data.draw(st.lists(change, min_size=1, max_size=6))))


@pytest.mark.parametrize(
    "content",
    [
        {"body": "x", "m.mentions": {"room": True}},
        {"body": "\x1b[2J", "m.mentions": {}},
        {"body": "x", "m.mentions": {}, "formatted_body": "<script>1</script>"},
        {"body": "x", "m.mentions": {}, "formatted_body": '<img src="https://e/x">'},
        {"body": "x", "m.mentions": {}, "formatted_body": '<a href="/#/room/!a:b">a</a>'},
        {"body": "x", "m.mentions": {}, "formatted_body": '<a href="https://matrix.to/#/@a:b">'},
        {"body": "x" * 70_000, "m.mentions": {}},
    ],
    ids=["ping", "terminal code", "script", "picture", "own page", "pill", "too large"],
)
def test_what_must_not_be_shown_is_noticed_by_the_check(content: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        check_content(content)
