"""Between Matrix and the rooms: inbound windows, and the outbox, drained at the account's rate."""
