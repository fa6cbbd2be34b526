"""Runs the rewriting of bodies: small ones here, large ones in a process of their own.

A hostile body of the allowed size takes the interpreter two seconds and 280 MB (measured). In the
daemon's process that would stop every room's messages for as long; in a child it costs one CPU
some time, bounded by a deadline and a memory limit, and a child that meets either is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass

from loguru import logger

from orchestrator.core.api_policy import ApiPolicy, encode_policy
from orchestrator.core.egress_body import CheckedBody, count_structure, rewrite_body
from orchestrator.core.egress_http import Denial, DenialReason
from orchestrator.core.egress_policy import Route
from orchestrator.egress.inspector_child import (
    ANSWER,
    QUESTION,
    decode_body,
    decode_denial,
)

# Up to here a check takes 10 ms at worst (measured). The CLI's first request has 50 KB and 900 of
# the counted characters, and takes 1 ms.
_SMALL_BYTES = 256 * 1024
_SMALL_STRUCTURE = 8_000
# The slowest body takes the child 2 s; a busy machine may be several times slower.
_DEADLINE_S = 15.0
_UNCHECKED = Denial(
    status=403,
    reason=DenialReason.BODY_INVALID,
    message="The body could not be checked within its limits, so it was not sent.",
)
_Words = tuple[bytes, bytes, bytes]
"""Route, user tag and policy, as the child reads them."""
_log = logger.bind(component="egress")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a check gave, and what it took, without the wait for other rooms' checks."""

    body: CheckedBody | Denial
    seconds: float


class Inspector:
    """Owns the child. Invariant: it works on at most one body, and is replaced if it fails."""

    def __init__(self) -> None:
        self._child: Process | None = None
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Inspector(child={self._child.pid if self._child else None})"

    async def rewrite(
        self, raw: bytes, *, route: Route, user_tag: str, policy: ApiPolicy
    ) -> Checked:
        """As `rewrite_body`. A body that the child can't check in time or memory is refused.

        Cancel-safe: a cancelled call ends the child, the next one starts another.
        """
        if len(raw) <= _SMALL_BYTES and count_structure(raw) <= _SMALL_STRUCTURE:
            start = time.monotonic()
            body = rewrite_body(raw, route=route, user_tag=user_tag, policy=policy)
            return Checked(body=body, seconds=time.monotonic() - start)
        async with self._turn:
            start = time.monotonic()
            words = route.value.encode(), user_tag.encode(), encode_policy(policy)
            body = await self._ask_bounded(raw, words)
            return Checked(body=body, seconds=time.monotonic() - start)

    async def _ask_bounded(self, raw: bytes, words: _Words) -> CheckedBody | Denial:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                return await self._ask(raw, words)
        except (OSError, EOFError, TimeoutError) as e:
            _log.warning(
                "a body could not be checked", action="egress_inspect", error=type(e).__name__
            )
            await self._end()
            return _UNCHECKED
        except BaseException:
            await self._end()
            raise

    async def close(self) -> None:
        """End the child. Idempotent."""
        await self._end()

    async def _ask(self, raw: bytes, words: _Words) -> CheckedBody | Denial:
        child = await self._ensure()
        assert child.stdin is not None  # noqa: S101 (PIPE was asked for)
        assert child.stdout is not None  # noqa: S101 (the same)
        child.stdin.write(QUESTION.pack(*map(len, words), len(raw)))
        child.stdin.write(b"".join(words))
        child.stdin.write(raw)
        await child.stdin.drain()
        head = await child.stdout.readexactly(ANSWER.size)
        allowed, ask_size, size = ANSWER.unpack(head)
        ask = await child.stdout.readexactly(ask_size)
        answer = await child.stdout.readexactly(size)
        return decode_body(ask, answer) if allowed else decode_denial(answer)

    async def _ensure(self) -> Process:
        if self._child is None or self._child.returncode is not None:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-m",
                "orchestrator.egress.inspector_child",
                stdin=PIPE,
                stdout=PIPE,
                env={},
            )
        return self._child

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        if child.stdin is not None:
            child.stdin.close()
        await child.wait()


@contextlib.asynccontextmanager
async def open_inspector() -> AsyncIterator[Inspector]:
    """An inspector; its child starts with the first large body and ends at exit."""
    inspector = Inspector()
    try:
        yield inspector
    finally:
        await inspector.close()
