"""When one sender's messages in one room make a batch: the inbound window.

A window opens with its first item. It closes when the sender has been quiet for `quiet_s` and is
not typing, when it is full, or `window_s` after its first item, whichever comes first.
"""

from __future__ import annotations

from typing import Generic, TypeVar

# A sync answer holds at most 100 events of a room (the filter's timeline limit); half of that from
# one sender within 2 s is no person finishing a thought any more. The rest makes the next batch.
MAX_WINDOW_ITEMS = 50

ItemT = TypeVar("ItemT")


class InboundWindow(Generic[ItemT]):
    """One sender's burst in one room.

    Invariant: it holds 1 to `max_items` items until they are taken, and none after that.
    """

    def __init__(
        self,
        item: ItemT,
        *,
        now: float,
        is_typing: bool,
        quiet_s: float,
        window_s: float,
        max_items: int = MAX_WINDOW_ITEMS,
    ) -> None:
        """Open with the first item; `is_typing` says whether the sender is typing right now."""
        self._items = [item]
        self._is_typing = is_typing
        self._active_at = now
        self._closes_at = now + window_s
        self._quiet_s = quiet_s
        self._max_items = max_items

    @property
    def is_full(self) -> bool:
        """Whether it takes no further item."""
        return len(self._items) >= self._max_items

    def add(self, item: ItemT, *, now: float) -> None:
        """One more item of the same sender.

        Raises:
            ValueError: the window is full or already taken; open another one.
        """
        if self.is_full or not self._items:
            msg = "the window is closed"
            raise ValueError(msg)
        self._items.append(item)
        self._active_at = max(now, self._active_at)

    def typing(self, *, is_typing: bool, now: float) -> None:
        """The sender started or stopped typing.

        Clients stop the typing notice just before they send: a stop counts as a sign of life, so
        the message that it belongs to still gets its `quiet_s` to arrive.
        """
        if self._is_typing and not is_typing:
            self._active_at = max(now, self._active_at)
        self._is_typing = is_typing

    def next_deadline(self) -> float | None:
        """When it closes if nothing else happens; None once it was taken."""
        if not self._items:
            return None
        if self.is_full:
            return self._active_at
        if self._is_typing:
            return self._closes_at
        return min(self._active_at + self._quiet_s, self._closes_at)

    def take_due(self, now: float) -> tuple[ItemT, ...] | None:
        """The items, in order of arrival, once the deadline is reached; None before and after."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return None
        return self.take()

    def take(self) -> tuple[ItemT, ...]:
        """The items now, whatever the deadline; () when they were taken before."""
        items, self._items = tuple(self._items), []
        return items

    def __repr__(self) -> str:
        typing = ", typing" if self._is_typing else ""
        return f"InboundWindow({len(self._items)} items{typing}, due at {self.next_deadline()})"
