"""What a request asks for, as far as its cost depends on it: read from a body that was checked.

All of it is the room's word. It serves to hold money back before the answer, and to charge
something where no answer said what was used; what an answer says counts instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.model import JsonObject, JsonValue

# The largest context window that the API offers (1M tokens, models overview of November 2026).
MAX_INPUT_TOKENS = 1_000_000
# The largest answer, 128K tokens, of a request that names no limit: the API refuses those.
_MAX_OUTPUT_TOKENS = 128_000
# English has 4 bytes for a token, code and dense JSON 3, Chinese 3 for 1 to 2 tokens.
_BYTES_PER_TOKEN = 2
# An image is at most about 4,800 tokens (vision guide), however few bytes it has.
_ATTACHMENT_TOKENS = 5_000
# A page of a PDF is 1,500 to 3,000 tokens and its image; 50 KB of base64 or more.
_ATTACHMENT_BYTES_PER_TOKEN = 8
_MAX_MODELS = 16
_MAX_NAME_CHARS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request's models, and the most that it may use of them."""

    models: tuple[str, ...]
    """Every model that the request names: its own, fallbacks, an advisor."""
    max_tokens: int
    input_tokens: int
    """Estimated from the body's size, on the high side."""
    is_fast: bool = False

    def encode(self) -> list[JsonValue]:
        """As a JSON value; `Ask.decode` is the inverse."""
        return [list(self.models), self.max_tokens, self.input_tokens, self.is_fast]

    @classmethod
    def decode(cls, value: list[JsonValue]) -> Ask:
        """The inverse of `encode`."""
        models, max_tokens, input_tokens, is_fast = value
        if not isinstance(models, list) or not isinstance(max_tokens, int):
            msg = "not an ask"
            raise TypeError(msg)
        if not isinstance(input_tokens, int):
            msg = "not an ask"
            raise TypeError(msg)
        return cls(
            models=tuple(str(name) for name in models),
            max_tokens=max_tokens,
            input_tokens=input_tokens,
            is_fast=bool(is_fast),
        )


def read_ask(body: JsonObject, *, size: int, attachments: int, attached_bytes: int) -> Ask:
    """What a checked body of `size` bytes asks for, `attached_bytes` of it in base64 sources."""
    text = max(0, size - attached_bytes) // _BYTES_PER_TOKEN
    attached = max(attachments * _ATTACHMENT_TOKENS, attached_bytes // _ATTACHMENT_BYTES_PER_TOKEN)
    given = body.get("max_tokens")
    is_count = isinstance(given, int) and not isinstance(given, bool) and given >= 0
    return Ask(
        models=tuple(_names(body)),
        max_tokens=min(int(str(given)), _MAX_OUTPUT_TOKENS) if is_count else _MAX_OUTPUT_TOKENS,
        input_tokens=min(text + attached, MAX_INPUT_TOKENS),
        is_fast=body.get("speed") not in (None, "standard"),
    )


def _names(body: JsonObject) -> Iterator[str]:
    """The models named, the request's own first; a bounded number of short names."""
    holders: list[JsonValue] = [body]
    for name in ("fallbacks", "tools"):
        listed = body.get(name)
        holders += listed if isinstance(listed, list) else []
    found: dict[str, None] = {}
    for holder in holders:
        model = holder.get("model") if isinstance(holder, dict) else None
        if isinstance(model, str):
            found.setdefault(model[:_MAX_NAME_CHARS])
        if len(found) >= _MAX_MODELS:
            break
    return iter(found)
