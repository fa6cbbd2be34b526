"""What all tests share: a real Synapse, and containers that are described and removed.

Testcontainers' own clean-up container would be pulled from a registry; ours goes by label instead.
"""

from __future__ import annotations

import os
import signal

# Read when testcontainers is imported.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

from tests.support.containers import (
    describe_containers,
    find_containers,
    find_runners,
    remove_containers,
)
from tests.support.mounts import unmount_below
from tests.support.synapse import SynapseServer, run_synapse

_ON_REAL_PARTS = ("docker", "synapse")
_BASE = pytest.StashKey[Path]()


def pytest_configure() -> None:
    """Let what the tests start end by Ctrl-C.

    A background job or nohup starts us with some signals ignored, and children inherit that.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def synapse() -> Iterator[SynapseServer]:
    """A Synapse whose rate limits are raised out of the way."""
    with run_synapse(stock_limits=False) as server:
        yield server


@pytest.fixture(scope="session")
def stock_synapse() -> Iterator[SynapseServer]:
    """A Synapse with its own limits of messages; those of logins would hold up who comes sixth."""
    with run_synapse(stock_limits=True, only_messages=True) as server:
        yield server


@pytest.fixture
def own_synapse() -> Iterator[SynapseServer]:
    """A Synapse for one test alone, which may stop, freeze or kill it."""
    with run_synapse(stock_limits=False) as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def _remove_containers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """At the end of the session nothing of it is left in the engine."""
    request.config.stash[_BASE] = tmp_path_factory.getbasetemp()
    yield
    if any(_is_on_real_parts(item) for item in request.session.items):
        with _engine() as client:
            remove_containers(find_containers(client, request.config.stash[_BASE]))
        unmount_below(request.config.stash[_BASE])


@pytest.fixture(autouse=True)
def _remove_runners(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test the runners of the orchestrators that it started are gone."""
    yield
    path = request.node.funcargs.get("tmp_path")
    if path is not None and _is_on_real_parts(request.node):
        with _engine() as client:
            remove_containers(find_runners(client, path))
        unmount_below(path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the containers say to the report of a test that failed on real parts."""
    report = yield
    if report.failed and _is_on_real_parts(item):
        report.sections.append(("containers of this session", _describe_all(item)))
    return report


def _describe_all(item: pytest.Item) -> str:
    below = item.config.stash.get(_BASE, None)
    if below is None:
        return "none: the base directory could not be made, so nothing was started"
    try:
        with _engine() as client:
            return describe_containers(find_containers(client, below)) or "none"
    except DockerException as e:
        return f"no engine to ask: {type(e).__name__}"


def _is_on_real_parts(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in _ON_REAL_PARTS)


@contextmanager
def _engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    try:
        yield client
    finally:
        client.close()
