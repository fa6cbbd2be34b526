"""An installation on real parts: Synapse, the Docker Engine, the real CLI, a scripted API."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nio
import pytest

from tests.support.encrypted_user import open_encrypted_user
from tests.support.matrix_user import MatrixUser, open_matrix_user
from tests.support.messages_api import ScriptedApi, open_scripted_api
from tests.support.orchestrator import Orchestrator, open_orchestrator, write_config
from tests.support.synapse import Account, SynapseServer


class Installation:
    """An orchestrator, its agent's account, a person, and the API that the agent asks."""

    def __init__(
        self,
        directory: Path,
        server: SynapseServer,
        api: ScriptedApi,
        agent: Account,
        stack: AsyncExitStack,
    ) -> None:
        self.directory = directory
        self.server = server
        self.api = api
        self.agent = agent
        self._stack = stack
        self.env: dict[str, str] = {}
        """More variables for the orchestrator, for instance DOCKER_HOST."""
        self.config_path = directory / "config.yaml"
        self.orchestrator: Orchestrator

    async def configure(
        self, *, env: Mapping[str, str] | None = None, **sections: Any
    ) -> Orchestrator:
        """Write the configuration; permissions are `bypass` unless said otherwise."""
        config = write_config(
            self.config_path,
            homeserver=self.server.base_url,
            user_id=self.agent.user_id,
            upstream=self.api.base_url,
            **{"defaults": {"permissions": "bypass"}, **sections},
        )
        self.orchestrator = await self._stack.enter_async_context(
            open_orchestrator(
                self.directory,
                "--config",
                str(config),
                env={"MATRIX_PASSWORD": self.agent.password, **self.env, **(env or {})},
            )
        )
        return self.orchestrator

    async def person(self, name: str = "alice") -> MatrixUser:
        """A new user at a plain HTTP client."""
        account = self.server.register(f"{name}-{secrets.token_hex(4)}")
        return await self._stack.enter_async_context(
            open_matrix_user(self.server.base_url, account)
        )

    async def room(self, person: MatrixUser, *others: str, name: str = "test") -> str:
        """A room of the person's with the agent in it."""
        room_id = await person.create_room(self.agent.user_id, *others, name=name)
        await person.wait_for_member(room_id, self.agent.user_id)
        return room_id


@pytest.fixture
async def installation(tmp_path: Path, synapse: SynapseServer) -> AsyncIterator[Installation]:
    """Not configured and not started: `configure`, then `orchestrator.start`."""
    agent = synapse.register(f"claude-{secrets.token_hex(4)}")
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(open_scripted_api())
        yield Installation(tmp_path, synapse, api, agent, stack)


@pytest.fixture
async def person(installation: Installation, tmp_path: Path) -> AsyncIterator[nio.AsyncClient]:
    """A logged-in client with encryption."""
    async with open_encrypted_user(installation.server, tmp_path) as client:
        yield client
