"""Every number of the protocol and of the shim's memory; docs/protocol.md lists them."""

from __future__ import annotations

VERSION = 1

MAX_FRAME_BYTES = 256 * 1024
"""One frame, its line end included. Small enough to be parsed at once."""
MAX_LINE_BYTES = 4 * 1024 * 1024
"""One line of the CLI's stdout. Its longest hold a tool result with an image (1 to 2 MiB)."""
CUT_HEAD_BYTES = 4096
"""What is kept of a line above MAX_LINE_BYTES: enough to see its type."""
MAX_INPUT_LINE_BYTES = 8 * 1024 * 1024
"""One line for the CLI's stdin. The API's largest image is 5 MB, 6.7 MB as base64."""
MAX_INPUT_BACKLOG_BYTES = 16 * 1024 * 1024
"""Input of all sessions that their CLIs have not read yet: two of the longest lines."""

SPOOL_BYTES = 8 * 1024 * 1024
"""Unacknowledged output above which the CLIs' pipes are not read: two of the longest lines."""
SPOOL_RESERVE_BYTES = 1024 * 1024
"""Room beside it for the answers to commands, which must not wait for output."""
FRAME_OVERHEAD_BYTES = 128
"""What a kept frame costs beside its bytes: 33 as an object, 56 for its tuple, 8 in the deque."""

ASIDE_BYTES = 512 * 1024
"""Output of sessions that are not kept, which the engine has not taken yet; then it is not read."""

BURST_BYTES = 1024 * 1024
"""Once this much was kept and is gone, memory is given back (which takes about a millisecond)."""

MAX_LIVE_SESSIONS = 16
MAX_KNOWN_SESSIONS = 32
"""Live ones and ended ones; beyond it the one that ended first is forgotten."""
MAX_APPLIED_IDS = 8192
"""More than fit unacknowledged into the reserve (an answer counts 160 bytes and more), so none
is forgotten that a client may still offer again."""
MAX_NAME_CHARS = 64
MAX_ID_CHARS = 128

STDERR_BURST_BYTES = 64 * 1024
STDERR_BYTES_PER_S = 8 * 1024
"""Stderr is for diagnosis: a screenful at once, then a steady trickle; the rest is counted."""

CHUNK_BYTES = 64 * 1024
"""One read: the default capacity of a pipe."""
PIPE_MAX_BYTES = 1024 * 1024
"""The largest pipe that an unprivileged process can make (fs.pipe-max-size's default)."""

MAX_CONNECTIONS = 128
"""Of the loopback forwarder; two buffers of CHUNK_BYTES each at most: 16 MiB at the very worst."""
GATEWAY_WAIT_S = 15.0
"""For a gateway that is not there. A restart of the orchestrator takes 1 to 3 s, and Claude Code
counts each failure as one of its eight attempts: so a restart is waited out."""
GATEWAY_RETRY_S = 0.1
REFUSAL_S = 2.0
"""How long a refused connection may take to read its answer."""

STOP_GRACE_S = 2.0
"""SIGTERM: for the CLIs to write what they have after their stdin was closed."""
STOP_REAP_S = 1.0
STOP_FLUSH_S = 0.5
"""For the last frames; together 3.5 s, well below the 10 s of a `docker stop`."""
KILL_ROUND_S = 0.02
MAX_KILL_ROUNDS = 250
"""5 s of looking for processes that were forked while others were killed."""
