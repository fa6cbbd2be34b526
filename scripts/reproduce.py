"""`make reproduce`: build the runner image twice, without the engine's cache, and compare.

    python -m scripts.reproduce [--keep]     --keep: the two images stay, for a look into them

What a room sees is compared: each entry's kind, rights, owner, content, link and time. Exit code 1
where a content, a right or an owner differs; times of directories are told, and fail nothing
(docs/decisions/0043). Needs the engine; two builds take some minutes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.runners.base_image import find_base
from orchestrator.runners.build_log import BuildLog
from orchestrator.runners.engine import Engine, open_engine
from orchestrator.runners.image import (
    ImageSource,
    build_context,
    build_query,
    read_ca_bundle,
    read_source,
)

_NAME = "aiagentchat/reproduce"
_LONGEST_S = 3600.0
# The engine's own, for each container another.
_OF_THE_ENGINE = frozenset(
    {".dockerenv", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"}
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an image's file system."""

    what: tuple[bytes, int, int, int, str, str]
    """Kind, rights, uid, gid, link, digest of the content."""
    mtime: float
    is_folder: bool


def read_entries(tar: tarfile.TarFile) -> dict[str, Entry]:
    """What an exported container holds."""
    found = {}
    for entry in tar:
        if entry.name in _OF_THE_ENGINE or entry.name.split("/")[0] in ("proc", "sys", "dev"):
            continue
        body = tar.extractfile(entry) if entry.isreg() else None
        digest = "" if body is None else hashlib.file_digest(body, "sha256").hexdigest()  # type: ignore[arg-type]
        what = (entry.type, entry.mode, entry.uid, entry.gid, entry.linkname, digest)
        found[entry.name] = Entry(what, entry.mtime, entry.isdir())
    return found


def compare(one: Mapping[str, Entry], two: Mapping[str, Entry]) -> tuple[list[str], list[str]]:
    """What differs in more than its time, and what in that alone."""
    names = sorted(one.keys() | two.keys())
    other = [n for n in names if n not in one or n not in two or one[n].what != two[n].what]
    both = one.keys() & two.keys() - set(other)
    return other, sorted(name for name in both if one[name].mtime != two[name].mtime)


async def _build(engine: Engine, source: ImageSource, tag: str) -> None:
    reference = await find_base(engine, source.folder, "auto", print)
    query = build_query(source, reference, os.environ) | {"t": tag, "nocache": "1"}
    body = build_context(source, read_ca_bundle(os.environ))
    await BuildLog(print, now=0.0).follow(engine, "/build", query, body=body, limit_s=_LONGEST_S)


async def _build_both() -> None:
    source = read_source()
    async with open_engine(None) as engine:
        for number in (1, 2):
            await _build(engine, source, f"{_NAME}:{number}")


def _export(tag: str) -> dict[str, Entry]:
    made = subprocess.run(["docker", "create", tag], capture_output=True, text=True, check=True)
    container = made.stdout.strip()
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                return read_entries(tar)
    finally:
        subprocess.run(["docker", "rm", container], capture_output=True, check=False)


def main(arguments: list[str]) -> int:
    """Build, compare, say."""
    asyncio.run(_build_both())
    one, two = _export(f"{_NAME}:1"), _export(f"{_NAME}:2")
    if "--keep" not in arguments:
        subprocess.run(["docker", "rmi", f"{_NAME}:1", f"{_NAME}:2"], check=False)
    other, times = compare(one, two)
    for name in other:
        print(f"! {name}: {one.get(name)} and {two.get(name)}")
    files = [name for name in times if not one[name].is_folder]
    print(
        f"· {len(one)} entries; {len(other)} differ, {len(files)} files and "
        f"{len(times) - len(files)} directories in their time alone"
    )
    for name in times[:40]:
        print(f"  {name}")
    return 1 if other or files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
