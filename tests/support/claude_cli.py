"""The pinned Claude Code CLI as a program on this machine, for tests that need no container.

It is taken out of the runner image, once for each image, so that it is the same binary that runners
run. AIAGENTCHAT_TEST_CLI names another one.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker

from tests.support.containers import session_labels
from tests.support.runner_engine import ensure_runner_image

_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "cli"
_PATH_IN_IMAGE = "/usr/local/bin/claude"


def ensure_claude_cli() -> Path:
    """The executable; copied out of the runner image (a few seconds) unless it was before."""
    named = os.environ.get("AIAGENTCHAT_TEST_CLI")
    if named:
        return Path(named)
    image = ensure_runner_image()
    path = _CACHE / image.removeprefix("sha256:")[:12] / "claude"
    if not path.exists():
        _remove_others(keep=path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        _copy_out(image, path)
    return path


def cli_environment(base_url: str, home: Path) -> dict[str, str]:
    """The environment that a runner gives the CLI, as far as it matters outside of one."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_API_KEY": "sk-ant-placeholder",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def _copy_out(image: str, path: Path) -> None:
    client = docker.from_env()
    try:
        container = client.containers.create(image, labels=session_labels())
        try:
            chunks, _ = container.get_archive(_PATH_IN_IMAGE)
            _unpack_one(chunks, path)
        finally:
            container.remove(force=True)
    finally:
        client.close()


def _unpack_one(chunks: Iterator[bytes], path: Path) -> None:
    new = path.with_suffix(".new")
    with tarfile.open(fileobj=io.BufferedReader(_ChunkReader(chunks)), mode="r|") as archive:
        member = archive.next()
        assert member is not None
        source = archive.extractfile(member)
        assert source is not None
        with new.open("wb") as file:
            while block := source.read(1 << 20):
                file.write(block)
    new.chmod(0o755)
    new.replace(path)


def _remove_others(keep: Path) -> None:
    for old in _CACHE.glob("*/claude"):
        if old.parent != keep:
            old.unlink(missing_ok=True)


class _ChunkReader(io.RawIOBase):
    """An iterator of bytes as a readable stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        # The base class names a wider kind of buffer than BufferedReader ever gives.
        if not self._rest:
            self._rest = next(self._chunks, b"")
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)
