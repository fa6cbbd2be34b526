"""Two images compared: what differs, and what differs in its time alone."""

from __future__ import annotations

import io
import tarfile

from scripts.reproduce import Entry, compare, read_entries


def image(**files: tuple[bytes, int, float]) -> dict[str, Entry]:
    """The entries of an exported container with these files: content, rights, time."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, (data, mode, mtime) in {**files, "etc/hosts": (b"x", 0o644, 0.0)}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), mode, mtime
            tar.addfile(entry, io.BytesIO(data))
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        return read_entries(tar)


def test_only_what_differs_is_told_and_times_apart() -> None:
    one = image(
        same=(b"a", 0o644, 1.0),
        content=(b"a", 0o644, 1.0),
        rights=(b"a", 0o644, 1.0),
        time=(b"a", 0o644, 1.0),
        gone=(b"a", 0o644, 1.0),
    )
    two = image(
        same=(b"a", 0o644, 1.0),
        content=(b"b", 0o644, 1.0),
        rights=(b"a", 0o755, 1.0),
        time=(b"a", 0o644, 2.0),
        new=(b"a", 0o644, 1.0),
    )
    assert compare(one, two) == (["content", "gone", "new", "rights"], ["time"])
    assert compare(one, one) == ([], [])
    assert "etc/hosts" not in one, "the engine makes it for each container"
