"""compose.yaml: what it promises, as far as it can be seen without an engine."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from orchestrator import __version__
from orchestrator.ending import END_S
from tests.support.compose import COMPOSE, ROOT, load, run, services, tool

PROFILES = {"core", "homeserver", "observability", "setup"}
_IMAGE = re.compile(r"\$\{(\w+_IMAGE):-([\w./-]+):([\w.-]+)\}")
_SECRET = re.compile(r"(?i)password|secret|token|api_?key")
FILE = load("compose.yaml")
SERVICES = services()
ONCE = {name for name, service in SERVICES.items() if service["restart"] == "no"}
LASTING = sorted(set(SERVICES) - ONCE)


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m|h)", text).groups()  # type: ignore[union-attr] # it matches, or the test fails
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def test_every_yaml_and_json_file_can_be_read() -> None:
    for path in COMPOSE.rglob("*"):
        if path.suffix in {".yaml", ".yml"}:
            assert yaml.safe_load(path.read_text(encoding="utf-8")), path
        if path.suffix == ".json":
            assert json.loads(path.read_text(encoding="utf-8")), path


def test_there_are_the_profiles_that_the_readme_names() -> None:
    assert {profile for service in SERVICES.values() for profile in service["profiles"]} == PROFILES
    assert {"setup", "homeserver-init", "observability-init"} == ONCE


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_bounded_and_pinned(name: str) -> None:
    service = SERVICES[name]
    assert _IMAGE.fullmatch(service["image"]), "NAME:VERSION, and a variable to replace it"
    assert "latest" not in service["image"]
    for limit in ("mem_limit", "cpus", "pids_limit"):
        assert limit in service
    options = service["logging"]["options"]
    assert service["logging"]["driver"] == "json-file"
    assert options["max-size"]
    assert int(options["max-file"]) > 1
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "pid", "ipc", "userns_mode"} & set(service)


@pytest.mark.parametrize("name", LASTING)
def test_every_service_that_stays_is_looked_at_and_has_time_to_end(name: str) -> None:
    service = SERVICES[name]
    check = service["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    assert seconds(check["timeout"]) < seconds(check["interval"])
    assert service["restart"] == "unless-stopped"
    assert seconds(service["stop_grace_period"]) >= 10


def test_the_orchestrator_has_more_time_than_its_own_deadline() -> None:
    grace = seconds(SERVICES["orchestrator"]["stop_grace_period"])
    unit = (COMPOSE / "aiagentchat.service").read_text(encoding="utf-8")
    stop = re.search(r"^TimeoutStopSec=(\d+)s$", unit, re.MULTILINE)
    assert stop is not None
    assert min(grace, int(stop[1])) > END_S + 5


def test_who_waits_for_whom_says_until_when() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
            assert how == {"condition": wanted}, (name, other)
            # One of another profile would be missing where that is not chosen.
            assert service["profiles"] == SERVICES[other]["profiles"], (name, other)


def test_the_engines_socket_is_the_proxys_alone_and_that_has_nothing_else() -> None:
    having = [name for name, one in SERVICES.items() if "DOCKER_SOCKET" in str(one["volumes"])]
    assert having == ["engine"]
    proxy = SERVICES["engine"]
    assert proxy["network_mode"] == "none"
    assert "cap_add" not in proxy
    assert not {"secrets", "config"} & {part for v in proxy["volumes"] for part in v.split("/")}
    assert next(v for v in proxy["volumes"] if "STATE_DIR" in v).endswith(":ro")
    orchestrator = SERVICES["orchestrator"]
    assert "engine-socket:/run/engine:ro" in orchestrator["volumes"]
    assert orchestrator["environment"]["DOCKER_HOST"] == "unix:///run/engine/docker.sock"
    assert proxy["command"][-1] == "/run/engine/docker.sock"
    assert proxy["image"] == orchestrator["image"], "both make the same runners"


def test_the_proxy_sees_the_rooms_disks_where_they_are_mounted() -> None:
    layers = load("compose.disks.yaml")["services"]
    (volume,) = layers["engine"]["volumes"]
    assert volume["read_only"] is True
    assert volume["bind"] == {"propagation": "rslave"}
    assert volume["source"] == layers["orchestrator"]["volumes"][0]["source"]


def test_the_state_directory_has_the_same_path_inside_and_outside() -> None:
    path = "${STATE_DIR:-/var/lib/aiagentchat}"
    service = SERVICES["orchestrator"]
    assert f"{path}:{path}" in service["volumes"]
    assert service["environment"]["AIAGENTCHAT_STATE_DIR"] == path
    disks = load("compose.disks.yaml")["services"]["orchestrator"]["volumes"][0]
    assert (disks["source"], disks["target"]) == (path, path)
    assert disks["bind"] == {"propagation": "rshared"}


def test_what_is_published_is_published_on_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_figures_and_the_database_have_no_way_out() -> None:
    assert FILE["networks"]["figures"] == FILE["networks"]["database"] == {"internal": True}
    for name in ("prometheus", "loki", "alloy"):
        assert SERVICES[name]["networks"] == ["figures"]
    assert SERVICES["postgres"]["networks"] == ["database"]
    for name in ("homeserver-init", "observability-init"):
        assert SERVICES[name]["network_mode"] == "none"


def test_every_named_volume_is_used_and_declared() -> None:
    mounts = [volume for service in SERVICES.values() for volume in service["volumes"]]
    named = {mount.split(":")[0] for mount in mounts if mount[0] not in "./$"}
    assert named == set(FILE["volumes"])


def test_every_file_that_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        for mount in service["volumes"]:
            if mount.startswith("./"):
                assert (COMPOSE / mount.split(":")[0]).exists(), mount
                assert mount.endswith(":ro"), mount


def test_no_password_stands_in_a_file() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if _SECRET.search(key):
                assert key.endswith("_FILE"), f"{name}: {key}"
                assert re.fullmatch(r"/[\w/.-]+|\$\{\w+_FILE-(/[\w/.-]+)?\}", value), value
    homeserver = load("synapse/homeserver.yaml")
    for key in homeserver:
        if _SECRET.search(key):
            assert key.endswith("_path"), key
    assert "password" not in homeserver["database"]["args"]
    known = {"nobody"}
    assert {one["name"] for one in load("alertmanager.yml")["receivers"]} == known


def test_each_image_has_its_line_among_the_digests() -> None:
    text = (COMPOSE / "digests.env.example").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^(\w+)=(.*)@sha256:DIGEST$", text, re.MULTILINE))
    used = {}
    for service in SERVICES.values():
        variable, image, version = _IMAGE.fullmatch(service["image"]).groups()  # type: ignore[union-attr] # it matches, or the test fails
        used[variable] = f"{image}:{version}"
        if "build" in service:
            variable, image, version = _IMAGE.fullmatch(service["build"]["args"]["BASE"]).groups()  # type: ignore[union-attr] # it matches, or the test fails
            used[variable] = f"{image}:{version}"
    assert lines == used


def test_versions_agree_with_those_of_the_repository() -> None:
    assert f":{__version__}}}" in SERVICES["orchestrator"]["image"]
    dockerfile = (COMPOSE / "orchestrator.Dockerfile").read_text(encoding="utf-8")
    base = _IMAGE.fullmatch(SERVICES["orchestrator"]["build"]["args"]["BASE"])
    assert base is not None
    assert f"ARG BASE={base[2]}:{base[3]}\n" in dockerfile
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    synapse = re.search(r"^matrix-synapse==(\S+)", lock, re.MULTILINE)
    assert synapse is not None
    assert f":v{synapse[1]}}}" in SERVICES["synapse"]["image"]


def test_the_build_takes_nothing_of_a_checkout_but_what_it_names() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    dockerfile = (COMPOSE / "orchestrator.Dockerfile").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    wanted = {f"!{name.replace('[m]', 'm')}" for line in copied for name in line.split()}
    assert wanted == {rule for rule in rules if rule.startswith("!")}


def test_compose_takes_the_file(tmp_path: Path) -> None:
    copy = tmp_path / "top" / "compose"
    shutil.copytree(COMPOSE, copy, ignore=shutil.ignore_patterns("config", ".env"))
    command = _compose_command(copy)
    chosen = [word for profile in sorted(PROFILES) for word in ("--profile", profile)]
    for more in ((), ("-f", "compose.disks.yaml")):
        done = run(*command, "-f", "compose.yaml", *more, *chosen, "config", cwd=copy)
        assert done.returncode == 0, done.stderr
        assert set(yaml.safe_load(done.stdout)["services"]) == set(SERVICES)


def _compose_command(folder: Path) -> tuple[str, ...]:
    docker = shutil.which("docker")
    if docker and run(docker, "compose", "version").returncode == 0:
        return (docker, "compose")
    old = tool("docker-compose")
    if "version 1." in run(old, "version").stdout:
        # It knows all of the file but the project's name.
        path = folder / "compose.yaml"
        path.write_text(path.read_text().replace("name: aiagentchat\n", "", 1))
    return (old,)
