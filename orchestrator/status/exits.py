"""The last connections out of rooms, as the audit log has them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from orchestrator.audit_log import AUDIT_DIR, CURRENT_NAME
from orchestrator.core.status_view import SeenExit
from orchestrator.core.texts import size

# Some 600 lines of the log; of a busy installation the last quarter of an hour.
_TAIL_BYTES = 256 << 10


def read_exits(state_dir: Path, *, limit: int) -> tuple[SeenExit, ...]:
    """The last ones, the newest first; blocks for a read of 256 KiB. Nothing where there is none.

    The end of the current file alone is read: right after it was begun there are few.
    """
    try:
        descriptor = os.open(
            state_dir / AUDIT_DIR / CURRENT_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        )
    except OSError:
        return ()
    with os.fdopen(descriptor, "rb") as file:
        start = max(0, os.fstat(descriptor).st_size - _TAIL_BYTES)
        file.seek(start)
        lines = file.read(_TAIL_BYTES).split(b"\n")
    found: list[SeenExit] = []
    for line in reversed(lines[1:] if start else lines):
        if b'"egress_proxy' not in line:
            continue
        if (seen := _parse(line)) is not None:
            found.append(seen)
        if len(found) >= limit:
            break
    return tuple(found)


def _parse(line: bytes) -> SeenExit | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    is_allowed = fields.get("action") == "egress_proxy"
    if not is_allowed and fields.get("action") != "egress_proxy_denied":
        return None
    host, port = fields.get("host"), fields.get("port")
    return SeenExit(
        at=str(fields.get("time", "")),
        room=str(fields.get("room", "")),
        target="?" if host is None else f"{host}:{port}",
        is_allowed=is_allowed,
        note=_bytes(fields) if is_allowed else str(fields.get("reason", "")),
    )


def _bytes(fields: Mapping[str, object]) -> str:
    up, down = fields.get("bytes_up"), fields.get("bytes_down")
    if not isinstance(up, int) or not isinstance(down, int):
        return ""
    return f"{size(up)} up, {size(down)} down"
