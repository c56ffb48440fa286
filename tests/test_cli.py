"""The command line from outside: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running import program

from fasttail.cli import main
from fasttail.config import SynthSettings

COMMANDS = ("serve", "tail", "parse", "synth", "demo", "verify", "bundle")
# Standard output buffered as by default, whatever the environment of the tests says.
STAND_IN = program("stand_in")
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FASTTAIL_")}
    return subprocess.run(
        [sys.executable, "-m", "fasttail", *arguments],
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return the single line that reports a user's mistake."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr.rstrip("\n")


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    words = done.stdout.split()
    assert words[0] == "fasttail"
    assert words[2] == "(commit"
    assert done.stdout.endswith(")\n")


def test_help() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(f"\n    {command} " in done.stdout for command in COMMANDS)
    for command in COMMANDS:
        done = run(command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: fasttail {command} ")
        assert "FASTTAIL_" in done.stdout
        assert done.stdout.isascii(), "any terminal can show it"
    serve = run("serve", "--help").stdout
    assert serve.index("--debug-leak") > serve.index("never use in production"), (
        "apart from the ordinary options"
    )
    assert "(default: 1M)" in serve
    assert "80 %" in serve
    assert "symbols" not in serve, "only a file can hold them"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "fasttail: the following arguments are required: COMMAND (see fasttail --help)"),
        (["serves"], "fasttail: argument COMMAND: invalid choice: 'serves'"),
        (["serve"], "fasttail serve: no DATA_DIR given (nor FASTTAIL_DATA_DIR, nor data_dir in a file)"),
        (["serve", "d", "--prot", "1"], "fasttail: unrecognized arguments: --prot 1 (see fasttail --help)"),
        (["serve", "d", "--por", "1"], "fasttail: unrecognized arguments: --por 1 (see fasttail --help)"),
        (["serve", "d", "--port"], "fasttail serve: argument --port: expected one argument (see"),
        (["serve", "d", "--port", "80x"], "fasttail serve: --port: expected a whole number from 0 to 65535"),
        (["serve", "d", "--config", "/gone.toml"], "fasttail serve: /gone.toml: No such file or directory"),
        (["tail", "d", "--format", "none"], "fasttail tail: --format: expected one of json, raw, got 'none'"),
        (["tail", "d", "--user", "0x12"], "fasttail tail: --user: expected an address, 0x and 40 hex"),
        (["parse"], "fasttail parse: the following arguments are required: FILE (see"),
        (["demo", "--rate", "0"], "fasttail demo: --rate: expected a number above 0, or \"max\", got '0'"),
        (["synth", "d", "--layout", "auto"], "fasttail synth: --layout: expected one of plain, by_block"),
        (["serve", "d", "\x1b[31m\n"], "fasttail: unrecognized arguments: ?[31m (see fasttail --help)"),
    ],
)  # fmt: skip
def test_mistakes_are_answered_in_one_line(arguments: list[str], line: str) -> None:
    assert refused(run(*arguments)).startswith(line)


def test_mistakes_in_environment_and_file(tmp_path: Path) -> None:
    assert refused(run("serve", "d", FASTTAIL_PORT="x")).startswith(
        "fasttail serve: environment variable FASTTAIL_PORT: expected a whole number"
    )
    file = tmp_path / "f.toml"
    file.write_text("prot = 1\n")
    line = refused(run("serve", "d", FASTTAIL_CONFIG=str(file)))
    assert line == f"fasttail serve: {file}, line 1: unknown setting 'prot' (did you mean 'port'?)"


def test_synth_writes_what_was_asked_for(tmp_path: Path) -> None:
    done = run("synth", str(tmp_path / "a"), "--lines", "500", "--seed", "3", FASTTAIL_LAYOUT="plain")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("500 lines, 500 orders, ")
    (hour,) = (tmp_path / "a" / "node_order_statuses" / "hourly").glob("*/*")
    lines = hour.read_bytes().splitlines()
    assert len(lines) == 500
    assert all("order" in json.loads(line) for line in lines)


def test_synth_says_in_one_line_what_it_cannot_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(run("synth", str(tmp_path / "file"), "--lines", "1")).startswith("fasttail synth: ")


@pytest.mark.parametrize("arguments", [["serve", "--help"], ["--version"]])
def test_a_reader_that_leaves_ends_it_quietly(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "fasttail", *arguments]
    done = subprocess.run(
        command, env=BUFFERED, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=120
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("unbuffered", "told"), [("", "fasttail: standard output"), ("1", "fasttail synth")])
def test_a_full_disk_is_told_once(unbuffered: str, told: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fasttail", "synth", str(tmp_path), "--lines", "1"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=120,
        )
    assert (done.returncode, done.stderr) == (1, f"{told}: No space left on device\n")


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
@pytest.mark.parametrize(
    ("command", "kind"),
    [("serve x", "Serve"), ("tail x", "Tail"), ("parse x y", "Parse"), ("demo", "Demo")],
)
def test_what_is_called(command: str, kind: str, given: dict[str, str], tmp_path: Path) -> None:
    openmp = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    clean = {name: value for name, value in os.environ.items() if name not in openmp}
    words = [*STAND_IN, str(tmp_path / "notes"), "", *command.split()]
    assert subprocess.run(words, env=clean | given, check=False, timeout=120).returncode == 3
    policy = given.get("OMP_WAIT_POLICY", "spins 20000" if kind == "Parse" else "PASSIVE")
    assert (tmp_path / "notes").read_text() == f"{kind}Settings {policy}\n"


def test_a_closed_standard_output_is_no_file_of_ours(tmp_path: Path) -> None:
    """Otherwise the first file or socket opened would get descriptor 1, and then the log."""
    script = 'exec "$0" "$1" "$2" log serve x 0<&- 1>&- 2>&-'
    notes = tmp_path / "notes"
    done = subprocess.run(["sh", "-c", script, *STAND_IN, notes], check=False, timeout=120)
    assert done.returncode == 3
    assert notes.read_text() == "ServeSettings PASSIVE\n"


def test_a_host_that_does_not_exist(tmp_path: Path) -> None:
    done = run("serve", str(tmp_path), "--host", "nowhere.invalid", "--port", "0")
    assert done.returncode == 2
    assert re.search(r"^fasttail serve: .*cannot listen on nowhere\.invalid:0: .", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_much_output_on_a_full_disk_is_told_once(tmp_path: Path) -> None:
    command = [*STAND_IN, str(tmp_path / "notes"), "much", "parse", "x"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, env=BUFFERED, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120
        )
    assert (done.returncode, done.stderr) == (1, "fasttail parse: No space left on device\n")


def test_the_code_of_the_command_goes_before_that_of_the_output(tmp_path: Path) -> None:
    command = [*STAND_IN, str(tmp_path / "notes"), "print", "parse", "x"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, env=BUFFERED, stdout=full, stderr=subprocess.PIPE, check=False, timeout=120
        )
    assert (done.returncode, done.stderr) == (3, b"")


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(settings: SynthSettings) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("fasttail.tools.exchange.command.synth", interrupt)
    assert main(["synth", "/nowhere"]) == 130


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "x/y"),
            2,
            "fasttail synth: x/y: No such file or directory",
        ),
        (OSError(98, "Address already in use"), 2, "fasttail synth: Address already in use"),
        (OSError(28, "No space left on device"), 1, "fasttail synth: No space left on device"),
        (BrokenPipeError(32, "Broken pipe"), 0, ""),
    ],
)
def test_what_the_surroundings_refuse(
    error: OSError, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(settings: SynthSettings) -> int:
        raise error

    monkeypatch.setattr("fasttail.tools.exchange.command.synth", refuse)
    assert main(["synth", "/nowhere"]) == code
    assert capsys.readouterr().err == (line + "\n" if line else "")


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(settings: SynthSettings) -> int:
        raise KeyError("a name that is not there")

    monkeypatch.setattr("fasttail.tools.exchange.command.synth", fail)
    with pytest.raises(KeyError, match="a name that is not there"):
        main(["synth", "/nowhere"])


def test_without_a_rate_a_number_of_lines_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []

    def note(settings: SynthSettings) -> int:
        rates.append(settings.rate)
        return 0

    monkeypatch.setattr("fasttail.tools.exchange.command.synth", note)
    for arguments in ([], ["--lines", "9"], ["--lines", "9", "--rate", "7"], ["--rate", "max"]):
        main(["synth", "/nowhere", *arguments])
    assert rates == [23_500.0, None, 7.0, None]


def test_import_of_the_cli_loads_nothing_compiled_and_changes_nothing() -> None:
    done = subprocess.run(program("import_cli"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stream_ends_on_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fasttail", "synth", str(tmp_path), "--rate", "100"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not list(tmp_path.glob("*/hourly/*/*")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in errors
    assert "orders" in output
