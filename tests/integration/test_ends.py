"""Every `open_*` lets go of what it holds, whichever way it ends; none is left out.

The ends: the body is done, the body raises, its task is cancelled, a sibling in its group fails.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from loguru import logger
from pydantic import SecretStr

from cchat.output import Output
from cchat.place import open_desk
from cchat.transport import Exchange, open_transport
from orchestrator.audit.history import open_history_http
from orchestrator.audit_log import AUDIT_DIR, open_audit_log
from orchestrator.config import MatrixConfig, Secrets, StatusTokens
from orchestrator.control.server import open_control
from orchestrator.core.api_policy import ApiPolicy
from orchestrator.core.egress_policy import Route
from orchestrator.disks import open_disks
from orchestrator.egress.gateway import ApiKey, open_egress
from orchestrator.egress.inspector import open_inspector
from orchestrator.embedded.homeserver import open_embedded_homeserver
from orchestrator.embedded.messages_api import open_messages_api
from orchestrator.embedded.offline_model import OfflineModel, open_offline_model
from orchestrator.errors import HomeserverUnreachableError, StoreError
from orchestrator.matrix.client import open_matrix
from orchestrator.matrix.encryption import open_encryption
from orchestrator.matrix.http import MatrixHttp
from orchestrator.matrix.login import Login
from orchestrator.matrix.olm import open_machine, store_path
from orchestrator.metrics.figures import Figures
from orchestrator.metrics.server import open_metrics
from orchestrator.model import RoomSlug, Seq, UserId
from orchestrator.runners.docker_backend import open_docker_backend
from orchestrator.runners.engine import open_engine
from orchestrator.runners.engine_http import EngineAddress, open_connection
from orchestrator.runners.link import open_link
from orchestrator.runners.memory_backend import MemoryEngine, open_memory_backend
from orchestrator.socket_proxy.container import Bounds
from orchestrator.socket_proxy.server import Plan as SocketProxyPlan
from orchestrator.socket_proxy.server import open_socket_proxy
from orchestrator.status.server import open_status
from orchestrator.store.database import open_database
from orchestrator.store.spending import open_spending
from orchestrator.store.store import open_store
from orchestrator.synapse_admin import open_synapse_admin
from tests.support.egress import connect, room_door
from tests.support.matrix_user import open_matrix_user
from tests.support.memory_claude import MemoryClaude
from tests.support.memory_shim import shim_program
from tests.support.port import free_port
from tests.support.room_rig import ROOM
from tests.support.room_rig import room_spec as memory_spec
from tests.support.runner_engine import (
    ECHO,
    ensure_program_image,
    new_installation,
    open_clean_backend,
    prepare,
    room_spec,
)
from tests.support.status_view import MemoryPages
from tests.support.synapse import Account, SynapseServer
from tests.unit.control.source import MemorySource

ROOT = Path(__file__).parents[2]
# Of anything that should happen at once on a busy machine.
SOON_S = 30.0


class SiblingError(Exception):
    """Another task's failure."""


class BodyError(Exception):
    """The body's own failure."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a case works. `server` is there for cases that need a homeserver."""

    path: Path
    server: SynapseServer | None = None
    account: Account | None = None


Use = Callable[[Place], AbstractAsyncContextManager[None]]
CASES: dict[str, tuple[Use, tuple[str, ...]]] = {}


def case(*opens: str, needs: str = "") -> Callable[[Callable[[Place], AsyncIterator[None]]], None]:
    """A use of what is opened; its body runs while everything is held."""

    def register(use: Callable[[Place], AsyncIterator[None]]) -> None:
        name = getattr(use, "__name__", "?")
        CASES[name] = (asynccontextmanager(use), (needs, *opens))

    return register


# What is opened, and used, so that there is something to let go of...


@case("store.database:open_database")
async def database(place: Place) -> AsyncIterator[None]:
    async with open_database(place.path / "db.sqlite3") as db:
        await db.run(lambda c: c.execute("CREATE TABLE IF NOT EXISTS t (x)"))
        yield


@case("store.store:open_store")
async def store(place: Place) -> AsyncIterator[None]:
    async with open_store(place.path) as opened:
        await opened.rooms.installation()
        yield


@case("store.spending:open_spending")
async def spending(place: Place) -> AsyncIterator[None]:
    async with open_store(place.path) as opened:
        async with open_spending(opened.database, clock=time.time) as ledger:
            ledger.charge(RoomSlug("a"), 5)
            yield
        assert not ledger._unwritten


@case("runners.memory_backend:open_memory_backend", "runners.memory_backend:MemoryBackend.attach")
async def memory_backend(place: Place) -> AsyncIterator[None]:
    async with running_memory_shim() as (backend, name), backend.attach(name):
        yield


@case("runners.link:open_link")
async def link(place: Place) -> AsyncIterator[None]:
    async with (
        running_memory_shim() as (backend, name),
        backend.attach(name) as stream,
        open_link(stream, epoch=None, acked=Seq(0)) as opened,
    ):
        await opened.ping()
        yield


@asynccontextmanager
async def running_memory_shim() -> AsyncIterator[tuple[Any, str]]:
    engine = MemoryEngine(images={"sha256:test": shim_program(MemoryClaude(), [])})
    spec = memory_spec(ROOM, 0, 1)
    async with open_memory_backend(spec.installation, engine) as backend:
        await backend.ensure(spec)
        await backend.start(spec.name)
        yield backend, spec.name


@case("egress.gateway:open_egress")
async def egress(place: Place) -> AsyncIterator[None]:
    """With a connection in the middle of its request."""
    key = ApiKey(SecretStr("sk-ant-api03-of-a-test"))
    async with open_egress(upstream="http://127.0.0.1:9", credential=key) as gateway:
        await gateway.open_door(room_door(place.path / "door"))
        async with connect(place.path / "door") as (_, writer):
            writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
            await writer.drain()
            yield


@case("egress.inspector:open_inspector")
async def inspector(place: Place) -> AsyncIterator[None]:
    """With its child running."""
    async with open_inspector() as opened:
        await opened.rewrite(
            b'{"messages": "' + b"x" * (1 << 20) + b'"}',
            route=Route.MESSAGES,
            user_tag="t",
            policy=ApiPolicy(),
        )
        assert children(), "no child to end"
        yield


@case("embedded.messages_api:open_messages_api")
async def messages_api(place: Place) -> AsyncIterator[None]:
    async with open_messages_api(OfflineModel()) as url, half_a_request(url):
        yield


@case("embedded.offline_model:open_offline_model")
async def offline_model(place: Place) -> AsyncIterator[None]:
    async with open_offline_model() as url, half_a_request(url):
        yield


@asynccontextmanager
async def half_a_request(url: str) -> AsyncIterator[None]:
    host, _, port = url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nhalf")
        await writer.drain()
        yield
    finally:
        writer.close()


@case("audit_log:open_audit_log")
async def audit_log(place: Place) -> AsyncIterator[None]:
    with open_audit_log(place.path):
        logger.bind(action="test", audit=True).info("a line")
        assert (place.path / AUDIT_DIR / "audit.jsonl").stat().st_size > 0
        yield


@case("metrics.server:open_metrics")
async def metrics(_: Place) -> AsyncIterator[None]:
    async def read() -> Figures:
        raise StoreError

    async def look(*, is_strict: bool) -> tuple[str, ...]:
        return ()

    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    async with open_metrics(address, read, look=look, required=True):
        async with aiohttp.request("GET", f"http://{address}/metrics") as answer:
            assert answer.status == 503
        yield


@case("synapse_admin:open_synapse_admin")
async def synapse_admin(_: Place) -> AsyncIterator[None]:
    async with open_synapse_admin("http://127.0.0.1:9", SecretStr("token")) as admin:
        with pytest.raises(HomeserverUnreachableError):
            await admin.send_limit(UserId("@claude:test"))
        yield


@case("control.server:open_control")
async def control(place: Place) -> AsyncIterator[None]:
    """With a client that was answered and stays. At the end the socket is gone, too."""
    path = place.path / "control.sock"
    assert not path.exists()
    async with open_control(place.path, MemorySource()):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 ")
            yield
        finally:
            writer.close()


@case("status.server:open_status")
async def status(place: Place) -> AsyncIterator[None]:
    """With a client that was answered, and one that has said half of what it asks."""
    pages, port = MemoryPages(), free_port()
    tokens = StatusTokens(read=SecretStr("0123456789abcdef"))
    async with open_status(f"127.0.0.1:{port}", tokens, pages, pages.act):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        _, half = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 401 " in await reader.readline()
            half.write(b"POST /login HTTP/1.1\r\n")
            yield
        finally:
            writer.close()
            half.close()


@case("matrix.olm:open_machine")
async def machine(place: Place) -> AsyncIterator[None]:
    me = UserId("@me:test")
    path = store_path(place.path, me, "DEVICE")
    with open_machine(path, user_id=me, device_id="DEVICE", pickle_key="key"):
        yield


@case("runners.engine:open_engine", needs="docker")
async def engine(place: Place) -> AsyncIterator[None]:
    async with open_engine() as opened:
        await opened.call(opened.api.version)
        yield


@case("runners.engine_http:open_connection")
async def engine_connection(place: Place) -> AsyncIterator[None]:
    """To an engine that says nothing."""
    path = place.path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        try:
            async with open_connection(EngineAddress(socket=str(path)), 1024):
                yield
        finally:
            path.unlink()


@case("socket_proxy.server:open_socket_proxy", needs="docker")
async def socket_proxy(place: Place) -> AsyncIterator[None]:
    """With one who has said half of what it asks, and one who hears the engine's events."""
    plan = SocketProxyPlan(
        socket=place.path / "engine" / "docker.sock", bounds=Bounds(state_dir=place.path)
    )
    async with open_engine() as opened, open_socket_proxy(plan, opened):
        _, half = await asyncio.open_unix_connection(plan.socket)
        reader, events = await asyncio.open_unix_connection(plan.socket)
        try:
            half.write(b"GET /v1.41/in")
            events.write(b"GET /v1.41/events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await reader.readline()
            yield
        finally:
            half.close()
            events.close()


@case("runners.docker_backend:open_docker_backend", needs="docker")
async def docker_backend(place: Place) -> AsyncIterator[None]:
    """With a watcher of the engine's events."""
    async with open_docker_backend(new_installation()) as backend:

        async def watch() -> None:
            async for _ in backend.watch():
                pass

        async with beside(watch()):
            assert await backend.list() == []
            yield


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Do the work while the body runs."""
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield
        except Exception as e:  # noqa: BLE001 - raised below: a group would wrap it
            failure = e
        finally:
            task.cancel()
    if failure is not None:
        raise failure


@case("runners.docker_backend:DockerBackend.attach", needs="docker")
async def docker_attach(place: Place) -> AsyncIterator[None]:
    async with open_clean_backend() as backend:
        image = await asyncio.to_thread(ensure_program_image, ECHO)
        spec = prepare(room_spec(place.path, backend.installation, image))
        await backend.ensure(spec)
        await backend.start(spec.name)
        async with backend.attach(spec.name) as stream:
            await stream.write(b"hello\n")
            assert await stream.read() == b"hello\n"
            yield


@case("disks:open_disks", needs="docker")
async def disks(place: Place) -> AsyncIterator[None]:
    """With a room's disk, whose runner doesn't run."""
    async with open_clean_backend() as backend:
        address = backend.engine.address
        async with open_disks(place.path, "image", backend, engine=address) as opened:
            slug = RoomSlug("room")
            mount = await opened.ensure(slug, limit_bytes=64 << 20, uid=600_000_000, is_vacant=True)
            assert mount is not None
            assert mount.is_mount()
            yield
        assert not mount.is_mount()


@case("matrix.client:open_matrix", needs="synapse")
async def matrix(place: Place) -> AsyncIterator[None]:
    """In the middle of a sync."""
    config, secrets = matrix_config(place)
    async with open_matrix(config, secrets, place.path) as client:
        first = await client.sync(None, timeout_ms=0)
        async with beside(client.sync(first.next_batch, timeout_ms=30_000)):
            await asyncio.sleep(0)
            yield


@case("matrix.encryption:open_encryption", needs="synapse")
async def encryption(place: Place) -> AsyncIterator[None]:
    config, secrets = matrix_config(place)
    http = MatrixHttp(config.homeserver, user_id=config.user_id)
    try:
        login = Login(http, config, secrets, place.path)
        await login.open()
        async with open_encryption("supported", login, http, place.path):
            yield
    finally:
        await http.close()


@case("audit.history:open_history_http", needs="synapse")
async def history_http(place: Place) -> AsyncIterator[None]:
    config, _ = matrix_config(place)
    async with open_history_http(config.homeserver, config.user_id, "no token") as http:
        await http.exchange("GET", "/_matrix/client/versions", "asking")
        yield


@case("cchat.transport:open_transport", needs="synapse")
async def transport(place: Place) -> AsyncIterator[None]:
    assert place.server is not None
    async with open_transport(place.server.base_url) as opened:
        await opened.exchange(Exchange(method="GET", path="/_matrix/client/versions"))
        yield


@case("cchat.place:open_desk", needs="synapse")
async def desk(place: Place) -> AsyncIterator[None]:
    assert place.server is not None
    assert place.account is not None
    async with open_matrix_user(place.server.base_url, place.account) as user:
        room = await user.create_room()
    async with open_desk(place.path, room, Output()):
        yield


@case("embedded.homeserver:open_embedded_homeserver", needs="synapse")
async def embedded_homeserver(place: Place) -> AsyncIterator[None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with open_embedded_homeserver(place.path, port=port, say=print) as server:
        assert str(server.pid) in children()
        yield


def matrix_config(place: Place) -> tuple[MatrixConfig, Secrets]:
    assert place.server is not None
    assert place.account is not None
    config = MatrixConfig(homeserver=place.server.base_url, user_id=UserId(place.account.user_id))
    return config, Secrets(matrix_password=SecretStr(place.account.password))


# The ends...


async def done(use: AbstractAsyncContextManager[None]) -> None:
    async with use:
        pass


async def raising(use: AbstractAsyncContextManager[None]) -> None:
    # Exactly this error: none of the contexts may wrap it in a group of its own.
    with pytest.raises(BodyError):
        async with use:
            raise BodyError


async def cancelled(use: AbstractAsyncContextManager[None]) -> None:
    opened = asyncio.Event()

    async def hold() -> None:
        async with use:
            opened.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(hold())
        await opened.wait()
        task.cancel()
    assert task.cancelled()


async def sibling_failed(use: AbstractAsyncContextManager[None]) -> None:
    opened = asyncio.Event()

    async def fail() -> None:
        await opened.wait()
        raise SiblingError

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            async with use:
                opened.set()
                await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as failed:
        await run()
    assert [type(e) for e in failed.value.exceptions] == [SiblingError]


ENDS: tuple[Callable[[AbstractAsyncContextManager[None]], Coroutine[Any, Any, None]], ...] = (
    done,
    raising,
    cancelled,
    sibling_failed,
)


# What is held...


def children() -> set[str]:
    """The pids of this process's children."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= set((task / "children").read_text().split())
        except OSError:
            continue
    return found


def descriptors() -> Counter[str]:
    """What is open, by what it is; the number of a socket or a pipe does not matter."""
    kinds: Counter[str] = Counter()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        kinds[target.partition(":[")[0]] += 1
    return kinds


def threads() -> Counter[str]:
    """The threads, but for the loop's own pool."""
    names = (thread.name for thread in threading.enumerate())
    return Counter(name for name in names if not name.startswith("asyncio_"))


def locked_files(path: Path) -> list[str]:
    """Databases below the path that somebody still holds."""
    held = []
    for file in path.rglob("*.sqlite3"):
        with closing(sqlite3.connect(file, timeout=0)) as db:
            try:
                db.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:
                held.append(file.name)
    return held


def sockets(path: Path) -> list[str]:
    return sorted(str(file) for file in path.rglob("*") if file.is_socket())


def held_now(path: Path) -> dict[str, object]:
    gc.collect()
    return {
        "tasks": Counter(task.get_name() for task in asyncio.all_tasks()).total(),
        "children": children(),
        "threads": threads(),
        "descriptors": descriptors(),
        "locked files": locked_files(path),
        "socket files": sockets(path),
    }


async def wait_let_go(before: dict[str, object], path: Path, what: str) -> None:
    try:
        async with asyncio.timeout(SOON_S):
            while (now := held_now(path)) != before:  # noqa: ASYNC110 - the kernel's state
                await asyncio.sleep(0.02)
    except TimeoutError:
        kept = {k: (before[k], now[k]) for k in before if before[k] != now[k]}
        raise AssertionError(f"{what}: before and after: {kept}") from None


# The tests...


def parameters() -> Iterator[Any]:
    for name, (_, (needs, *_)) in CASES.items():
        marks = [getattr(pytest.mark, needs)] if needs else []
        yield pytest.param(name, marks=[*marks, pytest.mark.timeout(300)])


@pytest.mark.parametrize("name", list(parameters()))
async def test_whichever_way_it_ends_nothing_is_held_any_more(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    use, (needs, *_) = CASES[name]
    place = Place(tmp_path)
    if needs == "synapse" and name != "embedded_homeserver":
        server: SynapseServer = request.getfixturevalue("synapse")
        account = server.register()
        place = Place(tmp_path, server, account)
        monkeypatch.setenv("CCHAT_HOMESERVER", server.base_url)
        monkeypatch.setenv("CCHAT_USER_ID", account.user_id)
        monkeypatch.setenv("CCHAT_PASSWORD", account.password)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    await done(use(place))  # what libraries make once and keep
    before = held_now(tmp_path)
    assert before["locked files"] == []
    assert before["socket files"] == []
    for end in ENDS:
        await end(use(place))
        await wait_let_go(before, tmp_path, f"{name}, {end.__name__}")


def test_what_is_held_shows_while_it_is_held(tmp_path: Path) -> None:
    """The measure itself: each kind is seen."""

    async def main() -> None:
        before = held_now(tmp_path)
        async with store(Place(tmp_path)), control(Place(tmp_path)):
            with closing(sqlite3.connect(tmp_path / "x.sqlite3")) as db:
                db.execute("BEGIN EXCLUSIVE")
                now = held_now(tmp_path)
        differing = {kind for kind in before if now[kind] != before[kind]}
        assert differing >= {"threads", "descriptors", "locked files", "socket files", "tasks"}

    store, control = CASES["store"][0], CASES["control"][0]
    asyncio.run(main())


def test_every_open_context_of_the_program_has_its_case() -> None:
    tested = {opens for _, (_, *names) in CASES.values() for opens in names}
    assert set(find_opens()) == tested


def find_opens() -> Iterator[str]:
    """`module:name` of every public `open_*` and `attach` that is to be entered."""
    for root, package in ((ROOT / "orchestrator", ""), (ROOT / "cli" / "cchat", "cchat.")):
        for path in sorted(root.rglob("*.py")):
            module = package + ".".join(path.relative_to(root).with_suffix("").parts)
            if module == "ports":  # a protocol opens nothing
                continue
            tree = ast.parse(path.read_text())
            for node in tree.body:
                yield from (f"{module}:{name}" for name in _opens_in(node))


def _opens_in(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            yield from (f"{node.name}.{name}" for name in _opens_in(inner))
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        is_named = node.name.startswith("open_") or node.name == "attach"
        said = [ast.unparse(part) for part in (*node.decorator_list, node.returns) if part]
        if is_named and any("contextmanager" in text.lower() for text in said):
            yield node.name
