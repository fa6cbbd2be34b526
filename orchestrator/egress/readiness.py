"""Socket input and output that loses nothing when the task that waits is cancelled.

`loop.sock_recv` and `loop.sock_accept` read first and hand over later: cancelled between the two,
the bytes (or the accepted socket) are gone. Here the waiting is for readiness alone.
"""

from __future__ import annotations

import asyncio
import socket

CHUNK_BYTES = 64 * 1024


async def wait_readable(sock: socket.socket) -> None:
    """Until there is something to read, an end, or an error. One waiter for a socket at a time."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    fd = sock.fileno()
    loop.add_reader(fd, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def receive(sock: socket.socket) -> bytes:
    """The next bytes, at most CHUNK_BYTES; b"" at the end. Cancel-safe. Raises OSError.

    Others have their turn first, each time: who always has another byte ready must not keep them.
    """
    await asyncio.sleep(0)
    while True:
        try:
            return sock.recv(CHUNK_BYTES)
        except BlockingIOError:
            await wait_readable(sock)


async def wait_for_end(sock: socket.socket) -> None:
    """Until the peer closed its side; never returns once the peer has sent bytes, and reads none.

    Bytes that come early are the next request. They stay in the kernel, where they hold the peer
    back.
    """
    await wait_readable(sock)
    try:
        early = sock.recv(1, socket.MSG_PEEK)
    except OSError:
        return
    if early:
        await asyncio.get_running_loop().create_future()


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
