"""Records what the real CLI prints, for the tests that parse it without the CLI.

    AIAGENTCHAT_TEST_CLI=/path/to/claude python -m tests.support.record_cli

writes one file for each scenario into tests/recorded/claude-VERSION. Lines are kept as they are but
for ids, paths, ports and clocks.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.cli_scenarios import (
    MESSAGE,
    SCENARIOS,
    SESSION,
    claude_from_environment,
    run_scenario,
)

_RECORDED = Path(__file__).parent.parent / "recorded"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def main() -> None:
    """Record every scenario."""
    claude = claude_from_environment()
    printed = subprocess.run([claude, "--version"], capture_output=True, text=True, check=True)
    folder = _RECORDED / f"claude-{printed.stdout.split()[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, scenario in SCENARIOS.items():
        with tempfile.TemporaryDirectory() as base:
            lines = asyncio.run(run_scenario(scenario, claude=claude, base=Path(base)))
            scrubbed = scrub("".join(lines), base)
        (folder / f"{name}.jsonl").write_text(scrubbed, encoding="utf-8")
        sys.stdout.write(f"{name}: {len(lines)} lines\n")


def scrub(recorded: str, base: str) -> str:
    """The same with numbered ids, and without this machine's paths, ports and clock."""
    known: dict[str, str] = {SESSION: SESSION, MESSAGE: MESSAGE}

    def numbered(found: re.Match[str]) -> str:
        number = len(known) - 1
        return known.setdefault(found[0], f"00000000-0000-4000-8000-{number:012d}")

    text = _UUID.sub(numbered, recorded)
    text = text.replace(base, "/tmp/room").replace(base.replace("/", "-"), "-tmp-room")
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8317", text)
    text = re.sub(r"cc-socks/\d+", "cc-socks/1", text)
    text = re.sub(r"/tmp/claude-\d+", "/tmp/claude-1000", text)
    text = re.sub(r'"timestamp":"[^"]*"', '"timestamp":"2026-01-01T00:00:00.000Z"', text)
    return re.sub(r'"(\w+_wall_ms|end_time)":\d+', r'"\1":1767225600000', text)


if __name__ == "__main__":
    main()
