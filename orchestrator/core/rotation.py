"""Taking turns: what waits is taken a few at a time from each, whoever has how much."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ItemT = TypeVar("ItemT")


class Rotation(Generic[KeyT, ItemT]):
    """Items by key, in order for each key.

    Invariant: between two turns of a key, every other key that has something gets one.
    """

    def __init__(self, *, share: int) -> None:
        """`share` items of a key are taken at its turn, then it goes behind the others."""
        self._share = share
        self._waiting: OrderedDict[KeyT, deque[ItemT]] = OrderedDict()
        self._count = 0

    def add(self, key: KeyT, item: ItemT) -> None:
        """One more; a key that had nothing comes last."""
        self._waiting.setdefault(key, deque()).append(item)
        self._count += 1

    def take_round(self, limit: int) -> list[ItemT]:
        """One turn of each key, at most about `limit` items (a share may pass it)."""
        taken: list[ItemT] = []
        for _ in range(len(self._waiting)):
            if len(taken) >= limit:
                break
            key, items = self._waiting.popitem(last=False)
            taken += [items.popleft() for _ in range(min(self._share, len(items)))]
            if items:
                self._waiting[key] = items
        self._count -= len(taken)
        return taken

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Rotation({self._count} items of {len(self._waiting)})"
