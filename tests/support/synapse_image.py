"""The image of the tests' Synapse: built once for each content, never pulled.

The wheels come from requirements.lock with their digests, downloaded by pip on the host (whatever
index it is set up for) for the image's Python, and go into the build as files.
"""

from __future__ import annotations

import asyncio
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import docker
from docker.errors import BuildError, ImageNotFound
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from orchestrator.runners.base_image import find_base
from orchestrator.runners.engine import open_engine
from orchestrator.runners.image import Base, image_dir

_HERE = Path(__file__).resolve().parent
_LOCK = _HERE.parents[1] / "requirements.lock"
_DOCKERFILE = _HERE / "synapse" / "Dockerfile"
_REPOSITORY = "aiagentchat-test-synapse"
# Debian 12, with the C library 2.36: every older tag of the same kind is good, too.
_PYTHON = "3.11"
_MANYLINUX = ("manylinux2014", "manylinux_2_17", "manylinux_2_28", "manylinux_2_34")
_DOWNLOAD_TIMEOUT_S = 600


def ensure_synapse_image(client: docker.DockerClient) -> str:
    """The image's name; built (about a minute) unless an image of this content is there."""
    name = f"{_REPOSITORY}:{_content_tag()}"
    try:
        client.images.get(name)
    except ImageNotFound:
        _build(client, name)
    return name


def main() -> None:
    """Build it if it is missing: `python -m tests.support.synapse_image`."""
    client = docker.from_env()
    try:
        ensure_synapse_image(client)
    finally:
        client.close()


def _build(client: docker.DockerClient, name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="synapse-image-") as folder:
        context = Path(folder)
        shutil.copy(_DOCKERFILE, context / "Dockerfile")
        _download_wheels(context)
        try:
            client.images.build(
                path=folder, tag=name, rm=True, forcerm=True, buildargs={"BASE": find_test_base()}
            )
        except BuildError as e:
            lines = [str(entry.get("stream", entry)).rstrip() for entry in e.build_log]
            raise RuntimeError("\n".join([str(e), *lines[-20:]])) from e


def find_test_base() -> str:
    """The runner image's base: what is here, or pulled, or made from Debian's packages."""

    async def find() -> str:
        async with open_engine() as engine:
            return await find_base(engine, image_dir(), Base.AUTO, print)

    return asyncio.run(find())


def _download_wheels(context: Path) -> None:
    wanted = context / "synapse.txt"
    # Each by its own digest, and nothing resolved: a resolver may prefer what the lock has not.
    entries = "".join(_lock_entry(name) for name in sorted(_closure("matrix-synapse")))
    wanted.write_text(entries, encoding="utf-8")
    machine = platform.machine()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
    command += ["--python-version", _PYTHON, "--implementation", "cp"]
    for tag in _MANYLINUX:
        command += ["--platform", f"{tag}_{machine}"]
    command += ["--no-deps", "--require-hashes", "--requirement", str(wanted)]
    command += ["--dest", str(context / "wheels")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_TIMEOUT_S
    )
    assert done.returncode == 0, f"pip could not download Synapse:\n{done.stderr[-2000:]}"


def _closure(package: str) -> set[str]:
    """The package and what it needs, as far as it is installed here (the lock installed it)."""
    found: set[str] = set()
    waiting = [package]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return found


def _lock_entry(package: str) -> str:
    """A package's lines of the lock: its version and its digests."""
    pattern = rf"^{re.escape(package)}==.*?(?=^\S)"
    entry = re.search(pattern, _LOCK.read_text(encoding="utf-8") + "\n#", re.MULTILINE | re.DOTALL)
    assert entry is not None, f"{package} is not in {_LOCK}"
    return entry[0].rstrip().removesuffix("\\") + "\n"


def _content_tag() -> str:
    content = _DOCKERFILE.read_bytes() + _lock_entry("matrix-synapse").encode()
    return hashlib.sha256(content).hexdigest()[:12]


if __name__ == "__main__":
    main()
