"""The process that checks large bodies: reads one, answers one, until its input ends.

It has no socket, no credential and no environment; it ends with the daemon, because its input does.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from typing import BinaryIO

from orchestrator.core.api_policy import decode_policy
from orchestrator.core.ask import Ask
from orchestrator.core.egress_body import CheckedBody, rewrite_body
from orchestrator.core.egress_http import Denial, DenialReason
from orchestrator.core.egress_policy import Route

QUESTION = struct.Struct(">HHIQ")
"""Lengths of the route, the user tag, the room's policy, and the body, which follow."""
ANSWER = struct.Struct(">?IQ")
"""Whether it is allowed; the lengths of what it asks for and of the new body, or 0 and that of the
refusal, which follow."""

# The worst bodies (32 MiB, a million values) need 280 MB, measured.
_MAX_MEMORY_BYTES = 512 << 20


def encode_denial(denial: Denial) -> bytes:
    """A refusal as bytes, for the pipe."""
    return json.dumps([denial.status, denial.reason.value, denial.message, denial.kind]).encode()


def decode_denial(raw: bytes) -> Denial:
    """The inverse of `encode_denial`."""
    status, reason, message, kind = json.loads(raw)
    return Denial(status=status, reason=DenialReason(reason), message=message, kind=kind)


def decode_body(ask: bytes, data: bytes) -> CheckedBody:
    """What the child answered for an allowed body."""
    return CheckedBody(data=data, ask=Ask.decode(json.loads(ask)))


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer until `source` ends."""
    while head := source.read(QUESTION.size):
        route_size, tag_size, policy_size, body_size = QUESTION.unpack(head)
        route = Route(source.read(route_size).decode())
        user_tag = source.read(tag_size).decode()
        policy = decode_policy(source.read(policy_size))
        body = rewrite_body(source.read(body_size), route=route, user_tag=user_tag, policy=policy)
        for part in _encode(body):
            sink.write(part)
        sink.flush()


def _encode(body: CheckedBody | Denial) -> list[bytes]:
    if isinstance(body, Denial):
        refusal = encode_denial(body)
        return [ANSWER.pack(False, 0, len(refusal)), refusal]
    ask = json.dumps(body.ask.encode()).encode()
    return [ANSWER.pack(True, len(ask), len(body.data)), ask, body.data]


def main() -> None:
    """Limit the memory, then serve standard input and output."""
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    # 1 and not 0: a handler that the host's core_pattern pipes to is run for 0 (core/sandbox.py).
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    least = 0 if most == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (least, least))
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
