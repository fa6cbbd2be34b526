"""Controls over what a runner's processes are and may do: users, privileges, namespaces, calls."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from orchestrator.core.isolation import Verdict, differs, fail, given, none_of, skip
from orchestrator.core.isolation_evidence import (
    UNLIMITED,
    Expected,
    Inside,
    Kernel,
    Limit,
    RunnerEvidence,
    Task,
)
from orchestrator.model import JsonValue

# The specification's word, and the kernel's file in /proc/PID/ns.
_KINDS = {"mount": "mnt", "network": "net"}
_FILTER = 2
# Runtimes whose processes on the host are a kernel's, not the room's.
_OWN_KERNELS = ("runsc", "kata", "io.containerd.runsc", "io.containerd.kata")
_SECCOMP = "seccomp="
_NO_NEW_PRIVILEGES = {"no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"}
# What the engine's AppArmor profile is called.
_APPARMOR = "docker-default"
# The engine's names, and the kernel's in /proc/PID/limits.
ULIMITS = {
    "core": "core file size",
    "fsize": "file size",
    "memlock": "locked memory",
    "msgqueue": "msgqueue size",
    "nice": "nice priority",
    "nofile": "open files",
    "nproc": "processes",
    "rtprio": "realtime priority",
    "sigpending": "pending signals",
    "stack": "stack size",
}
# A process may lower the others; this one says whether the host's handler is run, too.
_EXACT = "core"


class UnseenError(ValueError):
    """The runner's processes can't be seen from here: is this the engine's host?"""


def has_own_kernel(expected: Expected) -> bool:
    """Whether the room's processes are not the host's: gVisor, Kata."""
    return (expected.options.runtime or "").startswith(_OWN_KERNELS)


def kernel_of(evidence: RunnerEvidence) -> Kernel:
    """What the host's kernel said.

    Raises:
        UnseenError: nothing.
    """
    if evidence.kernel is None:
        raise UnseenError(UnseenError.__doc__)
    return evidence.kernel


def tasks_of(expected: Expected, evidence: RunnerEvidence) -> tuple[Task, ...]:
    """The room's threads; none where they are another kernel's. Raises UnseenError."""
    tasks = kernel_of(evidence).tasks
    if has_own_kernel(expected):
        return ()
    if not any(task.pid == evidence.engine.pid for task in tasks):
        raise UnseenError(UnseenError.__doc__)
    return tasks


def host_ids(expected: Expected, evidence: RunnerEvidence) -> tuple[int, int]:
    """The room's uid and gid as this host has them, which an engine may have shifted."""
    uid, gid = expected.options.uid, expected.options.gid
    if evidence.kernel is None or has_own_kernel(expected):
        return uid, gid
    return evidence.kernel.uids.here(uid), evidence.kernel.gids.here(gid)


def check_user(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Everything runs as the room's user and group, and in no other group."""
    options = expected.options
    problems = [
        *differs("user", f"{options.uid}:{options.gid}", evidence.engine.config.get("User")),
        *given("more groups", evidence.engine.host.get("GroupAdd")),
    ]
    uid, gid = host_ids(expected, evidence)
    for task in tasks_of(expected, evidence):
        mine = set(task.uids) == {uid} and set(task.gids) == {gid}
        if not mine or not set(task.groups) <= {gid}:
            problems.append(f"process {task.pid} has uids {task.uids}, gids {task.gids}")
    return none_of(problems)


def check_privileged(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Not privileged."""
    return none_of(differs("privileged", wanted=False, found=evidence.engine.host["Privileged"]))


def check_capabilities(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """No capability in any set of any thread."""
    host, wanted = evidence.engine.host, list(expected.options.capabilities)
    problems = [*differs("dropped capabilities", ["ALL"], host.get("CapDrop"))]
    problems += differs("added capabilities", wanted, host.get("CapAdd") or [])
    if not wanted:
        problems += [
            f"process {task.pid} has capabilities {task.capabilities:x}"
            for task in tasks_of(expected, evidence)
            if task.capabilities
        ]
    return none_of(problems)


def check_no_new_privileges(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """No program can gain privileges."""
    options = _security_options(evidence)
    problems = [] if _NO_NEW_PRIVILEGES & set(options) else ["the engine was not told"]
    problems += [
        f"process {task.pid} may gain privileges"
        for task in tasks_of(expected, evidence)
        if not task.no_new_privileges
    ]
    return none_of(problems)


def check_seccomp(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Our profile, and a filter on every thread."""
    given_profiles = [o for o in _security_options(evidence) if o.startswith(_SECCOMP)]
    problems = []
    if [_profile(text) for text in given_profiles] != [expected.options.seccomp]:
        problems.append("the engine was given another profile, or none")
    problems += [
        f"process {task.pid} has no filter"
        for task in tasks_of(expected, evidence)
        if task.seccomp != _FILTER
    ]
    return none_of(problems)


def check_apparmor(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The engine's own profile, where the kernel has AppArmor."""
    others = [
        option
        for option in _security_options(evidence)
        if option not in _NO_NEW_PRIVILEGES and not option.startswith(_SECCOMP)
    ]
    if others:
        return fail([f"security options that nobody asked for: {others}"])
    if not evidence.host.has_apparmor:
        return skip("the kernel or the engine has no AppArmor")
    found = evidence.engine.apparmor
    return none_of([] if found == _APPARMOR else [f"the profile is {found or 'none'}"])


def check_namespaces(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Each namespace of the specification is the runner's own."""
    host = evidence.engine.host
    problems = [*differs("cgroup namespace", "private", host.get("CgroupnsMode"))]
    problems += differs("IPC", "private", host.get("IpcMode"))
    for name in ("PidMode", "UTSMode"):
        problems += given(name, host.get(name))
    if host.get("UsernsMode") == "host":
        problems.append("the host's users")
    problems += _shared(expected, evidence)
    return none_of(problems)


def check_processes(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Every process was started inside, and is inside as a whole."""
    tasks = tasks_of(expected, evidence)
    init = _init(tasks, evidence)
    engine = evidence.engine
    problems = [f"the engine runs in it: {line}" for line in engine.foreign_execs]
    problems += given("cgroup parent", engine.host.get("CgroupParent"))
    pids = {task.pid for task in tasks}
    for task in tasks:
        if init is None or task.pid == init.pid:
            continue
        if task.parent not in pids and task.pid not in engine.probes:
            problems.append(f"process {task.pid} was started from outside")
        elif task.namespaces != init.namespaces or task.cgroups != init.cgroups:
            problems.append(f"process {task.pid} is partly outside")
    return none_of(problems)


def check_oom(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The kernel ends a runner before the orchestrator or the engine."""
    host, wanted = evidence.engine.host, expected.options.oom_score_adj
    problems = [*differs("OOM score", wanted, host.get("OomScoreAdj"))]
    problems += given("OOM kill disabled", host.get("OomKillDisable"))
    problems += [
        f"process {task.pid} has OOM score {task.oom_score_adj}, expected {wanted} or more"
        for task in tasks_of(expected, evidence)
        if task.oom_score_adj < wanted
    ]
    return none_of(problems)


def check_ulimits(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Core dumps, file size and open files are limited; a process can't raise them."""
    problems = [*_declared_ulimits(expected.ulimits, evidence)]
    for task in tasks_of(expected, evidence):
        for name, most in expected.ulimits.items():
            limit = task.limits.get(ULIMITS[name], (UNLIMITED, UNLIMITED))
            if _exceeds(limit, most) or (name == _EXACT and limit != (most, most)):
                problems.append(f"process {task.pid}: {name} is {limit}, expected {most}")
    return none_of(problems)


def check_answers(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """A program that is started inside answers in time."""
    problem = evidence.inside.problem
    if not evidence.inside.was_asked:
        return skip("not asked")
    return none_of([] if problem is None else [f"no answer: {problem}"])


def check_calls(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """What the profile forbids fails, tried from inside."""
    inside, allowed = evidence.inside, evidence.inside.allowed_calls
    if has_own_kernel(expected):
        # The calls are that kernel's own, which is the point of it; sockets lead out of it.
        allowed = tuple(name for name in allowed if name.startswith("socket"))
    return _answered(inside) or none_of(f"{name} is allowed" for name in allowed)


def check_inside_network(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Nothing but loopback, tried from inside."""
    inside = evidence.inside
    problems = [f"interface {name}" for name in inside.interfaces if name != "lo"]
    problems += [f"reached {where}" for where in inside.reached]
    return _answered(inside) or none_of(problems)


def check_inside_writes(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Only the room's own places can be written, tried from inside."""
    inside = evidence.inside
    return _answered(inside) or none_of(f"{path} can be written" for path in inside.written)


def check_inside_identity(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """A program that is started inside is the room's user."""
    inside, options = evidence.inside, expected.options
    problems = [*differs("uids", {options.uid}, set(inside.uids))]
    problems += differs("gids", {options.gid}, set(inside.gids))
    return _answered(inside) or none_of(problems)


def _answered(inside: Inside) -> Verdict | None:
    return None if inside.problem is None else skip("no answer from inside")


def _init(tasks: tuple[Task, ...], evidence: RunnerEvidence) -> Task | None:
    return next((task for task in tasks if task.pid == task.tid == evidence.engine.pid), None)


def _shared(expected: Expected, evidence: RunnerEvidence) -> Iterator[str]:
    init = _init(tasks_of(expected, evidence), evidence)
    if init is None:
        return
    for name in expected.options.namespaces:
        kind = _KINDS.get(name, name)
        mine = init.namespaces.get(kind)
        if mine is None:
            yield f"its {name} namespace can't be read"
        elif mine == evidence.host.namespaces.get(kind):
            yield f"the host's {name} namespace"
        elif mine in expected.others:
            yield f"another room's {name} namespace"


def _security_options(evidence: RunnerEvidence) -> list[str]:
    found = evidence.engine.host.get("SecurityOpt") or []
    return [str(option) for option in found] if isinstance(found, list) else []


def _profile(option: str) -> JsonValue:
    """The profile of an option, or the word that stands in its place."""
    text = option.removeprefix(_SECCOMP)
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


def _declared_ulimits(wanted: Mapping[str, int], evidence: RunnerEvidence) -> Iterable[str]:
    found: dict[str, tuple[JsonValue, JsonValue]] = {}
    declared = evidence.engine.host.get("Ulimits") or []
    for item in declared if isinstance(declared, list) else ():
        if isinstance(item, dict):
            found[str(item.get("Name"))] = (item.get("Soft"), item.get("Hard"))
    for name, number in wanted.items():
        yield from differs(f"ulimit {name}", (number, number), found.get(name))


def _exceeds(limit: Limit, most: int) -> bool:
    return any(number == UNLIMITED or number > most for number in limit)
