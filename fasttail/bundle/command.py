"""`fasttail bundle`: asks every source that is there, writes one archive, prints what is in it.

0 written, whatever is missing in it    1, 2 it cannot be written
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

from fasttail import container as containers
from fasttail.bundle import inspected, machine
from fasttail.bundle.archive import TIMEOUT_S, Missing, Parts
from fasttail.bundle.redact import Redactor, public_variables
from fasttail.config import BundleSettings, ConfigError, ServeSettings, sources
from fasttail.config import file as config_file
from fasttail.container import Container, ContainerError
from fasttail.endpoint import Endpoint, EndpointError, token
from fasttail.watch import stacks

MB = 1 << 20
LINE = 64
"""Bytes of a log's line at the least, about: so many lines of a container's log are asked for at the most."""
PATHS = {
    "metrics.txt": "/metrics",
    "health.json": "/health",
    "health-live.json": "/health/live",
    "ws-status.json": "/ws/status",
}
IN_CONTAINER = {
    "container-version.txt": "fasttail --version",
    "container-packages.txt": "python3 -VV; "
    "for p in /opt/fasttail/lib/python3*/site-packages/*.dist-info; do basename $p .dist-info; done",
    "container-limits.txt": "ulimit -a; for f in /proc/1/limits /proc/1/status /proc/sys/fs/inotify/* "
    "/proc/sys/fs/file-max /proc/sys/fs/file-nr /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.current "
    "/sys/fs/cgroup/memory.events /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu.stat; do "
    "echo == $f; cat $f; done 2>&1",
    "container-stacks.txt": "python3 -P -m fasttail.watch.stacks",
    "container-threads.txt": "for t in /proc/[0-9]*/task/*; do echo == $t $(cat $t/comm); "
    "for f in wchan stack status; do cat $t/$f; echo; done; done 2>&1",
}  # fmt: skip
SERVE = (sys.executable, "-P", "-m", "fasttail", "serve")
LISTING = (
    'df "$1"; df -i "$1"; date; for d in "$1"/node_order_statuses*/hourly; do '
    'for x in $(ls "$d" | tail -n 2); do echo "$d/$x"; ls -ln --time-style=full-iso "$d/$x"; done; done 2>&1'
)


def bundle(settings: BundleSettings) -> int:
    """Gather and write."""
    name = time.strftime("fasttail-bundle-%Y%m%dT%H%M%SZ", time.gmtime())
    file = settings.output or Path(f"{name}.tar.gz")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"{file.parent}: no such folder")
    if file.is_dir():
        raise ConfigError(f"{file}: is a folder")
    redactor = Redactor()
    parts = Parts(redactor)
    container = Container(settings.container) if settings.container is not None else None
    found = _inspect(container, parts)
    _learn(settings, found, redactor, parts)
    parts.add("about.txt", machine.about)
    parts.add("kernel.txt", machine.kernel)
    parts.add("environment.txt", lambda: "\n".join(public_variables(sorted(os.environ.items()))) + "\n")
    _add_log(settings, container, parts)
    _add_config(settings, container, found, parts)
    _add_server(settings, found, parts)
    _add_folder(settings, container, found, parts)
    if settings.pid is not None:
        _add_process(settings.pid, redactor, parts)
    elif container is None:
        parts.miss("threads.txt", "no --pid and no --container")
    if container is not None and found:
        _add_container(container, found, parts)
    parts.gather()
    parts.write(file, name)
    print(file)
    for part, data in sorted(parts.ready.items()):
        print(f"  {len(data):>10,}  {part}")
    for part, why in sorted(parts.missing.items()):
        shown = redactor.clean(why.encode("utf-8", "replace")).decode("utf-8", "replace")
        print(f"     missing  {part}: {''.join(char if char.isprintable() else '?' for char in shown)}")
    return 0


def _inspect(container: Container | None, parts: Parts) -> dict[str, Any]:
    """What the engine knows; empty if it does not tell. Needed before everything else: it holds secrets."""
    if container is None:
        return {}
    try:
        return container.inspect()
    except ContainerError as error:
        for name in ("docker-inspect.json", "docker-stats.json", "docker-top.txt"):
            parts.miss(name, str(error))
        return {}


def _learn(settings: BundleSettings, found: dict[str, Any], redactor: Redactor, parts: Parts) -> None:
    """Every secret that can be known, so that it is found wherever it stands."""
    redactor.learn_variables(os.environ)
    redactor.learn_variables(containers.environment(found))
    redactor.learn_words(inspected.command(found))
    files = {settings.token_file}
    if settings.config is not None:
        # Key by key: a file that cannot be used as a whole may hold secrets all the same.
        with contextlib.suppress(ConfigError):
            held = config_file.read(settings.config)
            redactor.learn_variables(
                {key.upper(): value for key, value in held.items() if isinstance(value, str)}
            )
            if isinstance(named := held.get("token_file", held.get("token-file")), str):
                files.add(Path(named).expanduser())
    for path in files:
        if path is not None:
            try:
                redactor.learn(_head(path).decode("utf-8", "surrogateescape"))
            except OSError as error:
                parts.miss("token", f"{path} is not known, so not looked for: {error.strerror}")
    if settings.pid is not None:
        # Of another user's process only the words can be read: each for itself.
        with contextlib.suppress(OSError):
            redactor.learn_variables(environ_of(settings.pid))
        with contextlib.suppress(OSError):
            redactor.learn_words(_words(settings.pid))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64 << 10)


# ---- the sources


def _add_log(settings: BundleSettings, container: Container | None, parts: Parts) -> None:
    most = settings.log_mb * MB
    if settings.log is not None:
        parts.add("log.txt", partial(_log_file, settings.log, most, parts), most)
    elif container is not None:
        parts.add("log.txt", partial(_log_container, container, most, parts), most)
    else:
        parts.miss("log.txt", "no --log and no --container")


def _log_file(name: str, most: int, parts: Parts) -> bytes:
    file = 0 if name == "-" else os.open(name, os.O_RDONLY)
    state = os.fstat(file)
    if stat.S_ISREG(state.st_mode):
        begin = max(0, state.st_size - most)
        return _whole_lines(os.pread(file, most, begin), cut=begin > 0)
    return _tail(file, most, parts)


def _log_container(container: Container, most: int, parts: Parts) -> bytes:
    process = container.last(most // LINE)
    assert process.stdout is not None
    try:
        return _tail(process.stdout.fileno(), most, parts)
    finally:
        process.kill()
        process.wait()


def _tail(file: int, most: int, parts: Parts) -> bytes:
    """The last `most` bytes of a pipe, as far as they come within the time."""
    deadline = time.monotonic() + TIMEOUT_S
    kept, cut = bytearray(), False
    while select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(file, 1 << 20)
        if not part:
            return _whole_lines(bytes(kept), cut=cut)
        kept += part
        if len(kept) > most:
            cut = True
            del kept[: len(kept) - most]
        if time.monotonic() > deadline:
            break
    parts.miss("log.txt", f"its end: it had not come within {TIMEOUT_S:g} s")
    return _whole_lines(bytes(kept), cut=cut)


def _whole_lines(data: bytes, *, cut: bool) -> bytes:
    """Without the rest of a line that was cut: half a secret would not be known as one."""
    return data[data.find(b"\n") + 1 :] if cut else data


def _add_config(
    settings: BundleSettings, container: Container | None, found: dict[str, Any], parts: Parts
) -> None:
    def local() -> str:
        given = {
            "config": str(settings.config) if settings.config else None,
            "data_dir": str(settings.data_dir) if settings.data_dir else "(not given)",
        }
        # What this command was given for itself is no setting of the server.
        environ = {name: value for name, value in os.environ.items() if name != "FASTTAIL_CONFIG"}
        return sources.show(sources.load(ServeSettings, given, environ))

    def inside() -> bytes:
        assert container is not None
        words = inspected.command(found)
        if "serve" not in words:
            raise Missing("the container's command is no fasttail serve")
        return container.run("exec", container.name, *words, "--print-config")

    def running() -> bytes:
        assert settings.pid is not None
        return _printed_config(settings.pid)

    if container is None:
        asked = settings.pid is not None and settings.config is None
        parts.add("config.txt", running if asked else local)
    elif found:
        parts.add("config.txt", inside)
    else:
        parts.miss("config.txt", parts.missing["docker-inspect.json"])


def _add_server(settings: BundleSettings, found: dict[str, Any], parts: Parts) -> None:
    url = settings.url or (containers.address(found) if found else None)
    try:
        server = Endpoint(url, token(settings.token_file)) if url is not None else None
        why = "no --url, and no container that publishes a port"
    except (OSError, ValueError) as error:
        server, why = None, f"the token cannot be used: {getattr(error, 'strerror', None) or error}"
    for name, path in PATHS.items():
        if server is None:
            parts.miss(name, why)
        else:
            parts.add(name, partial(_answer, server, path, name, parts))


def _answer(server: Endpoint, path: str, name: str, parts: Parts) -> bytes:
    try:
        status, body = server.get(path)
    except EndpointError as error:
        raise Missing(str(error)) from None
    if status not in (200, 503):  # 503 with a body is what /health says
        hint = ": it wants the token, by --token-file or FASTTAIL_TOKEN" if status == 401 else ""
        raise Missing(f"answers {status}{hint}")
    if status == 503:
        parts.miss(name, "is there, but the answer was 503")
    return body


def _add_folder(
    settings: BundleSettings, container: Container | None, found: dict[str, Any], parts: Parts
) -> None:
    inside = inspected.data_dir(found) if found else None
    host = inspected.source(found, inside) if inside else None
    folder = settings.data_dir or (Path(host) if host is not None and Path(host).is_dir() else None)
    if folder is not None:
        parts.add("node-files.txt", partial(machine.node_files, folder))
        parts.add("disk.txt", partial(machine.disk, folder))
    elif container is not None and inside is not None:
        parts.add(
            "node-files.txt",
            partial(container.run, "exec", container.name, "sh", "-c", LISTING, "sh", inside),
        )
    else:
        for name in ("node-files.txt", "disk.txt"):
            parts.miss(name, "no --data-dir")


def _add_process(pid: int, redactor: Redactor, parts: Parts) -> None:
    def command_line() -> str:
        words = _words(pid)
        redactor.learn_words(words)  # once more: when it was learnt from, the process may just have begun
        return "\n".join(words) + "\n"

    parts.add("process.txt", partial(machine.process, pid))
    parts.add("stacks.txt", partial(_stacks, pid))
    parts.add("threads.txt", partial(machine.threads, pid))
    parts.add("process-command.txt", command_line)
    parts.add(
        "process-environment.txt", lambda: "\n".join(public_variables(sorted(environ_of(pid).items()))) + "\n"
    )


def _printed_config(pid: int) -> bytes:
    """What a running server was given, read by this fasttail in its folder and with its settings' variables.

    With no other of its variables: whoever asks about another user's process must not run that user's code.
    """
    words = _words(pid)
    # The word before: a folder that is called fasttail may stand in any other.
    if "serve" not in words[1:] or Path(words[words.index("serve", 1) - 1]).name != "fasttail":
        raise Missing(f"process {pid} is no fasttail serve")
    ours = [*SERVE, *words[words.index("serve", 1) + 1 :], "--print-config"]
    done = subprocess.run(
        ours,
        env={name: value for name, value in os.environ.items() if not name.startswith("FASTTAIL_")}
        | {
            name: value
            for name, value in environ_of(pid).items()
            if name.startswith("FASTTAIL_") and name != "FASTTAIL_RESTART"
        },
        cwd=f"/proc/{pid}/cwd",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise Missing(done.stderr.decode("utf-8", "replace"))
    return done.stdout


def _stacks(pid: int) -> str:
    try:
        return stacks.of_process(pid)
    except LookupError as error:
        raise Missing(str(error)) from None


def _words(pid: int) -> list[str]:
    """The command line of a process."""
    text = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "surrogateescape")
    return text.rstrip("\0").split("\0")


def environ_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "surrogateescape")
    return {name: value for name, _, value in (each.partition("=") for each in text.split("\0") if each)}


def _add_container(container: Container, found: dict[str, Any], parts: Parts) -> None:
    shown = json.dumps(inspected.shown(found), indent=1, ensure_ascii=False)
    parts.add("docker-inspect.json", lambda: shown + "\n")
    parts.add(
        "docker-stats.json",
        partial(container.run, "stats", "--no-stream", "--format", "{{json .}}", container.name),
    )
    parts.add("docker-top.txt", partial(container.run, "top", container.name))
    parts.add("docker-version.txt", partial(container.run, "version"))
    for name, words in IN_CONTAINER.items():
        parts.add(name, partial(container.run, "exec", container.name, "sh", "-c", words))
