"""What hostile rooms and hostile archives try with a whole backup."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

from orchestrator.backup import restoring, tree
from orchestrator.backup.archive import ArchiveWriter, Manifest, PartNotes, next_entry, reading
from orchestrator.backup.restoring import restore_backup
from orchestrator.backup.tree import TreeReader, TreeWriter
from orchestrator.errors import StoreCorruptError
from tests.unit.backup.test_backup import (
    MIB,
    ROOT,
    UID,
    back_up,
    begin_state,
    entry,
    forge,
    restored,
    room_of,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="rooms' files have uids of their own")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return begin_state(tmp_path)


def test_a_file_whose_number_was_another_ones_before_keeps_no_backup_from_being_made(
    state: Path,
) -> None:
    """A room removes a file that was read and makes one elsewhere: it gets the same number."""
    first = room_of(state) / "workspace" / "read-before"
    first.write_text("of the workspace")
    (room_of(state) / "home" / "made-since").hardlink_to(first)

    new = restored(back_up(state))

    assert (room_of(new) / "home" / "made-since").read_text() == "of the workspace"


def test_a_room_that_moves_its_files_ahead_of_us_takes_no_more_than_twice_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=256, f_frsize=4096))
    folders = [tmp_path / "workspace" / f"{number:03}" for number in range(100)]
    for folder in folders:
        folder.mkdir(parents=True)
    (folders[0] / "large").write_bytes(b"x" * 600_000)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "session").write_text("kept")
    notes, file = PartNotes(), io.BytesIO()

    class Fleeing(ArchiveWriter):
        def add(self, entry: tarfile.TarInfo, data: IO[bytes] | None = None) -> None:
            super().add(entry, data)
            if entry.name.endswith("/large"):
                at = int(entry.name.split("/")[-2])
                (folders[at] / "large").rename(folders[at + 1] / "large")

    writer = Fleeing(file)
    root = os.open(tmp_path, os.O_RDONLY)
    with writer.part("room"):
        reader = TreeReader(writer, notes, "rooms/room")
        for name in ("workspace", "home"):
            reader.add(root, name)
    os.close(root)

    assert file.tell() < 3 * MIB
    assert notes.left_out_count == 1
    assert "more than twice" in notes.left_out[0]
    assert b"kept" in file.getvalue()


def test_deep_names_of_many_files_are_not_held_in_memory(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for name in ["workspace", *["d" * 250] * 80]:
        os.mkdir(name, dir_fd=folder)
        below = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    for number in range(500):
        os.mkdir(f"{number}-folder", dir_fd=folder)
        os.close(os.open(f"{number}", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        os.link(f"{number}", f"{number}-again", src_dir_fd=folder, dst_dir_fd=folder)
    os.close(folder)
    new = tmp_path / "new" / "rooms" / "room"
    new.mkdir(parents=True)
    read, made = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path / "new", os.O_RDONLY)

    with (tmp_path / "all.tar").open("w+b") as file:
        tracemalloc.start()
        writer = ArchiveWriter(file)
        with writer.part("room") as notes:
            TreeReader(writer, notes, "rooms/room").add(read, "workspace")
        writer.finish(database_schema=1, made_at=0.0)
        _, most_to_make = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        with reading(file) as tar:
            into = TreeWriter(made)
            while (each := next_entry(tar)) is not None and each.name != "manifest.json":
                into.put(tar, each, (UID, UID))
            into.finish()
        _, most_to_restore = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    os.close(read)
    os.close(made)

    assert notes.entries == 1581
    assert (new / "workspace").stat().st_uid == UID
    assert max(most_to_make, most_to_restore) < 5_000_000


def test_a_file_with_holes_and_more_than_8_gib_is_read_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its content the test writes none: the archive is a file with a hole there, too."""
    (tmp_path / "workspace").mkdir()
    large, data = tmp_path / "workspace" / "disk.img", 9 << 30
    large.touch()
    os.truncate(large, 20 << 30)
    (tmp_path / "workspace" / "z").write_text("behind it")
    monkeypatch.setattr(tree, "_extents", lambda _, size: [(0, data), (size, 0)])

    class Skipping(ArchiveWriter):
        def add(self, entry: tarfile.TarInfo, data: IO[bytes] | None = None) -> None:
            if not entry.name.endswith("disk.img"):
                super().add(entry, data)
                return
            file.write(entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
            assert data is not None
            file.write(data.read(512))
            file.seek(entry.size - 512, os.SEEK_CUR)

    with (tmp_path / "all.tar").open("w+b") as file:
        writer = Skipping(file)
        root = os.open(tmp_path, os.O_RDONLY)
        with writer.part("room") as notes:
            TreeReader(writer, notes, "rooms/room").add(root, "workspace")
        os.close(root)
        with reading(file) as tar:
            entries = {one.name.rpartition("/")[2]: one for one in tar}
            behind = tar.extractfile(entries["z"])
            assert behind is not None
            assert behind.read() == b"behind it"

    assert entries["disk.img"].size == 20 << 30
    assert entries["disk.img"].sparse == [(0, data), (20 << 30, 0)]  # type: ignore[attr-defined]


def test_an_archive_that_is_another_one_once_it_was_checked_gets_nothing_out(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = back_up(state).path
    check = restoring.verify

    def swapped(file: IO[bytes], *, known_schema: int) -> Manifest:
        manifest = check(file, known_schema=known_schema)
        forge(state, archive, entry(ROOT, tarfile.DIRTYPE), entry(f"{ROOT}/../../../../../escaped"))
        return manifest

    monkeypatch.setattr(restoring, "verify", swapped)
    with pytest.raises(StoreCorruptError, match="no backup has an entry"):
        restore_backup(archive, tmp_path / "new")

    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "new" / "state.sqlite3").exists()


def header(kind: bytes, size: int = 0) -> bytes:
    made = entry(f"{ROOT}/x", kind)
    made.size = size
    return made.tobuf(tarfile.GNU_FORMAT)


MANY = 40 << 20
ENDLESS = {
    "headers about headers": lambda: header(tarfile.XHDTYPE) * 3000,
    "names of names": lambda: header(tarfile.GNUTYPE_LONGNAME) * 3000,
    "a long header": lambda: header(tarfile.XHDTYPE, MANY) + b"9 a=1234\n" * (MANY // 9),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_entry_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "forged.tar").write_bytes(ENDLESS[kind]())

    tracemalloc.start()
    try:
        with pytest.raises(StoreCorruptError, match="Nothing was changed"):
            restore_backup(tmp_path / "forged.tar", tmp_path / "new")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < 2 * MANY
