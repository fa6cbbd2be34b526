"""What a TLS client says first, read strictly: which server it means, and that it is TLS at all.

A tunnel's bytes can't be read, so the host of its CONNECT is only a word, unless the name in the
ClientHello is the same: a front end of many sites goes by that name. Refused: anything that is no
ClientHello; one without a name, with two, or with another; one that hides its name (ECH and its
forerunner); one that brings data along (early data), which would leave before anybody answered.

A server may ask for a second hello (TLS 1.3's HelloRetryRequest), and could go by the name in that
one. So `HelloGuard` reads on until the client says something else.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.egress_rules import Target, is_address, parse_host

MAX_HELLO_BYTES = 16 * 1024
"""Of one hello, and of the bytes that carry it. Post-quantum ones have about 2 KB."""
# One is usual. Tiny records are a way to hide a hello from a reader less patient than a server.
_MAX_RECORDS = 32
_HANDSHAKE, _CHANGE_CIPHER, _ALERT, _DATA, _CLIENT_HELLO = 0x16, 0x14, 0x15, 0x17, 0x01
_RECORD_HEAD, _MESSAGE_HEAD = 5, 4
_CHANGE_CIPHER_BODY = b"\0\1\1"
# What may stand between two hellos. An encrypted alert (TLS 1.2) has fewer bytes than this.
_BETWEEN = (_CHANGE_CIPHER, _ALERT)
_MAX_ALERT_BYTES = 512
# OpenSSL takes hellos up to 131,396 bytes: the first of the length's three bytes.
_LARGEST_HELLO = b"\2"
_MAX_RECORD_BYTES = 1 << 14
_RANDOM_BYTES, _MAX_SESSION_ID = 32, 32
_SERVER_NAME, _EARLY_DATA, _ECH, _ESNI = 0, 42, 0xFE0D, 0xFFCE


class HelloRefusedError(ValueError):
    """The client's first bytes are not those of a plain TLS client that means the allowed host."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """A cursor over bytes; every read is bounded by what is there."""

    data: bytes
    at: list[int]

    @classmethod
    def over(cls, data: bytes) -> _Reader:
        return cls(data, [0])

    def take(self, size: int) -> bytes:
        start = self.at[0]
        if size > len(self.data) - start:
            msg = "a length in it is larger than what follows"
            raise HelloRefusedError(msg)
        self.at[0] = start + size
        return self.data[start : start + size]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int, *, least: int = 0) -> bytes:
        length = self.number(size)
        if length < least:
            msg = "a field of it is too short"
            raise HelloRefusedError(msg)
        return self.take(length)

    def is_empty(self) -> bool:
        return self.at[0] == len(self.data)


class HelloReader:
    """Takes the records of one ClientHello, however they are cut.

    Invariant: at most MAX_HELLO_BYTES are held; work is linear in what is fed.
    """

    def __init__(self) -> None:
        self.server_names: tuple[str, ...] = ()
        """Set once `feed` has said True."""
        self._held = bytearray()
        self._message = bytearray()
        self._records = 0
        self._taken = 0

    def __repr__(self) -> str:
        return f"HelloReader(records={self._records}, bytes={self._taken + len(self._held)})"

    def feed(self, data: bytes) -> bool:
        """More bytes; whether the hello is whole, and with it all that was fed.

        Raises:
            HelloRefusedError: it is not one that may pass.
        """
        self._held += data
        if self._taken + len(self._held) > MAX_HELLO_BYTES:
            msg = "it is too large"
            raise HelloRefusedError(msg)
        while self._held:
            if self._is_whole():
                msg = "something follows it before the server has answered"
                raise HelloRefusedError(msg)
            if not self._take_record():
                break
        if not self._is_whole():
            return False
        if self._held:
            msg = "something follows it before the server has answered"
            raise HelloRefusedError(msg)
        self.server_names = _parse_hello(bytes(self._message[_MESSAGE_HEAD:]))
        return True

    def _is_whole(self) -> bool:
        size = self._message_size()
        return size is not None and len(self._message) == size

    def _message_size(self) -> int | None:
        if len(self._message) < _MESSAGE_HEAD:
            return None
        return _MESSAGE_HEAD + int.from_bytes(self._message[1:_MESSAGE_HEAD], "big")

    def _take_record(self) -> bool:
        """Move one whole record's bytes to the message; False: it is not whole yet."""
        head = self._held[:_RECORD_HEAD]
        if head[0] != _HANDSHAKE or (len(head) > 1 and head[1] != 3):
            msg = "it is not TLS"
            raise HelloRefusedError(msg)
        if len(head) < _RECORD_HEAD:
            return False
        size = int.from_bytes(head[3:], "big")
        if head[2] not in {1, 2, 3} or not 0 < size <= _MAX_RECORD_BYTES:
            msg = "a record's head is none of TLS 1.0 to 1.3"
            raise HelloRefusedError(msg)
        if len(self._held) < _RECORD_HEAD + size:
            return False
        self._message += self._held[_RECORD_HEAD : _RECORD_HEAD + size]
        del self._held[: _RECORD_HEAD + size]
        self._taken += _RECORD_HEAD + size
        self._records += 1
        self._check_message()
        return True

    def _check_message(self) -> None:
        size = self._message_size()
        if self._message[0] != _CLIENT_HELLO:
            msg = "it is not a ClientHello"
            raise HelloRefusedError(msg)
        if self._records > _MAX_RECORDS or (size is not None and size > MAX_HELLO_BYTES):
            msg = "it is too large"
            raise HelloRefusedError(msg)
        if size is not None and len(self._message) > size:
            msg = "something follows it in its record"
            raise HelloRefusedError(msg)


def check_server_name(names: tuple[str, ...], target: Target) -> None:
    """Whether a hello with these names means the target.

    Raises:
        HelloRefusedError: it names no server, or another.
    """
    if not names and is_address(target.host):
        return
    if len(names) != 1:
        msg = "it does not name one server"
        raise HelloRefusedError(msg)
    if parse_host(names[0]) != target.host:
        msg = "it names another server than CONNECT did"
        raise HelloRefusedError(msg)


class HelloGuard:
    """Looks at what a client says after its first hello, until that can't be a second one.

    Bytes are passed on as they come, except for those of a second hello, which are held until it
    is whole and names the same server.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._held = bytearray()
        self._second: HelloReader | None = None
        self._between = 0
        self._is_over = False

    def __repr__(self) -> str:
        return f"HelloGuard({self._target}, is_over={self._is_over})"

    def feed(self, data: bytes) -> bytes:
        """What may be passed on now.

        Raises:
            HelloRefusedError: a second hello that may not pass.
        """
        if self._is_over:
            return data
        self._held += data
        if self._second is not None:
            return self._feed_second(data)
        passed = self._pass_between()
        is_hello = self._is_hello()
        if is_hello is None:
            return passed
        if is_hello:
            self._second = HelloReader()
            return passed + self._feed_second(bytes(self._held))
        self._is_over = True
        return passed + bytes(self._held)

    def _pass_between(self) -> bytes:
        """Changes of ciphers and alerts: a server that waits for a second hello may read over them.

        The one stands before it by rule (RFC 8446, D.4); of the other, servers overlook warnings.
        """
        passed = bytearray()
        while len(self._held) > _RECORD_HEAD and self._held[0] in _BETWEEN:
            size = int.from_bytes(self._held[3:_RECORD_HEAD], "big")
            record = self._held[: _RECORD_HEAD + size]
            is_cipher_change = record[0] == _CHANGE_CIPHER
            if is_cipher_change and record[3:6] != _CHANGE_CIPHER_BODY:
                msg = "its change of ciphers is malformed"
                raise HelloRefusedError(msg)
            if not 0 < size <= _MAX_ALERT_BYTES:
                msg = "its alert is malformed"
                raise HelloRefusedError(msg)
            if len(record) < _RECORD_HEAD + size:
                break
            self._between += 1
            if self._between > _MAX_RECORDS:
                msg = "too much follows it that says nothing"
                raise HelloRefusedError(msg)
            passed += record
            del self._held[: len(record)]
        return bytes(passed)

    def _is_hello(self) -> bool | None:
        """Whether the next record may begin a ClientHello; None: it is not here yet.

        After a change of ciphers it may be encrypted, and begin like one by chance; the length of
        a hello that any server would take settles all but one in 20,000 of those.
        """
        if not self._held or self._held[0] in _BETWEEN:
            return None
        if self._held[0] == _DATA:
            return False
        head = self._held[:_RECORD_HEAD]
        wanted = min(2, int.from_bytes(head[3:], "big"))
        if head[0] != _HANDSHAKE or (len(head) == _RECORD_HEAD and not wanted):
            # An empty record begins no message: some servers skip it, and read the next one.
            msg = "what follows it is not TLS"
            raise HelloRefusedError(msg)
        begin = self._held[_RECORD_HEAD : _RECORD_HEAD + wanted]
        if len(head) < _RECORD_HEAD or len(begin) < wanted:
            return None
        return begin[:1] == bytes([_CLIENT_HELLO]) and (begin[1:2] or b"\0") <= _LARGEST_HELLO

    def _feed_second(self, data: bytes) -> bytes:
        reader = self._second
        if reader is None or not reader.feed(data):
            return b""
        check_server_name(reader.server_names, self._target)
        self._is_over = True
        return bytes(self._held)


def _parse_hello(body: bytes) -> tuple[str, ...]:
    """The server names in a ClientHello's body; the rest of it only has to be well-formed."""
    hello = _Reader.over(body)
    if hello.number(2) not in {0x0301, 0x0302, 0x0303}:
        msg = "it is of no version of TLS"
        raise HelloRefusedError(msg)
    hello.take(_RANDOM_BYTES)
    session, ciphers = hello.vector(1), hello.vector(2, least=2)
    compressions = hello.vector(1, least=1)
    if len(session) > _MAX_SESSION_ID or len(ciphers) % 2 or 0 not in compressions:
        msg = "a field of it is malformed"
        raise HelloRefusedError(msg)
    if hello.is_empty():
        return ()
    extensions = _Reader.over(hello.vector(2))
    if not hello.is_empty():
        msg = "something follows its extensions"
        raise HelloRefusedError(msg)
    return _parse_extensions(extensions)


def _parse_extensions(extensions: _Reader) -> tuple[str, ...]:
    seen: set[int] = set()
    names: tuple[str, ...] = ()
    while not extensions.is_empty():
        kind, value = extensions.number(2), extensions.vector(2)
        if kind in seen:
            msg = "an extension is there twice"
            raise HelloRefusedError(msg)
        seen.add(kind)
        if kind in {_ECH, _ESNI}:
            msg = "it hides its server's name (ECH)"
            raise HelloRefusedError(msg)
        if kind == _EARLY_DATA:
            msg = "it brings data along (early data)"
            raise HelloRefusedError(msg)
        if kind == _SERVER_NAME:
            names = _parse_names(value)
    return names


def _parse_names(value: bytes) -> tuple[str, ...]:
    outer = _Reader.over(value)
    names = _Reader.over(outer.vector(2, least=1))
    found: list[str] = []
    while not names.is_empty():
        kind, name = names.number(1), names.vector(2, least=1)
        if kind != 0 or not name.isascii():
            msg = "its server name is malformed"
            raise HelloRefusedError(msg)
        found.append(name.decode("ascii"))
    if not outer.is_empty():
        msg = "its server name is malformed"
        raise HelloRefusedError(msg)
    return tuple(found)
