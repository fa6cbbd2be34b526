"""What a room's plain directories hold, counted among hostile content."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from orchestrator.core.disk import most_files
from orchestrator.runners import disk_measure
from orchestrator.runners.disk_measure import measure

MIB = 1 << 20


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    found = tmp_path / "workspace", tmp_path / "home"
    for folder in found:
        folder.mkdir()
    return found


def test_both_directories_count_as_what_they_take_on_the_disk(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        (folder / "a").mkdir()
        (folder / "a" / "f").write_bytes(os.urandom(MIB))
    usage = measure(folders, 10 * MIB)
    assert 2 * MIB <= usage.used_bytes < 2 * MIB + 65536
    assert usage.files == 4
    assert (usage.limit_bytes, usage.limit_files) == (10 * MIB, most_files(10 * MIB))
    assert not usage.is_enforced


def test_a_hard_link_is_counted_once_and_a_sparse_file_by_its_blocks(
    folders: tuple[Path, Path],
) -> None:
    (folders[0] / "f").write_bytes(os.urandom(MIB))
    for number in range(20):
        os.link(folders[0] / "f", folders[1] / f"n{number}")
    os.truncate(folders[0] / "f", 1 << 40)
    usage = measure(folders, 10 * MIB)
    assert MIB <= usage.used_bytes < MIB + 65536
    assert usage.files == 1


def test_symlinks_fifos_and_sockets_are_neither_followed_nor_opened(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big").write_bytes(bytes(MIB))
    (folders[0] / "up").symlink_to("..")
    (folders[0] / "root").symlink_to("/")
    (folders[0] / "out").symlink_to(outside)
    os.mkfifo(folders[0] / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folders[1] / "s"))
    usage = measure(folders, 10 * MIB)
    assert usage.files == 5
    assert usage.used_bytes < 65536


def test_a_symlink_in_a_directorys_own_place_is_not_followed(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    folders[0].rmdir()
    folders[0].symlink_to("/usr")
    assert measure(folders, 10 * MIB).files == 0


def test_more_entries_than_anybody_needs_count_as_far_too_many_and_cost_no_more(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_measure, "most_files", lambda _: 10)
    for number in range(200):
        (folders[0] / f"{number}").touch()
    usage = measure(folders, 10 * MIB)
    assert usage.is_hopeless
    assert usage.files == 21


def test_what_is_too_deep_to_look_into_could_be_anything_and_no_turn_is_taken_on_it(
    folders: tuple[Path, Path],
) -> None:
    at = os.open(folders[0], os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    usage = measure(folders, 10 * MIB)
    assert usage.is_over
    assert usage.is_hopeless


def test_counting_that_takes_too_long_counts_as_too_many_files(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_measure, "_LONGEST_S", -1.0)
    (folders[0] / "f").touch()
    usage = measure(folders, 10 * MIB)
    assert usage.is_over
    assert not usage.is_hopeless


def test_what_vanishes_or_can_not_be_read_is_passed_over(folders: tuple[Path, Path]) -> None:
    folders[1].rmdir()
    (folders[0] / "f").touch()
    assert measure(folders, 10 * MIB).files == 1
