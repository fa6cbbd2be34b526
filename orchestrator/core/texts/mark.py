"""Signs on the message that asked, and what is said when somebody changes it too late."""

from __future__ import annotations

from orchestrator.model import TurnOutcome

ACCEPTED = "👀"
DONE = "✅"
FAILED = "❌"
CANCELLED = "🛑"
# With the selector that makes it a picture: without it some clients show a letter.
TIMED_OUT = "⏱️"

OUTCOMES = {
    TurnOutcome.DONE: DONE,
    TurnOutcome.CANCELLED: CANCELLED,
    TurnOutcome.TIMED_OUT: TIMED_OUT,
}
"""All others have failed."""
