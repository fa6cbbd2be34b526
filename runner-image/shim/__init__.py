"""PID 1 of a runner: starts the CLI, numbers and keeps what it prints until that is acknowledged.

`docs/protocol.md` specifies what it speaks on stdin and stdout. Standard library only, nothing of
the orchestrator; one thread and one selector loop; modules are imported sparingly (no asyncio,
typing, dataclasses or subprocess), because every runner pays for them in memory.
"""
