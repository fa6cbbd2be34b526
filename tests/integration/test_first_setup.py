"""`orchestrator init` at a real Synapse: what it asks, what it refuses, what it writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.config import load_config, load_secrets
from orchestrator.embedded.offline_model import open_offline_model
from orchestrator.errors import ConfigError, PreconditionError
from orchestrator.first_setup import FirstSetup, Given, Terminal
from tests.support.orchestrator import ORCHESTRATOR
from tests.support.synapse import SynapseServer

pytestmark = [pytest.mark.docker, pytest.mark.synapse]

ADMIN = "@alice:synapse.test"
KEY = SecretStr("sk-ant-api03-something")


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    async with open_offline_model() as found:
        yield found


class Person:
    """Answers questions, in order."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, bool]] = []
        self.read: list[str] = []

    def terminal(self) -> Terminal:
        def ask(question: str, is_secret: bool) -> str:
            self.asked.append((question, is_secret))
            return self._answers.pop(0)

        return Terminal(say=self.read.append, ask=ask)


NOBODY = Terminal(say=lambda _: None, ask=None)


async def test_a_person_is_asked_until_each_answer_works(
    tmp_path: Path, synapse: SynapseServer, upstream: str
) -> None:
    agent = synapse.register()
    alice = Person(
        "http://127.0.0.1:9",
        synapse.base_url,
        "claude",
        agent.user_id,
        "wrong",
        agent.password,
        "alice",
        ADMIN,
        KEY.get_secret_value(),
    )
    written = await FirstSetup(
        Given(folder=tmp_path / "new", upstream=upstream), alice.terminal()
    ).run()

    config = load_config(tmp_path / "new" / "config.yaml")
    assert config.matrix.homeserver == synapse.base_url
    assert config.matrix.user_id == agent.user_id
    assert config.access.admins == (ADMIN,)
    assert config.anthropic.upstream == upstream
    lines = (tmp_path / "new" / "aiagentchat.env").read_text().split()
    secrets = load_secrets(dict(line.split("=", 1) for line in lines))
    assert secrets.values() == [agent.password, KEY.get_secret_value()]
    assert [path.stat().st_mode & 0o777 for path in written] == [0o600] * 4
    assert (tmp_path / "new" / "secrets").stat().st_mode & 0o777 == 0o700
    hidden = [question for question, is_secret in alice.asked if is_secret]
    assert len(hidden) == 3, "the password twice, and the key"
    read = "\n".join(alice.read)
    assert read.count("FAIL") == 4
    for secret in (agent.password, KEY.get_secret_value()):
        assert secret not in read
        assert secret not in (tmp_path / "new" / "config.yaml").read_text()


async def test_the_account_is_made_with_the_registration_secret(
    tmp_path: Path, synapse: SynapseServer, upstream: str
) -> None:
    def given(secret: str, name: str = "newcomer") -> Given:
        return Given(
            folder=tmp_path / "new",
            homeserver=synapse.base_url,
            user_id=f"@{name}:{synapse.server_name}",
            registration_secret=SecretStr(secret),
            admin=ADMIN,
            credential=KEY,
            upstream=upstream,
        )

    with pytest.raises(ConfigError, match="registration_shared_secret"):
        await FirstSetup(given("wrong"), NOBODY).run()
    assert not (tmp_path / "new").exists()
    await FirstSetup(given(synapse.shared_secret), NOBODY).run()
    password = (tmp_path / "new" / "secrets" / "matrix_password").read_text().strip()
    again = Given(
        folder=tmp_path / "again",
        homeserver=synapse.base_url,
        user_id=f"@newcomer:{synapse.server_name}",
        password=SecretStr(password),
        admin=ADMIN,
        credential=KEY,
        upstream=upstream,
    )
    await FirstSetup(again, NOBODY).run()
    other = given(synapse.shared_secret)
    other = Given(**{**_fields(other), "folder": tmp_path / "third"})
    with pytest.raises(ConfigError, match="exists already"):
        await FirstSetup(other, NOBODY).run()


async def test_an_account_is_made_only_once_all_else_is_well(
    tmp_path: Path, synapse: SynapseServer, upstream: str
) -> None:
    given = Given(
        folder=tmp_path / "new",
        homeserver=synapse.base_url,
        user_id=f"@later:{synapse.server_name}",
        registration_secret=SecretStr(synapse.shared_secret),
        admin=ADMIN,
        credential=KEY,
        upstream="http://127.0.0.1:9",
    )
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY"):
        await FirstSetup(given, NOBODY).run()
    await FirstSetup(Given(**{**_fields(given), "upstream": upstream}), NOBODY).run()


def _fields(given: Given) -> dict[str, object]:
    return {name: getattr(given, name) for name in Given.__slots__}


@pytest.mark.parametrize("there", ["config.yaml", "aiagentchat.env", "secrets"])
async def test_nothing_that_is_there_is_written_over(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(PreconditionError, match="is there already"):
        await FirstSetup(Given(folder=tmp_path), NOBODY).run()
    assert (tmp_path / there).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


async def run_init(*arguments: str, env: Mapping[str, str]) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR,
        *("init", *arguments),
        env={"PATH": os.environ["PATH"], **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_as_a_command_without_anybody_there(
    tmp_path: Path, synapse: SynapseServer, upstream: str
) -> None:
    agent = synapse.register()
    folder = str(tmp_path / "new")
    where = ("--folder", folder, "--homeserver", synapse.base_url, "--user-id", agent.user_id)
    env = {
        "MATRIX_PASSWORD": agent.password,
        "ANTHROPIC_API_KEY": "sk-ant-x",
        "ANTHROPIC_BASE_URL": upstream,
    }
    code, _, err = await run_init(*where, env=env)
    assert code == 2
    assert "--admin: not given" in err
    code, out, err = await run_init(*where, "--admin", ADMIN, env=env)
    assert (code, err) == (0, "")
    assert f"wrote {folder}/config.yaml" in out
    assert out.splitlines()[-1].endswith(f"up --config {folder}/config.yaml")
    code, _, err = await run_init(*where, "--admin", ADMIN, env=env)
    assert code == 3
    assert "is there already" in err
