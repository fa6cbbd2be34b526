"""Fuzz one target, guided by coverage: `make fuzz ARGS="wire -max_total_time=300"`.

What it finds is written to a file `crash-…` by libFuzzer, and repeated by giving that file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["orchestrator"]):
    from tests.fuzz.seeds import seeds_of
    from tests.fuzz.targets import TARGETS

_DEFAULTS = ("-max_total_time=60", "-timeout=10", "-rss_limit_mb=2048", "-max_len=65536")


def main() -> None:
    """Fuzz until the time is over or something breaks."""
    name, *options = sys.argv[1:] or ("wire",)
    if name not in TARGETS:
        sys.exit(f"expected one of {', '.join(TARGETS)}, then libFuzzer's options")
    with TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds_of(name)):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        atheris.Setup([sys.argv[0], *_DEFAULTS, *options, corpus], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
