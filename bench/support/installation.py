"""An installation of the bench's own: started, shared by all measurements, gone at the end."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import yaml

from bench.support.cli_alone import PERMISSIONS, Parts
from bench.support.room import Person, TimedApi, open_person, open_timed_api
from orchestrator.control.models import RunnerView
from orchestrator.embedded.synapse_config import CONFIG_NAME
from orchestrator.embedded.synapse_process import find_running
from orchestrator.model import JsonObject, JsonValue, Permissions
from tests.support.containers import find_containers, remove_containers
from tests.support.orchestrator import Orchestrator, open_orchestrator
from tests.support.port import free_port

POLL_S = 0.02
# The file comes milliseconds after the control socket says that all is in step.
_FILE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """An installation that runs, a person on it, and what it is compared with."""

    client: docker.DockerClient
    parts: Parts
    orchestrator: Orchestrator
    api: TimedApi
    person: Person

    @property
    def state_dir(self) -> Path:
        """The installation's state directory."""
        return self.orchestrator.state_dir

    async def runner_of(self, room: str) -> RunnerView:
        """What the control socket says of the room's runner.

        Raises:
            AiAgentChatError: it does not answer.
            LookupError: it does not know of a runner of this room.
        """
        for view in await self.orchestrator.runners():
            if view.room_id == room:
                return view
        msg = f"no runner of {room}"
        raise LookupError(msg)


@asynccontextmanager
async def open_bench(
    image: str, claude: Path, *, permissions: Permissions = PERMISSIONS, **sections: JsonValue
) -> AsyncIterator[Bench]:
    """An installation in a new directory; at exit its processes, containers and files are gone.

    `sections` are added to its configuration.
    """
    with contextlib.closing(docker.from_env()) as client, _new_directory() as directory:
        try:
            async with (
                open_timed_api() as api,
                open_orchestrator(
                    directory,
                    *("--embedded", "--port", str(free_port())),
                    *("--config", str(_write_config(directory, sections))),
                    *("--permissions", permissions.value),
                    env={"ANTHROPIC_BASE_URL": api.base_url},
                ) as orchestrator,
            ):
                say("starting the orchestrator")
                await orchestrator.start()
                await _wait_for_file(orchestrator.state_dir / "embedded.json")
                parts = Parts(
                    claude=claude,
                    image=image,
                    api_url=api.base_url,
                    directory=directory / "alone",
                )
                async with open_person(orchestrator.state_dir) as person:
                    await person.lift_limit()
                    yield Bench(
                        client=client,
                        parts=parts,
                        orchestrator=orchestrator,
                        api=api,
                        person=person,
                    )
        finally:
            await _clean_up(client, directory)


def say(text: str) -> None:
    """Progress, for a person who waits."""
    print(f"· {text}", file=sys.stderr, flush=True)


def _write_config(directory: Path, sections: JsonObject) -> Path:
    """The defaults; with a file, the log is the one that an operator has."""
    path = directory / "config.yaml"
    log: JsonObject = {"log_level": "INFO", "log_format": "json", "metrics": None}
    path.write_text(yaml.safe_dump({"observability": log, **sections}))
    return path


@contextlib.contextmanager
def _new_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="aiagentchat-bench-") as name:
        yield Path(name).resolve()


async def _clean_up(client: docker.DockerClient, directory: Path) -> None:
    """Containers, and a Synapse whose orchestrator was killed and not started again."""
    home = directory / "state" / "embedded"
    for synapse in find_running(home, home / CONFIG_NAME):
        await synapse.stop()
        synapse.close()
    await asyncio.to_thread(lambda: remove_containers(find_containers(client, directory)))


async def _wait_for_file(path: Path) -> None:
    async with asyncio.timeout(_FILE_S):
        # It is another program's file: there is no event for it.
        while not path.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(POLL_S)
