"""What a room is shown about hosts."""

from __future__ import annotations

import pytest

from orchestrator.core.texts.egress import Overview, overview


@pytest.mark.parametrize(
    ("used", "said"),
    [(0, "- Today: 0 B of 10 GiB"), (16 << 20, "- Today: at most 16 MiB of 10 GiB")],
)
def test_bytes_that_are_booked_ahead_are_not_called_moved(used: int, said: str) -> None:
    seen = Overview(
        configured=(),
        grants=(),
        questions=(),
        refused=(),
        used_bytes=used,
        bytes_per_day=10 << 30,
        asks=True,
        has_approvers=True,
    )
    assert said in overview(seen).splitlines()


@pytest.mark.parametrize(
    ("asks", "said"), [(True, "nothing"), (False, "not kept (egress.ask is off)")]
)
def test_a_room_that_is_not_asked_is_not_told_that_nothing_was_refused(
    asks: bool, said: str
) -> None:
    seen = Overview(
        configured=(),
        grants=(),
        questions=(),
        refused=(),
        used_bytes=0,
        bytes_per_day=10 << 30,
        asks=asks,
        has_approvers=True,
    )
    assert f"- Refused lately: {said}" in overview(seen).splitlines()
