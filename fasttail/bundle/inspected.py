"""What `docker inspect` says of a container, without its secrets: only what is known to hold none is kept."""

from __future__ import annotations

import re
from typing import Any

from fasttail.bundle.redact import public_variables
from fasttail.container import environment

TOP = ("Id", "Created", "Name", "Image", "RestartCount", "Driver", "Platform", "State", "Mounts")
CONFIG = ("Image", "User", "ExposedPorts", "StopSignal", "WorkingDir", "Healthcheck", "Hostname", "Tty")
HOST = (
    "Binds", "NetworkMode", "PortBindings", "RestartPolicy", "ReadonlyRootfs", "CapAdd", "CapDrop",
    "SecurityOpt", "Memory", "MemoryReservation", "MemorySwap", "MemorySwappiness", "OomKillDisable",
    "OomScoreAdj", "NanoCpus", "CpuShares", "CpuQuota", "CpuPeriod", "CpusetCpus", "PidsLimit", "Ulimits",
    "ShmSize", "Tmpfs", "Init", "Privileged", "IpcMode", "PidMode", "CgroupnsMode",
)  # fmt: skip
LABELS = ("com.docker.compose.", "org.opencontainers.image.")
LOG_OPTIONS = ("max-size", "max-file", "mode", "max-buffer-size")


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """Of the environment the names, and the values of those that are known to be public."""
    config, host = found.get("Config") or {}, found.get("HostConfig") or {}
    log = host.get("LogConfig") or {}
    options = log.get("Config") or {}
    labels = config.get("Labels") or {}
    return {
        **_of(found, TOP),
        "Command": command(found),
        "Config": {
            **_of(config, CONFIG),
            "Env": public_variables(environment(found).items()),
            "Labels": {name: value for name, value in labels.items() if name.startswith(LABELS)},
        },
        "HostConfig": {
            **_of(host, HOST),
            "LogConfig": {"Type": log.get("Type"), **_of(options, LOG_OPTIONS)},
        },
        "Ports": (found.get("NetworkSettings") or {}).get("Ports"),
    }


def _of(found: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: found[name] for name in names if name in found}


def command(found: dict[str, Any]) -> list[str]:
    """What the container executes."""
    return [str(word) for word in (found.get("Path"), *(found.get("Args") or ())) if word]


def data_dir(found: dict[str, Any]) -> str:
    """The node's folder as the server in the container knows it; the image's own where nothing tells."""
    words = command(found)
    if "serve" in words:
        behind = words[words.index("serve") + 1 :]
        if behind and re.match(r"[/~.\w]", behind[0]):
            return behind[0]
    return environment(found).get("FASTTAIL_DATA_DIR") or "/data"


def source(found: dict[str, Any], folder: str) -> str | None:
    """Where a folder of the container is on its host; None if it is no mount."""
    for mount in found.get("Mounts") or ():
        if mount.get("Destination") == folder:
            return str(mount.get("Source")) or None
    return None
