"""Names on this host for things that a room chose the name of.

Rules: any text gives a valid name; different inputs give different names (up to a hash collision:
64 bits in a slug); no character of the input reaches a path, a container or a label unfiltered.
"""

from __future__ import annotations

import hashlib
import re

from orchestrator.model import EventId, InstallationId, RoomId, RoomSlug, TurnId, TxnId

MAX_SLUG_CHARS = 40
# Room uids start above every range that distributions hand out (subordinate uids end at 600,100,000
# in shadow's defaults) and stay below 2**31.
_UID_BASE = 0x4000_0000
ROOMS_PER_INSTALLATION = 1 << 14
_INSTALLATION_SLOTS = 1 << 15


def room_slug(room_id: RoomId) -> RoomSlug:
    """`readable---16hexdigits`, valid as a file name, a container name part and a label."""
    readable = re.sub(r"[^a-z0-9]+", "-", room_id.lower()[:64]).strip("-")[:21].strip("-")
    return RoomSlug(f"{readable or 'room'}---{_digest(room_id)[:16]}")


def spare_slug(token: str) -> RoomSlug:
    """The name of a place that is made before its room is known; `token` is random, 16 hexdigits.

    The room that takes the place keeps the name: it says nothing of either.
    """
    return RoomSlug(f"room---{token}")


def runner_name(installation: InstallationId, slug: RoomSlug) -> str:
    """The container's name: unique per installation and room."""
    return f"aiagentchat-{installation[:8]}-{slug}"


def room_uid(installation: InstallationId, index: int) -> int:
    """A uid (and gid) of the room's own; `index` counts the installation's rooms from 0.

    Raises:
        ValueError: past ROOMS_PER_INSTALLATION rooms.
    """
    if not 0 <= index < ROOMS_PER_INSTALLATION:
        msg = f"an installation has at most {ROOMS_PER_INSTALLATION} rooms"
        raise ValueError(msg)
    slot = digest_number(installation) % _INSTALLATION_SLOTS
    return _UID_BASE + slot * ROOMS_PER_INSTALLATION + index


def digest_number(text: str) -> int:
    """32 bits that follow from the text."""
    return int(_digest(text)[:8], 16)


def turn_id(room_id: RoomId, first_event: EventId) -> TurnId:
    """The batch that starts with this event always has this id."""
    return TurnId(f"t{_digest(f'{room_id}|{first_event}')[:24]}")


def continuation_id(turn: TurnId) -> TurnId:
    """The turn that takes up what this one left: one that ended goes on in one other at most."""
    return TurnId(f"t{_digest(f'{turn}|continued')[:24]}")


def txn_id(source: str, part: int) -> TxnId:
    """The transaction id of the `part`-th message that `source` (a turn, an event) causes."""
    return TxnId(f"aac-{_digest(source)[:24]}-{part}")


def sibling_txn_id(txn: TxnId, part: int) -> TxnId:
    """The transaction id of the `part`-th message of what has caused this one."""
    return TxnId(f"{txn.rpartition('-')[0]}-{part}")


def live_txn_id(turn_id: TurnId) -> TxnId:
    """The transaction id of the message that shows how a turn goes on."""
    return txn_id(f"{turn_id}:live", 0)


def approval_id(room_id: RoomId, kind: str, subject: str, number: int) -> str:
    """The `number`-th question of a room about the same subject."""
    return f"a{_digest(f'{room_id}|{kind}|{subject}|{number}')[:24]}"


def question_file_txn_id(own_id: str) -> TxnId:
    """The transaction id of the file with all of what a long question asks."""
    return txn_id(f"{own_id}:file", 0)


def is_text_of_question(txn: TxnId, own_id: str) -> bool:
    """Whether a message says what a long question asks: its file, or the text in its place."""
    file = question_file_txn_id(own_id)
    return txn == file or sibling_txn_id(txn, 0) == txn_id(f"{file}:instead", 0)


def refused_txn_id(refused: TxnId) -> TxnId:
    """The transaction id of what is said in place of a message that was refused for good."""
    return txn_id(f"{refused}:refused", 0)


def stand_in_txn_ids(refused: TxnId) -> tuple[TxnId, ...]:
    """The transaction ids that what takes a refused message's place may have.

    Besides what is said about it: the beginning of a file's text, where no file is taken.
    """
    return refused_txn_id(refused), txn_id(f"{refused}:instead", 0)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
