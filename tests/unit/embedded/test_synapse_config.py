"""The embedded Synapse's files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from orchestrator.embedded.synapse_config import (
    SynapseSecrets,
    load_or_make_secrets,
    render_config,
    render_log_config,
    save_secrets,
    write_synapse_files,
)
from orchestrator.errors import PreconditionError
from orchestrator.private_file import write_private


def test_secrets_are_made_once_and_then_kept(tmp_path: Path) -> None:
    first, made = load_or_make_secrets(tmp_path)
    second, made_again = load_or_make_secrets(tmp_path)
    assert made
    assert not made_again
    assert second == first


def test_two_installations_share_no_secret(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, _ = load_or_make_secrets(tmp_path / "one")
    other, _ = load_or_make_secrets(tmp_path / "other")
    values = [v.get_secret_value() for held in (one, other) for _, v in held if v is not None]
    assert len(values) == len(set(values)) == 10


def test_the_set_ups_token_survives_being_saved(tmp_path: Path) -> None:
    held, _ = load_or_make_secrets(tmp_path)
    save_secrets(tmp_path, held.model_copy(update={"user_token": SecretStr("syt_1")}))
    again, _ = load_or_make_secrets(tmp_path)
    assert again.user_token is not None
    assert again.user_token.get_secret_value() == "syt_1"


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"user_password": "x"}', b"\xff"])
def test_a_damaged_accounts_file_is_named_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "accounts.json"
    path.write_bytes(content)
    with pytest.raises(PreconditionError, match=r"accounts\.json cannot be used"):
        load_or_make_secrets(tmp_path)
    assert path.read_bytes() == content


def test_a_damaged_accounts_file_does_not_leak_into_the_error(tmp_path: Path) -> None:
    (tmp_path / "accounts.json").write_text('{"user_password": "hunter2"}')
    with pytest.raises(PreconditionError) as caught:
        load_or_make_secrets(tmp_path)
    assert "hunter2" not in str(caught.value)


def test_no_secret_is_in_the_representation_of_the_secrets(tmp_path: Path) -> None:
    held, _ = load_or_make_secrets(tmp_path)
    shown = repr(held)
    assert not any(v.get_secret_value() in shown for _, v in held if v is not None)


def test_everything_written_is_for_this_user_alone(tmp_path: Path) -> None:
    held, _ = load_or_make_secrets(tmp_path)
    write_synapse_files(tmp_path, render_config(tmp_path, port=8008, held=held))
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}
    assert set(modes) == {"accounts.json", "homeserver.yaml", "log.yaml", "signing.key"}


def test_the_signing_key_stays_over_a_second_start(tmp_path: Path) -> None:
    write_synapse_files(tmp_path, "a: 1")
    before = (tmp_path / "signing.key").read_text()
    write_synapse_files(tmp_path, "a: 2")
    assert (tmp_path / "signing.key").read_text() == before
    assert (tmp_path / "homeserver.yaml").read_text() == "a: 2"


def test_the_homeserver_listens_on_loopback_only_and_speaks_to_clients_only(tmp_path: Path) -> None:
    held, _ = load_or_make_secrets(tmp_path)
    config = yaml.safe_load(render_config(tmp_path, port=8123, held=held))
    (listener,) = config["listeners"]
    assert listener["bind_addresses"] == ["127.0.0.1"]
    assert listener["port"] == 8123
    assert listener["resources"] == [{"names": ["client"], "compress": False}]
    assert config["federation_domain_whitelist"] == []
    assert config["trusted_key_servers"] == []
    assert config["enable_registration"] is False
    assert config["report_stats"] is False


def test_the_same_installation_renders_the_same_configuration(tmp_path: Path) -> None:
    held, _ = load_or_make_secrets(tmp_path)
    once = render_config(tmp_path, port=8008, held=held)
    assert once == render_config(tmp_path, port=8008, held=held)
    assert once != render_config(tmp_path, port=8009, held=held)


def test_the_log_is_rotated(tmp_path: Path) -> None:
    handler = yaml.safe_load(render_log_config(tmp_path))["handlers"]["file"]
    assert handler["maxBytes"] * (handler["backupCount"] + 1) <= 8_000_000


def test_a_private_file_is_replaced_whole_and_a_leftover_does_not_stop_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.new").write_text("left by a crash")
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_secrets_compare_by_value() -> None:
    values = dict.fromkeys(SynapseSecrets.model_fields, SecretStr("x"))
    assert SynapseSecrets(**values) == SynapseSecrets(**values)
