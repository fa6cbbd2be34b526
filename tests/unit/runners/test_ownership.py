"""The rooms' files follow an installation to an engine with other uids, and nothing else does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.core.naming import room_uid
from orchestrator.errors import PreconditionError
from orchestrator.model import InstallationId
from orchestrator.runners.ownership import change_owner, note_first_uid, read_first_uids
from orchestrator.runners.workdir import prepare_room_dirs

INSTALLATION = InstallationId("0123456789abcdef")
PLAIN = room_uid(INSTALLATION, 0)
OLD, NEW, OTHER = 263845, 1073741829, 555
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def test_the_engines_that_an_installation_had_are_remembered(tmp_path: Path) -> None:
    assert read_first_uids(tmp_path, INSTALLATION) == (PLAIN,)
    assert note_first_uid(tmp_path, INSTALLATION, PLAIN) == frozenset()
    assert note_first_uid(tmp_path, INSTALLATION, 116384) == {PLAIN}
    assert note_first_uid(tmp_path, INSTALLATION, 247456) == {PLAIN, 116384}
    assert note_first_uid(tmp_path, INSTALLATION, PLAIN) == {116384, 247456}
    assert read_first_uids(tmp_path, INSTALLATION) == (PLAIN, 247456, 116384)
    assert note_first_uid(tmp_path, INSTALLATION, 116384) == {PLAIN, 247456}


@pytest.mark.parametrize("text", ["", "{", "{}", '["1"]', "[0]", "[-1]", "[true]", "[1.5]"])
def test_a_damaged_memory_is_an_error_and_no_guess(tmp_path: Path, text: str) -> None:
    (tmp_path / "first-uids.json").write_text(text)
    with pytest.raises(PreconditionError, match=r"first-uids\.json"):
        read_first_uids(tmp_path, INSTALLATION)


@needs_root
def test_a_rooms_files_are_handed_over_with_all_that_is_inside(tmp_path: Path) -> None:
    dirs = prepare_room_dirs(tmp_path / "slug", OLD, OLD)
    deep = dirs.workspace / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    for path in (dirs.workspace / "a", deep, deep / "file"):
        os.chown(path, OLD, OLD)
    again = prepare_room_dirs(tmp_path / "slug", NEW, NEW, former=frozenset({OLD}))
    assert again == dirs
    for path in (dirs.workspace, dirs.workspace / "a", deep, deep / "file", dirs.home):
        assert owner(path) == (NEW, NEW)
    assert owner(dirs.egress) == (0, NEW)


@needs_root
def test_without_a_memory_of_it_another_uids_directory_is_refused_as_ever(tmp_path: Path) -> None:
    dirs = prepare_room_dirs(tmp_path / "slug", OLD, OLD)
    with pytest.raises(PreconditionError, match="another room's"):
        prepare_room_dirs(tmp_path / "slug", NEW, NEW, former=frozenset({OLD + 1}))
    assert owner(dirs.workspace) == (OLD, OLD)


@needs_root
def test_what_a_hostile_room_left_in_its_files_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    os.chown(outside / "secret", OLD, OLD)
    dirs = prepare_room_dirs(tmp_path / "slug", OLD, OLD)
    (dirs.workspace / "link").symlink_to(outside)
    (dirs.workspace / "file-link").symlink_to(outside / "secret")
    (dirs.workspace / "-R").write_text("an option's name")
    (dirs.workspace / "root's").write_text("x")
    os.mkfifo(dirs.workspace / "fifo")
    os.chown(dirs.workspace / "fifo", OLD, OLD)
    (dirs.workspace / "setuid").write_text("x")
    os.chown(dirs.workspace / "setuid", OLD, OLD)
    (dirs.workspace / "setuid").chmod(0o4755)
    for name in ("link", "file-link"):
        os.chown(dirs.workspace / name, OLD, OLD, follow_symlinks=False)
    prepare_room_dirs(tmp_path / "slug", NEW, NEW, former=frozenset({OLD}))
    assert owner(outside / "secret") == (OLD, OLD)
    assert owner(outside) == (0, 0)
    assert owner(dirs.workspace / "root's") == (0, 0)
    assert owner(dirs.workspace / "link") == owner(dirs.workspace / "fifo") == (NEW, NEW)
    assert not (dirs.workspace / "setuid").stat().st_mode & 0o4000


@needs_root
def test_a_tree_deeper_than_any_path_or_descriptor_table_is_handed_over(tmp_path: Path) -> None:
    dirs = prepare_room_dirs(tmp_path / "slug", OLD, OLD)
    here = os.open(dirs.workspace, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        os.fchown(below, OLD, OLD)
        here = below
    try:
        prepare_room_dirs(tmp_path / "slug", NEW, NEW, former=frozenset({OLD}))
        assert os.fstat(here).st_uid == NEW
    finally:
        os.close(here)
        # Python's own rmtree, by which pytest tidies up, would not come to the end of it.
        subprocess.run(["rm", "-rf", dirs.workspace / "d"], check=True)


@needs_root
def test_a_hand_over_that_was_cut_short_is_finished_by_the_next(tmp_path: Path) -> None:
    dirs = prepare_room_dirs(tmp_path / "slug", OLD, OLD)
    for name, uid in (("done", NEW), ("not-yet", OLD)):
        (dirs.workspace / name).write_text("x")
        os.chown(dirs.workspace / name, uid, uid)
    prepare_room_dirs(tmp_path / "slug", NEW, NEW, former=frozenset({OLD}))
    assert owner(dirs.workspace / "done") == owner(dirs.workspace / "not-yet") == (NEW, NEW)


@needs_root
def test_a_directory_that_can_not_be_handed_over_is_an_error(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        # It is root's, not OLD's: nothing is done, and that is told.
        with pytest.raises(PreconditionError, match="could not all be handed"):
            change_owner(folder, old=OTHER, uid=NEW, gid=NEW)
    finally:
        os.close(folder)
    assert owner(tmp_path) == (0, 0)
