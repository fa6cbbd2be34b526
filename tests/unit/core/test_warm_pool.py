"""What is done next so that runners are there for rooms to come."""

from __future__ import annotations

import itertools

import pytest

from orchestrator.core.warm_pool import PoolSight, SpareSight, SpareStep, next_step
from orchestrator.model import RoomSlug

A, B, C = (RoomSlug(f"room---{letter * 16}") for letter in "abc")


def spare(
    slug: RoomSlug, *, ready: bool = True, there: bool = True, sound: bool = True
) -> SpareSight:
    return SpareSight(slug=slug, is_ready=ready, has_container=there, is_sound=sound)


COLD = spare(A, ready=False, there=False, sound=False)


@pytest.mark.parametrize(
    ("sight", "step"),
    [
        (PoolSight(wanted=0, spares=()), None),
        (PoolSight(wanted=1, spares=()), (SpareStep.MAKE, None)),
        (PoolSight(wanted=1, spares=(spare(A),)), None),
        (PoolSight(wanted=2, spares=(spare(A),)), (SpareStep.MAKE, None)),
        (PoolSight(wanted=2, spares=(COLD, spare(B))), (SpareStep.MAKE, A)),
        (PoolSight(wanted=1, spares=(COLD, spare(B))), (SpareStep.DROP, A)),
        (PoolSight(wanted=0, spares=(spare(A),)), (SpareStep.DROP, A)),
        (PoolSight(wanted=1, spares=(COLD,), may_make=False), None),
        (PoolSight(wanted=1, spares=(), may_make=False), None),
        (PoolSight(wanted=1, spares=(spare(A),), is_pressed=True), (SpareStep.LET_GO, A)),
        (PoolSight(wanted=1, spares=(COLD,), is_pressed=True), None),
        (
            PoolSight(wanted=2, spares=(spare(A), spare(B)), given_up=frozenset({B})),
            (SpareStep.LET_GO, B),
        ),
        (PoolSight(wanted=1, spares=(spare(A, sound=False),)), (SpareStep.LET_GO, A)),
        (PoolSight(wanted=1, spares=(spare(A, ready=False),)), (SpareStep.LET_GO, A)),
        (PoolSight(wanted=1, spares=(spare(A, there=False, sound=False),)), (SpareStep.LET_GO, A)),
    ],
)
def test_what_others_need_comes_first_then_what_is_wanted(
    sight: PoolSight, step: tuple[SpareStep, RoomSlug | None] | None
) -> None:
    assert next_step(sight) == step


def test_from_any_state_the_steps_lead_to_so_many_sound_ones() -> None:
    states = [
        spare(A, ready=ready, there=there, sound=there and sound)
        for ready, there, sound in itertools.product((False, True), repeat=3)
    ]
    for first, second, wanted in itertools.product(states, states, range(4)):
        spares = {A: first, B: spare(B, ready=second.is_ready, there=second.has_container)}
        names = iter([C, *(RoomSlug(f"room---{n}") for n in range(9))])
        for _ in range(20):
            found = next_step(PoolSight(wanted=wanted, spares=tuple(spares.values())))
            if found is None:
                break
            step, slug = found
            if step is SpareStep.DROP:
                assert slug is not None
                del spares[slug]
            elif step is SpareStep.LET_GO:
                assert slug is not None
                spares[slug] = spare(slug, ready=False, there=False, sound=False)
            else:
                made = slug or next(names)
                spares[made] = spare(made)
        assert len(spares) == wanted
        assert all(one.is_ready and one.is_sound for one in spares.values())
