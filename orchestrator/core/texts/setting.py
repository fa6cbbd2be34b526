"""What is said of a room's settings, its queue and its runner's restart."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.quoting import quote

FORMS = {
    "model": "Say `!model NAME`, for instance `!model sonnet`, or `!model default`.",
    "mode": "Say `!mode ask`, `accept_edits`, `plan` or `bypass`, or `!mode default`.",
    "effort": "Say `!effort low`, `medium`, `high`, `xhigh` or `max`, or `!effort default`.",
    "timeout": (
        "Say `!timeout 10m` (`s`, `m` or `h`; from 10 s to 24 h), or `!timeout default`. It is how "
        "long a turn may bring nothing."
    ),
}
_NAMES = {
    "model": "Model",
    "mode": "Permissions",
    "effort": "Effort",
    "timeout": "Time without progress",
}
RESTARTED = (
    "The runner is started anew with the next message; the conversation and the files stay, what "
    "was installed outside of them does not."
)
RESTART_BUSY = (
    "A turn is running: after it the runner is started anew. `!cancel` stops the turn first."
)
QUEUE_EMPTY = "Nothing waits."
QUEUE_FORM = "Say `!queue`, or `!queue drop NUMBER`."
QUEUE_NOT_YOURS = "That message is somebody else's: they can take it back, and so can an admin."


def setting(name: str, value: str, *, by: str | None, configured: str) -> str:
    """What holds, and where it comes from."""
    if by is None:
        return f"{_NAMES[name]}: {quote(value)}, as configured. {FORMS[name]}"
    return (
        f"{_NAMES[name]}: {quote(value)}, set by {quote(by)}; configured is {quote(configured)}. "
        f"{FORMS[name]}"
    )


def changed(name: str, value: str) -> str:
    """It was set."""
    return f"{_NAMES[name]}: {quote(value)}, from the next turn on."


def taken_back(name: str, value: str) -> str:
    """It is as configured again."""
    return f"{_NAMES[name]}: {quote(value)}, as configured, from the next turn on."


def beyond(name: str, configured: str) -> str:
    """More than the operator configured, which an admin may set."""
    return (
        f"{_NAMES[name]}: configured is {quote(configured)}; beyond that only an admin of this "
        "installation can set it."
    )


def queue(waiting: Sequence[tuple[int, str, str]], *, running: str | None) -> str:
    """What waits: its number, who asked, and the first words of it."""
    lines = [f"Running: {quote(running)}"] if running is not None else []
    # No list of Markdown's: clients count those through.
    lines += [f"- **{number}**: {quote(who)}: {quote(words)}" for number, who, words in waiting]
    if not waiting:
        return "\n".join([*lines, QUEUE_EMPTY])
    return "\n".join([*lines, "", f"`!queue drop {waiting[0][0]}` takes the first one back."])


def dropped(words: str) -> str:
    """It was taken out of the queue."""
    return f"Taken back: {quote(words)}"


def no_such(number: int) -> str:
    """No message of this number waits (any more)."""
    return f"No message {number} waits here; nothing was taken back. `!queue` lists those that do."
