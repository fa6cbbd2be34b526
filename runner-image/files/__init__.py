"""Answers requests about a room's files; runs in the room's container."""
