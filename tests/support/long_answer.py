"""Answers too long for a message, and what a room made of them."""

from __future__ import annotations

import random


def long_answer(size_bytes: int, *, seed: int = 0) -> str:
    """Markdown of exactly so many bytes: paragraphs, lists and code, no two of them the same."""
    rng, parts, size, number = random.Random(seed), list[str](), 0, 0
    while size < size_bytes:
        number += 1
        words = " ".join(rng.choice(_WORDS) for _ in range(rng.randrange(20, 120)))
        part = f"Paragraph {number}: {words}."
        if number % 5 == 0:
            part = f"```python\nblock_{number} = {words!r}\n```"
        elif number % 5 == 1:
            part = f"- item {number}: **{words}**\n- another"
        parts.append(part)
        size += len(part.encode()) + 2
    text = "\n\n".join(parts).encode()[: size_bytes - 4].decode("utf-8", "ignore")
    return text + "x" * (size_bytes - 4 - len(text.encode())) + "\nend"


_WORDS = (
    "room",
    "runner",
    "spool",
    "answer",
    "größer",
    "漢字",
    "commit",
    "frame",
    "outbox",
    "lock",
)
