"""What the egress gateway adds to a request: the same request direct and through it, in one run.

Usage: python bench/egress_latency.py [REQUESTS]

The upstream is a process of its own on loopback that answers at once, so the ratio is the worst
case: the real API takes 0.3 s and more to the first byte. Direct and gateway alternate, over
connections that are kept, so both see the same machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loguru import logger
from pydantic import SecretStr

from orchestrator.egress import door
from orchestrator.egress.gateway import ApiKey, RoomDoor, open_egress
from orchestrator.egress.listener import SOCKET_NAME
from orchestrator.model import RoomSlug

_UPSTREAM = """
import asyncio
async def serve(reader, writer):
    while True:
        try:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        size = int(head.lower().split(b"content-length:")[1].split(b"\\r\\n")[0])
        await reader.readexactly(size)
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-type: text/event-stream\\r\\n"
                     b"transfer-encoding: chunked\\r\\n\\r\\n"
                     b"9\\r\\ndata: 1\\n\\n\\r\\n0\\r\\n\\r\\n")
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
_KEY = "sk-ant-api03-placeholder"


@dataclass(frozen=True, slots=True)
class Line:
    """One kept connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, request: bytes) -> tuple[float, float]:
        """Milliseconds to the first event, and to the end."""
        start = time.perf_counter()
        self.writer.write(request)
        await self.reader.readuntil(b"data: 1\n\n")
        first = time.perf_counter()
        await self.reader.readuntil(b"0\r\n\r\n")
        return (first - start) * 1e3, (time.perf_counter() - start) * 1e3


def build_request(size: int) -> bytes:
    """A request whose body has about `size` bytes, in messages of a page each, as the CLI's has."""
    page = "def f(a, b):\n    return [a, {'b': b}]  # and so on\n" * 40
    one = {"role": "user", "content": [{"type": "text", "text": page}]}
    body = json.dumps({"model": "m", "messages": [one] * max(1, size // len(json.dumps(one)))})
    head = (
        f"POST /v1/messages HTTP/1.1\r\nHost: a\r\nx-api-key: {_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


@contextlib.contextmanager
def start_upstream() -> Iterator[int]:
    """The port of an upstream in another process."""
    with subprocess.Popen([sys.executable, "-c", _UPSTREAM], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def compare(direct: Line, gateway: Line, size: int, count: int) -> None:
    """Measure in turns, and print one row for each way and their ratio."""
    request = build_request(size)
    taken: dict[str, list[tuple[float, float]]] = {"direct": [], "gateway": []}
    for n in range(count + 5):
        for name, line in (("direct", direct), ("gateway", gateway)):
            once = await line.ask(request)
            if n >= 5:  # the first ones connect
                taken[name].append(once)
    medians = {name: statistics.median(t[0] for t in times) for name, times in taken.items()}
    for name, times in taken.items():
        firsts = sorted(t[0] for t in times)
        p95 = firsts[int(len(firsts) * 0.95)]
        print(
            f"{len(request):>9} bytes  {name:<8} first event: median {medians[name]:7.2f} ms"
            f"  p95 {p95:7.2f} ms   whole: {statistics.median(t[1] for t in times):7.2f} ms"
        )
    added = medians["gateway"] - medians["direct"]
    print(f"{'':>16} added {added:.2f} ms, ratio {medians['gateway'] / medians['direct']:.1f}")


async def main(count: int) -> None:
    """Print the comparison for a small, a usual and a large body."""
    logger.remove()
    # The pace of a room would be measured otherwise.
    for name in ("_REQUESTS_PER_S", "_BYTES_PER_S", "_CHECKING_PER_S"):
        setattr(door, name, 1e12)
    with start_upstream() as port, tempfile.TemporaryDirectory() as name:
        room = RoomDoor(
            slug=RoomSlug("bench"),
            directory=Path(name),
            uid=os.getuid(),
            gid=os.getgid(),
            placeholder=_KEY,
            user_tag="bench",
        )
        upstream = f"http://127.0.0.1:{port}"
        async with open_egress(upstream=upstream, credential=ApiKey(SecretStr("k"))) as gateway:
            await gateway.open_door(room)
            direct = Line(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))
            through = Line(*await asyncio.open_unix_connection(f"{name}/{SOCKET_NAME}"))
            for size in (1_000, 50_000, 200_000, 1_000_000, 4_000_000):
                await compare(direct, through, size, count)
            for line in (direct, through):
                line.writer.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
