"""A room's door is validated when it is described, and hides its placeholder."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.egress.door import RoomDoor
from orchestrator.model import RoomSlug


def _door(placeholder: str = "sk-ant-room", user_tag: str = "tag") -> RoomDoor:
    return RoomDoor(
        slug=RoomSlug("a"),
        directory=Path("/nowhere"),
        uid=1,
        gid=1,
        placeholder=placeholder,
        user_tag=user_tag,
    )


@pytest.mark.parametrize("placeholder", ["", "schlüssel"])
def test_a_placeholder_is_ascii_and_not_empty(placeholder: str) -> None:
    with pytest.raises(ValueError, match="placeholder"):
        _door(placeholder=placeholder)


@pytest.mark.parametrize("tag", ["", "ä", "x" * 257])
def test_a_user_tag_is_short_ascii(tag: str) -> None:
    with pytest.raises(ValueError, match="user tag"):
        _door(user_tag=tag)


def test_the_placeholder_is_not_in_the_doors_repr() -> None:
    assert "sk-ant-room" not in repr(_door())
