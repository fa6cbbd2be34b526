"""What interception costs: the time of a request in an opened tunnel, the pace of the filter.

Usage: python bench/intercepted.py [REQUESTS] [MEGABYTES]

Client, gateway and the host's server share this process and its processor.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from loguru import logger

from orchestrator.core.room_secret import Hidden
from orchestrator.egress.secret_filter import SecretFilters
from tests.support.secret_room import NAMED, VALUE, SecretRoom, open_secret_room, render

# So that the room's own pace is not what is measured.
_RATE = 1 << 40
_GAP_S = 0.025


async def ask(room: SecretRoom, count: int) -> tuple[float, list[float]]:
    """Milliseconds until a tunnel is open, and of each request in it."""
    host = f"{NAMED}:{room.sites[NAMED].port}"
    data = render([("Authorization", f"Bearer {room.surrogate}")], host=host, close=False)
    times: list[float] = []
    start = time.perf_counter()
    async with room.tunnel() as (reader, writer):
        opened = (time.perf_counter() - start) * 1e3
        for _ in range(count):
            await asyncio.sleep(_GAP_S)
            start = time.perf_counter()
            writer.write(data)
            await reader.readuntil(b"reach\n")
            times.append((time.perf_counter() - start) * 1e3)
    return opened, times


def filter_pace(megabytes: int, data: bytes) -> float:
    """Megabytes per second through the filter of one secret and one encoded pair."""
    filters = SecretFilters(
        (Hidden(text=VALUE * 2, mark="x" * 80), Hidden(text=VALUE, mark="y" * 40))
    )
    piece = (data * (65536 // len(data) + 1))[:65536]
    start = time.perf_counter()
    for _ in range(megabytes * 16):
        filters.feed(piece)
    return megabytes / (time.perf_counter() - start)


async def main(requests: int, megabytes: int) -> None:
    """Print the figures."""
    logger.remove()
    with tempfile.TemporaryDirectory() as directory:
        async with open_secret_room(Path(directory), bytes_per_s=_RATE) as room:
            opened, times = await ask(room, requests)
    middle, late = statistics.median(times), sorted(times)[int(len(times) * 0.95)]
    print(f"a tunnel is open after {opened:.1f} ms")
    print(f"a request in it: {middle:.1f} ms (95 %: {late:.1f} ms), {requests} of them")
    text = b"some words in a line\n"
    print(f"filter, lines of text: {filter_pace(megabytes, text):.0f} MB/s")
    print(f"filter, zeros: {filter_pace(megabytes, bytes(1)):.0f} MB/s")


if __name__ == "__main__":
    asyncio.run(main(int((sys.argv[1:] or ["200"])[0]), int((sys.argv[2:] or ["256"])[0])))
