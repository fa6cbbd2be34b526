"""What an answer of the API says that it used, read while it passes by.

`UsageReader` is fed with the bytes of an answer, in whatever pieces they come. It changes and keeps
back nothing, holds a bounded number of them (one line of a stream, or the beginning of an answer
that is no stream), and never raises. What it can't read it counts as written text, so that an
answer which breaks off, or is not understood, is not free.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from orchestrator.model import JsonObject, JsonValue

# An event with usage has about 1 KB; one with a whole page that a search found, 100 KB.
MAX_LINE_BYTES = 1 << 20
# 128,000 tokens are half a megabyte of text; escapes may double it.
MAX_WHOLE_BYTES = 4 << 20
# `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}` has 84.
_DELTA_FRAME_BYTES = 80
# As code has them; English has 4, so this counts more rather than less.
_BYTES_PER_TOKEN = 3
# More than any answer can have used; a count beyond it is a mistake, and would not fit the table.
_MAX_COUNT = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counts of tokens, in the kinds that have prices of their own."""

    input_tokens: int = 0
    write_5m_tokens: int = 0
    write_1h_tokens: int = 0
    read_tokens: int = 0
    output_tokens: int = 0
    searches: int = 0
    is_fast: bool = False
    is_us: bool = False

    @property
    def prompt_tokens(self) -> int:
        """All that the model read, cached or not."""
        return self.input_tokens + self.write_5m_tokens + self.write_1h_tokens + self.read_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one model used for an answer."""

    model: str | None
    usage: Usage


class UsageReader:
    """Reads one answer. Invariant: holds at most one line, or MAX_WHOLE_BYTES."""

    def __init__(self, *, is_stream: bool) -> None:
        self._is_stream = is_stream
        self._held = bytearray()
        self._is_skipping = False
        self._model: str | None = None
        self._said: JsonObject = {}
        self.written_bytes = 0
        """Of text, thinking and calls, as far as they were seen: an estimate for a cut answer."""
        self.is_complete = False
        """Whether the answer said at its end what it used."""

    @property
    def model(self) -> str | None:
        """The model that answers, once it said so."""
        return self._model

    @property
    def has_usage(self) -> bool:
        """Whether anything was said of what was used."""
        return bool(self._said)

    @property
    def written_tokens(self) -> int:
        """An estimate of what was written so far, rather too high."""
        return -(-self.written_bytes // _BYTES_PER_TOKEN)

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if not self._is_stream:
            self._feed_whole(data)
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._end_line(line)
        self._hold(rest)

    def end(self) -> None:
        """The answer came to its own end."""
        if self._is_stream:
            self._end_line(b"")
        elif not self._is_skipping:
            message = _parse(bytes(self._held))
            self._take_message(message)
            self.is_complete = self.has_usage
            self._held.clear()

    def shares(self) -> list[Share]:
        """What was used, by model, as it was said last. Empty where nothing was said.

        An advisor and a model that stepped in are listed by iterations, each with its own model;
        a compaction's tokens stand nowhere else.
        """
        if not self._said:
            return []
        said = self._said
        listed = said.get("iterations")
        iterations = [i for i in listed if isinstance(i, dict)] if isinstance(listed, list) else []
        others = [
            Share(model=_text(i.get("model")) or self._model, usage=_count(i, said))
            for i in iterations
            if i.get("type") != "message"
        ]
        total = _count(said, said)
        mine = [_count(i, said) for i in iterations if i.get("type") == "message"]
        # The sum at the top has all of the model's own turns; it is taken where it is the larger.
        own = _larger(total, _sum(mine)) if mine else total
        searches = said.get("server_tool_use")
        asked = _number(searches, "web_search_requests") if isinstance(searches, dict) else 0
        return [Share(model=self._model, usage=replace(own, searches=asked)), *others]

    # A stream

    def _hold(self, data: bytes) -> None:
        if self._is_skipping or len(self._held) + len(data) > MAX_LINE_BYTES:
            self.written_bytes += len(self._held) + len(data)
            self._held.clear()
            self._is_skipping = True
            return
        self._held += data

    def _end_line(self, rest: bytes) -> None:
        self._hold(rest)
        if not self._is_skipping:
            self._take_line(bytes(self._held))
        self._held.clear()
        self._is_skipping = False

    def _take_line(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        if b'"usage"' in line:
            event = _parse(line[len(b"data:") :])
            if event.get("type") == "message_start":
                self._take_message(event.get("message"))
                return
            if event.get("type") == "message_delta":
                self._say(event.get("usage"))
                self.is_complete = self.has_usage
                return
        if b'_delta"' in line:
            self.written_bytes += max(_BYTES_PER_TOKEN, len(line) - _DELTA_FRAME_BYTES)

    # An answer in one piece

    def _feed_whole(self, data: bytes) -> None:
        self.written_bytes += len(data)
        if len(self._held) + len(data) > MAX_WHOLE_BYTES:
            self._is_skipping = True
            self._held.clear()
        elif not self._is_skipping:
            self._held += data

    # Both

    def _take_message(self, message: JsonValue) -> None:
        if not isinstance(message, dict):
            return
        self._model = _text(message.get("model")) or self._model
        self._say(message.get("usage"))

    def _say(self, usage: JsonValue) -> None:
        """Later counts are of all so far; what is left out stays as it was."""
        if isinstance(usage, dict):
            self._said.update({k: v for k, v in usage.items() if v is not None})


def _parse(raw: bytes) -> JsonObject:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _count(counts: JsonObject, said: JsonObject) -> Usage:
    written = _number(counts, "cache_creation_input_tokens")
    split = counts.get("cache_creation")
    hour = _number(split, "ephemeral_1h_input_tokens") if isinstance(split, dict) else 0
    hour = min(hour, written)
    return Usage(
        input_tokens=_number(counts, "input_tokens"),
        write_5m_tokens=written - hour,
        write_1h_tokens=hour,
        read_tokens=_number(counts, "cache_read_input_tokens"),
        output_tokens=_number(counts, "output_tokens"),
        is_fast=said.get("speed") == "fast",
        is_us=said.get("inference_geo") == "us",
    )


def _number(counts: JsonObject, name: str) -> int:
    value = counts.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return max(0, min(value, _MAX_COUNT))


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) and value else None


def _sum(parts: list[Usage]) -> Usage:
    return replace(
        parts[0],
        input_tokens=sum(p.input_tokens for p in parts),
        write_5m_tokens=sum(p.write_5m_tokens for p in parts),
        write_1h_tokens=sum(p.write_1h_tokens for p in parts),
        read_tokens=sum(p.read_tokens for p in parts),
        output_tokens=sum(p.output_tokens for p in parts),
    )


def _larger(one: Usage, other: Usage) -> Usage:
    """Field by field, the larger of two accounts of the same."""
    return replace(
        one,
        input_tokens=max(one.input_tokens, other.input_tokens),
        write_5m_tokens=max(one.write_5m_tokens, other.write_5m_tokens),
        write_1h_tokens=max(one.write_1h_tokens, other.write_1h_tokens),
        read_tokens=max(one.read_tokens, other.read_tokens),
        output_tokens=max(one.output_tokens, other.output_tokens),
    )
