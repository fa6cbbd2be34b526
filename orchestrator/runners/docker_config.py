"""A runner's options in the words of the Docker Engine's API. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from orchestrator.core.sandbox import BindMount, SandboxOptions, TmpfsMount
from orchestrator.model import JsonObject, JsonValue


def container_config(options: SandboxOptions, labels: Mapping[str, str]) -> JsonObject:
    """The body of `POST /containers/create` for these options."""
    return {
        "Image": options.image,
        "User": f"{options.uid}:{options.gid}",
        "Hostname": options.hostname,
        "WorkingDir": options.working_dir,
        "Env": [f"{name}={value}" for name, value in options.environment],
        "Labels": dict(labels),
        "Tty": False,
        # Stdin outlives every attach: with StdinOnce the first detach would end the runner.
        "OpenStdin": True,
        "StdinOnce": False,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _isolation(options) | _resources(options) | _storage(options),
    }


def _isolation(options: SandboxOptions) -> JsonObject:
    security: list[JsonValue] = [f"seccomp={json.dumps(options.seccomp, sort_keys=True)}"]
    if options.no_new_privileges:
        security.append("no-new-privileges")
    return {
        "NetworkMode": options.network,
        "Dns": [options.resolver],
        # The engine's word for "no search domains"; without it, the host's are copied.
        "DnsSearch": ["."],
        "PublishAllPorts": False,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "CapAdd": list(options.capabilities),
        "SecurityOpt": security,
        "Devices": list(options.devices),
        "GroupAdd": [],
        **_namespaces(options),
        "MaskedPaths": list(options.masked_paths),
        "ReadonlyPaths": list(options.readonly_paths),
        "Runtime": options.runtime or "",
        # The shim is PID 1 and reaps; nothing restarts it but the orchestrator.
        "Init": False,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        # What a room prints never reaches the host's disk.
        "LogConfig": {"Type": "none"},
    }


def _namespaces(options: SandboxOptions) -> JsonObject:
    # In the engine's words: "private" where the default depends on the host, "" where it always is.
    own = set(options.namespaces)
    return {
        "CgroupnsMode": "private" if "cgroup" in own else "host",
        "IpcMode": "private" if "ipc" in own else "host",
        "PidMode": "" if "pid" in own else "host",
        "UTSMode": "" if "uts" in own else "host",
    }


def _resources(options: SandboxOptions) -> JsonObject:
    limits = {
        "core": options.core_bytes,
        "fsize": options.file_bytes,
        "memlock": options.locked_bytes,
        "msgqueue": options.queue_bytes,
        "nice": options.nice,
        "nofile": options.open_files,
        "rtprio": options.realtime_priority,
        "sigpending": options.pending_signals,
    }
    return {
        "Memory": options.memory_bytes,
        "MemorySwap": options.memory_bytes,
        "NanoCpus": options.nano_cpus,
        "CpuShares": options.cpu_shares,
        "PidsLimit": options.pids,
        "OomScoreAdj": options.oom_score_adj,
        "OomKillDisable": False,
        "Ulimits": [{"Name": name, "Soft": n, "Hard": n} for name, n in limits.items()],
    }


def _storage(options: SandboxOptions) -> JsonObject:
    return {
        "ReadonlyRootfs": options.read_only_root,
        "ShmSize": options.shm_bytes,
        "Tmpfs": {mount.target: _tmpfs_flags(mount) for mount in options.tmpfs},
        "Mounts": [_bind(mount) for mount in options.binds],
    }


def _tmpfs_flags(mount: TmpfsMount) -> str:
    return ",".join(
        (
            "rw",
            "nosuid",
            "nodev",
            "exec" if mount.executable else "noexec",
            f"size={mount.size_bytes}",
            f"nr_inodes={mount.inodes}",
            f"mode={mount.mode:o}",
            f"uid={mount.uid}",
            f"gid={mount.gid}",
        )
    )


def _bind(mount: BindMount) -> JsonValue:
    # A mount, not a "bind" string: then a missing source is an error, not a new directory.
    return {
        "Type": "bind",
        "Source": str(mount.source),
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
    }
