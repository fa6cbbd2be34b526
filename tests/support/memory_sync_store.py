"""A store for the sync loop that lives in memory: it skips known events, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.model import RoomId
from orchestrator.store.api import InboxKind, NewInboxRow, Restored


class MemorySyncStore:
    """Implements `orchestrator.matrix.sync.SyncStore`."""

    def __init__(
        self, token: str | None = None, known: Mapping[RoomId, bool] | None = None
    ) -> None:
        self.token = token
        self.known = dict(known or {})
        self.rows: list[NewInboxRow] = []
        self.commits = 0
        self._ids: set[str] = set()

    def __repr__(self) -> str:
        return f"<MemorySyncStore rows={len(self.rows)} token={self.token!r}>"

    async def sync_token(self) -> str | None:
        """The token of the last commit."""
        return self.token

    async def restored(self) -> Restored | None:
        """Never."""
        return None

    async def commit_sync(self, rows: Sequence[NewInboxRow], next_batch: str, *, now: float) -> int:
        """Keep rows and token; rows with a known event id are skipped."""
        new = [r for r in rows if r.event_id is None or r.event_id not in self._ids]
        self._ids.update(r.event_id for r in new if r.event_id is not None)
        self.rows += new
        self.token = next_batch
        self.commits += 1
        return len(new)

    async def known_rooms(self) -> Mapping[RoomId, bool]:
        """As given."""
        return self.known

    def of(self, kind: InboxKind, *, history: bool = False) -> list[NewInboxRow]:
        """The rows of a kind."""
        return [r for r in self.rows if r.kind is kind and r.history is history]
