"""Between Matrix and the rooms: inbound windows, and the outbox that is drained at the account's rate."""
