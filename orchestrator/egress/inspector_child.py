"""The process that checks large bodies: reads one, answers one, until its input ends.

It has no socket, no credential and no environment; it ends with the daemon, because its input does.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from typing import BinaryIO

from orchestrator.core.egress_body import rewrite_body
from orchestrator.core.egress_http import Denial, DenialReason
from orchestrator.core.egress_policy import Route

QUESTION = struct.Struct(">HHQ")
"""Lengths of the route, the user tag, and the body, which follow."""
ANSWER = struct.Struct(">?Q")
"""Whether it is allowed, and the length of the new body or of the refusal, which follows."""

# The worst bodies (32 MiB, a million values) need 280 MB, measured.
_MAX_MEMORY_BYTES = 512 << 20


def encode_denial(denial: Denial) -> bytes:
    """A refusal as bytes, for the pipe."""
    return json.dumps([denial.status, denial.reason.value, denial.message, denial.kind]).encode()


def decode_denial(raw: bytes) -> Denial:
    """The inverse of `encode_denial`."""
    status, reason, message, kind = json.loads(raw)
    return Denial(status=status, reason=DenialReason(reason), message=message, kind=kind)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer until `source` ends."""
    while head := source.read(QUESTION.size):
        route_size, tag_size, body_size = QUESTION.unpack(head)
        route = Route(source.read(route_size).decode())
        user_tag = source.read(tag_size).decode()
        body = rewrite_body(source.read(body_size), route=route, user_tag=user_tag)
        answer = encode_denial(body) if isinstance(body, Denial) else body
        sink.write(ANSWER.pack(not isinstance(body, Denial), len(answer)))
        sink.write(answer)
        sink.flush()


def main() -> None:
    """Limit the memory, then serve standard input and output."""
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
