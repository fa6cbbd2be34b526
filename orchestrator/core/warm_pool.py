"""What is to be done next so that runners are there for rooms to come: one thing at a time.

Rules: what others need is given back before anything is made; only what runs as it is wanted now
counts as ready; of too many those go first that are not ready.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.model import RoomSlug


class SpareStep(StrEnum):
    """One thing to be done to one spare."""

    MAKE = "make"
    """Its directories and its container, which is started; no slug: a new one."""
    LET_GO = "let_go"
    """Its container goes, the directories stay."""
    DROP = "drop"
    """Nothing of it stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpareSight:
    """A spare as it was seen."""

    slug: RoomSlug
    is_ready: bool
    """A room may take it."""
    has_container: bool
    is_sound: bool
    """Its container runs, and is the one that would be made now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSight:
    """All of them, and what they have to look out for."""

    wanted: int
    spares: tuple[SpareSight, ...]
    given_up: Set[RoomSlug] = frozenset()
    """Whose place a room needs."""
    is_pressed: bool = False
    """The host has too little memory."""
    may_make: bool = True


def next_step(sight: PoolSight) -> tuple[SpareStep, RoomSlug | None] | None:
    """The one thing to be done now; None: nothing is, for now."""
    for spare in sight.spares:
        is_needed_elsewhere = sight.is_pressed or spare.slug in sight.given_up
        is_left_over = not (spare.is_ready and spare.is_sound)
        if spare.has_container and (is_needed_elsewhere or is_left_over):
            return SpareStep.LET_GO, spare.slug
        if spare.is_ready and not spare.has_container:
            return SpareStep.LET_GO, spare.slug
    if len(sight.spares) > sight.wanted:
        return SpareStep.DROP, min(sight.spares, key=lambda spare: spare.is_ready).slug
    if not sight.may_make or sight.is_pressed:
        return None
    cold = next((spare.slug for spare in sight.spares if not spare.is_ready), None)
    if cold is not None or len(sight.spares) < sight.wanted:
        return SpareStep.MAKE, cold
    return None
