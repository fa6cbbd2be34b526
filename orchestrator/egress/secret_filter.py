"""Takes secrets out of streams of bytes, wherever the pieces are cut."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.room_secret import Hidden

# What a credential is made of: ASCII that is seen.
_VISIBLE = bytes(range(0x21, 0x7F))


class SecretFilter:
    """Takes one secret out of a stream. The secret is of visible ASCII.

    The API does not repeat credentials; something in between (a proxy's error page, a debugging
    stand-in) may, and a host that a room names may be asked to. `mark` stands in the secret's
    place; of the secret's own length it leaves the length of the whole as it was.

    What is held back until more has come is the visible text at the end of a piece, whether or not
    the secret begins so: else a room that has its own guesses echoed, with pauses, would see from
    what is held back that the guess was right, one character after the other.
    """

    def __init__(self, secret: str, mark: str = "[removed]") -> None:
        self._secret = secret.encode()
        self._mark = mark.encode()
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may be passed on now."""
        data = (self._held + data).replace(self._secret, self._mark)
        end = data[max(0, len(data) - len(self._secret) + 1) :]
        passed = len(data) - (len(end) - len(end.rstrip(_VISIBLE)))
        self._held = data[passed:]
        return data[:passed]

    def end(self) -> bytes:
        """What was still held back: it was not the secret."""
        held, self._held = self._held, b""
        return held


class SecretFilters:
    """Takes several texts out of one stream, in their order."""

    def __init__(self, hidden: Sequence[Hidden]) -> None:
        self._filters = [SecretFilter(item.text, item.mark) for item in hidden]

    def feed(self, data: bytes) -> bytes:
        """What may be passed on now."""
        for one in self._filters:
            data = one.feed(data)
        return data

    def end(self) -> bytes:
        """What was still held back."""
        data = b""
        for one in self._filters:
            data = one.feed(data) + one.end()
        return data
