"""`fasttail bundle`: queries every available source, writes one archive, and prints its contents.

0 written, even if parts are missing    1, 2 not written
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from fasttail.config import BundleSettings, ConfigError, ServeSettings
from fasttail.config import file as config_file
from fasttail.config import loading as sources
from fasttail.monitoring import stacks
from fasttail.tools import container as containers
from fasttail.tools.bundle import inspected, machine
from fasttail.tools.bundle.archive import TIMEOUT_S, BundleParts, SourceUnavailable
from fasttail.tools.bundle.redact import Redactor, public_variables
from fasttail.tools.container import Container, ContainerError
from fasttail.tools.endpoint import Endpoint, EndpointError, client_token

MB = 1 << 20
MIN_LINE_BYTES = 64
"""Approximate minimum size of a log line, which limits how many lines of a container's log are requested."""
ENDPOINT_PATHS = {
    "metrics.txt": "/metrics",
    "health.json": "/health",
    "health-live.json": "/health/live",
    "ws-status.json": "/ws/status",
}
CONTAINER_COMMANDS = {
    "container-version.txt": "fasttail --version",
    "container-packages.txt": "python3 -VV; "
    "for p in /opt/fasttail/lib/python3*/site-packages/*.dist-info; do basename $p .dist-info; done",
    "container-limits.txt": "ulimit -a; for f in /proc/1/limits /proc/1/status /proc/sys/fs/inotify/* "
    "/proc/sys/fs/file-max /proc/sys/fs/file-nr /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.current "
    "/sys/fs/cgroup/memory.events /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu.stat; do "
    "echo == $f; cat $f; done 2>&1",
    "container-stacks.txt": "python3 -P -m fasttail.monitoring.stacks",
    "container-threads.txt": "for t in /proc/[0-9]*/task/*; do echo == $t $(cat $t/comm); "
    "for f in wchan stack status; do cat $t/$f; echo; done; done 2>&1",
}  # fmt: skip
SERVE_COMMAND = (sys.executable, "-P", "-m", "fasttail", "serve")
LISTING_SCRIPT = (
    'df "$1"; df -i "$1"; date; for d in "$1"/node_order_statuses*/hourly; do '
    'for x in $(ls "$d" | tail -n 2); do echo "$d/$x"; ls -ln --time-style=full-iso "$d/$x"; done; done 2>&1'
)


def bundle(settings: BundleSettings) -> int:
    """Collect the parts and write the archive."""
    name = time.strftime("fasttail-bundle-%Y%m%dT%H%M%SZ", time.gmtime())
    file = settings.output or Path(f"{name}.tar.gz")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"{file.parent}: no such folder")
    if file.is_dir():
        raise ConfigError(f"{file}: is a folder")
    redactor = Redactor()
    parts = BundleParts(redactor)
    container = Container(settings.container) if settings.container is not None else None
    inspection = _inspect(container, parts)
    _learn_secrets(settings, inspection, redactor, parts)
    parts.add_source("about.txt", machine.about)
    parts.add_source("kernel.txt", machine.kernel)
    parts.add_source(
        "environment.txt", lambda: "\n".join(public_variables(sorted(os.environ.items()))) + "\n"
    )
    _add_log(settings, container, parts)
    _add_config(settings, container, inspection, parts)
    _add_server(settings, inspection, parts)
    _add_folder(settings, container, inspection, parts)
    if settings.pid is not None:
        _add_process(settings.pid, redactor, parts)
    elif container is None:
        parts.add_missing("threads.txt", "no --pid and no --container")
    if container is not None and inspection:
        _add_container(container, inspection, parts)
    parts.gather()
    parts.write(file, name)
    print(file)
    for part, data in sorted(parts.ready.items()):
        print(f"  {len(data):>10,}  {part}")
    for part, reason in sorted(parts.missing.items()):
        shown = redactor.clean(reason.encode("utf-8", "replace")).decode("utf-8", "replace")
        print(f"     missing  {part}: {''.join(char if char.isprintable() else '?' for char in shown)}")
    return 0


def _inspect(container: Container | None, parts: BundleParts) -> dict[str, Any]:
    """Return the engine's data on the container, or {} if unavailable. Runs first, since it holds secrets."""
    if container is None:
        return {}
    try:
        return container.inspect()
    except ContainerError as error:
        for name in ("docker-inspect.json", "docker-stats.json", "docker-top.txt"):
            parts.add_missing(name, str(error))
        return {}


def _learn_secrets(
    settings: BundleSettings, inspection: dict[str, Any], redactor: Redactor, parts: BundleParts
) -> None:
    """Learn every secret that can be known, so that it is redacted wherever it occurs."""
    redactor.learn_variables(os.environ)
    redactor.learn_variables(containers.container_environment(inspection))
    redactor.learn_arguments(inspected.command(inspection))
    files = {settings.token_file}
    if settings.config is not None:
        # Learn key by key, because a file that is invalid as a whole may still hold secrets.
        with contextlib.suppress(ConfigError):
            config_keys = config_file.read(settings.config)
            redactor.learn_variables(
                {key.upper(): value for key, value in config_keys.items() if isinstance(value, str)}
            )
            if isinstance(named := config_keys.get("token_file", config_keys.get("token-file")), str):
                files.add(Path(named).expanduser())
    for path in files:
        if path is not None:
            try:
                redactor.learn(_read_head(path).decode("utf-8", "surrogateescape"))
            except OSError as error:
                parts.add_missing("token", f"{path} is unknown, so it cannot be redacted: {error.strerror}")
    if settings.pid is not None:
        # Only the arguments of another user's process are readable, so try both separately.
        with contextlib.suppress(OSError):
            redactor.learn_variables(process_environ(settings.pid))
        with contextlib.suppress(OSError):
            redactor.learn_arguments(_command_line(settings.pid))


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64 << 10)


# ---- sources


def _add_log(settings: BundleSettings, container: Container | None, parts: BundleParts) -> None:
    max_bytes = settings.log_mb * MB
    if settings.log is not None:
        parts.add_source("log.txt", partial(_log_file, settings.log, max_bytes, parts), max_bytes)
    elif container is not None:
        parts.add_source("log.txt", partial(_log_container, container, max_bytes, parts), max_bytes)
    else:
        parts.add_missing("log.txt", "no --log and no --container")


def _log_file(name: str, max_bytes: int, parts: BundleParts) -> bytes:
    file = 0 if name == "-" else os.open(name, os.O_RDONLY)
    state = os.fstat(file)
    if stat.S_ISREG(state.st_mode):
        start = max(0, state.st_size - max_bytes)
        return _whole_lines(os.pread(file, max_bytes, start), cut=start > 0)
    return _read_tail(file, max_bytes, parts)


def _log_container(container: Container, max_bytes: int, parts: BundleParts) -> bytes:
    process = container.open_log_tail(max_bytes // MIN_LINE_BYTES)
    assert process.stdout is not None
    try:
        return _read_tail(process.stdout.fileno(), max_bytes, parts)
    finally:
        process.kill()
        process.wait()


def _read_tail(file: int, max_bytes: int, parts: BundleParts) -> bytes:
    """Return the last `max_bytes` bytes of a pipe that arrive within the time limit."""
    deadline = time.monotonic() + TIMEOUT_S
    tail, cut = bytearray(), False
    while select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(file, 1 << 20)
        if not chunk:
            return _whole_lines(bytes(tail), cut=cut)
        tail += chunk
        if len(tail) > max_bytes:
            cut = True
            del tail[: len(tail) - max_bytes]
        if time.monotonic() > deadline:
            break
    parts.add_missing("log.txt", f"its end: it did not arrive within {TIMEOUT_S:g} s")
    return _whole_lines(bytes(tail), cut=cut)


def _whole_lines(data: bytes, *, cut: bool) -> bytes:
    """Drop the rest of a cut line, in which part of a secret would not be recognized."""
    return data[data.find(b"\n") + 1 :] if cut else data


def _add_config(
    settings: BundleSettings, container: Container | None, inspection: dict[str, Any], parts: BundleParts
) -> None:
    def local() -> str:
        given = {
            "config": str(settings.config) if settings.config else None,
            "data_dir": str(settings.data_dir) if settings.data_dir else "(not given)",
        }
        # FASTTAIL_CONFIG was given to this command, and is no setting of the server.
        environ = {name: value for name, value in os.environ.items() if name != "FASTTAIL_CONFIG"}
        return sources.format_settings(sources.load(ServeSettings, given, environ))

    def inside() -> bytes:
        assert container is not None
        args = inspected.command(inspection)
        if "serve" not in args:
            raise SourceUnavailable("the container's command is not fasttail serve")
        return container.run("exec", container.name, *args, "--print-config")

    def running() -> bytes:
        assert settings.pid is not None
        return _config_of_process(settings.pid)

    if container is None:
        ask_process = settings.pid is not None and settings.config is None
        parts.add_source("config.txt", running if ask_process else local)
    elif inspection:
        parts.add_source("config.txt", inside)
    else:
        parts.add_missing("config.txt", parts.missing["docker-inspect.json"])


def _add_server(settings: BundleSettings, inspection: dict[str, Any], parts: BundleParts) -> None:
    url = settings.url or (containers.server_url(inspection) if inspection else None)
    try:
        server = Endpoint(url, client_token(settings.token_file)) if url is not None else None
        reason = "no --url, and no container that publishes a port"
    except (OSError, ValueError) as error:
        server, reason = None, f"the token cannot be used: {getattr(error, 'strerror', None) or error}"
    for name, path in ENDPOINT_PATHS.items():
        if server is None:
            parts.add_missing(name, reason)
        else:
            parts.add_source(name, partial(_fetch, server, path, name, parts))


def _fetch(server: Endpoint, path: str, name: str, parts: BundleParts) -> bytes:
    try:
        status, body = server.get(path)
    except EndpointError as error:
        raise SourceUnavailable(str(error)) from None
    if status not in (200, 503):  # /health answers 503 with a body
        hint = ": it requires the token, by --token-file or FASTTAIL_TOKEN" if status == 401 else ""
        raise SourceUnavailable(f"answers {status}{hint}")
    if status == 503:
        parts.add_missing(name, "is included, but the answer was 503")
    return body


def _add_folder(
    settings: BundleSettings, container: Container | None, inspection: dict[str, Any], parts: BundleParts
) -> None:
    inside = inspected.data_dir(inspection) if inspection else None
    host = inspected.mount_source(inspection, inside) if inside else None
    folder = settings.data_dir or (Path(host) if host is not None and Path(host).is_dir() else None)
    if folder is not None:
        parts.add_source("node-files.txt", partial(machine.node_files, folder))
        parts.add_source("disk.txt", partial(machine.disk, folder))
    elif container is not None and inside is not None:
        parts.add_source(
            "node-files.txt",
            partial(container.run, "exec", container.name, "sh", "-c", LISTING_SCRIPT, "sh", inside),
        )
    else:
        for name in ("node-files.txt", "disk.txt"):
            parts.add_missing(name, "no --data-dir")


def _add_process(pid: int, redactor: Redactor, parts: BundleParts) -> None:
    def command_line() -> str:
        args = _command_line(pid)
        redactor.learn_arguments(args)  # again: at the first read, the process may have just started
        return "\n".join(args) + "\n"

    parts.add_source("process.txt", partial(machine.process, pid))
    parts.add_source("stacks.txt", partial(_stacks, pid))
    parts.add_source("threads.txt", partial(machine.threads, pid))
    parts.add_source("process-command.txt", command_line)
    parts.add_source(
        "process-environment.txt",
        lambda: "\n".join(public_variables(sorted(process_environ(pid).items()))) + "\n",
    )


def _config_of_process(pid: int) -> bytes:
    """Return a running server's settings, resolved by this fasttail in the server's working folder.

    Only the server's FASTTAIL_ variables are used, because inspecting another user's process must not run
    that user's code.
    """
    args = _command_line(pid)
    # Check the word before `serve`; in any other, a folder may be called fasttail.
    if "serve" not in args[1:] or Path(args[args.index("serve", 1) - 1]).name != "fasttail":
        raise SourceUnavailable(f"process {pid} is not fasttail serve")
    command = [*SERVE_COMMAND, *args[args.index("serve", 1) + 1 :], "--print-config"]
    done = subprocess.run(
        command,
        env={name: value for name, value in os.environ.items() if not name.startswith("FASTTAIL_")}
        | {
            name: value
            for name, value in process_environ(pid).items()
            if name.startswith("FASTTAIL_") and name != "FASTTAIL_RESTART"
        },
        cwd=f"/proc/{pid}/cwd",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise SourceUnavailable(done.stderr.decode("utf-8", "replace"))
    return done.stdout


def _stacks(pid: int) -> str:
    try:
        return stacks.request_stacks(pid)
    except LookupError as error:
        raise SourceUnavailable(str(error)) from None


def _command_line(pid: int) -> list[str]:
    """Return the arguments of a process."""
    text = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "surrogateescape")
    return text.rstrip("\0").split("\0")


def process_environ(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "surrogateescape")
    return {name: value for name, _, value in (each.partition("=") for each in text.split("\0") if each)}


def _add_container(container: Container, inspection: dict[str, Any], parts: BundleParts) -> None:
    shown = json.dumps(inspected.public_fields(inspection), indent=1, ensure_ascii=False)
    parts.add_source("docker-inspect.json", lambda: shown + "\n")
    parts.add_source(
        "docker-stats.json",
        partial(container.run, "stats", "--no-stream", "--format", "{{json .}}", container.name),
    )
    parts.add_source("docker-top.txt", partial(container.run, "top", container.name))
    parts.add_source("docker-version.txt", partial(container.run, "version"))
    for name, args in CONTAINER_COMMANDS.items():
        parts.add_source(name, partial(container.run, "exec", container.name, "sh", "-c", args))
