"""Whether a running turn may show what it has said so far, or keeps it for later.

An account sends as little as one message in five seconds over all of its rooms, so what a turn says
on its way is shown only while the account has messages to spare, and never waits in the outbox.

Rules:
- some of the account's messages are kept at hand for answers and notices;
- whatever waits to be sent already comes first;
- of the rooms that ask, the one that has waited longest is next.
"""

from __future__ import annotations

import math

from orchestrator.core.pacing import BudgetState
from orchestrator.model import RoomId

# Half of Synapse's stock burst: five rooms' answers leave at once in the middle of any stream.
RESERVE = 5
# Without a reserve (a limit without bursts) an answer waits for one interval: no longer than this.
PATIENCE_S = 5.0
# While no limit is known. When one is met, these are refused, and wait before their rooms' answers.
AT_ONCE = 2
# Of what could be spared for progress, courtesies leave this much.
KEPT_FROM_ASIDES = 1
# A room with something to show asks every 2 s (outbound_window_s); one that is silent has ended.
_ASKS_AGAIN_S = 15.0
# From the permission to the departure: cutting a long text and one commit. Nothing waits before it.
_LEAVES_WITHIN_S = 15.0


def count_spare(tokens: float, state: BudgetState) -> int:
    """How many messages the account can spare for progress.

    Args:
        tokens: how many may leave now; infinity while no limit is known, 0 during a named wait.
        state: what is known of the limit.
    """
    if state.interval_s is None:
        return AT_ONCE if tokens > 0 else 0
    reserve = min(RESERVE, math.floor(state.burst / 2))
    if reserve == 0 and state.interval_s > PATIENCE_S:
        return 0
    return max(0, math.floor(tokens - reserve + 1e-6))


class ProgressShare:
    """Shares what can be spared between the rooms.

    Invariant: a permission counts until its message has left, or for 15 s.
    """

    def __init__(self) -> None:
        # In the order in which they began to ask; when each asked last.
        self._asking: dict[RoomId, float] = {}
        self._allowed: dict[RoomId, float] = {}

    def __repr__(self) -> str:
        return f"<ProgressShare asking={len(self._asking)} allowed={len(self._allowed)}>"

    def ask(self, room_id: RoomId, *, spare: int, now: float) -> bool:
        """Whether the room may send a message of progress now; it asks again when it may not."""
        self._forget(now)
        self._asking[room_id] = now
        place = list(self._asking).index(room_id)
        if place >= spare - len(self._allowed):
            return False
        del self._asking[room_id]
        self._allowed[room_id] = now
        return True

    def left(self, room_id: RoomId) -> None:
        """A message of the room has left: from here on the budget counts it."""
        self._allowed.pop(room_id, None)

    def _forget(self, now: float) -> None:
        self._asking = {r: at for r, at in self._asking.items() if now - at < _ASKS_AGAIN_S}
        self._allowed = {r: at for r, at in self._allowed.items() if now - at < _LEAVES_WITHIN_S}
