"""One worker per room: turns, sessions, commands."""
