"""Who has much waits for its next turn, not the others for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.rotation import Rotation


def test_one_that_has_much_delays_another_by_its_share_alone() -> None:
    rotation: Rotation[str, int] = Rotation(share=4)
    for i in range(1000):
        rotation.add("flood", i)
    assert rotation.take_round(200) == [0, 1, 2, 3]
    rotation.add("quiet", -1)
    assert rotation.take_round(200) == [4, 5, 6, 7, -1]


def test_a_round_is_bounded_and_the_next_one_goes_on_with_those_that_had_none() -> None:
    rotation: Rotation[int, int] = Rotation(share=1)
    for key in range(10):
        rotation.add(key, key)
        rotation.add(key, key)
    rounds = [rotation.take_round(4) for _ in range(5)]
    assert rounds == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]
    assert len(rotation) == 0
    assert rotation.take_round(4) == []


@given(st.lists(st.integers(min_value=0, max_value=5)), st.integers(min_value=1, max_value=5))
def test_nothing_is_lost_and_each_keeps_its_order(keys: list[int], share: int) -> None:
    rotation: Rotation[int, tuple[int, int]] = Rotation(share=share)
    for i, key in enumerate(keys):
        rotation.add(key, (key, i))
    taken: list[tuple[int, int]] = []
    while len(rotation):
        taken += rotation.take_round(3)
    assert sorted(taken) == sorted((key, i) for i, key in enumerate(keys))
    for key in set(keys):
        assert [t for t in taken if t[0] == key] == [
            (key, i) for i, other in enumerate(keys) if other == key
        ]
