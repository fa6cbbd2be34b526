"""The runner image: found by the hash of what it is made from, built when it is not there.

Owns the tag and the build context. Rules: the same runner-image/ gives the same tag, so that a
version finds its own image and never another's; the host adds nothing to the image (its trusted
authorities reach one build stage, which is not kept).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import ssl
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from orchestrator.errors import ImageMissingError, PreconditionError
from orchestrator.runners.base_image import find_base
from orchestrator.runners.build_log import BuildLog
from orchestrator.runners.engine import Engine

IMAGE_NAME: Final = "aiagentchat/runner"
LABEL_IMAGE: Final = "aiagentchat.image"
"""On the image: the hash of the runner-image/ that it was made from."""
# For people, or made into something by the base script; nothing of it is in the image.
_NOT_CONTENT: Final = frozenset({"README.md", "base-image.sh", ".dockerignore"})
# 80 s on 2 cores with a near mirror; an hour covers a slow line, and still ends.
_BUILD_S: Final = 3600.0
# Bundles are about 220 KB.
_CA_BYTES: Final = 4 << 20
_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_REGISTRY: Final = "NPM_CONFIG_REGISTRY"


class Base(StrEnum):
    """Where the image's base comes from."""

    AUTO = "auto"
    """What is here, or else pulled, or else made."""
    PULL = "pull"
    DEBOOTSTRAP = "debootstrap"


def image_dir() -> Path:
    """runner-image/: beside the package in a checkout, inside it when installed.

    Raises:
        PreconditionError: neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "runner-image", package / "_runner_image"):
        if (folder / "Dockerfile").is_file():
            return folder
    msg = "runner-image/ is missing from this installation. Install aiagentchat again"
    raise PreconditionError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """runner-image/ as it was at one moment, so that the tag and what is built under it agree."""

    folder: Path
    files: tuple[tuple[str, int, bytes], ...]
    """Name, mode and bytes of each file that the image is made from."""

    @property
    def digest(self) -> str:
        """12 hexadecimal digits over all of it."""
        digest = hashlib.sha256()
        for name, mode, data in self.files:
            digest.update(f"{name}\0{mode:o}\0{len(data)}\0".encode())
            digest.update(data)
        return digest.hexdigest()[:12]

    @property
    def tag(self) -> str:
        """`aiagentchat/runner:<digest>`."""
        return f"{IMAGE_NAME}:{self.digest}"


def read_source(folder: Path | None = None) -> ImageSource:
    """Read `folder`, or else this version's runner-image/ (about 100 KB). Blocks.

    Raises:
        PreconditionError: there is no runner-image/.
    """
    folder = folder or image_dir()
    files = tuple(
        (path.relative_to(folder).as_posix(), _mode(path), path.read_bytes())
        for path in _content(folder)
    )
    return ImageSource(folder=folder, files=files)


async def find_image(engine: Engine, reference: str | None = None) -> str:
    """The image id (`sha256:…`) of `reference`, or else of this version's image.

    Raises:
        ImageMissingError: it is not there; says how to build it.
    """
    wanted = reference or read_source().tag
    try:
        answer = await engine.call(engine.api.inspect_image, wanted)
    except ImageMissingError as e:
        how = "Pull or build it" if reference else "Build it with: orchestrator image build"
        msg = f"the runner image {wanted} is not there. {how}."
        raise ImageMissingError(msg) from e
    return str(answer["Id"])


async def ensure_image(
    engine: Engine,
    *,
    base: Base = Base.AUTO,
    on_line: Callable[[str], None] = lambda _: None,
    rebuild: bool = False,
) -> str:
    """The id of this version's image, built first if it is missing (80 s with a near mirror).

    `on_line` gets short lines for people: each step, with the seconds that it took. A cancel ends
    the build.

    Raises:
        PreconditionError: the build failed; the text has its last lines.
    """
    source = read_source()
    if not rebuild:
        try:
            return await find_image(engine, source.tag)
        except ImageMissingError:
            on_line(f"{source.tag} is not there yet: building it")
    return await _build(engine, source, base, on_line)


async def _build(
    engine: Engine, source: ImageSource, base: Base, on_line: Callable[[str], None]
) -> str:
    began = time.monotonic()
    reference = await find_base(engine, source.folder, base.value, on_line)
    log = BuildLog(on_line, now=time.monotonic())
    query = build_query(source, reference, os.environ)
    body = build_context(source, read_ca_bundle(os.environ))
    await log.follow(engine, "/build", query, body=body, limit_s=_BUILD_S)
    on_line(f"{source.tag} built in {time.monotonic() - began:.0f} s")
    return await find_image(engine, source.tag)


def build_query(source: ImageSource, base: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The build's parameters. Pure."""
    arguments = {"BASE": base} | _passed_on(environment)
    return {
        "t": source.tag,
        "rm": "1",
        "forcerm": "1",
        "buildargs": json.dumps(arguments),
        "labels": json.dumps({LABEL_IMAGE: source.digest}),
    }


def build_context(source: ImageSource, ca_bundle: bytes = b"") -> bytes:
    """The build's files as a tar archive, the same bytes for the same files. Pure."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, mode, data in source.files:
            _add(archive, name, mode, data)
        if ca_bundle:
            _add(archive, "ca-bundle.pem", 0o644, ca_bundle)
    return stream.getvalue()


def _add(archive: tarfile.TarFile, name: str, mode: int, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _content(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        skipped = "__pycache__" in relative.parts or relative.as_posix() in _NOT_CONTENT
        if path.is_file() and not skipped:
            yield path


def _mode(path: Path) -> int:
    return 0o755 if path.stat().st_mode & 0o100 else 0o644


def _passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """What a build behind a proxy or with a registry of its own needs to know."""
    found = {}
    for name in (*_PROXIES, _REGISTRY):
        value = environment.get(name) or environment.get(name.lower())
        if value:
            found[name] = value
    return found


def read_ca_bundle(environment: Mapping[str, str]) -> bytes:
    """The authorities that this host trusts, or nothing where no file holds them."""
    default = ssl.get_default_verify_paths()
    named = (environment.get("SSL_CERT_FILE"), environment.get("NODE_EXTRA_CA_CERTS"))
    for candidate in (*named, default.cafile, default.openssl_cafile):
        path = Path(candidate) if candidate else None
        if path and path.is_file() and path.stat().st_size <= _CA_BYTES:
            return path.read_bytes()
    return b""
