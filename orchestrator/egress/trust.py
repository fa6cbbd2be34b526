"""What a runner needs to trust the installation's CA: two files in its egress directory, variables.

Node adds authorities to its own; everything else takes one list in the place of the usual one, so
that list has the public authorities too: the host's, since the image's can't be read from here. A
room that has nothing intercepted has neither.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import ssl
from pathlib import Path
from typing import Final

from orchestrator.core.sandbox import EGRESS
from orchestrator.errors import PreconditionError

CA_NAME: Final = "ca.pem"
BUNDLE_NAME: Final = "ca-bundle.pem"
DIGEST_NAME: Final = "AIAGENTCHAT_CA"
# Root writes, the room's group reads; the mount is read-only besides.
_MODE: Final = 0o640
# Debian and Alpine, Fedora, OpenSUSE, and macOS or BSD.
_USUAL_PLACES: Final = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/ca-bundle.pem"),
    Path("/etc/ssl/cert.pem"),
)
_WITH_BUNDLE: Final = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
)


def trust_environment(ca: bytes) -> tuple[tuple[str, str], ...]:
    """The variables by which OpenSSL, curl, git, pip, Python, Node, Go and the like find them.

    With a digest of the CA: a program that has read another one is outdated, and started anew.
    """
    bundle = ((name, f"{EGRESS}/{BUNDLE_NAME}") for name in _WITH_BUNDLE)
    digest = hashlib.sha256(ca).hexdigest()[:16]
    return (*bundle, ("NODE_EXTRA_CA_CERTS", f"{EGRESS}/{CA_NAME}"), (DIGEST_NAME, digest))


def find_public_roots() -> bytes:
    """This host's list of public authorities, as Python's own TLS would use it; blocks.

    Raises:
        PreconditionError: there is none.
    """
    own = ssl.get_default_verify_paths().cafile
    places: list[Path] = [Path(own), *_USUAL_PLACES] if own else list(_USUAL_PLACES)
    for path in places:
        with contextlib.suppress(OSError):
            found = path.read_bytes()
            if found:
                return found
    msg = (
        "this host has no list of public certificate authorities, which egress.intercept needs. "
        "Install it (on Debian: apt-get install ca-certificates)."
    )
    raise PreconditionError(msg)


def write_trust(directory: Path, *, gid: int, ca: bytes, roots: bytes) -> None:
    """Put both files into a room's egress directory, for its group to read. Idempotent; blocks.

    Raises:
        PreconditionError: the file system refuses.
    """
    try:
        _replace(directory, CA_NAME, ca, gid)
        _replace(directory, BUNDLE_NAME, roots.rstrip() + b"\n" + ca, gid)
    except OSError as e:
        msg = f"{directory}: the authority's certificate can't be written: {e.strerror}"
        raise PreconditionError(msg) from e


def remove_trust(directory: Path) -> None:
    """Take both away, where they are, and what a kill has left of them. Idempotent; blocks."""
    for name in (CA_NAME, BUNDLE_NAME):
        (directory / name).unlink(missing_ok=True)
        _half(directory, name).unlink(missing_ok=True)


def _replace(directory: Path, name: str, data: bytes, gid: int) -> None:
    """Under another name first: whoever reads sees the old file or the new one, whole."""
    path = directory / name
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    new = _half(directory, name)
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchown(descriptor, -1, gid)
            os.fchmod(descriptor, _MODE)
            file.write(data)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _half(directory: Path, name: str) -> Path:
    """One name, not a random one: a kill leaves one file at most, which the next writing takes."""
    return directory / f".{name}.new"
