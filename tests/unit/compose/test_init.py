"""init.sh, and Synapse's configuration: secrets are made once, each for its reader."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.compose import COMPOSE, run


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Where the volumes would be, and a `chown` that only notes what it is asked for."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "chown").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/owners\n')
    (commands / "chown").chmod(0o755)
    return tmp_path / "made"


def init(made: Path, profile: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{made.parent}/bin:{os.environ['PATH']}"
    given = {"SERVER_NAME": "example.org", "PUBLIC_URL": "https://m.example.org", **env}
    return run("sh", str(COMPOSE / "init.sh"), profile, MADE=str(made), PATH=path, **given)


def contents(made: Path) -> dict[str, str]:
    files = (path for path in made.rglob("*") if path.is_file())
    return {str(path.relative_to(made)): path.read_text() for path in files}


def test_secrets_are_made_once_each_for_its_reader_alone(made: Path) -> None:
    for profile in ("homeserver", "observability"):
        done = init(made, profile)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
    first = contents(made)
    assert set(first) == {
        "grafana/admin",
        "postgres/password",
        *(f"synapse/{n}" for n in ("form", "macaroon", "pgpass", "registration")),
        *("synapse/server.yaml", "synapse/signing.key"),
    }
    for name in first:
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o600, name
    values = [text for name, text in first.items() if name != "synapse/server.yaml"]
    assert len(set(values)) == len(values)
    assert all(len(text.strip()) >= 40 for text in values)
    assert first["synapse/pgpass"].split(":")[-1] == first["postgres/password"]
    owners = (made.parent / "owners").read_text()
    assert f"999:999 {made}/postgres/password.new" in owners
    assert f"472:0 {made}/grafana/admin.new" in owners
    for profile in ("homeserver", "observability"):
        assert init(made, profile).returncode == 0
    assert contents(made) == first


def test_a_homeservers_name_stays_and_its_address_may_change(made: Path) -> None:
    assert init(made, "homeserver").returncode == 0
    done = init(made, "homeserver", SERVER_NAME="other.org")
    assert done.returncode == 1
    assert "set it back" in done.stderr
    assert init(made, "homeserver", PUBLIC_URL="https://new.example.org/").returncode == 0
    server = yaml.safe_load((made / "synapse" / "server.yaml").read_text())
    assert server == {"server_name": "example.org", "public_baseurl": "https://new.example.org/"}


@pytest.mark.parametrize(
    "env",
    [
        {"SERVER_NAME": 'a"\nadmin: true'},
        {"SERVER_NAME": ""},
        {"PUBLIC_URL": "m.example.org"},
        {"PUBLIC_URL": 'https://x" y'},
    ],
)
def test_a_name_that_would_be_more_than_a_name_is_refused(made: Path, env: dict[str, str]) -> None:
    done = init(made, "homeserver", **env)
    assert done.returncode != 0
    assert contents(made) == {}


def test_the_signing_key_is_one_that_synapse_reads(made: Path) -> None:
    signedjson = pytest.importorskip("signedjson.key", reason="Synapse is not installed")
    assert init(made, "homeserver").returncode == 0
    with (made / "synapse" / "signing.key").open() as file:
        keys = signedjson.read_signing_keys(file)
    assert [(key.alg, key.version) for key in keys] == [("ed25519", "a_1")]


_PARSE = """
import json, sys
from synapse.config.homeserver import HomeServerConfig
config = HomeServerConfig.load_config("", sys.argv[1:])
print(json.dumps([
    config.server.server_name,
    config.registration.registration_shared_secret,
    config.registration.enable_registration,
    config.federation.federation_domain_whitelist,
    config.key.macaroon_secret_key.decode(),
]))
"""


def test_synapse_takes_its_configuration(made: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("synapse") is None:
        pytest.skip("Synapse is not installed")
    assert init(made, "homeserver").returncode == 0
    text = (COMPOSE / "synapse" / "homeserver.yaml").read_text()
    text = text.replace("/run/secrets", str(made / "synapse")).replace("/data", str(tmp_path))
    text = text.replace("/config/", f"{COMPOSE / 'synapse'}/")
    # The driver of PostgreSQL is in Synapse's image, not here.
    text = re.sub(r"database:\n(  .*\n)+", "database: {name: sqlite3}\n", text)
    (tmp_path / "homeserver.yaml").write_text(text)
    files = (tmp_path / "homeserver.yaml", made / "synapse" / "server.yaml")
    done = run(sys.executable, "-c", _PARSE, *(f"-c{path}" for path in files))
    assert done.returncode == 0, done.stderr
    secrets = [
        (made / "synapse" / name).read_text().strip() for name in ("registration", "macaroon")
    ]
    found = json.loads(done.stdout)
    assert found == ["example.org", secrets[0], False, {}, secrets[1]]
