"""`fasttail bundle`: what the archive contains, what it names as missing, and that it contains no secret."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import stat
import subprocess
import sys
import tarfile
import time
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from running import command, docker_in, hour_file, serve

from fasttail.cli import main
from fasttail.tools.bundle import archive
from fasttail.tools.bundle.archive import BundleParts, SourceUnavailable
from fasttail.tools.bundle.redact import Redactor, public_variables

TOKEN = "t0ken-0f-the-server"
PASSWORD = "p4ss/w0rd"
PATH = "T0000-B0000-s3cretpath"
WEBHOOK = f"https://operator:{quote(PASSWORD, safe='')}@hooks.example:8443/services/{PATH}?sig=5ignature99"
CLOUD = "cl0ud-cr3dential"
BASIC = b64encode(f"operator:{PASSWORD}".encode()).decode()
SECRETS = (
    TOKEN,
    PASSWORD,
    quote(PASSWORD, safe=""),
    PATH,
    "5ignature99",
    CLOUD,
    b64encode(TOKEN.encode()).decode(),
    BASIC,
)
NEAR_THE_LOG = [
    "2026-05-05T17:39:14.123Z INFO     an ordinary line",
    f"2026-05-05T17:39:14.123Z INFO     GET /ws?token={TOKEN} HTTP/1.1",
    f"2026-05-05T17:39:14.123Z WARNING  webhook {WEBHOOK}: no answer",
    f"2026-05-05T17:39:14.123Z INFO     Authorization: Basic {BASIC}",
    f"2026-05-05T17:39:14.123Z INFO     headers {{'Authorization': 'Bearer {TOKEN}'}}",
    f'{{"alert_webhook": {json.dumps(WEBHOOK)}, "AWS_SECRET_ACCESS_KEY": "{CLOUD}"}}',
    "2026-05-05T17:39:14.123Z INFO     Bearer never-seen-before-99 and https://a:unknown-pw-99@host/x",
]  # fmt: skip
UNKNOWN = ("never-seen-before-99", "unknown-pw-99")

Done = subprocess.CompletedProcess[str]


def run(*words: object, env: dict[str, str] | None = None, folder: Path | None = None) -> Done:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FASTTAIL_")}
    return subprocess.run(
        command("bundle", *words),
        env=clean | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        cwd=folder,
    )


def content(file: Path) -> dict[str, str]:
    with tarfile.open(file) as opened:
        found = {}
        for entry in opened.getmembers():
            held = opened.extractfile(entry)
            assert held is not None
            found[Path(entry.name).name] = held.read().decode()
    return found


def assert_without_secrets(file: Path, done: Done, *more: str) -> None:
    raw = file.read_bytes()
    everything = raw + gzip.decompress(raw) + (done.stdout + done.stderr).encode()
    assert [secret for secret in (*SECRETS, *more) if secret.encode() in everything] == []


def secret_file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_all_of_a_running_server_and_no_secret(tmp_path: Path) -> None:
    data = tmp_path / "node"
    hour_file(data, "plain", "20260505", 7).write_bytes(b"x" * 1234)
    token = secret_file(tmp_path, "token", TOKEN + "\n")
    log = secret_file(tmp_path, "server.log", "\n".join(NEAR_THE_LOG))
    config = secret_file(tmp_path, "f.toml", f'alert_webhook = "{WEBHOOK}"\nworkers = 2\n')
    planted = {"FASTTAIL_ALERT_WEBHOOK": WEBHOOK, "AWS_SECRET_ACCESS_KEY": CLOUD, "FASTTAIL_TOKEN": TOKEN}
    file = tmp_path / "report.tar.gz"
    options = ("--token-file", token, "--alert-webhook", WEBHOOK)
    with serve(data, *options, env=planted) as server:
        done = run(
            "-o", file, "--log", log, "--url", f"http://127.0.0.1:{server.port}", "--pid", server.process.pid,
            "--data-dir", data, "--config", config, "--token-file", token, env=planted,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert_without_secrets(file, done, *UNKNOWN)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    held = content(file)
    assert set(held) == {
        "about.txt", "config.txt", "disk.txt", "environment.txt", "health-live.json", "health.json",
        "kernel.txt", "log.txt", "metrics.txt", "missing.txt", "node-files.txt", "process-command.txt",
        "process-environment.txt", "process.txt", "stacks.txt", "threads.txt", "ws-status.json",
    }  # fmt: skip
    assert held["missing.txt"] == "nothing is missing\n"
    assert done.stdout.splitlines()[0] == str(file)
    assert all(name in done.stdout for name in held)
    assert "an ordinary line" in held["log.txt"]
    assert "fasttail_batches_total" in held["metrics.txt"]
    assert json.loads(held["health.json"])["status"] == "ok"
    assert "alert_webhook" in held["config.txt"]
    assert "https://hooks.example:8443/..." in held["config.txt"], "of the webhook the host is told"
    assert f"file {config}:workers" in held["config.txt"]
    assert "fasttail-w0" in held["threads.txt"]
    assert "most recent call first" in held["stacks.txt"]
    assert "max_user_watches" in held["kernel.txt"]
    assert "ulimit NOFILE" in held["kernel.txt"]
    assert "20260505/7: 1234 bytes" in held["node-files.txt"]
    assert "orjson" in held["about.txt"]
    assert "AWS_SECRET_ACCESS_KEY=[removed]" in held["process-environment.txt"]
    assert "--alert-webhook" in held["process-command.txt"]


def test_the_settings_are_those_of_the_process(tmp_path: Path) -> None:
    """Settings come from the process's command line, environment and folder, not from this shell."""
    (tmp_path / "f.toml").write_text("grace_s = 7\n")
    data = tmp_path / "node"
    data.mkdir()
    file = tmp_path / "report.tar.gz"
    with serve(data, "--config", tmp_path / "f.toml", env={"FASTTAIL_RESCAN_S": "3"}) as server:
        done = run("-o", file, "--pid", server.process.pid, env={"FASTTAIL_WORKERS": "9"})
    assert done.returncode == 0
    config = content(file)["config.txt"]
    for line in (rf"data_dir +{data} .*", r"grace_s +7 .*f.toml.*", r"rescan_s +3 .*FASTTAIL_RESCAN_S"):
        assert re.search(rf"^{line}$", config, re.MULTILINE), config
    assert not re.search(r"^workers +9 ", config, re.MULTILINE)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "serve"]) as other:
        try:
            done = run("-o", file, "--pid", other.pid)
        finally:
            other.kill()
    for name in ("config.txt", "stacks.txt"):
        assert f"missing  {name}: process {other.pid} is not fasttail serve" in done.stdout


def test_no_code_of_the_process_is_run(tmp_path: Path) -> None:
    """Root may inspect a service whose environment names modules of its user; bundle must not import them."""
    planted, marker = tmp_path / "planted", tmp_path / "ran"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(f"open({str(marker)!r}, 'a').close()\n")
    data = tmp_path / "node"
    data.mkdir()
    with serve(data, env={"PYTHONPATH": str(planted), "FASTTAIL_RESCAN_S": "3"}) as server:
        assert marker.exists(), "the server itself has run it"
        marker.unlink()
        done = run("-o", tmp_path / "report.tar.gz", "--pid", server.process.pid)
    assert done.returncode == 0
    assert "FASTTAIL_RESCAN_S" in content(tmp_path / "report.tar.gz")["config.txt"]
    assert not marker.exists()


def test_the_words_of_another_users_process_are_secret_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process's command line is readable by every user, its environment only by its owner."""

    def refused(pid: int) -> dict[str, str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fasttail.tools.bundle.command.process_environ", refused)
    file = tmp_path / "report.tar.gz"
    words = [sys.executable, "-c", "import time; time.sleep(60)", "--alert-webhook", WEBHOOK]
    with subprocess.Popen(words) as process:
        try:
            assert main(["bundle", "-o", str(file), "--pid", str(process.pid)]) == 0
        finally:
            process.kill()
    held = content(file)["process-command.txt"]
    assert "--alert-webhook" in held
    assert PATH not in held


def test_with_nothing_to_ask_it_says_what_is_missing(tmp_path: Path) -> None:
    done = run(folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = tmp_path.iterdir()
    assert file.name == done.stdout.splitlines()[0]
    missing = content(file)["missing.txt"]
    for name in ("log.txt", "metrics.txt", "health.json", "threads.txt", "node-files.txt", "disk.txt"):
        assert f"\n{name}: no " in f"\n{missing}", missing
        assert f"missing  {name}: no " in done.stdout


def test_each_thing_that_fails_is_named(tmp_path: Path) -> None:
    broken = secret_file(tmp_path, "broken.toml", f'alert_webhook = "{WEBHOOK}"\nnonsense = "{CLOUD}"\n')
    file = tmp_path / "b.tar.gz"
    done = run(
        "-o", file, "--log", tmp_path / "gone.log", "--url", "http://127.0.0.1:9", "--pid", 4194304,
        "--data-dir", tmp_path / "gone", "--container", "gone", env={"PATH": "/nowhere"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    missing = content(file)["missing.txt"]
    for line in (
        "log.txt: ", "No such file or directory",
        "metrics.txt: http://127.0.0.1:9/metrics: Connection refused",
        "process.txt: no such process: 4194304", "docker-inspect.json: cannot run docker",
    ):  # fmt: skip
        assert line in missing, missing
    assert "Traceback" not in missing
    done = run("-o", file, "--config", broken)
    assert done.returncode == 2, "its own settings stand there, too"
    assert CLOUD not in done.stderr
    assert PASSWORD not in done.stderr


def test_what_hangs_is_left_behind(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # nobody ever writes to it
    docker = secret_file(tmp_path, "docker", "#!/bin/sh\nexec sleep 60\n")
    docker.chmod(0o700)
    file = tmp_path / "b.tar.gz"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = run(
            "-o", file, "--log", pipe, "--url", f"http://127.0.0.1:{silent.getsockname()[1]}",
            "--container", "c", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    missing = content(file)["missing.txt"]
    assert "log.txt: no answer within 5 s" in missing
    assert "/metrics: no answer within 5 s" in missing
    assert "docker-inspect.json: docker container: no answer within 5 s" in missing


def test_of_a_long_log_the_end_in_whole_lines(tmp_path: Path) -> None:
    line = f"2026-05-05T17:39:14.123Z INFO     batch and {TOKEN}"
    log = secret_file(tmp_path, "log", "".join(f"{line} {number:06}\n" for number in range(40_000)))
    file = tmp_path / "b.tar.gz"
    done = run("-o", file, "--log", log, "--log-mb", 1, env={"FASTTAIL_TOKEN": TOKEN})
    assert_without_secrets(file, done)
    lines = content(file)["log.txt"].splitlines()
    assert lines[-1].endswith(" 039999")
    assert 10_000 < len(lines) < 20_000
    assert all(each.startswith("2026-05-05T17:39:14.123Z INFO     batch and [removed] ") for each in lines)


@pytest.mark.parametrize(("output", "told"), [("gone/b.tar.gz", "no such folder"), (".", "is a folder")])
def test_an_output_that_cannot_be_written(output: str, told: str, tmp_path: Path) -> None:
    done = run("-o", output, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# ---- a container, with a stand-in for the docker command


def inspected() -> dict[str, Any]:
    return {
        "Id": "0123",
        "Path": "fasttail",
        "Args": ["serve", "/data", f"--alert-webhook={WEBHOOK}"],
        "State": {"Running": True, "Health": {"Log": [{"Output": f"Bearer {TOKEN}"}]}},
        "Config": {
            "Env": [f"FASTTAIL_TOKEN={TOKEN}", "FASTTAIL_WORKERS=3", f"AWS_SESSION={CLOUD}", "PATH=/usr/bin"],
            "Labels": {"com.docker.compose.service": "hyperliquid-parser", "deploy.secret": CLOUD},
        },
        "HostConfig": {
            "Memory": 512,
            "LogConfig": {"Type": "splunk", "Config": {"splunk-token": CLOUD, "max-size": "50m"}},
        },
        "NetworkSettings": {"Ports": {}},
    }


def test_a_container(tmp_path: Path) -> None:
    docker_in(tmp_path)
    (tmp_path / "stats").write_text('{"MemUsage":"84.1MiB / 7.6GiB"}')
    secret_file(tmp_path, "top", f"PID CMD {WEBHOOK}")
    secret_file(tmp_path, "inspect.json", json.dumps([inspected()]))
    secret_file(tmp_path, "log", "\n".join(NEAR_THE_LOG))
    file = tmp_path / "b.tar.gz"
    done = run("-o", file, "--container", "c", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (done.returncode, done.stderr) == (0, "")
    assert_without_secrets(file, done, *UNKNOWN)
    held = content(file)
    shown = json.loads(held["docker-inspect.json"])
    assert shown["Config"]["Env"] == [
        "FASTTAIL_TOKEN=[removed]", "FASTTAIL_WORKERS=3", "AWS_SESSION=[removed]", "PATH=/usr/bin",
    ]  # fmt: skip
    assert shown["Config"]["Labels"] == {"com.docker.compose.service": "hyperliquid-parser"}
    assert shown["HostConfig"] == {"Memory": 512, "LogConfig": {"Type": "splunk", "max-size": "50m"}}
    assert "84.1MiB" in held["docker-stats.json"]
    assert "--print-config" in held["config.txt"]
    assert "an ordinary line" in held["log.txt"]
    assert "sh" in held["container-threads.txt"]
    assert "docker-version.txt: docker version: no such thing" in held["missing.txt"]
    assert "metrics.txt: no --url" in held["missing.txt"]


# ---- parts and secrets


def test_one_part_that_fails_is_not_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(archive, "SLACK_S", 0.1)

    def missing() -> str:
        raise SourceUnavailable("not\nthere")

    def broken() -> str:
        raise ValueError("a fault of ours")

    parts = BundleParts(Redactor())
    parts.add_source("good", lambda: "yes\n")
    parts.add_source("missing", missing)
    parts.add_source("broken", broken)
    parts.add_source("slow", lambda: time.sleep(5) or "late")  # type: ignore[func-returns-value]
    parts.add_source("long", lambda: b"line\n" * 100, limit=12)
    parts.gather()
    assert parts.ready == {"good": b"yes\n", "long": b"line\nline\n"}
    assert parts.missing == {
        "missing": "not there",
        "broken": "a fault of ours",
        "slow": "no answer within 0.2 s",
        "long": "cut: the first 12 of 500 bytes are there",
    }
    with pytest.raises(FileNotFoundError):
        parts.write(tmp_path / "gone" / "x", "f")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer [removed]"),
        ("GET /ws?since=5&token=abcd&x=1", "GET /ws?since=5&token=[removed]&x=1"),
        ("redis://:hunter2@host/0", "redis://[removed]@host/0"),
        ("redis://user:hunter@2@host/0", "redis://[removed]@host/0"),
        ("Authorization: raw-token and more", "Authorization: [removed]"),
        ("> cookie: a=b; c=d\nnext", "> cookie: [removed]\nnext"),
        ("got eyJhbGciOiJI.eyJzdWIi.SflKxwRJ from", "got [removed] from"),
        ("run --db-password hunter2 --port 1", "run --db-password [removed] --port 1"),
        ('password: "two words" next', 'password: "[removed]" next'),
        ("DB_PWD=hunter2 next", "DB_PWD=[removed] next"),
        ('"alert_webhook": "https://hooks.example/..."', '"alert_webhook": "https://hooks.example/..."'),
        ('{"api_key": "abcdef"}', '{"api_key": "[removed]"}'),
        ("MY_PASSWORD=abcdef next", "MY_PASSWORD=[removed] next"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----.", "[removed]."),
        ("token_file  /secrets/token  flag", "token_file  /secrets/token  flag"),
        ("webhook hooks.example: answered 500", "webhook hooks.example: answered 500"),
        ("📡 WebSocket: 0/0 orders → 0 clients", "📡 WebSocket: 0/0 orders → 0 clients"),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret(text: str, left: str) -> None:
    assert Redactor().clean(text.encode()).decode() == left


@pytest.mark.parametrize(
    "words",
    [
        ["sh", "-c", f"exec fasttail serve /data --alert-webhook {WEBHOOK}"],
        ["sh", "-c", f"FASTTAIL_ALERT_WEBHOOK='{WEBHOOK}' fasttail serve /data"],
        ["sh", "-c", f"fasttail serve /data's --alert-webhook {WEBHOOK}"],
        ["env", f"FASTTAIL_ALERT_WEBHOOK={WEBHOOK}", "fasttail"],
    ],
)
def test_a_secret_within_a_command(words: list[str]) -> None:
    redactor = Redactor()
    redactor.learn_arguments(words)
    for text in (" ".join(words), f"line {WEBHOOK}", PATH):
        assert PATH not in redactor.clean(text.encode()).decode()


def test_a_secret_may_begin_as_a_path_does() -> None:
    redactor = Redactor()
    token = "/" + b64encode(bytes(range(150, 181))).decode()
    redactor.learn_variables({"FASTTAIL_TOKEN": token, "SSL_CERT_KEY": "/etc/ssl/key.pem"})
    assert redactor.clean(f"{token} /etc/ssl/key.pem".encode()) == b"[removed] /etc/ssl/key.pem"


def test_a_known_secret_in_every_form() -> None:
    redactor = Redactor()
    redactor.learn_url(WEBHOOK)
    redactor.learn('pä ss"word')
    redactor.learn_arguments(["x", "--my-secret", "behind1", "--api-key=within1", "--port", "8000"])
    redactor.learn_variables({"USE_AUTH": "true", "API_KEY": "abc", "DB_PASSWORD": "variable1"})
    for text in (
        WEBHOOK, PASSWORD, quote(PASSWORD, safe=""), f"/services/{PATH}", "pä ss\"word",
        "p%C3%A4%20ss%22word", json.dumps("pä ss\"word"), BASIC, "behind1", "within1", "variable1",
    ):  # fmt: skip
        cleaned = redactor.clean(f"<{text}>".encode()).decode()
        assert "[removed]" in cleaned, text
        assert not any(
            secret in cleaned for secret in (PATH, PASSWORD, "word", "behind", "within", "variable")
        )
    assert redactor.clean(b"true abc 8000 hooks.example") == b"true abc 8000 hooks.example"


def test_of_an_environment_only_known_names_keep_their_values() -> None:
    shown = public_variables(
        {"FASTTAIL_PORT": "1", "FASTTAIL_ALERT_WEBHOOK": "x", "FASTTAIL_TOKEN": "x", "OTHER": "x"}.items()
    )
    assert shown == [
        "FASTTAIL_PORT=1", "FASTTAIL_ALERT_WEBHOOK=[removed]", "FASTTAIL_TOKEN=[removed]", "OTHER=[removed]",
    ]  # fmt: skip
