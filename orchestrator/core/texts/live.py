"""What a running turn shows of itself, and what stands below its answer."""

from __future__ import annotations

from orchestrator.core.texts import duration

WORKING = "⏳ working…"
THINKING = "💭 thinking…"
WRITING = "✍️ writing…"
DECISION = "✋ waits for a decision of yours"
CUT = "… *(the beginning is left out until the answer is complete)*"

BELOW = "⬇ It goes on below, after what was said meanwhile."


def running(what: str, seconds: float, others: int) -> str:
    """The tool that runs; `what` is quoted already."""
    beside = f" and {others} more" if others else ""
    return f"⏳ {what}{beside} · {duration(round(seconds))}"


def counts(done: int, failed: int) -> str:
    """Behind the status; empty where nothing was done yet."""
    parts = [f"{done} ✓"] if done else []
    parts += [f"{failed} ✗"] if failed else []
    return ", ".join(parts)


def finished(what: str, seconds: float, *, failed: bool) -> str:
    """A line of the details; `what` is quoted already."""
    return f"{'✗ failed:' if failed else '✓'} {what} · {duration(round(seconds))}"


def left_out(count: int) -> str:
    """The first of them are not listed."""
    return f"… {count} before these"


def tokens(count: int) -> str:
    """As people say it: 950 tokens, 1.2k tokens."""
    return f"{count} tokens" if count < 1000 else f"{count / 1000:.1f}k tokens"
