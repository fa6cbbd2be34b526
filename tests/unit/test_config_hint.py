"""What is named in the configuration and can't be reached all the same is told when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.config import parse_config
from orchestrator.config_hint import unreachable_addresses
from orchestrator.main import app

MATRIX = {"homeserver": "https://matrix.example.org", "user_id": "@claude:example.org"}


def hints(egress: object, rooms: object = None) -> list[str]:
    data = {"matrix": MATRIX, "defaults": {"egress": egress}, "rooms": rooms or {}}
    return unreachable_addresses(parse_config(data, source="c.yaml"))


@pytest.mark.parametrize(
    ("egress", "named"),
    [
        ({"hosts": {"git.test": "10.1.2.3"}}, "hosts.git.test: 10.1.2.3"),
        ({"hosts": {"git.test": "fd00::1"}, "internal": ["10.0.0.0/8"]}, "hosts.git.test: fd00::1"),
        ({"allow": ["127.0.0.1:8443"]}, "allow: 127.0.0.1:8443"),
        ({"allow": ["[fd00::1]"]}, "allow: [fd00::1]"),
        ({"hosts": {"git.test": "10.1.2.3"}, "internal": ["10.1.0.0/16"]}, None),
        ({"allow": ["10.1.2.3"], "internal": ["10.1.2.3/32"]}, None),
        ({"allow": ["1.1.1.1", "a.test", "*.a.test"], "hosts": {"a.test": "1.1.1.1"}}, None),
    ],
)
def test_an_address_that_stays_refused_is_named_once(egress: object, named: str | None) -> None:
    found = hints(egress, {"#a:b": {"timeout_s": 9}})
    assert len(found) == (named is not None)
    assert all(line.startswith(f"defaults.egress.{named}: is not a public") for line in found)


def test_a_room_is_named_with_what_is_its_own() -> None:
    room = {"egress": {"hosts": {"git.test": "10.1.2.3"}}}
    (line,) = hints({"allow": ["git.test"]}, {"#a:b": room})
    assert line.startswith("rooms.#a:b.egress.hosts.git.test: 10.1.2.3: ")
    assert hints({"internal": ["10.0.0.0/8"]}, {"#a:b": room}) == []


def test_config_check_tells_of_it(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "matrix: {homeserver: 'https://m.example', user_id: '@c:m.example'}\n"
        "defaults: {egress: {allow: [git.test], hosts: {git.test: 10.1.2.3}}}\n"
    )
    result = CliRunner().invoke(app, ["config", "check", str(file)])
    assert result.exit_code == 0
    assert "until egress.internal names its network" in result.output
