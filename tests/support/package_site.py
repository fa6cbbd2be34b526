"""A directory of files that git, pip, npm, apt and curl can get things from, made for a test."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

GIT_ENV = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def make_package_site(root: Path, base_url: str) -> None:
    """A repository, a wheel with its index, an npm package, an apt repository, a page."""
    (root / "page.html").write_text("<html><body><h1>Reached</h1><p>harvest-word</p></body></html>")
    _make_repository(root)
    _make_wheel(root)
    _make_npm_package(root, base_url)
    _make_apt_repository(root)


def _make_repository(root: Path) -> None:
    """Served as files, which git calls the dumb protocol."""
    work, bare = root / "work", root / "repo.git"
    work.mkdir()
    (work / "README").write_text("cloned\n")
    for command in (
        ["git", "init", "-q", str(work)],
        ["git", "-C", str(work), "add", "README"],
        ["git", "-C", str(work), "commit", "-qm", "first"],
        ["git", "clone", "-q", "--bare", str(work), str(bare)],
        ["git", "-C", str(bare), "update-server-info"],
    ):
        subprocess.run(command, check=True, env=GIT_ENV, capture_output=True)


def _make_wheel(root: Path) -> None:
    folder = root / "simple" / "harvest"
    folder.mkdir(parents=True)
    name, info = "harvest-1.0-py3-none-any.whl", "harvest-1.0.dist-info"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr("harvest.py", "WORD = 'harvest-word'\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: harvest\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{name}">{name}</a>')


def _make_npm_package(root: Path, base_url: str) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        manifest = json.dumps({"name": "harvest", "version": "1.0.0"}).encode()
        info = tarfile.TarInfo("package/package.json")
        info.size = len(manifest)
        archive.addfile(info, io.BytesIO(manifest))
    packed = data.getvalue()
    folder = root / "npm"
    folder.mkdir()
    (folder / "harvest-1.0.0.tgz").write_bytes(packed)
    integrity = base64.b64encode(hashlib.sha512(packed).digest()).decode()
    version = {
        "name": "harvest",
        "version": "1.0.0",
        "description": "harvest-word",
        "dist": {
            "tarball": f"{base_url}/npm/harvest-1.0.0.tgz",
            "integrity": f"sha512-{integrity}",
            "shasum": hashlib.sha1(packed).hexdigest(),
        },
    }
    (folder / "harvest").write_text(
        json.dumps(
            {"name": "harvest", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        )
    )


def _make_apt_repository(root: Path) -> None:
    folder = root / "apt" / "dists" / "stable" / "main" / "binary-amd64"
    folder.mkdir(parents=True)
    packages = b"Package: harvest\nVersion: 1.0\nArchitecture: amd64\nFilename: x.deb\nSize: 1\n\n"
    files = {"Packages": packages, "Packages.gz": gzip.compress(packages, mtime=0)}
    lines = ["Suite: stable", "Components: main", "Architectures: amd64", "SHA256:"]
    for name, data in files.items():
        (folder / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        lines.append(f" {digest} {len(data)} main/binary-amd64/{name}")
    (root / "apt" / "dists" / "stable" / "Release").write_text("\n".join(lines) + "\n")
