"""The image, the compose project and the deployment scripts, with a real Docker engine.

Run only with FASTTAIL_DOCKER=1: these tests take over the container name and image tags of
hyperliquid-parser.

The tests of this file run together and in order, because each uses what earlier ones deployed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import command, wait_for
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[2]
NAME = "hyperliquid-parser"
RATE = 23_500
PROJECT = "fasttail-test"
CMD = 'CMD ["serve", "/data"]'

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("FASTTAIL_DOCKER") != "1",
        reason=f"FASTTAIL_DOCKER=1 runs these: they take the name {NAME} and its image tags for themselves",
    ),
    pytest.mark.plain_build,
    pytest.mark.timeout(900),
]


class Site:
    """A checkout to deploy from, a node that writes, and a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        made = (".venv*", "build", "dist", ".*_cache", ".hypothesis", "*.so", "results")
        shutil.copytree(ROOT, self.checkout, ignore=shutil.ignore_patterns(*made))
        self.data = folder / "data"
        self.data.mkdir(mode=0o755)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        tools = folder / "bin"
        tools.mkdir()
        if not shutil.which("docker-compose"):  # the same program under its old name
            plugins = run("docker", "info", "--format", "{{json .ClientInfo.Plugins}}").stdout
            path = next(each["Path"] for each in json.loads(plugins) if each["Name"] == "compose")
            (tools / "docker-compose").symlink_to(path)
        self.env = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "COMPOSE_PROJECT_NAME": PROJECT,
            "HL_DATA": str(self.data),
            "FASTTAIL_PUBLISH": str(self.port),
        }
        self.node: subprocess.Popen[bytes] | None = None

    def shell(self, line: str, *, timeout: float = 600, code: int | None = 0) -> str:
        """Return what a line of bash prints, including standard error."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.checkout,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=timeout,
        )
        print(f"$ {line}\n{done.stdout}")
        assert code is None or done.returncode == code, (line, done.returncode, done.stdout[-3000:])
        return done.stdout

    def write(self) -> None:
        """Start a node whose hours last a minute."""
        self.node = subprocess.Popen(
            command("synth", self.data, "--rate", RATE, "--hour-seconds", 60), stdout=subprocess.DEVNULL
        )

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=120) as answer:
            return bytes(answer.read())

    def close(self) -> None:
        if self.node is not None:
            self.node.kill()
            self.node.wait()
        self.shell("docker compose down --volumes --timeout 5", code=None)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, check=True, capture_output=True, encoding="utf-8", timeout=120)


def inspect(what: str) -> Any:
    return json.loads(run("docker", "inspect", what).stdout)[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        made.write()  # here, because what a test starts ends with the test
        yield made
    finally:
        made.close()


def test_a_deploy(site: Site) -> None:
    said = site.shell("scripts/deploy staging --minutes 0.5")
    assert re.search(r"^== healthy after \d+ s$", said, re.MULTILINE)
    assert said.rstrip().endswith("== staging: deployed")
    commit = site.shell("git rev-parse HEAD").strip()
    assert commit in site.shell(f"docker exec {NAME} fasttail --version")
    labels = inspect(f"{NAME}:latest")["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] in site.shell(f"docker exec {NAME} fasttail --version")
    assert labels["org.opencontainers.image.revision"].startswith(commit)


def test_the_container_is_shut_in(site: Site) -> None:
    image, made = inspect(f"{NAME}:latest"), inspect(NAME)
    assert image["Size"] <= 250_000_000
    host = made["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["Init"]
    assert host["CapDrop"] == ["ALL"]
    assert host["Memory"] == 1 << 30
    assert host["NanoCpus"] == 2_000_000_000
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"]["Config"] == {"max-file": "5", "max-size": "50m"}
    assert host["PortBindings"]["8000/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": str(site.port)}]
    mounts = {mount["Destination"]: mount["RW"] for mount in made["Mounts"]}
    assert mounts == {"/data": False, "/var/lib/fasttail": True}
    assert site.shell(f"docker exec {NAME} id -u").strip() == "10001"
    site.shell(f"docker exec {NAME} touch /data/x", code=1)


def test_the_operators_commands(site: Site) -> None:
    """Every command of the operators' page gives its documented answer."""
    assert NAME in site.shell(f"docker ps | grep {NAME}")
    words = "📦|🔄|📊|🚀|⏳|✅ All|✅ Parallel|📡"
    follow = f"timeout 4 docker logs {NAME} -f --since 5s 2>&1"
    way = site.shell(f'{follow} | grep -E "{words}"').splitlines()
    order = [next(word for word in ["📦 P", *words.split("|")[1:], "📦 C"] if word in line) for line in way]
    first = order.index("📦 P")
    group = ["📦 P", "🔄", "📊", "🚀", "⏳", "✅ All", "📦 C", "✅ Parallel", "📡"]
    assert order[first : first + 9] == group
    sizes = site.shell(f'{follow} | grep "📦 Processing batch snapshot"').splitlines()
    assert len(sizes) >= 2
    assert all(re.search(r"snapshot: \d+ lines \(buffer cleared\)", line) for line in sizes)
    assert site.shell(f'docker logs {NAME} 2>&1 | grep -E "ERROR|⏰|❌"', code=1) == ""
    stats = site.shell(f"docker stats {NAME} --no-stream")
    used = re.search(r"([\d.]+)MiB / 1GiB", stats)
    assert used is not None
    assert float(used[1]) < 200
    assert "📡 WebSocket" in site.shell(f'{follow} | grep "📡 WebSocket"')
    # An hour later.
    recent = f"docker logs {NAME} --since 1h 2>&1"
    assert len(site.shell(f'{recent} | grep "📦 Processing batch snapshot" | tail -20').splitlines()) == 20
    count = int(site.shell(f'{recent} | grep -c "✅ All parallel tasks completed"'))
    assert abs(count - int(site.shell(f'{recent} | grep -c "📦 Processing batch snapshot"'))) <= 2
    assert site.shell(f'{recent} | grep -c "⏰"', code=1).strip() == "0"
    assert len(site.shell(f'{recent} | grep "📡 WebSocket" | tail -10').splitlines()) == 10


def test_verify_from_outside(site: Site) -> None:
    done = subprocess.run(
        command("verify", "--container", NAME, "--minutes", 0.2, "--json"),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_bundle_from_outside(site: Site, tmp_path: Path) -> None:
    """The bundle has the container's settings, and the stacks of a server that no other user may inspect."""
    file = tmp_path / "report.tar.gz"
    said = run(*command("bundle", "--container", NAME, "-o", file)).stdout
    with tarfile.open(file) as opened:
        held = {
            Path(entry.name).name: read.read().decode()
            for entry in opened.getmembers()
            if (read := opened.extractfile(entry)) is not None
        }
    assert "most recent call first" in held["container-stacks.txt"], said
    assert "fasttail-w0: " in held["container-stacks.txt"]
    assert re.search(r"^state_dir +/var/lib/fasttail .*FASTTAIL_STATE_DIR", held["config.txt"], re.MULTILINE)
    assert "📦 Processing batch snapshot" in held["log.txt"]
    assert "fasttail_batches_total" in held["metrics.txt"]
    assert json.loads(held["docker-stats.json"])["Name"] == NAME
    assert re.search(r"20\d{6}/\d+: \d+ bytes", held["node-files.txt"])


def orders(text: str | bytes) -> Iterator[bytes]:
    """Yield each order status of a message or a node's line, in one canonical form."""
    record = orjson.loads(text)
    for each in record["data"] if "data" in record else record.get("events", [record]):
        yield orjson.dumps(each, option=orjson.OPT_SORT_KEYS)


def test_a_client_over_a_stop_and_a_start(site: Site) -> None:
    """A stop closes clients with 1001; they resume at their cursor after the start."""
    wanted = {"type": "orders", "format": "raw"}
    got: list[bytes] = []
    stop: subprocess.Popen[bytes] | None = None
    begin = code = 0.0
    cursor = ""
    with connect(f"ws://127.0.0.1:{site.port}/ws", max_size=None) as bot:
        bot.send(json.dumps({"method": "subscribe", "subscription": wanted}))
        while not code:
            try:
                message = json.loads(text := bot.recv(timeout=120))
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else -1
                break
            if message["channel"] == "orders":
                got += orders(text)
                cursor = message["cursor"]
            if len(got) > RATE and stop is None:
                begin = time.monotonic()
                stop = subprocess.Popen(["docker", "stop", NAME], stdout=subprocess.DEVNULL)
    assert code == 1001
    assert stop is not None
    assert stop.wait(120) == 0
    assert time.monotonic() - begin < 10
    state = inspect(NAME)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    before = len(got)
    site.shell(f"docker start {NAME}")
    wait_for("health", lambda: inspect(NAME)["State"]["Health"]["Status"] == "healthy")
    assert "resuming from checkpoint" in site.shell(f"docker logs --since 60s {NAME} 2>&1")
    with connect(f"ws://127.0.0.1:{site.port}/ws", max_size=None) as bot:
        bot.send(json.dumps({"method": "subscribe", "subscription": {**wanted, "cursor": cursor}}))
        while len(got) < before + 3 * RATE:
            message = json.loads(text := bot.recv(timeout=120))
            assert message["channel"] not in {"gap", "error"}, message
            if message["channel"] == "orders":
                got += orders(text)
    hours = sorted(site.data.rglob("hourly/*/*"), key=lambda path: (path.parent.name, int(path.name)))
    lines = [line for path in hours for line in path.read_bytes().splitlines()]
    written = [order for line in lines[:-1] for order in orders(line)]
    place = written.index(got[0])
    assert got == written[place : place + len(got)]


def test_a_deploy_that_never_gets_healthy_rolls_back(site: Site) -> None:
    before = inspect(NAME)["Image"]
    way_back = run("docker", "images", "-q", f"{NAME}:previous").stdout
    dockerfile = site.checkout / "Dockerfile"
    good = dockerfile.read_text()
    dockerfile.write_text(good.replace(CMD, CMD.replace("]", ', "--no-such-option"]')))
    try:
        said = site.shell("HEALTH_S=20 scripts/deploy production --minutes 0.2", code=1)
    finally:
        dockerfile.write_text(good)
    assert "== FAILED: it does not get healthy" in said
    assert "== rolled back: fasttail" in said
    made = inspect(NAME)
    assert (made["Image"], made["State"]["Health"]["Status"]) == (before, "healthy")
    assert run("docker", "images", "-q", f"{NAME}:previous").stdout == way_back
    assert "unrecognized arguments" in next(site.checkout.glob("deploy-failed-*.log")).read_text()


def test_a_deploy_that_is_not_verified_rolls_back(site: Site) -> None:
    """A deployment that is healthy but does not log what operators look for is rolled back."""
    before = inspect(NAME)["Image"]
    dockerfile = site.checkout / "Dockerfile"
    good = dockerfile.read_text()
    dockerfile.write_text(good.replace(CMD, CMD.replace("]", ', "--log-batches", "summary"]')))
    try:
        said = site.shell("scripts/deploy production --minutes 0.3", code=1)
    finally:
        dockerfile.write_text(good)
    assert "FAIL" in said
    assert "== FAILED: fasttail verify says no" in said
    assert "== rolled back: fasttail" in said
    made = inspect(NAME)
    assert (made["Image"], made["State"]["Health"]["Status"]) == (before, "healthy")


def test_a_log_that_is_silent_holds_nothing_up(site: Site) -> None:
    """A log that stays silent after the start does not block the deployment."""
    before = inspect(NAME)["Image"]
    dockerfile = site.checkout / "Dockerfile"
    good = dockerfile.read_text()
    dockerfile.write_text(good.replace(CMD, CMD.replace("]", ', "--log-level", "error"]')))
    try:
        said = site.shell("scripts/deploy production --minutes 0.2", code=1, timeout=300)
    finally:
        dockerfile.write_text(good)
    assert "batches by /metrics: log_level?" in said
    assert "== rolled back: fasttail" in said
    assert inspect(NAME)["Image"] == before


def test_the_way_back_survives_a_deploy_of_the_same(site: Site) -> None:
    if not run("docker", "images", "-q", f"{NAME}:previous").stdout:  # as on an engine that is new
        run("docker", "commit", NAME, f"{NAME}:previous")
    before, way_back = inspect(NAME)["Image"], run("docker", "images", "-q", f"{NAME}:previous").stdout
    said = site.shell("scripts/deploy staging --minutes 0.2")
    assert "== before: the same image" in said
    assert inspect(NAME)["Image"] == before
    assert run("docker", "images", "-q", f"{NAME}:previous").stdout == way_back
    # A failed deployment keeps it too, even if no other tag holds the image to return to.
    tags = json.loads(run("docker", "image", "inspect", f"{NAME}:previous").stdout)[0]["RepoTags"]
    for tag in tags:
        if tag != f"{NAME}:previous":
            run("docker", "rmi", tag)
    said = site.shell("FASTTAIL_LOG_BATCHES=summary scripts/deploy staging --minutes 0.2", code=1)
    assert "== before: the same image" in said
    assert "== rolled back: fasttail" in said
    assert run("docker", "images", "-q", f"{NAME}:previous").stdout == way_back
    site.shell("scripts/deploy staging --minutes 0.2")


def test_a_rollback_and_back_again(site: Site) -> None:
    dockerfile = site.checkout / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text() + "LABEL later=yes\n")
    first = inspect(NAME)["Image"]
    site.shell("scripts/deploy staging --minutes 0.2")
    second = inspect(NAME)["Image"]
    assert second != first
    for expected in (first, second):
        assert "== rolled back: fasttail" in site.shell("scripts/rollback")
        made = inspect(NAME)
        assert (made["Image"], made["State"]["Health"]["Status"]) == (expected, "healthy")


@pytest.mark.parametrize("compose", ["docker compose", "docker-compose"])
def test_build_down_up(site: Site, compose: str) -> None:
    site.shell(f"{compose} config --quiet")
    site.shell(f"{compose} build {NAME}")
    site.shell(f"{compose} down {NAME}")
    assert NAME not in site.shell(f"docker ps | grep {NAME}", code=1)
    site.shell(f"{compose} up -d --wait {NAME}")
    assert NAME in site.shell(f"docker ps | grep {NAME}")


def test_an_empty_folder_without_a_volume_of_a_name(site: Site, tmp_path: Path) -> None:
    data = tmp_path / "empty"
    data.mkdir(mode=0o755)
    shut = ("--read-only", "--tmpfs", "/tmp", "-v", f"{data}:/data:ro")
    name = run("docker", "run", "-d", *shut, f"{NAME}:latest").stdout.strip()
    try:
        begin = time.monotonic()
        wait_for("health", lambda: inspect(name)["State"]["Health"]["Status"] == "healthy")
        print(f"healthy after {time.monotonic() - begin:.1f} s")
        begin = time.monotonic()
        run("docker", "stop", name)
        assert time.monotonic() - begin < 5
        assert inspect(name)["State"]["ExitCode"] == 0
    finally:
        run("docker", "rm", "-f", "-v", name)


@pytest.mark.parametrize("wait_s", [0.0, 0.05, 0.1, 0.2, 0.4])
def test_a_stop_at_any_moment_of_the_start(tmp_path: Path, wait_s: float) -> None:
    """Without an init process, a signal that arrives before its handler is installed would be lost."""
    data = tmp_path / "empty"
    data.mkdir(mode=0o755)
    name = run("docker", "run", "-d", "--init", "-v", f"{data}:/data:ro", f"{NAME}:latest").stdout.strip()
    try:
        time.sleep(wait_s)
        begin = time.monotonic()
        run("docker", "stop", name)
        assert time.monotonic() - begin < 5
        assert inspect(name)["State"]["ExitCode"] in {0, 128 + signal.SIGTERM}
    finally:
        run("docker", "rm", "-f", "-v", name)
