"""The address of a repository as a person wrote it, and where it goes. Pure.

Only https, and nothing in it but a host and a path: no credentials (they would stand in the room),
no other transport (ssh, file, ext run programs or read files), nothing that git takes for an
option.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.egress_rules import MAX_PORT, parse_host

_MAX_URL_CHARS = 500
_URL = re.compile(r"https://([^/@\s]+)(/[A-Za-z0-9._~+%@/-]*)")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_PORT = re.compile(r"(.+):([1-9][0-9]{0,4})")


class CloneProblem(StrEnum):
    """Why an argument is no repository that can be fetched."""

    FORM = "form"
    CREDENTIALS = "credentials"
    SCHEME = "scheme"
    NAME = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneOrder:
    """What is fetched from where, into which folder of the workspace."""

    url: str
    host: str
    folder: str


def parse_clone(argument: str) -> CloneOrder | CloneProblem:
    """`URL [FOLDER]`; without a folder it is the repository's name."""
    words = argument.split()
    if not 1 <= len(words) <= 2:
        return CloneProblem.FORM
    url = words[0].removeprefix("<").removesuffix(">")
    scheme, mark, rest = url.partition("://")
    if mark and scheme.lower() != "https":
        return CloneProblem.SCHEME
    if "@" in rest.partition("/")[0]:
        return CloneProblem.CREDENTIALS
    found = _URL.fullmatch(url) if len(url) <= _MAX_URL_CHARS else None
    host = _parse_authority(found[1]) if found else None
    if found is None or host is None or ".." in found[2]:
        return CloneProblem.FORM
    folder = words[1] if len(words) == 2 else _folder_of(found[2])
    if not _NAME.fullmatch(folder):
        return CloneProblem.NAME if len(words) == 2 or found[2].strip("/") else CloneProblem.FORM
    return CloneOrder(url=url, host=host, folder=folder)


def _parse_authority(text: str) -> str | None:
    with_port = _PORT.fullmatch(text)
    if with_port is not None and int(with_port[2]) > MAX_PORT:
        return None
    return parse_host(with_port[1] if with_port else text)


def _folder_of(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2].removesuffix(".git")
