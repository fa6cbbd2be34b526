"""What the forward proxy moves: bytes through a tunnel, and the time until a tunnel is there.

Usage: python bench/egress_proxy.py [MEGABYTES] [TUNNELS]

The target is a process of its own on loopback that sends zeros; the client is in this process, as
the gateway is, so half of the processor time that is shown is the client's.
"""

from __future__ import annotations

import asyncio
import ipaddress
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from loguru import logger
from pydantic import SecretStr

from orchestrator.core.egress_rules import parse_rule
from orchestrator.core.proxy_policy import ProxyPolicy
from orchestrator.egress.gateway import ApiKey, ProxyMeans, RoomDoor, open_egress
from orchestrator.model import RoomSlug
from tests.support.client_hello import plain_hello
from tests.support.egress import connect

_TARGET = """
import asyncio, sys
async def serve(reader, writer):
    await reader.read(65536)
    for _ in range(int(sys.argv[1])):
        writer.write(bytes(1 << 20))
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


async def pull(directory: Path, port: int) -> tuple[float, int]:
    """Milliseconds to the first byte of a tunnel, and how many there were."""
    start = time.perf_counter()
    async with connect(directory) as (reader, writer):
        writer.write(
            f"CONNECT a.example:{port} HTTP/1.1\r\nHost: a.example:{port}\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        writer.write(plain_hello(b"a.example"))
        size = len(await reader.read(1))
        first = time.perf_counter()
        while data := await reader.read(1 << 20):
            size += len(data)
    return (first - start) * 1e3, size


def start_target(megabytes: int) -> tuple[subprocess.Popen[str], int]:
    """A process that sends as much to whoever says something, and its port."""
    target = subprocess.Popen(
        [sys.executable, "-c", _TARGET, str(megabytes)], stdout=subprocess.PIPE, text=True
    )
    assert target.stdout is not None
    return target, int(target.stdout.readline())


async def measure(megabytes: int, tunnels: int) -> None:
    """Print both figures."""
    ports = [start_target(count) for count in (megabytes, 0)]
    loopback = ipaddress.ip_address("127.0.0.1")
    policy = ProxyPolicy(
        allow=tuple(parse_rule(f"a.example:{port}") for _, port in ports),
        internal=(ipaddress.ip_network(f"{loopback}/32"),),
        bytes_per_s=1 << 40,
        bytes_per_day=1 << 50,
    )
    with tempfile.TemporaryDirectory() as name:
        door = RoomDoor(
            slug=RoomSlug("a"),
            directory=Path(name),
            uid=0,
            gid=0,
            placeholder="p",
            user_tag="t",
            proxy=policy,
        )
        means = ProxyMeans(lookup=lambda _: (loopback,))
        async with open_egress(
            upstream="http://127.0.0.1:9", credential=ApiKey(SecretStr("k")), means=means
        ) as gateway:
            await gateway.open_door(door)
            wall, cpu = time.perf_counter(), time.process_time()
            _, size = await pull(Path(name), ports[0][1])
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            print(f"{size / wall / 2**20:.0f} MiB/s, {cpu / size * 2**30:.2f} s of CPU for a GiB")
            times = [(await pull(Path(name), ports[1][1]))[0] for _ in range(tunnels)]
            print(f"a tunnel is there after {statistics.median(times):.2f} ms (median)")
    for target, _ in ports:
        target.kill()
        target.wait()


if __name__ == "__main__":
    logger.remove()
    arguments = [int(one) for one in sys.argv[1:]]
    asyncio.run(measure(*arguments, *(512, 50)[len(arguments) :]))
