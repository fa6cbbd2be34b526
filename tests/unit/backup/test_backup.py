"""A whole backup: made, checked byte by byte, put into an empty directory, or refused."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.backup import restoring
from orchestrator.backup.archive import (
    ArchiveWriter,
    PartNotes,
    printable,
    reading,
)
from orchestrator.backup.making import Made, make_backup
from orchestrator.backup.restoring import is_archive, restore_backup
from orchestrator.backup.tree import TreeReader
from orchestrator.errors import (
    PreconditionError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreTooNewError,
)
from orchestrator.main import app
from orchestrator.store.database import hold_state_dir
from orchestrator.store.opening import open_file
from orchestrator.store.schema import MIGRATIONS
from orchestrator.store.store import open_store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="rooms' files have uids of their own")

SLUG = "room---0123456789abcdef"
UID = 1073741825
MIB = 1 << 20


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return begin_state(tmp_path)


def begin_state(tmp_path: Path) -> Path:
    """A state directory with a database, a login, and a room with files."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)

    async def begin() -> None:
        async with open_store(state) as store:
            await store.rooms.installation()

    asyncio.run(begin())
    (state / "matrix-session.json").write_text("{}")
    (state / "matrix-session.json").chmod(0o600)
    (state / "placeholder.key").write_bytes(b"k" * 32)
    (state / "audit").mkdir()
    (state / "audit" / "audit.jsonl").write_text("{}\n")
    workspace = state / "rooms" / SLUG / "workspace"
    for folder in (workspace, state / "rooms" / SLUG / "home" / ".claude"):
        folder.mkdir(parents=True)
    (workspace / "notes.txt").write_text("kept")
    return state


def room_of(state: Path) -> Path:
    return state / "rooms" / SLUG


def back_up(state: Path, name: str = "all.tar") -> Made:
    for root, folders, files in os.walk(room_of(state)):
        for each in (*folders, *files):
            os.chown(Path(root) / each, UID, UID, follow_symlinks=False)
    return make_backup(state, state.parent / name, tell=lambda _: None)


def restored(made: Made) -> Path:
    target = made.path.parent / "new"
    restore_backup(made.path, target)
    return target


def test_what_is_restored_is_what_was_backed_up(state: Path) -> None:
    workspace = room_of(state) / "workspace"
    script = workspace / "bin" / "tool"
    script.parent.mkdir()
    script.write_bytes(b"#!/bin/sh\n")
    script.chmod(0o750)
    os.utime(script, (1_000_000_000, 1_000_000_000))
    (workspace / "empty").mkdir(mode=0o711)
    (workspace / "link").symlink_to("../../etc/passwd")
    (workspace / "one").write_text("same")
    (workspace / "two").hardlink_to(workspace / "one")
    odd = os.fsencode(str(workspace)) + b"/\xff\n" + b"n" * 200
    Path(os.fsdecode(odd)).write_text("odd")
    (room_of(state) / "home" / ".claude" / "session.jsonl").write_text("a conversation\n" * 9)

    made = back_up(state)
    new = restored(made)

    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert hashlib.sha256(made.path.read_bytes()).hexdigest() == made.sha256
    there = room_of(new) / "workspace"
    assert (there / "notes.txt").read_text() == "kept"
    status = (there / "bin" / "tool").stat()
    assert (status.st_uid, status.st_gid) == (UID, UID)
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o750, 1_000_000_000)
    assert stat.S_IMODE((there / "empty").stat().st_mode) == 0o711
    assert (there / "link").readlink() == Path("../../etc/passwd")
    assert (there / "link").lstat().st_uid == UID
    assert (there / "one").stat().st_ino == (there / "two").stat().st_ino
    assert Path(os.fsdecode(os.fsencode(str(there)) + b"/\xff\n" + b"n" * 200)).read_text() == "odd"
    assert (room_of(new) / "home" / ".claude" / "session.jsonl").stat().st_size == 135
    for name in ("matrix-session.json", "placeholder.key", "audit/audit.jsonl"):
        assert (new / name).read_bytes() == (state / name).read_bytes()
        assert stat.S_IMODE((new / name).stat().st_mode) & 0o077 == 0
    with closing(open_file(new / "state.sqlite3")) as db:
        kept = db.execute("SELECT value FROM meta WHERE key = 'installation'").fetchone()
    with closing(sqlite3.connect(state / "state.sqlite3")) as db:
        assert kept == db.execute("SELECT value FROM meta WHERE key = 'installation'").fetchone()


def test_a_file_with_holes_keeps_them(state: Path) -> None:
    with (room_of(state) / "workspace" / "disk.img").open("wb") as file:
        file.write(b"begin")
        file.seek(300 * MIB)
        file.write(b"middle")
        file.truncate(700 * MIB)

    made = back_up(state)
    new = restored(made)

    assert made.size_bytes < 4 * MIB
    there = room_of(new) / "workspace" / "disk.img"
    assert (there.stat().st_size, there.stat().st_blocks * 512 < MIB) == (700 * MIB, True)
    with there.open("rb") as file:
        assert file.read(6) == b"begin\0"
        file.seek(300 * MIB)
        assert file.read(7) == b"middle\0"


def test_caches_are_left_out(state: Path) -> None:
    for folder in (room_of(state) / "home" / ".cache" / "pip", room_of(state) / "workspace" / "t"):
        folder.mkdir(parents=True)
        (folder / "large").write_bytes(b"x" * MIB)
    tag = room_of(state) / "workspace" / "t" / "CACHEDIR.TAG"
    tag.write_text("Signature: 8a477f597d28d172789f06886806bc55\n# made by a test\n")
    (room_of(state) / "workspace" / "CACHEDIR.TAG").write_bytes(tag.read_bytes())

    made = back_up(state)
    new = restored(made)

    assert made.size_bytes < MIB
    assert list((room_of(new) / "home" / ".cache").iterdir()) == []
    assert list((room_of(new) / "workspace" / "t").iterdir()) == []
    assert (room_of(new) / "workspace" / "notes.txt").read_text() == "kept"


def test_nothing_outside_of_a_room_gets_into_its_part(state: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.mkdir()
    (outside / "canary").write_text("a-canary-of-the-host")
    workspace = room_of(state) / "workspace"
    (workspace / "to-file").symlink_to(outside / "canary")
    (workspace / "to-folder").symlink_to(outside)
    os.mkfifo(workspace / "pipe")

    made = back_up(state)

    assert b"a-canary-of-the-host" not in made.path.read_bytes()
    part = next(part for part in made.manifest.parts if part.name == f"rooms/{SLUG}")
    assert (part.left_out, part.left_out_count) == (["workspace/pipe"], 1)


def test_a_file_that_is_written_meanwhile_is_taken_and_named(tmp_path: Path) -> None:
    """It shrinks and changes after its size was read: the archive stays sound."""
    (tmp_path / "workspace").mkdir()
    growing = tmp_path / "workspace" / "log"
    growing.write_bytes(b"x" * 3 * MIB)
    notes = PartNotes()

    class Cutting(ArchiveWriter):
        def add(self, entry: tarfile.TarInfo, data: object = None) -> None:
            if entry.name.endswith("/log"):
                os.truncate(growing, MIB)
            super().add(entry, data)  # type: ignore[arg-type] # as it came

    file = io.BytesIO()
    writer = Cutting(file)
    folder = os.open(tmp_path, os.O_RDONLY)
    with writer.part("room"):
        TreeReader(writer, notes, "rooms/room").add(folder, "workspace")
    writer.finish(database_schema=1, made_at=0.0)
    os.close(folder)

    assert (notes.changed, notes.changed_count) == (["workspace/log"], 1)
    with reading(file) as tar:
        content = tar.extractfile("rooms/room/workspace/log")
        assert content is not None
        assert content.read() == b"x" * MIB + bytes(2 * MIB)


def is_untouched(target: Path) -> bool:
    return sorted(path.name for path in target.iterdir()) == ["lock"]


@pytest.mark.parametrize("at", [0.02, 0.3, 0.7, 0.97])
def test_a_changed_byte_is_found_before_anything_is_written(state: Path, at: float) -> None:
    made = back_up(state)
    data = bytearray(made.path.read_bytes())
    data[int(len(data.rstrip(b"\0")) * at)] ^= 1
    made.path.write_bytes(data)
    target = made.path.parent / "new"

    with pytest.raises(StoreCorruptError, match="Nothing was changed"):
        restore_backup(made.path, target)

    assert is_untouched(target)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_backup_that_was_cut_is_refused(state: Path, share: float) -> None:
    made = back_up(state)
    end = len(made.path.read_bytes().rstrip(b"\0"))
    os.truncate(made.path, int(end * share))
    target = made.path.parent / "new"

    with pytest.raises(StoreCorruptError, match="can't be used"):
        restore_backup(made.path, target)

    assert is_untouched(target)


def test_the_digest_that_was_kept_finds_a_forgery(state: Path) -> None:
    made = back_up(state)
    (room_of(state) / "workspace" / "notes.txt").write_text("forged")
    forged = back_up(state, "forged.tar")
    target = made.path.parent / "new"

    with pytest.raises(StoreCorruptError, match="SHA-256"):
        restore_backup(forged.path, target, expected=made.sha256)

    assert is_untouched(target)
    restore_backup(made.path, target, expected=made.sha256.upper())


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


ROOT = f"rooms/{SLUG}/workspace"
FOREIGN = {
    "above": entry("../escaped"),
    "absolute": entry("/escaped"),
    "within a room": entry(f"{ROOT}/../../../escaped"),
    "another place": entry("etc/cron.d/escaped"),
    "another room's name": entry("rooms/../../escaped/workspace/x"),
    "a room's other folder": entry(f"rooms/{SLUG}/egress/escaped"),
    "a link among the keys": entry("crypto/x.sqlite3", tarfile.SYMTYPE, "/etc/passwd"),
    "a device": entry(f"{ROOT}/null", tarfile.CHRTYPE),
    "a pipe": entry(f"{ROOT}/pipe", tarfile.FIFOTYPE),
    "a link to another room": entry(f"{ROOT}/x", tarfile.LNKTYPE, "rooms/other/workspace/x"),
    "a link to what is above": entry(f"{ROOT}/x", tarfile.LNKTYPE, f"{ROOT}/../../../lock"),
    "a link as a room's root": entry(ROOT, tarfile.SYMTYPE, "/etc"),
}


def forge(state: Path, path: Path, *entries: tarfile.TarInfo) -> Path:
    """An archive with sound digests and these entries."""
    with path.open("wb") as file:
        writer = ArchiveWriter(file)
        with writer.part("database"), (state / "state.sqlite3").open("rb") as database:
            first = entry("state.sqlite3")
            first.size = (state / "state.sqlite3").stat().st_size
            writer.add(first, database)
        with writer.part("room"):
            for each in entries:
                writer.add(each)
        writer.finish(database_schema=len(MIGRATIONS), made_at=0.0)
    return path


@pytest.mark.parametrize("kind", FOREIGN)
def test_an_entry_that_no_backup_has_is_refused(state: Path, tmp_path: Path, kind: str) -> None:
    archive = forge(state, tmp_path / "forged.tar", entry(ROOT, tarfile.DIRTYPE), FOREIGN[kind])

    with pytest.raises(StoreCorruptError, match="no backup has an entry"):
        restore_backup(archive, tmp_path / "new")

    assert is_untouched(tmp_path / "new")


def test_nothing_is_written_through_a_link_of_the_archive(state: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = forge(
        state,
        tmp_path / "forged.tar",
        entry(ROOT, tarfile.DIRTYPE),
        entry(f"{ROOT}/way", tarfile.SYMTYPE, str(outside)),
        entry(f"{ROOT}/way/escaped"),
    )

    with pytest.raises(StoreError, match="can't be restored"):
        restore_backup(archive, tmp_path / "new")

    assert list(outside.iterdir()) == []
    assert not (tmp_path / "new" / "state.sqlite3").exists()


def test_the_rights_of_a_forged_entry_are_those_of_its_room(state: Path, tmp_path: Path) -> None:
    root, file = entry(ROOT, tarfile.DIRTYPE), entry(f"{ROOT}/x")
    root.uid = root.gid = UID
    file.uid, file.mode = 0, 0o6755

    restore_backup(forge(state, tmp_path / "forged.tar", root, file), tmp_path / "new")

    status = (tmp_path / "new" / ROOT / "x").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (UID, 0o755)


def edit_manifest(made: Made, change: Callable[[dict[str, object]], None]) -> None:
    """The manifest is rewritten in place; it must not get longer."""
    data = made.path.read_bytes()
    at = data.rindex(b'{\n "format"')
    text = data[at:].rstrip(b"\0")
    manifest = json.loads(text)
    change(manifest)
    made.path.write_bytes(data[:at] + json.dumps(manifest).encode().ljust(len(text)) + b"\0" * 9999)


@pytest.mark.parametrize("key", ["format", "database_schema"])
def test_a_backup_of_a_newer_version_is_refused_with_words(state: Path, key: str) -> None:
    made = back_up(state)
    edit_manifest(made, lambda manifest: manifest.update({key: 9999}))
    target = made.path.parent / "new"

    with pytest.raises(StoreTooNewError, match="Install th"):
        restore_backup(made.path, target)

    assert is_untouched(target)


def test_a_directory_that_is_not_empty_or_in_use_is_refused(state: Path, tmp_path: Path) -> None:
    made = back_up(state)
    before = (state / "state.sqlite3").read_bytes()
    with pytest.raises(PreconditionError, match="is not empty"):
        restore_backup(made.path, state)
    assert (state / "state.sqlite3").read_bytes() == before
    with (
        hold_state_dir(tmp_path / "new"),
        pytest.raises(PreconditionError, match="another orchestrator"),
    ):
        restore_backup(made.path, tmp_path / "new")
    assert is_untouched(tmp_path / "new")


@pytest.mark.parametrize("step", ["_unpack", "rewrite_copy", "_move_into_place", "sync_directory"])
def test_a_restore_that_was_killed_can_be_done_again_and_nothing_begins_before(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    made, target = back_up(state), tmp_path / "new"
    original = getattr(restoring, step)

    def killed(*arguments: object) -> None:
        if step != "rewrite_copy":
            original(*arguments)
        raise KeyboardInterrupt

    if step == "_move_into_place":

        def killed(*arguments: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(restoring, step, killed)
    with pytest.raises(KeyboardInterrupt):
        restore_backup(made.path, target)
    with pytest.raises(StoreCorruptError, match="No new one was begun"):
        open_file(target / "state.sqlite3")
    monkeypatch.undo()

    restore_backup(made.path, target)

    assert (room_of(target) / "workspace" / "notes.txt").read_text() == "kept"
    assert not (target / ".restoring").exists()
    open_file(target / "state.sqlite3").close()


def test_what_somebody_put_beside_a_half_restore_is_not_removed(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, target = back_up(state), tmp_path / "new"
    monkeypatch.setattr(restoring, "_move_into_place", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        restore_backup(made.path, target)
    monkeypatch.undo()
    (target / "config.yaml").write_text("mine")

    with pytest.raises(PreconditionError, match=r"config\.yaml"):
        restore_backup(made.path, target)

    assert (target / "config.yaml").read_text() == "mine"


def test_a_full_disk_leaves_no_half_backup(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchestrator.backup.making.ArchiveWriter", lambda _: ArchiveWriter(Full()))
    with pytest.raises(StoreFullError, match="more room"):
        make_backup(state, state.parent / "all.tar", tell=lambda _: None)
    assert [path.name for path in state.parent.iterdir()] == ["state"]


@pytest.mark.parametrize(
    ("target", "words"),
    [("state/all.tar", "must not stand"), ("gone/all.tar", "Make it"), ("there", "is there")],
)
def test_a_place_that_is_none_is_refused(state: Path, target: str, words: str) -> None:
    (state.parent / "there").write_text("mine")
    with pytest.raises(PreconditionError, match=words):
        make_backup(state, state.parent / target, tell=lambda _: None)
    assert (state.parent / "there").read_text() == "mine"


def test_the_command_puts_a_backup_into_a_directory_that_is_not_there_yet(state: Path) -> None:
    made, new = back_up(state), state.parent / "deep" / "new"
    words = ["restore", str(made.path), "--state-dir", str(new), "--expect", made.sha256]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert (room_of(new) / "workspace" / "notes.txt").read_text() == "kept"


def test_a_copy_of_the_database_is_no_whole_backup(state: Path) -> None:
    assert not is_archive(state / "state.sqlite3")
    assert is_archive(back_up(state).path)


def test_names_are_shown_without_what_a_terminal_would_obey() -> None:
    assert printable("a\x1b[2J\udcffb") == "a\\x1b[2J\\udcffb"


def test_what_is_no_rooms_is_left_out_and_told(state: Path) -> None:
    (state / "rooms" / "Notes of mine").mkdir()
    told: list[str] = []
    made = make_backup(state, state.parent / "all.tar", tell=told.append)
    assert "! rooms/Notes of mine: not a room's; left out" in told
    assert not (restored(made) / "rooms" / "Notes of mine").exists()


def test_an_embedded_homeserver_is_in_the_backup_without_its_logs(state: Path) -> None:
    embedded = state / "embedded"
    (embedded / "media" / "local_content").mkdir(parents=True)
    (embedded / "media" / "local_content" / "a-wal-b").write_text("a picture")
    (embedded / "homeserver.log.1").write_text("long")
    with closing(sqlite3.connect(embedded / "homeserver.db")) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE events (id)")
        db.execute("INSERT INTO events VALUES (7)")
        db.commit()
        # What is committed is in the log beside the file, and nobody has moved it in.
        new = restored(back_up(state))
    assert (new / "embedded" / "media" / "local_content" / "a-wal-b").read_text() == "a picture"
    assert not (new / "embedded" / "homeserver.log.1").exists()
    with closing(sqlite3.connect(new / "embedded" / "homeserver.db")) as db:
        assert db.execute("SELECT id FROM events").fetchone() == (7,)


def test_a_backup_that_could_not_be_restored_is_not_left_as_one(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.backup.making.FILES", ("workspace", "home", "unheard-of"))
    (room_of(state) / "unheard-of").mkdir()
    with pytest.raises(StoreCorruptError, match="no backup has an entry"):
        back_up(state)
    assert [path.name for path in state.parent.iterdir()] == ["state"]
