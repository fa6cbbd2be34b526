"""Which installation a proxy serves, and a place that does not keep it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.model import InstallationId
from orchestrator.socket_proxy.container import RefusedError
from orchestrator.socket_proxy.pin import Pin

MINE = InstallationId("0123456789abcdef")


def test_the_first_one_is_served_for_good(tmp_path: Path) -> None:
    assert Pin(tmp_path).read() is None
    assert Pin(tmp_path).check(MINE) == MINE
    assert Pin(tmp_path).read() == MINE
    with pytest.raises(RefusedError, match="serves the installation"):
        Pin(tmp_path).check(InstallationId("f" * 16))
    assert Pin(tmp_path).read() == MINE


def test_a_place_that_keeps_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="can't be written: No such file"):
        Pin(tmp_path / "missing").check(MINE)
    (tmp_path / "installation").mkdir()
    with pytest.raises(RefusedError, match="can't be read: Is a directory"):
        Pin(tmp_path).check(MINE)


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"../../etc", b"0123456789abcdef x"])
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "installation").write_bytes(text)
    with pytest.raises(RefusedError):
        Pin(tmp_path).check(MINE)
