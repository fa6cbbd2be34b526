"""What of an installation's files nobody needs: not a room's, and not what is for the next one."""

from __future__ import annotations

from pathlib import Path

from orchestrator.clean_up import _files, _read_database
from orchestrator.model import RoomId
from orchestrator.store.store import open_store


async def test_what_was_made_for_rooms_to_come_is_the_next_starts_and_no_waste(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path) as store:
        await store.rooms.installation()
        left = await store.rooms.ensure(RoomId("!left:test"), joined=False)
        spare = await store.spares.add()
        taken = await store.spares.add()
        await store.spares.note_ready(taken.slug)
        room = await store.rooms.ensure(RoomId("!room:test"), joined=True)
        assert room.slug == taken.slug
        for slug in (left.slug, spare.slug, room.slug, "room---0123456789abcdef"):
            (tmp_path / "rooms" / slug).mkdir(parents=True)
        _, known = _read_database(tmp_path)
        waste = {waste.name for waste in _files(tmp_path, known)}
    assert waste == {left.slug, "room---0123456789abcdef"}
