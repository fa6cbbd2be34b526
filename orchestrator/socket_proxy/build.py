"""Which image may be built, and what may be pulled for it: what this version makes its own from.

A Dockerfile is a program for the engine: it fetches from wherever the host comes (its loopback
included), copies from anybody's images, and sets labels that other programs of the host obey. So
the files of a build are made anew here, and must come out the same.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from typing import Final

from orchestrator.runners.base_image import MADE_NAME, made_base, public_base
from orchestrator.runners.image import (
    IMAGE_NAME,
    ImageSource,
    build_context,
    build_query,
    image_dir,
    read_source,
)
from orchestrator.socket_proxy.container import RefusedError

MAX_BUILD_BYTES: Final = 8 << 20
"""Of a build's files: 0.1 MB, and the host's authorities, of which image.py takes 4 MiB."""


def remake_build(query: Mapping[str, str], files: bytes) -> bytes:
    """The files of this version's build, made anew. Blocks.

    Raises:
        RefusedError: it is another build that was asked for.
    """
    source = read_source()
    made = build_context(source, _find_authorities(source, files))
    if made != files:
        msg = (
            "a build of this version has other files."
            " The proxy and the orchestrator must have the same version"
        )
        raise RefusedError(msg)
    _check_query(source, query)
    return made


def check_pull(query: Mapping[str, str]) -> None:
    """That it is the base of this version's image. Blocks.

    Raises:
        RefusedError: it is something else, from wherever the engine comes.
    """
    public = public_base(read_source().folder)
    name, _, tag = public.partition(":")
    if query != {"fromImage": name, "tag": tag or "latest"}:
        msg = f"nothing is pulled but {public}, the runner image's base"
        raise RefusedError(msg)


def is_own_name(name: str) -> bool:
    """Whether it is a name of this project's runner images, or of their bases. Blocks."""
    is_base = name.startswith(f"{MADE_NAME}:") or name == public_base(image_dir())
    return is_base or name.startswith(f"{IMAGE_NAME}:")


def _find_authorities(source: ImageSource, files: bytes) -> bytes:
    """What a host adds to this version's files, behind them: one entry, or nothing."""
    bare = build_context(source)
    blocks = -(-len(bare.rstrip(b"\0")) // tarfile.BLOCKSIZE)
    at = (blocks + 1) * tarfile.BLOCKSIZE
    try:
        entry = tarfile.TarInfo.frombuf(files[at - tarfile.BLOCKSIZE : at], "utf-8", "strict")
    except tarfile.TarError:
        return b""
    return files[at : at + entry.size]


def _check_query(source: ImageSource, query: Mapping[str, str]) -> None:
    try:
        arguments = json.loads(query["buildargs"])
        base = arguments["BASE"]
        made = build_query(source, base, arguments)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
        msg = "the parameters of a build have another form"
        raise RefusedError(msg) from e
    if base not in (public_base(source.folder), made_base(source.folder)):
        msg = "an image is built from this version's base alone"
        raise RefusedError(msg)
    if made != query:
        msg = "a build of this version has other parameters"
        raise RefusedError(msg)
