"""Which containers may be made: runners of this version, and the start's probe. Pure.

What a room decides (its number, its directories, its limits) is taken out of the request; the
request is made anew from that, and must come out the same. So nothing can be in it that this
version would not ask for, and what goes to the engine is what was made here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.core.cli_policy import POLICY
from orchestrator.core.id_plan import PROBE_UID
from orchestrator.core.naming import ROOMS_PER_INSTALLATION, room_uid, runner_name
from orchestrator.core.sandbox import (
    EGRESS,
    HOME,
    LABEL_GENERATION,
    LABEL_INSTALLATION,
    LABEL_ROOM,
    LABEL_SPEC,
    WORKSPACE,
    SandboxSpec,
    build_options,
)
from orchestrator.model import InstallationId, JsonObject, Limits, RoomSlug
from orchestrator.runners.disk_image import MOUNT
from orchestrator.runners.docker_config import container_config
from orchestrator.runners.probe import LABEL_PROBE, ProbePlan, probe_config

# As store/room_table.py makes them: 16 hexadecimal digits.
_INSTALLATION: Final = re.compile(r"[0-9a-f]{16}")
_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_IMAGE: Final = re.compile(r"sha256:[0-9a-f]{64}")
_USER: Final = re.compile(r"([1-9][0-9]{0,9}):([1-9][0-9]{0,9})")
_TMP_SIZE: Final = re.compile(r"(?:^|,)size=([1-9][0-9]{0,14})(?:,|$)")
_GENERATION: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_SPEC: Final = re.compile(r"[0-9a-f]{16}")
# Where the rooms' directories are below the state directory, and the probe's.
_ROOMS: Final = "rooms"
_PROBE: Final = "probe"
# What runners/workdir.py makes in a room's directory, or on its disk.
_PLACES: Final = {
    WORKSPACE: re.compile("workspace"),
    HOME: re.compile("home"),
    EGRESS: re.compile("egress"),
    POLICY: re.compile("policy-[0-9a-f]{1,64}"),
}


class RefusedError(Exception):
    """The proxy does not pass it on; the text says why, and what is passed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the host's own side says of the installation."""

    state_dir: Path
    runtimes: frozenset[str] = frozenset()
    """OCI runtimes that may be asked for besides the engine's default one."""
    maps_ids: bool = False
    """Whether the engine has user namespaces: the numbers of rooms are others there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewContainer:
    """A request that may go to the engine."""

    installation: InstallationId
    name: str
    image: str
    folders: tuple[Path, ...]
    """Of the host, to be mounted: below the state directory by their names."""
    body: JsonObject


def parse_installation(text: object) -> InstallationId:
    """An installation's id.

    Raises:
        RefusedError: it is none.
    """
    return InstallationId(_matched(_INSTALLATION, text, "the label of the installation"))


def judge_creation(body: Mapping[str, Any], name: str, bounds: Bounds) -> NewContainer:
    """The container that is asked for, made anew.

    Raises:
        RefusedError: this version would not make it.
    """
    try:
        make = _probe if LABEL_PROBE in body["Labels"] else _runner
        made = make(body, bounds)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
        msg = "this is no runner: a part is missing, or has another form"
        raise RefusedError(msg) from e
    if name != made.name:
        msg = f"a container of this room has the name {made.name}"
        raise RefusedError(msg)
    if made.body != body:
        different = ", ".join(sorted(_differences(made.body, body)))
        msg = (
            f"a runner of this version has other settings: {different}."
            " The proxy and the orchestrator must have the same version"
        )
        raise RefusedError(msg)
    return made


def _runner(body: Mapping[str, Any], bounds: Bounds) -> NewContainer:
    labels = body["Labels"]
    installation = parse_installation(labels[LABEL_INSTALLATION])
    slug = RoomSlug(_matched(_SLUG, labels[LABEL_ROOM], "the label of the room"))
    generation = _matched(_GENERATION, labels[LABEL_GENERATION], "the label of the generation")
    digest = _matched(_SPEC, labels[LABEL_SPEC], "the label of the specification")
    folders = _folders(body)
    spec = SandboxSpec(
        name=runner_name(installation, slug),
        installation=installation,
        slug=slug,
        generation=int(generation),
        image=_matched(_IMAGE, body["Image"], "the image"),
        uid=_room_number(body, installation, bounds),
        gid=_room_number(body, installation, bounds),
        workspace=folders[WORKSPACE],
        home=folders[HOME],
        egress_dir=folders[EGRESS],
        policy_dir=folders.get(POLICY),
        limits=_limits(body["HostConfig"]),
        runtime=_runtime(body["HostConfig"], bounds),
    )
    for target, folder in folders.items():
        _check_place(target, folder, bounds.state_dir / _ROOMS / slug)
    return NewContainer(
        installation=installation,
        name=spec.name,
        image=spec.image,
        folders=tuple(folders.values()),
        body=container_config(
            build_options(spec),
            # The digest covers what no engine is told, and means nothing to one.
            {
                LABEL_INSTALLATION: installation,
                LABEL_ROOM: slug,
                LABEL_GENERATION: generation,
                LABEL_SPEC: digest,
            },
        ),
    )


def _probe(body: Mapping[str, Any], bounds: Bounds) -> NewContainer:
    plan = ProbePlan(
        installation=parse_installation(body["Labels"][LABEL_PROBE]),
        image=_matched(_IMAGE, body["Image"], "the image"),
        runtime=_runtime(body["HostConfig"], bounds),
    )
    directory = bounds.state_dir / _PROBE
    return NewContainer(
        installation=plan.installation,
        name=plan.name,
        image=plan.image,
        folders=tuple(_folders(body).values()),
        body=probe_config(plan, directory),
    )


def _folders(body: Mapping[str, Any]) -> dict[str, Path]:
    return {mount["Target"]: Path(_text(mount["Source"])) for mount in body["HostConfig"]["Mounts"]}


def _check_place(target: str, folder: Path, root: Path) -> None:
    """By its name alone; what is there is looked at where the file system is."""
    if folder.parent not in {root, root / MOUNT} or _PLACES[target].fullmatch(folder.name) is None:
        msg = f"{folder} is not what a room {root.name} has at {target}"
        raise RefusedError(msg)


def _room_number(body: Mapping[str, Any], installation: InstallationId, bounds: Bounds) -> int:
    match = _USER.fullmatch(_text(body["User"]))
    if match is None or match[1] != match[2]:
        msg = "a runner has a uid of its own, and the gid of the same number"
        raise RefusedError(msg)
    number = int(match[1])
    first = room_uid(installation, 0)
    is_own = first <= number < first + ROOMS_PER_INSTALLATION
    if not is_own and not (bounds.maps_ids and number >= PROBE_UID):
        msg = f"{number} is no uid of a room of this installation"
        raise RefusedError(msg)
    return number


def _limits(host: Mapping[str, Any]) -> Limits:
    size = _TMP_SIZE.search(host["Tmpfs"]["/tmp"])  # noqa: S108 - the name of a mount
    files = {limit["Name"]: limit["Soft"] for limit in host["Ulimits"]}
    return Limits(
        memory_bytes=_number(host["Memory"]),
        cpus=_number(host["NanoCpus"]) / 1e9,
        pids=_number(host["PidsLimit"]),
        tmp_bytes=int(size[1]) if size else 0,
        disk_bytes=_number(files["fsize"]),
        # The engine is not told: what is read of a room is counted here.
        output_bytes=1,
    )


def _runtime(host: Mapping[str, Any], bounds: Bounds) -> str | None:
    name = _text(host["Runtime"])
    if not name:
        return None
    if name not in bounds.runtimes:
        msg = f"the runtime {name!r} is not allowed here; the option --runtime allows one"
        raise RefusedError(msg)
    return name


def _matched(pattern: re.Pattern[str], value: object, what: str) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        msg = f"{what} has another form"
        raise RefusedError(msg)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: object) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _differences(made: object, asked: object, path: str = "") -> set[str]:
    """Names of what is not the same; values stay out, as they may be long and are not ours."""
    if isinstance(made, Mapping) and isinstance(asked, Mapping):
        found: set[str] = set()
        for name in made.keys() | asked.keys():
            here = f"{path}.{name}" if path else str(name)
            if name not in made or name not in asked:
                found.add(here)
            elif made[name] != asked[name]:
                found |= _differences(made[name], asked[name], here)
        return found
    return {path or "the request"}
