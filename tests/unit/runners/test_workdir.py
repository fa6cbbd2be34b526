"""A room's directories: their owners and modes, and that no symlink is followed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orchestrator.errors import PreconditionError
from orchestrator.runners.workdir import prepare_policy_dir, prepare_room_dirs

UID, GID = 1073741825, 1073741826
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")


def facts(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


@needs_root
def test_each_directory_has_the_owner_and_the_mode_that_the_runner_needs(tmp_path: Path) -> None:
    root = tmp_path / "rooms" / "slug"
    dirs = prepare_room_dirs(root, UID, GID)
    assert facts(root) == (0, 0, 0o700)
    assert facts(dirs.workspace) == (UID, GID, 0o700)
    assert facts(dirs.home) == (UID, GID, 0o700)
    assert facts(dirs.egress) == (0, GID, 0o750)


@needs_root
def test_doing_it_again_changes_nothing_and_keeps_what_is_inside(tmp_path: Path) -> None:
    first = prepare_room_dirs(tmp_path / "slug", UID, GID)
    (first.workspace / "kept").write_text("x")
    before = facts(first.workspace)
    assert prepare_room_dirs(tmp_path / "slug", UID, GID) == first
    assert facts(first.workspace) == before
    assert (first.workspace / "kept").read_text() == "x"


@needs_root
def test_a_half_made_directory_of_roots_is_finished(tmp_path: Path) -> None:
    (tmp_path / "slug" / "workspace").mkdir(parents=True)
    dirs = prepare_room_dirs(tmp_path / "slug", UID, GID)
    assert facts(dirs.workspace) == (UID, GID, 0o700)


@needs_root
@pytest.mark.parametrize("name", ["workspace", "home", "egress"])
def test_a_symlink_in_a_directorys_place_is_refused_and_its_target_untouched(
    tmp_path: Path, name: str
) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    root = tmp_path / "slug"
    root.mkdir()
    (root / name).symlink_to(target)
    before = facts(target)
    with pytest.raises(PreconditionError, match=name):
        prepare_room_dirs(root, UID, GID)
    assert facts(target) == before


@needs_root
def test_a_symlink_in_the_rooms_own_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "slug").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PreconditionError):
        prepare_room_dirs(tmp_path / "slug", UID, GID)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@needs_root
def test_a_file_in_a_directorys_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slug").mkdir()
    (tmp_path / "slug" / "home").write_text("not a directory")
    with pytest.raises(PreconditionError, match="home"):
        prepare_room_dirs(tmp_path / "slug", UID, GID)


@needs_root
def test_another_rooms_directory_is_never_handed_over(tmp_path: Path) -> None:
    prepare_room_dirs(tmp_path / "slug", UID, GID)
    with pytest.raises(PreconditionError, match="another room's"):
        prepare_room_dirs(tmp_path / "slug", UID + 1, GID + 1)
    assert facts(tmp_path / "slug" / "workspace") == (UID, GID, 0o700)


def test_without_root_the_error_says_that_root_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PreconditionError, match="Run the orchestrator as root"):
        prepare_room_dirs(tmp_path / "slug", UID, GID)
    assert not (tmp_path / "slug").exists()


# ---- the CLI's policy


@needs_root
def test_a_policy_is_roots_readable_by_the_room_and_named_by_what_it_says(tmp_path: Path) -> None:
    prepare_room_dirs(tmp_path / "slug", UID, GID)
    first = prepare_policy_dir(tmp_path / "slug", '{"a": 1}')
    other = prepare_policy_dir(tmp_path / "slug", '{"a": 2}')
    assert first is not None
    assert other is not None
    assert first != other
    assert facts(first) == (0, 0, 0o755)
    assert facts(first / "managed-settings.json") == (0, 0, 0o644)
    assert (first / "managed-settings.json").read_text() == '{"a": 1}'
    assert [file.name for file in first.iterdir()] == ["managed-settings.json"]


def test_a_room_without_a_policy_of_its_own_gets_no_directory(tmp_path: Path) -> None:
    assert prepare_policy_dir(tmp_path, None) is None
    assert list(tmp_path.iterdir()) == []


@needs_root
@pytest.mark.parametrize("text", [None, "", "{", '{"a": 2}'])
def test_a_policy_that_is_missing_cut_or_changed_is_made_whole_before_it_is_used(
    tmp_path: Path, text: str | None
) -> None:
    folder = prepare_policy_dir(tmp_path, '{"a": 1}')
    assert folder is not None
    file = folder / "managed-settings.json"
    file.unlink() if text is None else file.write_text(text)
    assert prepare_policy_dir(tmp_path, '{"a": 1}') == folder
    assert file.read_text() == '{"a": 1}'


@needs_root
def test_a_policy_that_is_right_is_not_written_again_under_a_running_cli(tmp_path: Path) -> None:
    folder = prepare_policy_dir(tmp_path, "{}")
    assert folder is not None
    before = (folder / "managed-settings.json").stat()
    prepare_policy_dir(tmp_path, "{}")
    after = (folder / "managed-settings.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
