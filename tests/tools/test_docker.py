"""`--container` with a real engine that has the image FASTTAIL_IMAGE, built by `docker compose build`.

Run with FASTTAIL_DOCKER=1, like test_container.py, which builds the image. Nothing is mounted: the simulated
node writes inside the container.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import command, wait_for

pytestmark = [
    pytest.mark.skipif(os.environ.get("FASTTAIL_DOCKER") != "1", reason="FASTTAIL_DOCKER=1 runs these"),
    pytest.mark.plain_build,
]
IMAGE = os.environ.get("FASTTAIL_IMAGE") or "hyperliquid-parser"


def docker(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, encoding="utf-8", timeout=120, check=False)


def absent() -> str:
    """Return why no container can run, or ""."""
    try:
        done = docker("image", "inspect", IMAGE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no docker engine: {error}"
    return done.stderr.strip() if done.returncode else ""


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """Run a server in a container, beside a node that writes."""
    if why := absent():
        pytest.fail(why)
    name = f"fasttail-test-{os.getpid()}"
    begun = docker(
        "run", "-d", "--name", name, "--tmpfs", "/node:mode=1777", "-p", "127.0.0.1::8000",
        "-e", "FASTTAIL_ALERT_WEBHOOK=http://user:pl4nted-s3cret@127.0.0.1:9/", IMAGE, "serve", "/node",
    )  # fmt: skip
    try:
        assert begun.returncode == 0, begun.stderr
        node = docker("exec", "-d", name, "fasttail", "synth", "/node", "--rate", "2000", "--seconds", "120")
        assert node.returncode == 0, node.stderr
        wait_for("batches", lambda: docker("logs", name).stdout.count("📡") >= 3)
        yield name
    finally:
        docker("rm", "-f", name)


def test_verify_a_container(container: str) -> None:
    done = subprocess.run(
        command("verify", "--container", container, "--minutes", 0.7, "--json"),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert re.fullmatch(r"watching: 3\d of 42 s, \d+ batches, \d+ MB\n", done.stderr)
    checks = {row["name"]: row for row in json.loads(done.stdout)["checks"]}
    memory = checks.pop("memory")  # the node's files count as the container's memory here
    assert memory["status"] in {"PASS", "WARN"}, memory
    assert {row["status"] for row in checks.values()} == {"PASS"}, checks
    assert "docker stats" in memory["figure"]
    assert done.returncode == 0


def test_bundle_a_container(container: str, tmp_path: Path) -> None:
    file = tmp_path / "report.tar.gz"
    done = subprocess.run(
        command("bundle", "--container", container, "-o", file),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with tarfile.open(file) as archive:
        names = {Path(name).name for name in archive.getnames()}
    expected = {"log.txt", "config.txt", "docker-inspect.json", "docker-stats.json", "metrics.txt"}
    expected |= {"health.json", "container-version.txt", "container-threads.txt", "node-files.txt"}
    assert expected <= names, done.stdout
    assert b"pl4nted-s3cret" not in gzip.decompress(file.read_bytes())


def test_verify_a_container_that_has_ended(container: str) -> None:
    ended = f"{container}-ended"
    try:
        assert docker("run", "--name", ended, IMAGE, "--version").returncode == 0
        done = subprocess.run(
            command("verify", "--container", ended, "--since", "1h", "--minutes", 0),
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
    finally:
        docker("rm", "-f", ended)
    assert done.returncode == 1
    assert "the container is not running" in done.stdout


def test_no_such_container(container: str) -> None:
    done = subprocess.run(
        command("verify", "--container", f"{container}-gone"),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"fasttail verify: no such container: {container}-gone\n"
