"""From the command line to ready: whatever prevents a start is reported in one line with exit code 2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import command, program, serve
from shims import preload

ROOT = os.geteuid() == 0


def run(
    words: list[str], env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FASTTAIL_")}
    return subprocess.run(
        words,
        env=clean | (env or {}),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    """Check for one line on standard error with this text, no traceback, and exit code 2."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("fasttail")
    assert says in line


@pytest.mark.plain_build
@pytest.mark.parametrize(
    ("fails", "options", "says"),
    [
        ("ipv6", ["--host", "::"], "cannot listen on [::]:0: Address family not supported"),
        ("socket", [], "Operation not permitted"),
        ("flock", ["--state-dir", "state"], "state_dir: "),
        ("eventfd", [], "No such device"),
        ("epoll_create1", [], "Cannot allocate memory"),
        ("listen", [], "cannot listen on 127.0.0.1:0: Operation not supported"),
        ("pthread_create", [], "can't start new thread"),
    ],
)
def test_calls_that_the_system_refuses(fails: str, options: list[str], says: str, tmp_path: Path) -> None:
    env = preload(tmp_path, "refused_call", REFUSED=fails)
    words = command("serve", tmp_path, "--port", 0, *options)
    refused(run(words, env, tmp_path), says)
    shown = run([*words, "--log-level", "debug"], env, tmp_path)
    assert shown.returncode == 2
    assert "Traceback" in shown.stderr, "at debug level it is shown"


def with_file(name: str, data: bytes = b"") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def a_folder(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).mkdir()


def a_pipe(name: str) -> Callable[[Path], object]:
    return lambda folder: os.mkfifo(folder / name)


def nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("prepare", "options", "says"),
    [
        (nothing, ["--config", "~nosuchuser/f.toml"], "~nosuchuser has no home folder"),
        (nothing, ["--host", "nowhere.invalid"], "cannot listen on nowhere.invalid:0: "),
        (nothing, ["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
        (nothing, ["--host", "a" * 300], ""),
        (nothing, ["--host", "h\udce9"], ""),
        (nothing, ["--host", ".x"], ""),
        (with_file("s"), ["--state-dir", "s"], "state_dir: "),
        (nothing, ["--state-dir", "/proc/state"], "state_dir: /proc/state: No such file"),
        (with_file("s"), ["--state-dir", "s/below"], "Not a directory"),
        (nothing, ["--state-dir", "x" * 300], "File name too long"),
        (nothing, ["--token-file", "gone"], "gone: No such file or directory"),
        (a_folder("t"), ["--token-file", "t"], "Is a directory"),
        (with_file("t", b""), ["--token-file", "t"], "t: "),
        (nothing, ["--tls-cert", "gone", "--tls-key", "gone"], "gone: No such file or directory"),
        (
            with_file("c", b"x"),
            ["--tls-cert", "c", "--tls-key", "c"],
            "certificate and key are invalid or do not match",
        ),
        (a_folder("c"), ["--tls-cert", "c", "--tls-key", "c"], "Is a directory"),
        (nothing, ["--tls-cert", "c"], "tls_cert is given but tls_key is not"),
        (a_folder("f.yaml"), ["--config", "f.yaml"], "f.yaml: Is a directory"),
        (a_pipe("f.yaml"), ["--config", "f.yaml"], "f.yaml: not a regular file"),
        (nothing, ["--config", "/dev/zero"], "expected a file that ends in"),
        (with_file("f.yaml", b"#" * 1_100_000), ["--config", "f.yaml"], "longer than 1 MB"),
        (with_file("f.yaml", b"\x7fELF\x01\x00"), ["--config", "f.yaml"], "f.yaml: not valid YAML"),
        (with_file("f.yaml", b"a: " + b"[" * 100_000), ["--config", "f.yaml"], "f.yaml: not valid YAML"),
        (with_file("f.json", b"[" * 100_000), ["--config", "f.json"], "f.json: not valid JSON"),
        (with_file("f.toml", b"a = " + b"[" * 100_000), ["--config", "f.toml"], "f.toml: not valid TOML"),
        (with_file("f.json", b'{"port":' + b"1" * 5000 + b"}"), ["--config", "f.json"], "f.json"),
    ],
)  # fmt: skip
def test_what_the_user_gave(
    prepare: Callable[[Path], object], options: list[str], says: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    refused(run(command("serve", tmp_path, "--port", 0, *options), cwd=tmp_path), says)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused(
            run(command("serve", tmp_path, "--port", port)),
            f"cannot listen on 127.0.0.1:{port}: Address already in",
        )
        refused(
            run(command("demo", "--port", port)), f"cannot listen on 127.0.0.1:{port}: Address already in use"
        )


@pytest.mark.plain_build
@pytest.mark.parametrize("limit", [6, 12, 24, 31])
def test_too_few_descriptors(limit: int, tmp_path: Path) -> None:
    done = run(["prlimit", f"--nofile={limit}:{limit}", *command("serve", tmp_path, "--port", 0)])
    refused(done, f"the limit of open files is {limit}")


@pytest.mark.plain_build
@pytest.mark.parametrize("megabytes", [100, 150, 200, 300])
def test_too_little_memory(megabytes: int, tmp_path: Path) -> None:
    """With any amount of memory, the server runs or ends with one line."""
    words = [
        "prlimit",
        f"--as={megabytes << 20}",
        "timeout",
        "-s",
        "INT",
        "10",
        *command("serve", tmp_path, "--port", 0),
    ]
    done = run(words, {"MALLOC_ARENA_MAX": "1"})
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode in (2, 124), (done.returncode, done.stdout, done.stderr)


@pytest.mark.skipif(not ROOT, reason="gives files away")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--state-dir", "theirs"], "theirs/lock: Permission denied"),
        (["--state-dir", "theirs/below"], "theirs/below: Permission denied"),
        (["--token-file", "theirs/token"], "token: Permission denied"),
        (["--config", "theirs/f.toml"], "f.toml: Permission denied"),
        (["--tls-cert", "theirs/c", "--tls-key", "theirs/c"], "c: Permission denied"),
    ],
)
def test_what_belongs_to_somebody_else(options: list[str], says: str, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    for name in ("token", "f.toml", "c"):
        (folder / name).write_text("x")
    os.chown(folder, 12345, 12345)
    without_privileges = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    refused(
        run([*without_privileges, *command("serve", tmp_path, "--port", 0, *options)], cwd=tmp_path), says
    )


@pytest.mark.skipif(not ROOT, reason="mounts")
def test_a_read_only_file_system(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    wrap = ["unshare", "--mount", "sh", "-c", script, str(tmp_path / "state")]
    words = command("serve", tmp_path, "--port", 0, "--state-dir", tmp_path / "state")
    refused(run([*wrap, *words]), "state/lock: Read-only file system")


def test_the_folder_it_is_started_in_is_gone(tmp_path: Path) -> None:
    script = 'mkdir "$0/gone"; cd "$0/gone"; rmdir "$0/gone"; exec "$@"'
    gone = ["sh", "-c", script, str(tmp_path)]
    refused(
        run([*gone, *command("serve", "data", "--port", 0)]),
        "the current folder, to which this path is relative",
    )
    refused(run([*gone, *command("parse", "data", "--config", "f.toml")]), "No such file or directory")
    done = run([*gone, "timeout", "-s", "INT", "10", *command("serve", tmp_path, "--port", "x")])
    refused(done, "--port")


@pytest.mark.parametrize(
    "name", ["FASTTAIL_RESTART", "LISTEN_FDS", "NOTIFY_SOCKET", "WATCHDOG_USEC", "OMP_NUM_THREADS"]
)
def test_variables_that_make_no_sense(name: str, tmp_path: Path) -> None:
    more = {"LISTEN_PID": "1", "LANG": "xx_YY.nothing", "HOME": "", "OMP_WAIT_POLICY": "x"}
    with serve(tmp_path, env={name: "/nowhere {9999999999999999999999", **more}) as server:
        assert server.get("/health/live")[0] == 200
        assert server.end() == 0


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-", ">/dev/full", "2>/dev/full"])
def test_standard_streams_that_are_of_no_use(closed: str, tmp_path: Path) -> None:
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", *command("serve", tmp_path, "--port", "x")]
    done = run(words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tail", "--no-follow", "gone"], "gone: no such folder"),
        (["tail", "~nosuchuser/x"], "no home folder"),
        (["synth", "/proc/x", "--lines", "1"], "/proc/x"),
        (["synth", "file", "--lines", "1"], "file"),
        (["verify", "--log", "gone"], "gone: No such file or directory"),
        (["verify", "--log", "."], ".: Is a directory"),
        (["verify", "--pid", "4194304"], "no such process"),
        (["verify", "--container", "nosuch"], "docker"),
        (["verify", "--url", "http://127.0.0.1:1", "--token-file", "gone"], "gone: No such file"),
        (["bundle", "-o", "gone/x.tar.gz"], "gone: no such folder"),
        (["bundle", "-o", "/proc/x.tar.gz"], "/proc/x.tar.gz"),
        (["bundle", "-o", "."], ".: is a folder"),
        (["bundle", "--config", "gone.toml"], "gone.toml: No such file or directory"),
        (["demo", "--host", "nowhere.invalid"], "cannot listen on nowhere.invalid"),
        (["demo", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1:0: Cannot assign"),
    ],
)
def test_other_commands(words: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = run(command(*words), {"PATH": path, "DOCKER_HOST": "tcp://127.0.0.1:9"}, tmp_path)
    refused(done, says)


def test_a_bug_once_it_serves_is_seen(tmp_path: Path) -> None:
    with serve(tmp_path, wrap=program("failing_stop")) as server:
        assert server.end() == 1
        assert server.count("ERROR    the main loop has failed") == 1
        assert server.count("ERROR    AssertionError: a bug") == 1
        assert server.count("Traceback (most recent call last)") == 1
