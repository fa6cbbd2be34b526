"""Controls over what is there once: the state directory, the engine, too many containers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.core.isolation import Judged, Result, Verdict, none_of, skip, warn
from orchestrator.core.isolation_evidence import FileFacts

# Nobody but root reads these; the rest of the directory nobody but root may change.
_PRIVATE: Final = re.compile(
    r"state\.sqlite3.*|placeholder\.key|matrix-session\.json|embedded\.json|control\.sock"
    r"|crypto|backups|lock|.*\.key|.*\.pem"
)
_OTHERS: Final = 0o077
_WRITERS: Final = 0o022
# The first whose own seccomp profile forbids AF_VSOCK and io_uring; ours does so on every one.
_NEW_ENGINE: Final = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRoom:
    """A room of the database, and the name that its runner must have."""

    runner: str
    is_joined: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container of the engine: ours (with a slug) or another's."""

    name: str
    slug: str | None
    is_live: bool
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """What the engine says of itself."""

    version: str
    runc: str
    security: tuple[str, ...]
    has_live_restore: bool
    swarm: str
    is_on_tcp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationEvidence:
    """What was read once."""

    state_dir: FileFacts
    entries: tuple[FileFacts, ...]
    rooms: Mapping[str, KnownRoom]
    containers: tuple[Container, ...]
    daemon: Daemon


def judge_installation(evidence: InstallationEvidence) -> tuple[Judged, ...]:
    """Every control's verdict; what is wrong with the engine itself is a warning."""
    return tuple(
        Judged(id=id_, title=title, required_by=(by,), verdict=check(evidence))
        for id_, title, by, check in INSTALLATION_CONTROLS
    )


def _state_dir(evidence: InstallationEvidence) -> Verdict:
    top = evidence.state_dir
    problems = []
    if (top.kind, top.uid, top.mode & _OTHERS) != ("directory", 0, 0):
        problems.append(f"{top.path}: {top.kind} of uid {top.uid}, mode {top.mode:04o}")
    for facts in evidence.entries:
        name = Path(facts.path).name
        open_to = facts.mode & (_OTHERS if _PRIVATE.fullmatch(name) else _WRITERS)
        if facts.kind in {"symlink", "other"} or facts.uid != 0 or open_to:
            problems.append(f"{name}: {facts.kind} of uid {facts.uid}, mode {facts.mode:04o}")
    return none_of(problems)


def _strays(evidence: InstallationEvidence) -> Verdict:
    ours = [container for container in evidence.containers if container.slug is not None]
    problems = [*_unknown(ours, evidence.rooms)]
    counts = Counter(container.slug for container in ours if container.is_live)
    problems += [f"{slug} has {count} runners" for slug, count in counts.items() if count > 1]
    if problems:
        return none_of(problems)
    left = [
        container.name
        for container in ours
        if container.is_live and not evidence.rooms[container.slug or ""].is_joined
    ]
    return warn(f"runs for a room that was left: {left}") if left else none_of(())


def _unknown(containers: Iterable[Container], rooms: Mapping[str, KnownRoom]) -> Iterator[str]:
    for container in containers:
        room = rooms.get(container.slug or "")
        if room is None:
            yield f"{container.name} bears our label and is no room's"
        elif room.runner != container.name:
            yield f"{container.name} bears the label of the room of {room.runner}"


def _strangers(evidence: InstallationEvidence) -> Verdict:
    state_dir = Path(evidence.state_dir.path)
    within, above = [], []
    for container in evidence.containers:
        if container.slug is not None:
            continue
        for source in map(Path, container.sources):
            if source.is_relative_to(state_dir):
                within.append(f"{container.name} has {source}")
            elif state_dir.is_relative_to(source):
                above.append(f"{container.name} has {source}, which STATE_DIR is in")
    if not within and above:
        return warn("; ".join(above))
    return none_of(within)


def _address(evidence: InstallationEvidence) -> Verdict:
    is_open = evidence.daemon.is_on_tcp
    return warn("whoever reaches that port is root here") if is_open else none_of(())


def _users(evidence: InstallationEvidence) -> Verdict:
    names = {option.partition(",")[0] for option in evidence.daemon.security}
    if names & {"name=userns", "name=rootless"}:
        return none_of(())
    return warn("a room's uid is the same number on the host")


def _live_restore(evidence: InstallationEvidence) -> Verdict:
    if evidence.daemon.has_live_restore:
        return none_of(())
    return warn("runners end when the engine does; their turns are told as interrupted")


def _swarm(evidence: InstallationEvidence) -> Verdict:
    state = evidence.daemon.swarm
    return none_of(()) if state in {"", "inactive"} else warn(f"it is {state}")


def _bridge(_evidence: InstallationEvidence) -> Verdict:
    return skip("no runner has a network")


def _version(evidence: InstallationEvidence) -> Verdict:
    daemon = evidence.daemon
    first = re.match(r"\d+", daemon.version)
    text = f"engine {daemon.version or '?'}, runc {daemon.runc or '?'}"
    if first is None or int(first[0]) < _NEW_ENGINE:
        return warn(f"{text}: older than {_NEW_ENGINE}; follow your distribution's fixes")
    return Verdict(result=Result.PASS, detail=text)


INSTALLATION_CONTROLS: Final[
    tuple[tuple[str, str, str, Callable[[InstallationEvidence], Verdict]], ...]
] = (
    ("state-dir", "STATE_DIR is root's alone", "threat: secrets on the host", _state_dir),
    (
        "strays",
        "Every container with our label is a room's runner, and its only one",
        "threat: another room's files",
        _strays,
    ),
    ("strangers", "No other container has a room's files", "CIS 5.6", _strangers),
    ("engine-address", "The engine is not on TCP", "CIS 2.7", _address),
    ("engine-users", "Users are remapped, or the engine is rootless", "CIS 2.9", _users),
    ("engine-live-restore", "Runners survive the engine", "CIS 2.15", _live_restore),
    ("engine-swarm", "Swarm mode is off", "CIS 5.1", _swarm),
    ("engine-bridge", "Containers do not reach each other by a bridge", "CIS 2.2", _bridge),
    ("engine-version", "The engine is a current one", "CIS 1.1.2", _version),
)
"""Id, title, who requires it, the check."""
