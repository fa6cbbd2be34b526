"""The files by which a runner trusts the CA are whole, and a host without a list is told so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.egress import trust
from orchestrator.egress.trust import (
    BUNDLE_NAME,
    CA_NAME,
    find_public_roots,
    remove_trust,
    write_trust,
)
from orchestrator.errors import PreconditionError


def write(directory: Path, ca: bytes = b"ca\n", roots: bytes = b"roots") -> None:
    write_trust(directory, gid=os.getgid(), ca=ca, roots=roots)


def test_the_bundle_is_the_public_list_and_the_ca(tmp_path: Path) -> None:
    write(tmp_path)
    assert (tmp_path / BUNDLE_NAME).read_bytes() == b"roots\nca\n"
    assert (tmp_path / CA_NAME).read_bytes() == b"ca\n"


def test_what_is_as_it_should_be_is_left_alone_and_anything_else_is_replaced(
    tmp_path: Path,
) -> None:
    write(tmp_path)
    first = (tmp_path / CA_NAME).stat().st_ino
    write(tmp_path)
    assert (tmp_path / CA_NAME).stat().st_ino == first
    write(tmp_path, ca=b"other\n")
    assert (tmp_path / CA_NAME).read_bytes() == b"other\n"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [BUNDLE_NAME, CA_NAME]


def test_a_symlink_in_a_files_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    folder = tmp_path / "egress"
    folder.mkdir()
    (folder / CA_NAME).symlink_to(outside)
    write(folder)
    assert outside.read_bytes() == b"mine"
    assert not (folder / CA_NAME).is_symlink()


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="can't be written"):
        write(tmp_path / "nothing")


def test_the_list_that_the_environment_names_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.pem"
    own.write_bytes(b"own list")
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    assert find_public_roots() == b"own list"


def test_a_host_without_a_list_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing"))
    monkeypatch.setattr(trust, "_USUAL_PLACES", ())
    with pytest.raises(PreconditionError, match="ca-certificates"):
        find_public_roots()


@pytest.mark.parametrize("again", [True, False])
def test_what_a_kill_left_half_written_goes_with_the_next_preparation(
    tmp_path: Path, *, again: bool
) -> None:
    (tmp_path / f".{CA_NAME}.new").write_bytes(b"half")
    (tmp_path / f".{BUNDLE_NAME}.new").write_bytes(b"half")
    if again:
        write(tmp_path)
    else:
        remove_trust(tmp_path)
    wanted = [BUNDLE_NAME, CA_NAME] if again else []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == wanted
