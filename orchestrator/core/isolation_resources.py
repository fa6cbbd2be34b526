"""Controls over what a runner is made from and may use: image, network, devices, limits."""

from __future__ import annotations

from typing import Final

from orchestrator.core.isolation import (
    Verdict,
    as_strings,
    differs,
    given,
    keys_of,
    none_of,
    warn,
)
from orchestrator.core.isolation_confinement import kernel_of
from orchestrator.core.isolation_evidence import Expected, RunnerEvidence
from orchestrator.core.sandbox import LABEL_SPEC, build_labels

_PAGE: Final = 4096
# The engine's own list: null, zero, full, random, urandom, tty, console, ptmx, pts, and tun without
# the capability to use it. `m` is making a node, which takes a capability and a call that are gone.
_DEVICES: Final = frozenset({"1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:1", "5:2", "10:200"})


def check_network(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """No network: not declared, not connected later, no interface but loopback."""
    engine, wanted = evidence.engine, expected.options.network
    problems = [*differs("network", wanted, engine.host.get("NetworkMode"))]
    problems += [f"connected to network {name}" for name in engine.networks if name != wanted]
    interfaces = kernel_of(evidence).interfaces
    problems += [f"interface {name}" for name in interfaces if name != "lo"]
    return none_of(problems)


def check_ports(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """No port is published."""
    host = evidence.engine.host
    problems = [f"port {name} is published" for name in evidence.engine.ports]
    problems += given("port bindings", host.get("PortBindings"))
    problems += given("publish all ports", host.get("PublishAllPorts"))
    return none_of(problems)


def check_resolver(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The host's resolver and names are not given to the room."""
    host = evidence.engine.host
    problems = [*differs("resolver", [expected.options.resolver], host.get("Dns"))]
    problems += given("more hosts", host.get("ExtraHosts"))
    problems += given("links", host.get("Links"))
    return none_of(problems)


def check_devices(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """No device but the harmless ones that every container has."""
    host = evidence.engine.host
    problems: list[str] = []
    for name in ("Devices", "DeviceCgroupRules", "DeviceRequests"):
        problems += given(name, host.get(name))
    for rule in kernel_of(evidence).cgroup.devices or ():
        kind, _, rest = rule.partition(" ")
        number, _, access = rest.partition(" ")
        is_known = kind == "c" and (number in _DEVICES or number == "136:*")
        if access != "m" and not is_known:
            problems.append(f"device rule {rule}")
    return none_of(problems)


def check_memory(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Memory is limited, and there is no swap."""
    host, wanted = evidence.engine.host, expected.options.memory_bytes
    cgroup = kernel_of(evidence).cgroup
    problems = [*differs("memory", wanted, host.get("Memory"))]
    problems += differs("memory and swap", wanted, host.get("MemorySwap"))
    problems += differs("the kernel's limit", wanted // _PAGE * _PAGE, cgroup.memory_bytes)
    if evidence.host.has_swap or cgroup.swap_bytes is not None:
        problems += differs("the kernel's swap", 0, cgroup.swap_bytes)
    return none_of(problems)


def check_cpu(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Processors are limited, and weighted below the host's services."""
    host, options = evidence.engine.host, expected.options
    cgroup = kernel_of(evidence).cgroup
    problems = [*differs("CPUs (10⁻⁹)", options.nano_cpus, host.get("NanoCpus"))]
    problems += differs("CPU shares", options.cpu_shares, host.get("CpuShares"))
    # The kernel has hundred-thousandths of them.
    found = cgroup.nano_cpus
    if found is None or abs(found - options.nano_cpus) > 10**4:
        problems.append(f"the kernel's CPUs (10⁻⁹): expected {options.nano_cpus}, found {found}")
    if cgroup.cpu_shares is not None:
        problems += differs("the kernel's shares", options.cpu_shares, cgroup.cpu_shares)
    return none_of(problems)


def check_pids(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Processes are limited."""
    wanted = expected.options.pids
    problems = [*differs("processes", wanted, evidence.engine.host.get("PidsLimit"))]
    problems += differs("the kernel's limit", wanted, kernel_of(evidence).cgroup.pids)
    return none_of(problems)


def check_runtime(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The configured runtime."""
    wanted = {expected.options.runtime} if expected.options.runtime else {"runc", ""}
    found = evidence.engine.host.get("Runtime")
    return none_of([] if found in wanted else [f"expected {sorted(wanted)}, found {found}"])


def check_image(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The image of the policy, by its content."""
    return none_of(differs("image", expected.options.image, evidence.engine.image))


def check_command(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The main process is the image's."""
    config, image = evidence.engine.config, evidence.engine.image_config
    problems: list[str] = []
    for name in ("Entrypoint", "Cmd"):
        problems += differs(name, image.get(name) or [], config.get(name) or [])
    return none_of(problems)


def check_environment(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The image's variables and labels, the specification's, and no others."""
    config, image = evidence.engine.config, evidence.engine.image_config
    wanted = {entry.partition("=")[0] for entry in as_strings(image.get("Env"))}
    wanted |= {name for name, _ in expected.options.environment}
    found = {entry.partition("=")[0] for entry in as_strings(config.get("Env"))}
    labels = {*build_labels(expected.spec), *keys_of(image.get("Labels"))}
    problems = [f"variable {name}" for name in sorted(found ^ wanted)]
    problems += [f"label {name}" for name in sorted(keys_of(config.get("Labels")) ^ labels)]
    return none_of(problems)


def check_specification(expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """The runner was made from what the configuration says now."""
    labels = evidence.engine.config.get("Labels")
    found = labels.get(LABEL_SPEC) if isinstance(labels, dict) else None
    if found == build_labels(expected.spec)[LABEL_SPEC]:
        return none_of(())
    return warn("made from another specification; the orchestrator replaces it when it is idle")


def check_sysctls(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """No kernel setting is changed for the room."""
    return none_of(given("sysctls", evidence.engine.host.get("Sysctls")))


def check_logging(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """What a room prints does not reach the host's disk."""
    driver = evidence.engine.host.get("LogConfig")
    kind = driver.get("Type") if isinstance(driver, dict) else None
    problems = [*differs("log driver", "none", kind)]
    problems += given("log file", evidence.engine.log_path)
    return none_of(problems)


def check_lifecycle(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """Only the orchestrator starts it again, and the engine runs nothing in it."""
    config, host = evidence.engine.config, evidence.engine.host
    policy, health = host.get("RestartPolicy"), config.get("Healthcheck")
    problems: list[str] = []
    if isinstance(policy, dict) and policy.get("Name") not in {"", "no"}:
        problems.append(f"restart policy {policy.get('Name')}")
    if isinstance(health, dict) and health.get("Test") not in ([], None, ["NONE"]):
        problems.append("a health check")
    for name in ("Tty", "StdinOnce"):
        problems += given(name, config.get(name))
    problems += given("Init", host.get("Init"))
    return none_of(problems)


def check_secrets(_expected: Expected, evidence: RunnerEvidence) -> Verdict:
    """No secret of the operator's is in the room's record or its processes' environment."""
    return none_of(kernel_of(evidence).leaks)
