"""Restart in place: a real process executes itself and keeps its listening socket."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from running import program

from fasttail.state import restart


def ask(port: int, word: bytes) -> dict[str, object]:
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(word)
        connection.shutdown(socket.SHUT_WR)
        data = b"".join(iter(lambda: connection.recv(65536), b""))
    answer = json.loads(data)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize("started_as", ["script", "module"])
def test_same_pid_same_port_nothing_refused(started_as: str, tmp_path: Path) -> None:
    shutil.copy(program("restarting")[-1], tmp_path / "serving.py")
    # A bare name, interpreter options and a relative path must all survive.
    target = ["serving.py"] if started_as == "script" else ["-m", "serving"]
    command = ["python3", "-B", "-X", "utf8=1", *target, "an argument", "--é"]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    process = subprocess.Popen(
        command, executable=sys.executable, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        first = ask(port, b"hello")
        for round_ in range(3):
            ask(port, b"restart")
            after = ask(port, b"hello")  # sent while the new image starts: waits, is not refused
            assert after["restarts"] == round_ + 1
            same = {"started": 1000.5, "pid": process.pid, "argv": ["an argument", "--é"], "port": port}
            same |= {"flags": 1, "dont_write": True, "variable": False, "inheritable": False}
            assert after.items() >= dict(same, position='{"offset": 7}').items()
            assert after["executable"] == first["executable"]
            assert after["fds"] == first["fds"], "descriptors pile up"
        ask(port, b"end")
        assert process.wait(timeout=120) == 5
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_fresh_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(restart.STATE_VARIABLE, raising=False)
    assert restart.load_state() is None


def test_state_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        copy = listener.dup()
        _, env = restart.exec_arguments([copy], None, 12.5, 2, [1.5, 2.5])
        monkeypatch.setenv(restart.STATE_VARIABLE, env[restart.STATE_VARIABLE])
        before = restart.load_state()
        assert before is not None
        assert (before.position, before.started, before.restarts) == (None, 12.5, 3)
        assert before.recent == (1.5, 2.5)
        assert before.sockets[0].getsockname() == listener.getsockname()
        assert restart.STATE_VARIABLE not in os.environ
        assert restart.load_state() is None
        copy.detach()
        before.sockets[0].close()


@pytest.mark.parametrize(
    "change",
    [
        {"pid": 1},
        {"version": 99},
        {"fds": None},
        {"started": "soon"},
        {"restarts": None},
        {"recent": 7},
    ],
    ids=lambda change: next(iter(change)),
)
def test_state_of_another_process_or_version_is_passed_over(
    change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, env = restart.exec_arguments([], None, 0.0, 0)
    state = json.loads(env[restart.STATE_VARIABLE]) | change
    monkeypatch.setenv(restart.STATE_VARIABLE, json.dumps(state))
    assert restart.load_state() is None
    assert restart.STATE_VARIABLE not in os.environ


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}"])
def test_state_that_is_no_state(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(restart.STATE_VARIABLE, text)
    assert restart.load_state() is None


def test_only_listening_sockets_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as plain, (tmp_path / "file").open("w") as file:
        _, env = restart.exec_arguments([plain], None, 0.0, 0)
        state = json.loads(env[restart.STATE_VARIABLE])
        state["fds"] += [file.fileno(), 99_999, -1]
        monkeypatch.setenv(restart.STATE_VARIABLE, json.dumps(state))
        before = restart.load_state()
        assert before is not None
        assert before.sockets == []
        os.fstat(plain.fileno())  # not ours: left open
        os.fstat(file.fileno())


def test_a_storm_of_restarts_is_stopped() -> None:
    now = 10_000.0
    guard = restart.RestartLimiter(2, clock=lambda: now)
    assert guard.try_acquire()
    now += 1800
    assert guard.try_acquire()
    assert not guard.try_acquire()
    later = restart.RestartLimiter(2, guard.recent, clock=lambda: now)  # the next image
    assert not later.try_acquire()
    now += 1801  # an hour after the first
    assert later.try_acquire()
    assert not later.try_acquire()
    assert later.recent == (11_800.0, 13_601.0)
    assert not restart.RestartLimiter(0, clock=lambda: now).try_acquire()


def test_when_it_cannot_be_executed_the_process_goes_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _, env = restart.exec_arguments([listener], "x" * 1_000_000, 0.0, 0)
        with pytest.raises(OSError, match="Argument list too long"):
            restart.execute([sys.executable, "-c", ""], env)
        _, env = restart.exec_arguments([listener], None, 0.0, 0)
        with pytest.raises(FileNotFoundError):
            restart.execute(["/nonexistent/python"], env)
        assert not os.get_inheritable(listener.fileno())
        socket.create_connection(listener.getsockname()).close()
