"""The local API on a unix socket, its client and its models."""
