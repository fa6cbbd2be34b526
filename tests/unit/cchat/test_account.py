"""Who cchat is on Matrix, and what is said where nothing fits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cchat.account import find_account, login_path
from cchat.session import Session, load_session, save_session
from orchestrator.errors import ConfigError, PreconditionError

ENV = {"CCHAT_HOMESERVER": "https://hs/", "CCHAT_USER_ID": "@a:hs", "CCHAT_PASSWORD": "pass-word"}
EMBEDDED = {
    "homeserver": "http://127.0.0.1:8008",
    "user_id": "@you:localhost",
    "password": "pass-word",
    "room_id": "!r:localhost",
    "agent_user_id": "@claude:localhost",
}


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    (directory / "embedded.json").write_text(json.dumps(EMBEDDED))
    return directory


def _store_login(home: Path) -> None:
    session = Session.model_validate(
        {"homeserver": "https://stored", "user_id": "@s:stored", "access_token": "stored-token"}
    )
    save_session(login_path({}, home), session)


def test_the_environment_goes_before_the_embedded_homeserver_and_that_before_a_login(
    state_dir: Path, tmp_path: Path
) -> None:
    _store_login(tmp_path)
    found = [
        find_account(state_dir, ENV, tmp_path),
        find_account(state_dir, {}, tmp_path),
        find_account(tmp_path / "none", {}, tmp_path),
        find_account(tmp_path / "none", {}, tmp_path / "nobody"),
    ]
    assert [account and account.homeserver for account in found] == [
        "https://hs",
        "http://127.0.0.1:8008",
        "https://stored",
        None,
    ]


def test_the_embedded_account_keeps_its_session_in_the_state_directory(
    state_dir: Path, tmp_path: Path
) -> None:
    account = find_account(state_dir, {}, tmp_path)
    assert account is not None
    assert account.session_path == state_dir / "embedded" / "cchat-session.json"
    assert account.agent_user_id == "@claude:localhost"
    assert account.embedded_in == state_dir
    assert "pass-word" not in repr(account)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"CCHAT_HOMESERVER": ""}, "CCHAT_HOMESERVER: is missing"),
        ({"CCHAT_HOMESERVER": "hs"}, "CCHAT_HOMESERVER: expected an address"),
        ({"CCHAT_USER_ID": ""}, "CCHAT_USER_ID: is missing"),
        ({"CCHAT_USER_ID": "alice"}, "CCHAT_USER_ID: expected a user id"),
        ({"CCHAT_AGENT_USER_ID": "claude"}, "CCHAT_AGENT_USER_ID: expected a user id"),
        ({"CCHAT_PASSWORD": ""}, "CCHAT_PASSWORD: set it or"),
        ({"CCHAT_ACCESS_TOKEN": "t"}, "CCHAT_PASSWORD: set it or CCHAT_ACCESS_TOKEN, not both"),
        ({"CCHAT_PASSWORD_FILE": "/x"}, "CCHAT_PASSWORD: set it or CCHAT_PASSWORD_FILE"),
        ({"CCHAT_PASSWORD": "", "CCHAT_PASSWORD_FILE": "/none/x"}, "cannot be read"),
        ({"CCHAT_PASSWORD": "", "CCHAT_PASSWORD_FILE": os.devnull}, "is empty"),
    ],
)
def test_a_mistake_in_the_environment_is_a_line_without_the_secret(
    change: dict[str, str], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        find_account(tmp_path, ENV | change, tmp_path)
    assert any(problem in line for line in caught.value.problems), caught.value.problems
    assert "pass-word" not in str(caught.value)


def test_a_token_needs_no_user_and_keeps_no_session(tmp_path: Path) -> None:
    env = {"CCHAT_HOMESERVER": "https://hs", "CCHAT_ACCESS_TOKEN": "t-o-k"}
    account = find_account(tmp_path, env, tmp_path)
    assert account is not None
    assert (account.user_id, account.session_path) == (None, None)


def test_two_accounts_of_the_environment_keep_two_sessions(tmp_path: Path) -> None:
    one = find_account(tmp_path, ENV, tmp_path)
    two = find_account(tmp_path, ENV | {"CCHAT_USER_ID": "@b:hs"}, tmp_path)
    assert one is not None
    assert two is not None
    assert one.session_path != two.session_path


@pytest.mark.parametrize("base", ["", "relative"])
def test_only_an_absolute_xdg_directory_counts(base: str, tmp_path: Path) -> None:
    expected = tmp_path / ".config" / "aiagentchat" / "cchat.json"
    assert login_path({"XDG_CONFIG_HOME": base}, tmp_path) == expected
    assert login_path({"XDG_CONFIG_HOME": "/x"}, tmp_path) == Path("/x/aiagentchat/cchat.json")


def test_a_damaged_embedded_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "embedded.json").write_text("{")
    with pytest.raises(PreconditionError, match="damaged"):
        find_account(tmp_path, {}, tmp_path)


@pytest.mark.parametrize("raw", ["", "{", "[]", '{"homeserver": 5}'])
def test_a_damaged_session_is_as_good_as_none(raw: str, tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    path.write_text(raw)
    assert load_session(path) is None


def test_replacing_a_session_narrows_its_rights_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    path.write_text("old")
    path.chmod(0o644)
    session = Session.model_validate(
        {"homeserver": "h", "user_id": "@a:h", "access_token": "t-o-k", "device_id": "D"}
    )
    save_session(path, session)
    assert load_session(path) == session
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["session.json"]
