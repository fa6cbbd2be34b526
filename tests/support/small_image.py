"""The runner image without what only an agent needs: 200 MB instead of 1.1 GB.

For engines of a test's own, into which every image has to be copied. The shim, Python, a shell and
the names of users are in it as they are in the real one; the CLI and the toolchains are not.
"""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

import docker
from docker.errors import ImageNotFound

from tests.support.runner_engine import ensure_runner_image

_REPOSITORY = "aiagentchat/test-small"
# libcrypto and Python itself are about 6 MB; what is larger is a compiler, a browser's engine, …
_MAX_FILE_BYTES = 8 << 20
_LEFT_OUT = (
    *("boot", "usr/include", "usr/lib/gcc", "usr/lib/python3", "usr/lib/git-core"),
    *("usr/share", "usr/local/bin", "usr/libexec", "var/cache", "var/lib/dpkg", "var/lib/apt"),
    *("usr/lib/x86_64-linux-gnu/perl", "usr/lib/x86_64-linux-gnu/perl-base"),
    *("usr/lib/aarch64-linux-gnu/perl", "usr/lib/aarch64-linux-gnu/perl-base"),
)
_RECIPE = repr((_MAX_FILE_BYTES, _LEFT_OUT))


def ensure_small_image() -> str:
    """The name of it, made from this version's runner image when it is missing (15 s)."""
    source = ensure_runner_image()
    digest = hashlib.sha256(f"{source}{_RECIPE}".encode()).hexdigest()[:12]
    name = f"{_REPOSITORY}:{digest}"
    client = docker.from_env(timeout=600)
    try:
        with contextlib.suppress(ImageNotFound):
            client.images.get(name)
            return name
        _make(client, source, digest)
    finally:
        client.close()
    return name


def _make(client: docker.DockerClient, source: str, tag: str) -> None:
    facts = client.images.get(source).attrs["Config"]
    container = client.api.create_container(source)
    try:
        with tempfile.TemporaryFile() as whole, tempfile.NamedTemporaryFile(suffix=".tar") as small:
            for part in client.api.export(container["Id"], chunk_size=1 << 20):
                whole.write(part)
            whole.seek(0)
            _filter(whole, small)
            small.flush()
            entry = ", ".join(f'"{word}"' for word in facts["Entrypoint"])
            changes = [f"ENV {variable}" for variable in facts["Env"]]
            changes += [f"ENTRYPOINT [{entry}]", f"USER {facts['User']}", "WORKDIR /workspace"]
            client.api.import_image_from_file(
                small.name, repository=_REPOSITORY, tag=tag, changes=changes
            )
    finally:
        client.api.remove_container(container["Id"], v=True)


def _filter(whole: IO[bytes], small: IO[bytes]) -> None:
    with (
        tarfile.open(fileobj=whole, mode="r|") as source,
        tarfile.open(fileobj=small, mode="w|") as target,
    ):
        for entry in _wanted(source):
            target.addfile(entry, source.extractfile(entry) if entry.isreg() else None)


def _wanted(source: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    kept: set[str] = set()
    for entry in source:
        path = PurePosixPath(entry.name)
        left_out = any(path.is_relative_to(folder) for folder in _LEFT_OUT)
        if left_out or entry.size > _MAX_FILE_BYTES or path.suffix in {".a", ".o"}:
            continue
        if entry.islnk() and entry.linkname not in kept:
            continue
        kept.add(entry.name)
        yield entry
