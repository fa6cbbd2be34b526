"""Which lines differ between two texts (Myers' algorithm), with bounds. Pure.

Time and memory grow with the number of differing lines, by its square: past a bound the differing
part is one block, all removed and all added. That is correct, and as short as anything would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# 600 differing lines are more than anybody reads in a room; they take some 0.1 s at worst.
_MOST_EDITS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Lines `[old_start, old_end)` of the old text became `[new_start, new_end)` of the new."""

    old_start: int
    old_end: int
    new_start: int
    new_end: int


def diff_lines(old: Sequence[str], new: Sequence[str]) -> list[Block]:
    """The blocks that differ, in order, none empty on both sides."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    a, b = old[head : len(old) - tail], new[head : len(new) - tail]
    if not a and not b:
        return []
    pairs = _matching_pairs(a, b) if a and b else []
    return _blocks(pairs, len(a), len(b), offset=head)


def _blocks(pairs: Sequence[tuple[int, int]], old: int, new: int, *, offset: int) -> list[Block]:
    """What lies between the lines that both have."""
    blocks: list[Block] = []
    x = y = 0
    for px, py in [*pairs, (old, new)]:
        if px > x or py > y:
            blocks.append(
                Block(
                    old_start=x + offset,
                    old_end=px + offset,
                    new_start=y + offset,
                    new_end=py + offset,
                )
            )
        x, y = px + 1, py + 1
    return blocks


def _matching_pairs(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Indexes of lines that stay, in order; none where too much differs."""
    trace: list[dict[int, int]] = []
    furthest = {1: 0}
    for edits in range(min(_MOST_EDITS, len(a) + len(b)) + 1):
        trace.append(dict(furthest))
        for k in range(-edits, edits + 1, 2):
            if k == -edits or (k != edits and furthest[k - 1] < furthest[k + 1]):
                x = furthest[k + 1]
            else:
                x = furthest[k - 1] + 1
            y = x - k
            while x < len(a) and y < len(b) and a[x] == b[y]:
                x, y = x + 1, y + 1
            furthest[k] = x
            if x >= len(a) and y >= len(b):
                return _walk_back(trace, len(a), len(b))
    return []


def _walk_back(trace: Sequence[dict[int, int]], x: int, y: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for edits in range(len(trace) - 1, -1, -1):
        furthest, k = trace[edits], x - y
        is_down = k == -edits or (k != edits and furthest[k - 1] < furthest[k + 1])
        previous_k = k + 1 if is_down else k - 1
        px = furthest[previous_k]
        py = px - previous_k
        while x > px and y > py and x > 0 and y > 0:
            x, y = x - 1, y - 1
            pairs.append((x, y))
        x, y = px, py
    pairs.reverse()
    return pairs
