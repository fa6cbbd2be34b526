"""What waits in the inbox, as tests look at it."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.store.api import InboxRow
from orchestrator.store.store import Store


async def new_rows(store: Store, *, after: int = 0, limit: int = 5000) -> Sequence[InboxRow]:
    """Rows that nobody has looked at, past the number `after`, in order of arrival."""
    seqs = await store.inbox.new_seqs(after=after, limit=limit)
    return await store.inbox.still_new([seq for seq, _ in seqs])
