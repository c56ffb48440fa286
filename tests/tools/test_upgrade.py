"""Upgrades and rollbacks under load: each version resumes from the checkpoint that the other one wrote."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from running import command, free_ports, wait_for
from test_kill import Node, Watching, assert_without_holes, end_all, live, old

CHECKOUT = Path(__file__).resolve().parents[2]

BEFORE = "1a7d22019768f93ff3d2bcd2fb802656d54d397a"
"""The last commit whose server followed order statuses only."""

LIFE_S = 3.0


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the earlier version; return the folder to import it from."""
    folder = tmp_path_factory.mktemp("earlier")
    archive = subprocess.run(["git", "archive", BEFORE], cwd=CHECKOUT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"the checkout does not have commit {BEFORE[:7]}: {archive.stderr.decode().strip()}")
    source, site = folder / "source", folder / "site"
    source.mkdir()
    subprocess.run(["tar", "xf", "-", "-C", source], input=archive.stdout, check=True)
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
        str(source),
    ]
    subprocess.run(install, check=True)
    return site


def has_orders(client: Watching, since: int) -> bool:
    """Return whether a connection of the client, from the `since`-th on, has got orders."""
    return any(connection.orders for connection in client.got[since:])


def test_upgrades_and_rollbacks_under_load(tmp_path: Path, earlier: Path) -> None:
    """Each life is killed, and the next one, of the other version, begins at its checkpoint."""
    folder, state, port = tmp_path / "data", tmp_path / "state", free_ports(1)[0]
    words = command("serve", folder, "--port", port, "--state-dir", state, "--workers", 1)
    assert words[1] == "-P", "an import path from the environment comes before the installed package"
    versions = [{"PYTHONPATH": str(earlier)}, {}, {"PYTHONPATH": str(earlier)}, {}]
    node = Node(folder, 1)
    clients = [Watching(port, "/ws", live), Watching(port, "/ws/orderUpdate", old)]
    kept: list[tuple[str, int]] = []
    logs = [tmp_path / f"log{number}" for number in range(len(versions))]
    try:
        for version, log in zip(versions, logs, strict=True):
            before = [len(client.got) for client in clients]
            with log.open("wb") as output:
                process = subprocess.Popen(words, stdout=output, stderr=output, env={**os.environ, **version})
            for client, since in zip(clients, before, strict=True):
                wait_for("orders", partial(has_orders, client, since))
            time.sleep(LIFE_S)
            process.send_signal(signal.SIGKILL)
            process.wait()
            checkpoint = json.loads((state / "checkpoint.json").read_text())
            assert checkpoint["version"] == 1
            kept.append((Path(checkpoint["position"]["path"]).name, checkpoint["position"]["offset"]))
    finally:
        end_all(node, clients, process)
        for log in filter(Path.exists, logs):
            print(*log.read_text().splitlines()[-20:], sep="\n")
    assert [fault for client in clients for fault in client.faults] == []
    for client in clients:
        for connection in client.got:
            assert_without_holes(connection)
    for (name, offset), log in zip(kept, logs[1:], strict=False):
        text = log.read_text()
        assert "ERROR" not in text
        found = re.search(r"following .*/(\d+) from byte (\d+)", text)
        assert found is not None
        assert (found[1], int(found[2])) == (name, offset)
    commits = [re.search(r"\(commit (\w+)", log.read_text()) for log in logs]
    assert all(a is not None and b is not None and a[1] != b[1] for a, b in itertools.pairwise(commits))
