"""One suite for every runner backend: what the real one passes makes the fake worth trusting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest

from orchestrator.core.sandbox import SandboxSpec, spec_hash
from orchestrator.errors import EngineRequestError, ImageMissingError, RunnerGoneError
from orchestrator.model import InstallationId, RunnerState
from orchestrator.ports import ByteStream, RunnerBackend, RunnerEvent, RunnerInfo
from orchestrator.runners.memory_backend import MemoryEngine, open_memory_backend
from orchestrator.runners.memory_stdio import MemoryStdio, echo
from tests.support.runner_engine import (
    ECHO,
    STUBBORN,
    ensure_program_image,
    new_installation,
    open_clean_backend,
    prepare,
    room_spec,
)

# Of anything that should happen at once on a busy machine.
SOON_S = 20
MISSING_IMAGE = f"sha256:{'0' * 64}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    echo: str
    stubborn: str


@dataclass(slots=True, kw_only=True)
class World:
    """Two installations on one engine."""

    ours: RunnerBackend
    theirs: RunnerBackend
    images: Images
    root: Path

    def spec(
        self, *, index: int = 0, image: str | None = None, whose: RunnerBackend | None = None
    ) -> SandboxSpec:
        installation = (whose or self.ours).installation
        spec = room_spec(self.root, installation, image or self.images.echo, index=index)
        return prepare(spec)

    async def running(self, *, index: int = 0, image: str | None = None) -> RunnerInfo:
        spec = self.spec(index=index, image=image)
        await self.ours.ensure(spec)
        await self.ours.start(spec.name)
        return await self.look(spec.name)

    async def look(self, name: str) -> RunnerInfo:
        info = await self.ours.inspect(name)
        assert info is not None
        return info


@pytest.fixture(
    scope="session", params=["memory", pytest.param("docker", marks=pytest.mark.docker)]
)
def images(request: pytest.FixtureRequest) -> Iterator[tuple[str, Images]]:
    kind = cast("str", request.param)
    if kind == "memory":
        yield kind, Images(echo="sha256:echo", stubborn="sha256:stubborn")
    else:
        found = Images(echo=ensure_program_image(ECHO), stubborn=ensure_program_image(STUBBORN))
        yield kind, found


@pytest.fixture
async def world(images: tuple[str, Images], tmp_path: Path) -> AsyncIterator[World]:
    kind, found = images
    engine = MemoryEngine(images={found.echo: echo, found.stubborn: stubborn})
    async with AsyncExitStack() as stack:

        async def opened(installation: InstallationId) -> RunnerBackend:
            if kind == "docker":
                return await stack.enter_async_context(open_clean_backend(installation))
            return await stack.enter_async_context(open_memory_backend(installation, engine))

        ours, theirs = await opened(new_installation()), await opened(new_installation())
        yield World(ours=ours, theirs=theirs, images=found, root=tmp_path)


async def stubborn(stdio: MemoryStdio) -> int:
    while True:
        await stdio.write(await stdio.read())


async def read_exactly(stream: ByteStream, count: int) -> bytes:
    data = b""
    async with asyncio.timeout(SOON_S):
        while len(data) < count:
            part = await stream.read()
            if not part:
                break
            data += part
    return data


# ---- life


async def test_ensure_creates_a_runner_and_does_not_start_it(world: World) -> None:
    spec = world.spec()
    made = await world.ours.ensure(spec)
    assert made == await world.ours.inspect(spec.name)
    assert (made.name, made.slug, made.generation) == (spec.name, spec.slug, spec.generation)
    assert made.spec_hash == spec_hash(spec)
    assert made.state is RunnerState.CREATED
    assert made.started_at is None
    assert made.exit_code is None


async def test_ensure_leaves_a_runner_of_that_name_as_it_is(world: World) -> None:
    first = await world.running()
    changed = replace(world.spec(), generation=2, limits=world.spec().limits)
    assert await world.ours.ensure(changed) == first


async def test_ensure_without_the_image_says_that_the_image_is_missing(world: World) -> None:
    with pytest.raises(ImageMissingError):
        await world.ours.ensure(world.spec(image=MISSING_IMAGE))


async def test_ensure_refuses_another_installations_specification(world: World) -> None:
    with pytest.raises(EngineRequestError):
        await world.ours.ensure(world.spec(whose=world.theirs))
    assert await world.theirs.list() == []


async def test_a_started_runner_runs_and_starting_it_again_changes_nothing(world: World) -> None:
    runner = await world.running()
    assert runner.state is RunnerState.RUNNING
    assert runner.started_at is not None
    await world.ours.start(runner.name)
    assert await world.look(runner.name) == runner


async def test_a_stopped_runner_can_be_started_again(world: World) -> None:
    runner = await world.running()
    await world.ours.stop(runner.name, grace_s=SOON_S)
    await world.ours.start(runner.name)
    again = await world.look(runner.name)
    assert again.state is RunnerState.RUNNING
    assert again.container_id == runner.container_id
    assert again.exit_code is None


async def test_starting_a_runner_that_does_not_exist_says_that_it_is_gone(world: World) -> None:
    with pytest.raises(RunnerGoneError):
        await world.ours.start("aiagentchat-nobody")


async def test_a_stop_lets_the_main_process_end_by_itself(world: World) -> None:
    runner = await world.running()
    await world.ours.stop(runner.name, grace_s=SOON_S)
    stopped = await world.look(runner.name)
    assert (stopped.state, stopped.exit_code) == (RunnerState.EXITED, 0)


async def test_a_main_process_that_ignores_the_stop_is_killed_after_the_grace(
    world: World,
) -> None:
    runner = await world.running(image=world.images.stubborn)
    await world.ours.stop(runner.name, grace_s=0.2)
    stopped = await world.look(runner.name)
    assert (stopped.state, stopped.exit_code) == (RunnerState.EXITED, 137)


async def test_stopping_what_does_not_run_or_does_not_exist_is_no_error(world: World) -> None:
    spec = world.spec()
    await world.ours.stop(spec.name, grace_s=1)
    await world.ours.ensure(spec)
    await world.ours.stop(spec.name, grace_s=1)
    assert (await world.look(spec.name)).state is RunnerState.CREATED


async def test_a_removed_runner_is_gone_and_its_directories_stay(world: World) -> None:
    runner = await world.running()
    keepsake = world.spec().workspace / "kept"
    keepsake.touch()
    await world.ours.remove(runner.name)
    await world.ours.remove(runner.name)
    assert await world.ours.inspect(runner.name) is None
    assert await world.ours.list() == []
    assert keepsake.exists()


async def test_a_removed_runners_name_can_be_used_again(world: World) -> None:
    first = await world.running()
    await world.ours.remove(first.name)
    second = await world.running()
    assert second.container_id != first.container_id


async def test_the_list_has_every_runner_whatever_its_state(world: World) -> None:
    running = await world.running(index=0)
    stopped = await world.running(index=1)
    await world.ours.stop(stopped.name, grace_s=SOON_S)
    created = await world.ours.ensure(world.spec(index=2))
    states = {runner.name: runner.state for runner in await world.ours.list()}
    assert states == {
        running.name: RunnerState.RUNNING,
        stopped.name: RunnerState.EXITED,
        created.name: RunnerState.CREATED,
    }


# ---- other installations


async def test_another_installations_runner_can_be_neither_seen_nor_touched(world: World) -> None:
    spec = world.spec(whose=world.theirs)
    await world.theirs.ensure(spec)
    await world.theirs.start(spec.name)
    before = await world.theirs.inspect(spec.name)

    assert await world.ours.inspect(spec.name) is None
    assert await world.ours.list() == []
    await world.ours.stop(spec.name, grace_s=0)
    await world.ours.remove(spec.name)
    with pytest.raises(RunnerGoneError):
        await world.ours.start(spec.name)
    with pytest.raises(RunnerGoneError):
        await world.ours.stats(spec.name)
    with pytest.raises(RunnerGoneError):
        async with world.ours.attach(spec.name):
            pass

    assert await world.theirs.inspect(spec.name) == before


async def test_a_name_that_another_installation_has_is_not_taken_over(world: World) -> None:
    spec = world.spec(whose=world.theirs)
    theirs = await world.theirs.ensure(spec)
    with pytest.raises(EngineRequestError):
        await world.ours.ensure(replace(world.spec(), name=spec.name))
    assert await world.theirs.inspect(spec.name) == theirs


# ---- the attached stream


async def test_what_is_written_comes_back_as_the_main_process_prints_it(world: World) -> None:
    runner = await world.running()
    async with world.ours.attach(runner.name) as stream:
        await stream.write(b"one\ntwo\n")
        assert await read_exactly(stream, 8) == b"one\ntwo\n"


async def test_a_detach_ends_nothing_and_the_next_attach_sees_only_what_is_new(
    world: World,
) -> None:
    runner = await world.running()
    for word in (b"first\n", b"other\n"):
        async with world.ours.attach(runner.name) as stream:
            await stream.write(word)
            assert await read_exactly(stream, len(word)) == word
    assert await world.look(runner.name) == runner


async def test_a_cancelled_read_loses_nothing(world: World) -> None:
    runner = await world.running()
    async with world.ours.attach(runner.name) as stream:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await stream.read()
        await stream.write(b"after")
        assert await read_exactly(stream, 5) == b"after"


async def test_a_megabyte_passes_unchanged_and_in_pieces_of_64_kib_at_most(world: World) -> None:
    runner = await world.running()
    sent = bytes(range(256)) * 4096
    sizes: list[int] = []
    received = b""
    async with world.ours.attach(runner.name) as stream, asyncio.TaskGroup() as group:
        group.create_task(stream.write(sent))
        async with asyncio.timeout(SOON_S):
            while len(received) < len(sent):
                part = await stream.read()
                sizes.append(len(part))
                received += part
    assert received == sent
    assert max(sizes) <= 65536


async def test_output_that_nobody_reads_holds_the_main_process_back_and_is_not_lost(
    world: World,
) -> None:
    runner = await world.running()
    # Above all that sockets and pipes between the two hold.
    sent = b"x" * (8 << 20)
    async with world.ours.attach(runner.name) as stream, asyncio.TaskGroup() as group:
        writing = group.create_task(write_in_pieces(stream, sent))
        _, waiting = await asyncio.wait([writing], timeout=0.5)
        assert waiting, "the writer was not held back"
        assert await read_exactly(stream, len(sent)) == sent


async def write_in_pieces(stream: ByteStream, data: bytes) -> None:
    for start in range(0, len(data), 65536):
        await stream.write(data[start : start + 65536])


async def test_the_stream_ends_when_the_main_process_ends(world: World) -> None:
    runner = await world.running()
    async with world.ours.attach(runner.name) as stream:
        await stream.write(b"last words")
        assert await read_exactly(stream, 10) == b"last words"
        await world.ours.stop(runner.name, grace_s=SOON_S)
        async with asyncio.timeout(SOON_S):
            assert await stream.read() == b""


async def test_attaching_to_what_does_not_run_says_that_it_is_gone(world: World) -> None:
    spec = world.spec()
    await world.ours.ensure(spec)
    for name in (spec.name, "aiagentchat-nobody"):
        with pytest.raises(RunnerGoneError):
            async with world.ours.attach(name):
                pass


# ---- events, numbers, files


async def test_a_watcher_hears_of_its_own_installations_runners_in_order(world: World) -> None:
    events = world.ours.watch()
    other = world.spec(whose=world.theirs)
    await world.theirs.ensure(other)
    await world.theirs.start(other.name)
    runner = await world.running(image=world.images.stubborn)
    await world.ours.stop(runner.name, grace_s=0)
    await world.ours.remove(runner.name)

    heard = await take(events, 3)
    assert [(event.kind, event.exit_code) for event in heard] == [
        ("start", None),
        ("die", 137),
        ("destroy", None),
    ]
    assert {(event.name, event.slug) for event in heard} == {(runner.name, runner.slug)}


async def take(events: AsyncIterator[RunnerEvent], count: int) -> list[RunnerEvent]:
    heard: list[RunnerEvent] = []
    # Both adapters' iterators are generators; closing them here ends their connection.
    async with asyncio.timeout(SOON_S), aclosing(events):  # type: ignore[type-var]
        async for event in events:
            heard.append(event)
            if len(heard) == count:
                break
    return heard


async def test_a_running_runner_has_numbers_within_its_limits(world: World) -> None:
    runner = await world.running()
    limits = world.spec().limits
    sample = await world.ours.stats(runner.name)
    assert sample.memory_limit_bytes == limits.memory_bytes
    assert 0 < sample.memory_bytes < limits.memory_bytes
    assert 0 < sample.pids <= limits.pids
    assert sample.cpu_total_s >= 0
    assert 0 < await world.ours.count_tasks(runner.name) <= limits.pids


async def test_a_runner_that_does_not_run_has_no_numbers(world: World) -> None:
    spec = world.spec()
    await world.ours.ensure(spec)
    for name in (spec.name, "aiagentchat-nobody"):
        with pytest.raises(RunnerGoneError):
            await world.ours.stats(name)
        with pytest.raises(RunnerGoneError):
            await world.ours.count_tasks(name)


def test_the_installations_of_a_test_are_different() -> None:
    first: InstallationId = new_installation()
    assert first != new_installation()
