"""Build step: fetch the pinned Claude Code CLI with npm, check its digest, unpack the one binary.

Usage: fetch_cli.py PIN_FILE DESTINATION. Which registry is npm's own business (its default, or
NPM_CONFIG_REGISTRY); what arrives is trusted by its digest alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


def main(pin_file: str, destination: str) -> None:
    """Leave the executable at `destination`, or exit with a sentence."""
    pin = json.loads(Path(pin_file).read_text(encoding="utf-8"))
    architecture = _output("dpkg", "--print-architecture")
    if architecture not in pin["platforms"]:
        sys.exit(f"{pin_file} pins no Claude Code CLI for {architecture}")
    platform = pin["platforms"][architecture]
    name = f"{platform['package']}@{pin['version']}"
    with tempfile.TemporaryDirectory() as folder:
        tarball = _fetch(name, Path(folder))
        _check(name, tarball, platform["integrity"])
        _unpack(tarball, Path(destination))
    sys.stdout.write(f"{name}: digest as pinned\n")


def _fetch(name: str, folder: Path) -> Path:
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), name]
    try:
        subprocess.run(command, check=True, cwd=folder, timeout=900)  # noqa: S603 - pinned
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        sys.exit(
            f"npm could not fetch {name}. Check the network of the build, and where a proxy or a"
            " private registry is used: HTTPS_PROXY, NPM_CONFIG_REGISTRY, SSL_CERT_FILE"
        )
    return next(folder.glob("*.tgz"))


def _check(name: str, tarball: Path, expected: str) -> None:
    digest = hashlib.sha512(tarball.read_bytes()).digest()
    actual = "sha512-" + base64.b64encode(digest).decode()
    if actual != expected:
        sys.exit(
            f"{name} is not what was pinned, so it is not used.\n"
            f"  expected {expected}\n  received {actual}"
        )


def _unpack(tarball: Path, destination: Path) -> None:
    with tarfile.open(tarball) as archive:
        source = archive.extractfile("package/claude")
        if source is None:
            sys.exit("the package has no file package/claude")
        with source, destination.open("wb") as target:
            shutil.copyfileobj(source, target)
    destination.chmod(0o755)


def _output(*command: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own words
        command, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


if __name__ == "__main__":
    os.umask(0o022)
    main(*sys.argv[1:3])
