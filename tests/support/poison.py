"""Events that make a client fall over, as far as a homeserver carries them.

What Synapse refuses to carry (deep nesting, numbers of 5,000 digits, broken UTF-8) comes from the
scripted stand-in, and what needs a key of ours from the unit tests of the encryption.
"""

from __future__ import annotations

from typing import Any


def to_device_poison(curve: str) -> list[dict[str, Any]]:
    """To-device messages that make nio raise (or worse), as a stranger can send them."""
    olm = {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": "A" * 43}
    deep: Any = {}
    for _ in range(80):
        deep = {"x": deep}
    return [
        {**olm, "ciphertext": {curve: {"type": 0, "body": "!!!"}}},
        {**olm, "ciphertext": {curve: {"type": 1, "body": "!!!"}}},
        {**olm, "ciphertext": {curve: {"type": 1, "body": ""}}},
        {**olm, "ciphertext": {curve: {"type": 7, "body": "AAAA"}}},
        {**olm, "ciphertext": {curve: {"type": 0, "body": "AAAA"}}},
        {**olm, "sender_key": "zzz", "ciphertext": {curve: {"type": 0, "body": PRE_KEY}}},
        {**olm, "ciphertext": {curve: {"type": 0, "body": PRE_KEY}}},
        {**olm, "ciphertext": {curve: {}}},
        {**olm, "ciphertext": {curve: deep}},
        {**olm, "ciphertext": []},
        {"algorithm": "m.megolm.v1.aes-sha2", "sender_key": "x", "ciphertext": "y"},
        {"algorithm": 5},
        {"_type": "m.room_key_request", "action": "request", "body": 5},
        {"_type": "m.key.verification.start", "from_device": "X", "method": "m.sas.v1"},
        {"_type": "m.room_key", "room_id": "!x:y", "session_key": "in the clear"},
    ]


def message_poison() -> list[dict[str, Any]]:
    """Contents of `m.room.message` in a shape that nobody expects."""
    deep: Any = {}
    for _ in range(80):
        deep = {"x": deep}
    return [
        {},
        {"body": "no type"},
        {"msgtype": "m.text"},
        {"msgtype": 5, "body": 5},
        {"msgtype": "m.text", "body": None},
        {"msgtype": "m.text", "body": ["a", {"b": 1}]},
        {"msgtype": "m.text", "body": "\x00\x1b[31m\u202e"},
        {"msgtype": "m.text", "body": deep},
        {"msgtype": "m.text", "body": "x", "m.relates_to": 5},
        {"msgtype": "m.text", "body": "x", "m.relates_to": {"rel_type": 5, "event_id": []}},
        {"msgtype": "m.text", "body": "x", "m.mentions": {"user_ids": "all"}},
        {"msgtype": "m.file", "body": "../../etc/passwd", "url": 5, "info": deep},
    ]


def encrypted_poison() -> list[dict[str, Any]]:
    """Contents of `m.room.encrypted` that no key opens."""
    megolm = {"algorithm": "m.megolm.v1.aes-sha2", "session_id": "nobody's"}
    return [
        {},
        {"algorithm": 5},
        {"algorithm": "m.megolm.v1.aes-sha2"},
        {**megolm, "ciphertext": 5},
        {**megolm, "ciphertext": "!!!"},
        {**megolm, "ciphertext": "AwgAEhA", "sender_key": "zzz", "device_id": []},
        {**megolm, "session_id": {"x": 1}, "ciphertext": "AwgAEhA"},
        {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": "zzz", "ciphertext": {}},
    ]


def state_poison() -> list[tuple[str, dict[str, Any]]]:
    """A room's properties, as its owner can set them."""
    return [
        ("m.room.name", {"name": {"not": "text"}}),
        ("m.room.topic", {"topic": 5}),
        ("m.room.tombstone", {"replacement_room": ["!x:y"]}),
        ("m.room.tombstone", {"replacement_room": "!" + "x" * 300}),
    ]


# A well-formed pre-key message that nobody made for us: version 3, three 32-byte keys, a message.
PRE_KEY = (
    "AwogAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEiAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "GiAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACIYAwogAAAA"
)
