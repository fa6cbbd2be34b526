"""`cchat`: send to rooms, follow them, list runners and rooms.

Of the daemon's packages it imports `orchestrator.control` and `orchestrator.errors` alone. It
speaks Matrix over plain HTTP: eight endpoints and no encryption need no client library, the waits
after a 429 stay in our hand, and a command starts in half the time.
"""
