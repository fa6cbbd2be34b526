"""Asks a running orchestrator over its control socket whether all is well: exit code 0 or 1.

    health.py [--alive] [STATE_DIR]

`--alive`: whether it answers at all. Without it, also whether the homeserver is synced with and the
disk takes what is written. Python's standard library alone, so that deploy.sh can use it, too.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

_TIMEOUT_S = 8.0
_DEFAULT = "/var/lib/aiagentchat"
_MOST_BYTES = 1 << 16


def ask(path: str, state_dir: Path) -> tuple[int, Any]:
    """The status and the JSON of an answer.

    Raises:
        OSError: nothing listens there, or it does not answer.
        ValueError: the answer is no JSON.
    """
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            # By its directory: a socket's path may have no more than 107 bytes.
            connection.connect(f"/proc/self/fd/{folder}/control.sock")
            client = http.client.HTTPConnection("localhost")
            client.sock = connection
            client.request("GET", path)
            answer = client.getresponse()
            return answer.status, json.loads(answer.read(_MOST_BYTES))
    finally:
        os.close(folder)


def main(arguments: list[str]) -> int:
    """One line about what is wrong."""
    is_lax = "--alive" in arguments
    places = [one for one in arguments if not one.startswith("-")]
    place = places[0] if places else os.environ.get("AIAGENTCHAT_STATE_DIR", _DEFAULT)
    try:
        status, said = ask("/v1/health", Path(place))
    except (OSError, ValueError, http.client.HTTPException) as e:
        print(f"no answer at {place}/control.sock: {e}")  # noqa: T201 - a command
        return 1
    if status == 200 or (is_lax and status == 503):
        return 0
    print(said.get("reason") or said)  # noqa: T201 - a command
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
