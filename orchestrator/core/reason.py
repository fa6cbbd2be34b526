"""Why a row of the inbox or the outbox came to its end, where an audit reads it again.

Other reasons are for people, and stand where they are given.
"""

from __future__ import annotations

COMMAND = "command"
"""A command, which is answered by a reply."""
UNREADABLE = "unreadable"
"""How the reason of a row begins of which nothing could be read: nobody can be told."""
HISTORY = "history"
"""It was in the room before the agent."""
LEFT_ROOM = "left the room"
"""It was given up with its room."""
UNDECRYPTABLE = "undecryptable"
"""Its key never came: a room is told once, however many they are."""
RESTORED = "restored from a copy"
"""A turn that had not ended in the copy which was restored: what came of it since is not known."""
EDIT = "edit"
"""Other words for a message that waits: no message of its own."""
REDACTION = "redaction"
"""That a message was taken back: no message of its own."""
TAKEN_BACK = "taken back"
"""Of the message itself. Where it went into a turn, that turn says how it ended."""
