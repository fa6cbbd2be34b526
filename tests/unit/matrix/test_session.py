"""The kept session's file."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.errors import LoginRefusedError, StoreFullError
from orchestrator.matrix.session import SESSION_NAME, load_session, new_session, save_session
from orchestrator.model import UserId

USER = UserId("@agent:x")


def test_what_is_saved_is_loaded_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    session = new_session("https://x", USER, before=None)
    session = session.model_copy(update={"access_token": SecretStr("tok")})
    save_session(tmp_path, session)
    save_session(tmp_path, session)
    assert load_session(tmp_path) == session
    assert (tmp_path / SESSION_NAME).stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [SESSION_NAME]


def test_no_secret_shows_in_its_representation() -> None:
    session = new_session("https://x", USER, before=None)
    session = session.model_copy(update={"access_token": SecretStr("tok-secret")})
    assert "tok-secret" not in repr(session)
    assert session.pickle_key.get_secret_value() not in repr(session)


def test_a_new_device_has_a_new_name_and_keeps_the_key_of_the_key_store() -> None:
    first = new_session("https://x", USER, before=None)
    second = new_session("https://x", USER, before=first)
    assert first.device_id != second.device_id
    assert first.pickle_key == second.pickle_key
    assert not second.has_keys


@pytest.mark.parametrize("content", ["", "{", "[]", '{"user_id": "@a:x"}', '{"extra": 1}'])
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / SESSION_NAME).write_text(content)
    with pytest.raises(LoginRefusedError, match="delete it and set MATRIX_PASSWORD"):
        load_session(tmp_path)
    assert load_session(tmp_path / "elsewhere") is None


def test_a_session_that_finds_no_room_leaves_the_kept_one_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = new_session("https://x", USER, before=None)
    save_session(tmp_path, kept)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreFullError, match="Free some space"):
        save_session(tmp_path, new_session("https://x", USER, before=kept))
    assert load_session(tmp_path) == kept
