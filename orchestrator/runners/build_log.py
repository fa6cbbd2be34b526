"""What the engine says while it builds, pulls or imports, as short lines for people.

Rules: a step is one line when it starts, and one with its time when it ends; of a step's own output
a line comes through every few seconds, as a sign of life; a failure brings its last lines.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from orchestrator.errors import PreconditionError
from orchestrator.model import JsonObject
from orchestrator.runners.engine import Engine

_STEP: Final = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_LINE_CHARS: Final = 110
_SIGN_OF_LIFE_S: Final = 5.0
_KEPT_LINES: Final = 15


class BuildLog:
    """One build's, pull's or import's progress. Invariant: `_last` holds its last 15 lines."""

    def __init__(self, on_line: Callable[[str], None], *, now: float) -> None:
        self._on_line = on_line
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._step = ""
        self._step_began = now
        self._spoke = now

    def __repr__(self) -> str:
        return f"BuildLog(step={self._step!r})"

    async def follow(
        self,
        engine: Engine,
        path: str,
        query: Mapping[str, str],
        *,
        body: bytes | AsyncIterator[bytes] = b"",
        body_bytes: int = 0,
        limit_s: float,
    ) -> None:
        """POST to the engine and show what it answers, until it is done; at most `limit_s`.

        Raises:
            PreconditionError: it failed; the text has the reason and the last lines.
        """
        try:
            async with (
                asyncio.timeout(limit_s),
                engine.exchange("POST", path, query, body=body, body_bytes=body_bytes) as answer,
            ):
                async for item in answer.json_lines():
                    self.take(item, now=time.monotonic())
        except TimeoutError as e:
            raise self._failure(f"it was not done after {limit_s:.0f} s") from e
        self._end_step(time.monotonic())

    def take(self, item: JsonObject, *, now: float) -> None:
        """One line of the engine's answer.

        Raises:
            PreconditionError: it says that the work failed.
        """
        if "error" in item:
            raise self._failure(str(item["error"]))
        text = str(item.get("stream") or item.get("status") or "").strip()
        step = _STEP.fullmatch(text)
        if step is not None:
            self._end_step(now)
            self._step, self._step_began = f"step {step[1]} of {step[2]}", now
            self._say(f"{self._step}: {' '.join(step[3].split())}", now)
        elif text:
            self._last.append(text)
            if now - self._spoke >= _SIGN_OF_LIFE_S:
                self._say(f"  {text.splitlines()[-1]}", now)

    def _end_step(self, now: float) -> None:
        took = now - self._step_began
        # A step that took no time was in the cache, or only wrote a line of metadata.
        if self._step and took >= 1:
            self._say(f"{self._step}: took {took:.0f} s", now)
        self._step = ""

    def _say(self, line: str, now: float) -> None:
        self._spoke = now
        self._on_line(line if len(line) <= _LINE_CHARS else f"{line[: _LINE_CHARS - 1]}…")

    def _failure(self, reason: str) -> PreconditionError:
        where = f" in {self._step}" if self._step else ""
        lines = [f"the image could not be made{where}: {reason}", *self._last]
        return PreconditionError("\n  ".join(lines))
