"""Selects the fields of `docker inspect` that are known to hold no secrets."""

from __future__ import annotations

import re
from typing import Any

from fasttail.tools.bundle.redact import public_variables
from fasttail.tools.container import container_environment

TOP_KEYS = ("Id", "Created", "Name", "Image", "RestartCount", "Driver", "Platform", "State", "Mounts")
CONFIG_KEYS = ("Image", "User", "ExposedPorts", "StopSignal", "WorkingDir", "Healthcheck", "Hostname", "Tty")
HOST_CONFIG_KEYS = (
    "Binds", "NetworkMode", "PortBindings", "RestartPolicy", "ReadonlyRootfs", "CapAdd", "CapDrop",
    "SecurityOpt", "Memory", "MemoryReservation", "MemorySwap", "MemorySwappiness", "OomKillDisable",
    "OomScoreAdj", "NanoCpus", "CpuShares", "CpuQuota", "CpuPeriod", "CpusetCpus", "PidsLimit", "Ulimits",
    "ShmSize", "Tmpfs", "Init", "Privileged", "IpcMode", "PidMode", "CgroupnsMode",
)  # fmt: skip
LABEL_PREFIXES = ("com.docker.compose.", "org.opencontainers.image.")
LOG_OPTIONS = ("max-size", "max-file", "mode", "max-buffer-size")


def public_fields(inspection: dict[str, Any]) -> dict[str, Any]:
    """Return the public fields; the environment keeps all names, but only values known to be public."""
    config, host = inspection.get("Config") or {}, inspection.get("HostConfig") or {}
    log = host.get("LogConfig") or {}
    options = log.get("Config") or {}
    labels = config.get("Labels") or {}
    return {
        **_pick(inspection, TOP_KEYS),
        "Command": command(inspection),
        "Config": {
            **_pick(config, CONFIG_KEYS),
            "Env": public_variables(container_environment(inspection).items()),
            "Labels": {name: value for name, value in labels.items() if name.startswith(LABEL_PREFIXES)},
        },
        "HostConfig": {
            **_pick(host, HOST_CONFIG_KEYS),
            "LogConfig": {"Type": log.get("Type"), **_pick(options, LOG_OPTIONS)},
        },
        "Ports": (inspection.get("NetworkSettings") or {}).get("Ports"),
    }


def _pick(inspection: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: inspection[name] for name in names if name in inspection}


def command(inspection: dict[str, Any]) -> list[str]:
    """Return the command that the container executes."""
    return [str(word) for word in (inspection.get("Path"), *(inspection.get("Args") or ())) if word]


def data_dir(inspection: dict[str, Any]) -> str:
    """Return the node's folder as seen in the container; by default the image's."""
    argv = command(inspection)
    if "serve" in argv:
        args = argv[argv.index("serve") + 1 :]
        if args and re.match(r"[/~.\w]", args[0]):
            return args[0]
    return container_environment(inspection).get("FASTTAIL_DATA_DIR") or "/data"


def mount_source(inspection: dict[str, Any], folder: str) -> str | None:
    """Return the host's path of a folder in the container, or None if it is not a mount."""
    for mount in inspection.get("Mounts") or ():
        if mount.get("Destination") == folder:
            return str(mount.get("Source")) or None
    return None
