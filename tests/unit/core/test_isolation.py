"""Each control passes what is well and finds what is not; what can't be read never passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.audit.isolation import expect
from orchestrator.core.isolation import Control, Judged, Result, Verdict, clean, fail, judge
from orchestrator.core.isolation_controls import CIS_RUNTIME, CONTROLS, judge_folders
from orchestrator.core.isolation_evidence import (
    EngineMount,
    Expected,
    FileFacts,
    IdMap,
    Inside,
    RunnerEvidence,
)
from orchestrator.core.sandbox import LABEL_SPEC
from orchestrator.egress.trust import BUNDLE_NAME, CA_NAME
from tests.support.well_evidence import (
    CHILD,
    EXPECTED,
    FOLDER,
    HOST_NAMESPACES,
    OPTIONS,
    OWN_NAMESPACES,
    PID,
    SOURCES,
    SPEC,
    UID,
    WELL,
    directory,
    engine_record,
    mount,
    task,
)

Change = Callable[[RunnerEvidence], RunnerEvidence]


def kernel(**changes: Any) -> Change:
    def change(evidence: RunnerEvidence) -> RunnerEvidence:
        assert evidence.kernel is not None
        return replace(evidence, kernel=replace(evidence.kernel, **changes))

    return change


def engine(**changes: Any) -> Change:
    return lambda evidence: replace(evidence, engine=replace(evidence.engine, **changes))


def host(**values: Any) -> Change:
    return lambda e: engine(host={**e.engine.host, **values})(e)


def config(**values: Any) -> Change:
    return lambda e: engine(config={**e.engine.config, **values})(e)


def inside(**values: Any) -> Change:
    return lambda e: replace(e, inside=replace(e.inside, **values))


def folders(**values: Any) -> Change:
    return lambda e: replace(e, folders=replace(e.folders, **values))


def child(**values: Any) -> Change:
    """The runner's second process is changed."""
    return kernel(tasks=(task(PID, 1), replace(task(CHILD, PID), **values)))


def one_more(*mounts: Any) -> Change:
    def change(e: RunnerEvidence) -> RunnerEvidence:
        assert e.kernel is not None
        return kernel(mounts=(*e.kernel.mounts, *mounts))(e)

    return change


def remounted(target: str, **values: Any) -> Change:
    def change(e: RunnerEvidence) -> RunnerEvidence:
        assert e.kernel is not None
        changed = [replace(m, **values) if m.target == target else m for m in e.kernel.mounts]
        return kernel(mounts=tuple(changed))(e)

    return change


def unmounted(target: str) -> Change:
    def change(e: RunnerEvidence) -> RunnerEvidence:
        assert e.kernel is not None
        return kernel(mounts=tuple(m for m in e.kernel.mounts if m.target != target))(e)

    return change


def cgroup(**values: Any) -> Change:
    def change(e: RunnerEvidence) -> RunnerEvidence:
        assert e.kernel is not None
        return kernel(cgroup=replace(e.kernel.cgroup, **values))(e)

    return change


def source(target: str, facts: FileFacts) -> Change:
    return folders(sources={**SOURCES, target: facts})


def door(**values: Any) -> Change:
    return folders(doors=(replace(WELL.folders.doors[0], **values),))


def trusted(name: str, **values: Any) -> Change:
    """A file of the installation's CA is next to the socket."""
    file = replace(WELL.folders.doors[0], path=str(FOLDER / "egress" / name), kind="file")
    return folders(doors=(*WELL.folders.doors, replace(file, **{"mode": 0o640, **values})))


def extra_mount(path: str) -> Change:
    stolen = EngineMount(
        kind="bind", source=path, target="/mnt", writable=True, propagation="rprivate"
    )
    return engine(mounts=(*WELL.engine.mounts, stolen))


def limits(**values: Any) -> Change:
    return child(
        limits={**task(1, 1).limits, **{k.replace("_", " "): v for k, v in values.items()}}
    )


SECCOMP = WELL.engine.host["SecurityOpt"]
assert isinstance(SECCOMP, list)
PROFILE, NO_NEW = SECCOMP

# Each control: what makes it, and nothing else, fail.
FAILING: dict[str, list[Change]] = {
    "user": [
        config(User="0:0"),
        host(GroupAdd=["0"]),
        child(uids=(UID, 0, UID, UID)),
        child(gids=(UID, UID, UID, 0)),
        child(groups=(UID, 999)),
    ],
    "privileged": [host(Privileged=True)],
    "capabilities": [host(CapDrop=None), host(CapAdd=["SYS_ADMIN"]), child(capabilities=1 << 21)],
    "no-new-privileges": [host(SecurityOpt=[PROFILE]), child(no_new_privileges=False)],
    "seccomp": [
        host(SecurityOpt=[NO_NEW]),
        host(SecurityOpt=["seccomp=unconfined", NO_NEW]),
        host(SecurityOpt=['seccomp={"defaultAction": "SCMP_ACT_ALLOW"}', NO_NEW]),
        host(SecurityOpt=[PROFILE, PROFILE, NO_NEW]),
        child(seccomp=0),
    ],
    "apparmor": [
        host(SecurityOpt=[PROFILE, NO_NEW, "apparmor=unconfined"]),
        host(SecurityOpt=[PROFILE, NO_NEW, "systempaths=unconfined"]),
        engine(apparmor="unconfined"),
        engine(apparmor=""),
    ],
    "namespaces": [
        host(PidMode="host"),
        host(IpcMode="host"),
        host(IpcMode="shareable"),
        host(UTSMode="host"),
        host(CgroupnsMode="host"),
        host(UsernsMode="host"),
        *(
            kernel(tasks=(task(PID, 1, namespaces={**OWN_NAMESPACES, kind: name}),))
            for kind, name in HOST_NAMESPACES.items()
            if kind != "user"
        ),
        kernel(tasks=(task(PID, 1, namespaces={}),)),
    ],
    "processes": [
        engine(foreign_execs=("privileged sh",)),
        host(CgroupParent="/elsewhere"),
        child(parent=1),
        child(namespaces={**OWN_NAMESPACES, "net": HOST_NAMESPACES["net"]}),
        child(cgroups=frozenset({"8:pids:/"})),
    ],
    "network": [
        host(NetworkMode="bridge"),
        engine(networks=("none", "bridge")),
        kernel(interfaces=("lo", "eth0")),
    ],
    "ports": [
        engine(ports=("80/tcp",)),
        host(PortBindings={"80/tcp": []}),
        host(PublishAllPorts=True),
    ],
    "resolver": [
        host(Dns=["192.0.2.1"]),
        host(Dns=None),
        host(ExtraHosts=["a:192.0.2.1"]),
        host(Links=["other"]),
    ],
    "door": [
        source("/run/egress", directory(FOLDER / "egress", 0, 0o777, gid=UID)),
        source("/run/egress", directory(FOLDER / "egress", UID, 0o750)),
        door(mode=0o666),
        door(gid=UID + 1),
        door(uid=UID),
        door(kind="symlink"),
        door(path=str(FOLDER / "egress/other.sock")),
        folders(doors=(*WELL.folders.doors, directory(Path("/x/y")))),
        trusted(CA_NAME, mode=0o660),
        trusted(CA_NAME, uid=UID),
        trusted(BUNDLE_NAME, kind="symlink"),
        trusted(f"{CA_NAME}.old"),
    ],
    "listener": [folders(listener=78)],
    "image": [engine(image="sha256:2")],
    "command": [config(Entrypoint=["/bin/sh"]), config(Cmd=["x"])],
    "environment": [
        config(Env=["PATH=/usr/bin", "HOME=/home/agent", "LANG=C.UTF-8", "LD_PRELOAD=x"]),
        config(Env=["PATH=/usr/bin"]),
        config(Labels={}),
    ],
    "secrets": [kernel(leaks=("ANTHROPIC_API_KEY in environ of process 4001",))],
    "read-only-root": [host(ReadonlyRootfs=False), remounted("/", options=frozenset({"rw"}))],
    "unchanged-root": [kernel(changes=("/etc", "/etc/passwd")), kernel(changes=None)],
    "setuid": [kernel(setuid=("/usr/bin/su",))],
    "settings": [
        kernel(settings=replace(WELL.kernel.settings, uid=UID)) if WELL.kernel else kernel(),
        kernel(settings=replace(WELL.kernel.settings, mode=0o666)) if WELL.kernel else kernel(),
        kernel(settings=FileFacts(path="x", kind="missing")),
        lambda e: inside(settings_digest="b" * 64)(kernel(settings_digest="b" * 64)(e)),
        inside(settings_digest="b" * 64),
    ],
    "mounts": [
        extra_mount("/"),
        extra_mount("/var/run/docker.sock"),
        engine(mounts=WELL.engine.mounts[:2]),
        engine(mounts=(*WELL.engine.mounts[:2], replace(WELL.engine.mounts[2], writable=True))),
        host(VolumesFrom=["other"]),
        one_more(mount("/mnt", "tmpfs")),
        one_more(mount("/workspace", "tmpfs", "rw")),
        one_more(mount("/proc/bus", "tmpfs", "rw")),
        one_more(mount("/proc/keys", "tmpfs", "rw")),
        remounted("/run/egress", options=frozenset({"rw"})),
        remounted("/sys/fs/cgroup/pids", options=frozenset({"rw"})),
        remounted("/sys", options=frozenset({"rw"})),
        remounted("/etc/hosts", root="/home/somebody/hosts"),
        kernel(mounted={}),
        source("/workspace", replace(SOURCES["/workspace"], identity=(9, 9))),
    ],
    "propagation": [
        engine(mounts=tuple(replace(m, propagation="rshared") for m in WELL.engine.mounts)),
        remounted("/workspace", is_shared=True),
    ],
    "folders": [
        source("/workspace", directory(FOLDER / "workspace", UID, 0o755)),
        source("/home/agent", directory(FOLDER / "home", UID + 1)),
        source("/home/agent", directory(FOLDER / "home", UID, kind="symlink")),
    ],
    "parents": [
        folders(parents=(directory(FOLDER, UID),)),
        folders(parents=(directory(FOLDER, 0, 0o777),)),
        folders(parents=(directory(FOLDER, 0, 0o755),)),
        folders(parents=(directory(FOLDER, kind="symlink"),)),
        folders(parents=()),
    ],
    "tmpfs": [
        remounted("/tmp", options=frozenset({"rw", "nodev"})),
        remounted("/run/nss", options=frozenset({"rw", "nodev", "nosuid"})),
        remounted("/tmp", super_options=frozenset({"size=1k"})),
        remounted("/tmp", super_options=frozenset()),
        unmounted("/tmp"),
        host(Tmpfs=None),
    ],
    "shm": [host(ShmSize=1), remounted("/dev/shm", super_options=frozenset({"size=1k"}))],
    "hidden-paths": [
        host(MaskedPaths=None),
        host(ReadonlyPaths=[]),
        unmounted("/proc/keys"),
        remounted("/proc/sys", options=frozenset({"rw"})),
    ],
    "devices": [
        host(Devices=[{}]),
        host(DeviceRequests=[{}]),
        host(DeviceCgroupRules=["a"]),
        cgroup(devices=("a *:* rwm",)),
        cgroup(devices=("b 8:0 r",)),
        cgroup(devices=("c 10:229 rw",)),
    ],
    "sysctls": [host(Sysctls={"net.ipv4.ip_forward": "1"})],
    "memory": [
        host(Memory=0),
        host(MemorySwap=-1),
        cgroup(memory_bytes=-1),
        cgroup(memory_bytes=None),
        cgroup(swap_bytes=1 << 30),
        cgroup(swap_bytes=None),
    ],
    "cpu": [
        host(NanoCpus=0),
        host(CpuShares=1024),
        cgroup(nano_cpus=-1),
        cgroup(nano_cpus=None),
        cgroup(cpu_shares=4096),
    ],
    "pids": [host(PidsLimit=None), host(PidsLimit=0), cgroup(pids=-1), cgroup(pids=None)],
    "ulimits": [
        host(Ulimits=None),
        limits(core_file_size=(0, -1)),
        limits(core_file_size=(0, 1)),
        limits(open_files=(8192, 1 << 20)),
        limits(file_size=(-1, -1)),
        child(limits={}),
    ],
    "oom": [host(OomScoreAdj=0), host(OomKillDisable=True), child(oom_score_adj=-1000)],
    "runtime": [host(Runtime="runsc"), host(Runtime=None)],
    "logging": [host(LogConfig={"Type": "json-file"}), engine(log_path="/x"), host(LogConfig=None)],
    "lifecycle": [
        host(RestartPolicy={"Name": "always"}),
        config(Healthcheck={"Test": ["CMD", "true"]}),
        config(Tty=True),
        config(StdinOnce=True),
        host(Init=True),
    ],
    "inside-answers": [lambda e: replace(e, inside=Inside(problem="nothing within 15 s"))],
    "inside-calls": [inside(allowed_calls=("socket vsock",))],
    "inside-network": [inside(interfaces=("lo", "eth0")), inside(reached=("192.0.2.1:80",))],
    "inside-writes": [inside(written=("/etc",))],
    "inside-identity": [inside(uids=(0, 0, 0)), inside(gids=(UID, 27)), inside(uids=())],
}
CASES = [(name, number) for name, changes in FAILING.items() for number in range(len(changes))]


def results(evidence: RunnerEvidence, expected: Expected = EXPECTED) -> dict[str, Result]:
    return {each.id: each.verdict.result for each in judge(CONTROLS, expected, evidence)}


def failing(evidence: RunnerEvidence, expected: Expected = EXPECTED) -> set[str]:
    return {name for name, result in results(evidence, expected).items() if result is Result.FAIL}


def verdict(control: str, evidence: RunnerEvidence) -> Verdict:
    (found,) = [e.verdict for e in judge(CONTROLS, EXPECTED, evidence) if e.id == control]
    return found


def test_a_runner_that_is_well_passes_every_control() -> None:
    assert results(WELL) == dict.fromkeys(results(WELL), Result.PASS)


@pytest.mark.parametrize(("name", "number"), CASES)
def test_what_is_wrong_fails_its_control_and_no_other(name: str, number: int) -> None:
    changed = FAILING[name][number](WELL)
    assert failing(changed) == {name}
    assert verdict(name, changed).detail


def test_no_control_lacks_an_example_that_it_fails() -> None:
    others = {"disjoint", "specification"}  # by what is expected, and a warning: below
    assert {control.id for control in CONTROLS} == set(FAILING) | others


def test_what_another_room_has_is_found() -> None:
    others = frozenset({str(SPEC.workspace), OWN_NAMESPACES["net"]})
    assert failing(WELL, replace(EXPECTED, others=others)) == {"disjoint", "namespaces"}


@pytest.mark.parametrize("name", [CA_NAME, BUNDLE_NAME])
def test_the_authority_of_a_room_with_intercepted_hosts_is_at_its_door(name: str) -> None:
    assert failing(trusted(name)(WELL)) == set()


def test_a_directory_that_was_not_looked_at_is_not_taken_for_one_that_is_well() -> None:
    changed = folders(sources={k: v for k, v in SOURCES.items() if k != "/home/agent"})(WELL)
    assert failing(changed) == {"folders", "mounts"}
    assert failing(folders(sources={}, doors=())(WELL)) == {"folders", "mounts", "door"}


def test_another_specification_is_a_warning_because_the_orchestrator_replaces_it() -> None:
    labels = WELL.engine.config["Labels"]
    assert isinstance(labels, dict)
    changed = config(Labels={**labels, LABEL_SPEC: "0" * 16})(WELL)
    assert failing(changed) == set()
    assert results(changed)["specification"] is Result.WARN


def test_the_process_of_another_audit_is_no_process_from_outside() -> None:
    probed = child(parent=1)(engine(probes=frozenset({CHILD}))(WELL))
    assert failing(probed) == set()


def test_without_apparmor_or_an_answer_or_an_orchestrator_a_control_is_left_out() -> None:
    no_apparmor = replace(WELL, host=replace(WELL.host, has_apparmor=False))
    assert verdict("apparmor", engine(apparmor="")(no_apparmor)).result is Result.SKIP
    assert verdict("listener", folders(listener=None)(WELL)).result is Result.SKIP
    silent = replace(WELL, inside=Inside(was_asked=False, problem="not asked"))
    assert {n for n, r in results(silent).items() if r is Result.SKIP} == {
        name for name in FAILING if name.startswith("inside-")
    }


def test_who_listens_without_an_orchestrator_is_somebody_else() -> None:
    assert failing(replace(WELL, host=replace(WELL.host, orchestrator=None))) == {"listener"}


def test_swap_is_not_asked_for_where_the_host_has_none() -> None:
    no_swap = replace(WELL, host=replace(WELL.host, has_swap=False))
    assert failing(cgroup(swap_bytes=None)(no_swap)) == set()


def test_what_cgroups_of_version_2_do_not_say_is_not_asked_of_them() -> None:
    assert failing(cgroup(version=2, cpu_shares=None, devices=None)(WELL)) == set()


def test_what_the_host_can_not_see_fails_rather_than_passes() -> None:
    unseen = failing(replace(WELL, kernel=None))
    assert unseen >= {"user", "capabilities", "seccomp", "processes", "memory", "mounts", "network"}
    assert failing(kernel(tasks=())(WELL)) >= {"user", "capabilities", "seccomp", "processes"}


@pytest.mark.parametrize("rubbish", [None, 7, "x", [], {}, [[]], [{"Name": []}]])
def test_an_engine_that_answers_rubbish_passes_nothing_and_breaks_nothing(rubbish: Any) -> None:
    keys = [*WELL.engine.host, *WELL.engine.config]
    broken = config(**dict.fromkeys(WELL.engine.config, rubbish))(
        host(**dict.fromkeys(WELL.engine.host, rubbish))(WELL)
    )
    assert len(keys) > 20
    assert failing(broken) >= {"user", "seccomp", "namespaces", "memory", "pids", "cpu", "ulimits"}


def test_a_runtime_with_a_kernel_of_its_own_is_judged_by_the_record_and_the_limits() -> None:
    spec = replace(SPEC, runtime="runsc")
    expected = expect(spec)
    record = replace(engine_record(expected.options), host={**WELL.engine.host, "Runtime": "runsc"})
    theirs = child(uids=(0,) * 4, capabilities=1)(replace(WELL, engine=record))
    assert failing(theirs, expected) == set()
    assert failing(cgroup(memory_bytes=-1)(theirs), expected) == {"memory"}
    assert failing(inside(allowed_calls=("ptrace",))(theirs), expected) == set()
    vsock = inside(allowed_calls=("ptrace", "socket vsock"))(theirs)
    assert failing(vsock, expected) == {"inside-calls"}
    assert failing(replace(WELL, engine=record)) == {"runtime"}


def test_an_engine_that_shifts_ids_is_judged_by_what_they_are_here() -> None:
    shift = IdMap(ranges=((0, 100_000, 2**31),))
    here = UID + 100_000
    moved = {
        "/workspace": directory(FOLDER / "workspace", here),
        "/home/agent": directory(FOLDER / "home", here),
        "/run/egress": directory(FOLDER / "egress", 0, 0o750, gid=here),
    }
    ids = {"uids": (here,) * 4, "gids": (here,) * 4, "groups": (here,)}
    tasks = tuple(replace(task(pid, parent), **ids) for pid, parent in ((PID, 1), (CHILD, PID)))
    assert WELL.kernel is not None
    settings = replace(WELL.kernel.settings, uid=100_000)
    shifted = kernel(uids=shift, gids=shift, tasks=tasks, settings=settings)(
        folders(sources=moved, doors=(replace(WELL.folders.doors[0], gid=here),))(WELL)
    )
    assert failing(shifted) == set()
    assert failing(kernel(uids=shift, gids=shift)(WELL)) == {"user", "folders", "door"}
    assert shift.here(2**31) == -1


def test_a_fourth_directory_of_the_specification_is_expected_and_must_be_roots() -> None:
    more = replace(OPTIONS.binds[2], source=FOLDER / "settings", target="/etc/claude-code")
    expected = replace(EXPECTED, options=replace(OPTIONS, binds=(*OPTIONS.binds, more)))
    assert failing(WELL, expected) == {"mounts", "folders"}
    mounted = EngineMount(
        kind="bind",
        source=str(more.source),
        target=more.target,
        writable=False,
        propagation="rprivate",
    )
    facts = directory(FOLDER / "settings", 0, 0o755)
    there = one_more(mount(more.target, "ext4"))(
        engine(mounts=(*WELL.engine.mounts, mounted))(source(more.target, facts)(WELL))
    )
    there = kernel(mounted={**{t: f.identity for t, f in SOURCES.items()}, more.target: (1, 1)})(
        there
    )
    assert failing(there, expected) == set()
    theirs = folders(sources={**SOURCES, more.target: replace(facts, uid=UID)})(there)
    assert failing(theirs, expected) == {"folders"}


def test_a_room_without_a_runner_is_judged_by_its_directories() -> None:
    def found(change: Change) -> dict[str, Result]:
        judged: tuple[Judged, ...] = judge_folders(EXPECTED, change(WELL).folders, WELL.host)
        return {each.id: each.verdict.result for each in judged}

    assert found(lambda e: e) == dict.fromkeys(("door", "listener", "folders", "parents"), "pass")
    assert found(FAILING["folders"][0])["folders"] is Result.FAIL


def test_a_control_that_breaks_is_one_that_fails() -> None:
    def broken(_expected: Expected, _evidence: RunnerEvidence) -> Verdict:
        raise KeyError

    control = Control(id="x", title="x", required_by=(), check=broken)
    (found,) = judge([control], EXPECTED, WELL)
    assert found.verdict.result is Result.FAIL


def test_a_detail_is_one_bounded_line_of_ascii_whatever_a_room_named_things() -> None:
    hostile = "\x1b[2J\u202e" + "x" * 10_000
    detail = fail([hostile] * 100).detail
    assert "\x1b" not in detail
    assert "\u202e" not in detail
    assert len(detail) < 1000
    assert "95 more" in detail
    assert clean("a\nb") == "a\\nb"


def test_every_item_of_the_list_of_others_names_controls_that_exist_or_a_reason() -> None:
    assert [*CIS_RUNTIME] == [f"5.{number}" for number in range(1, 33)]
    known = {control.id for control in CONTROLS}
    for item in CIS_RUNTIME.values():
        assert set(item.controls) <= known
        assert item.controls or item.reason
    claimed = {by.removeprefix("CIS ") for c in CONTROLS for by in c.required_by if "CIS 5" in by}
    assert claimed <= set(CIS_RUNTIME)


def test_every_control_says_who_requires_it_and_has_a_name_of_its_own() -> None:
    assert all(control.required_by and control.title for control in CONTROLS)
    assert len({control.id for control in CONTROLS}) == len(CONTROLS) >= 40
    assert {field.name for field in fields(Control)} == {"id", "title", "required_by", "check"}
