"""Well-formed input for each target, to start from: recorded lines of the real CLI among it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tests.support.egress import build_body, build_request

_RECORDED = Path(__file__).resolve().parents[1] / "recorded" / "claude-2.1.330"
_LINES_A_FILE = 40
_TEXTS = (
    "# Title\n\nSome *text* with `code`, a [link](https://example.org) and\n\n- [ ] a task\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "```python\nprint('x')\n```\n",
    "@room and @alice:example.org, [a pill](https://matrix.to/#/@alice:example.org)",
    "![picture](https://example.org/x.png) <img src=x onerror=alert(1)>",
    "a\u202eb\u200bc \x1b[31mred\x1b[0m \U000e0041",
)


def seeds_of(name: str) -> list[bytes]:
    """What target `name` takes without complaint."""
    return {
        "wire": _wire_seeds,
        "cli_line": _line_seeds,
        "text": lambda: [text.encode() for text in _TEXTS],
        "head": lambda: [build_request().partition(b"\r\n\r\n")[0] + b"\r\n\r\n"],
        "body": lambda: [build_body()],
    }[name]()


@cache
def _line_seeds() -> list[bytes]:
    files = sorted(_RECORDED.glob("*.jsonl"))
    return [line for file in files for line in file.read_bytes().splitlines()[:_LINES_A_FILE]]


@cache
def _wire_seeds() -> list[bytes]:
    """Each recorded conversation as frames, and one of each other kind of frame."""
    seeds = []
    for file in sorted(_RECORDED.glob("*.jsonl")):
        lines = file.read_text(encoding="utf-8").splitlines()[:_LINES_A_FILE]
        frames = [
            {"q": q, "t": "out", "s": "s", "d": line} for q, line in enumerate(lines, start=1)
        ]
        seeds.append("\n".join(json.dumps(frame) for frame in frames).encode() + b"\n")
    others = [
        {"q": 1, "t": "started", "s": "s", "pid": 7},
        {"q": 2, "t": "err", "s": "s", "d": "oops\x1b[2J", "dropped": 0},
        {"q": 3, "t": "cut", "s": "s", "bytes": 5_000_000, "head": '{"type":"result"'},
        {"q": 4, "t": "applied", "id": "x", "dup": False},
        {"q": 5, "t": "refused", "id": "y", "why": "no"},
        {"t": "pong", "token": "a"},
        {"q": 6, "t": "exited", "s": "s", "code": 0, "signal": None},
        {"t": "fault", "why": "bytes of another attach"},
    ]
    return [*seeds, "\n".join(json.dumps(frame) for frame in others).encode() + b"\n"]
