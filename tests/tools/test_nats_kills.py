"""Two nodes of one chain with a publisher each, killed at random, and what the edges get."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from nats_nodes import STEMS, edge, events, finish, hour_paths, nats_state, wait_same
from nats_servers import NatsServer, nats_server, needs_nats
from running import Serve, command, free_ports, wait_for
from test_stream_truth import Returning

pytestmark = [needs_nats, pytest.mark.timeout(0)]

KILLS = int(os.environ.get("FASTTAIL_NATS_KILLS") or 10)
"""`FASTTAIL_NATS_KILLS=200 pytest -s tests/tools/test_nats_kills.py` runs more and prints tables."""
SEED = os.environ.get("FASTTAIL_SEED") or "1"


def two_nodes(folder: Path, layout: str, *, hour_seconds: float = 20) -> subprocess.Popen[bytes]:
    writing = subprocess.Popen(
        command(
            "synth", folder / "a", "--second-node", folder / "b", "--streams", "orders,fills",
            "--layout", layout, "--rate", 3000, "--hour-seconds", hour_seconds,
        ),
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for name in "ab":
        wait_for("both nodes", partial(hour_paths, folder / name))
    return writing


class Publishers:
    """One publisher on each node, with a port of its own that it keeps."""

    def __init__(self, folder: Path, url: str, *options: object) -> None:
        self.ports = dict(zip("ab", free_ports(2), strict=True))
        self.running: dict[str, Serve] = {}
        self.logs: list[str] = []
        self._folder, self._url, self._options = folder, url, options
        for name in "ab":
            self.start(name)

    def start(self, name: str) -> None:
        self.running[name] = Serve(
            self._folder / name, "--nats-url", self._url, "--nats-node", name, "--workers", 1,
            "--port", self.ports[name], *self._options,
        )  # fmt: skip

    def kill(self, name: str) -> None:
        self.running[name].end(signal.SIGKILL)
        self.logs += self.running[name].log

    def end(self) -> None:
        for each in self.running.values():
            if each.process.poll() is None:
                each.end(signal.SIGTERM)
            self.logs += each.log


def check_stream(server: NatsServer, node: Path, stream: str) -> Counter[str]:
    """Assert that a stream holds each event once, in order, without a gap. Return its entries by node."""
    entries = server.entries(f"HL_MAINNET_{stream.upper()}")
    assert [entry.after for entry, _ in entries[1:]] == [entry.last for entry, _ in entries[:-1]]
    assert not any(entry.gap for entry, _ in entries)
    (server.folder / stream).mkdir()
    found = server.folder / stream / f"{STEMS[stream]}_streaming" / "hourly" / "20260101" / "0"
    found.parent.mkdir(parents=True)
    found.write_bytes(b"".join(lines for _, lines in entries))
    got, written = events(server.folder / stream, stream), events(node, stream)
    assert got == written[written.index(got[0]) :]
    return Counter(entry.node for entry, _ in entries)


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
def test_each_event_once_over_kills_of_publishers(tmp_path: Path, layout: str) -> None:
    """Clients that jump between both nodes and both edges get each event once, too."""
    chance = random.Random(f"{SEED} {layout}")
    outcomes: Counter[str] = Counter()
    with ExitStack() as stack:
        server = stack.enter_context(nats_server(tmp_path / "nats"))
        writing = two_nodes(tmp_path, layout)
        stack.callback(writing.kill)
        publishers = Publishers(tmp_path, server.url)
        stack.callback(publishers.end)
        edges = [stack.enter_context(edge(tmp_path / f"edge{number}", server)) for number in range(2)]
        for number in range(2):
            wait_for("fills at the edge", partial(hour_paths, tmp_path / f"edge{number}", "fills"))
        ports = (*publishers.ports.values(), *(each.port for each in edges))
        clients = [
            Returning(*ports, stay_s=1.0, type="orders", format="raw", coins=["BTC"]),
            Returning(*ports, stay_s=0.5, type="fills", format="raw"),
        ]
        wait_for("messages", lambda: all(client.got for client in clients))
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.1, 2.0))
            name = chance.choice("ab")
            outcomes[f"{nats_state(publishers.running[name])['nats']} killed"] += 1
            publishers.kill(name)
            time.sleep(chance.uniform(0.0, 1.5))
            publishers.start(name)
        finish(writing)
        for number in range(2):
            for stream in STEMS:
                wait_same(tmp_path / "a", tmp_path / f"edge{number}", stream)
        for client, stream, coin in zip(clients, STEMS, ("BTC", None), strict=True):
            written = [text for _, text in events(tmp_path / "a", stream)]
            check_client(client, [text for text in written if coin is None or f'"coin": "{coin}"' in text])
        for stream in STEMS:
            first, second = (
                b"".join(path.read_bytes() for path in hour_paths(tmp_path / f"edge{number}", stream))
                for number in range(2)
            )
            assert first == second
        publishers.end()
        shares = [f"{stream}: {dict(check_stream(server, tmp_path / 'a', stream))}" for stream in STEMS]
        assert all(each.count("a gap") == 0 for each in edges)
    takeovers = sum("taking over" in line for line in publishers.logs)
    text = "\n".join(publishers.logs)
    assert "appended other events" not in text
    assert "Traceback" not in text
    if KILLS > 20:
        print(
            f"\n{layout}, {KILLS} kills: {dict(outcomes)}, {takeovers} takeovers; entries by node: {shares}"
        )


def test_a_standby_whose_files_begin_late(tmp_path: Path) -> None:
    """Where its files began does not matter any more once the other node has published beyond that."""
    with ExitStack() as stack:
        server = stack.enter_context(nats_server(tmp_path / "nats"))
        writing = two_nodes(tmp_path, "streaming", hour_seconds=3)
        stack.callback(writing.kill)
        publishers = Publishers(tmp_path, server.url, "--streams", "orders")
        stack.callback(publishers.end)
        wait_for("a publisher", lambda: nats_state(publishers.running["a"])["nats"] == "publishing")
        for name in "ba":
            publishers.kill(name)
        count = len(hour_paths(tmp_path / "b"))
        wait_for("two hours", lambda: len(hour_paths(tmp_path / "b")) > count + 1)
        for path in hour_paths(tmp_path / "b")[:-1]:
            path.unlink()
        publishers.start("b")
        publishers.start("a")
        wait_for("a standby", lambda: nats_state(publishers.running["b"])["nats"] == "standby")
        compared = partial(publishers.running["b"].metric_of, "nats_compared_entries_total", "orders")
        wait_for("entries compared", lambda: compared() > 20)
        publishers.kill("a")
        wait_for("a takeover", lambda: nats_state(publishers.running["b"])["nats"] == "publishing")
        time.sleep(1)
        finish(writing)
        publishers.end()
        entries = server.entries()
        assert entries[-1][0].node == "b"
        assert not any(entry.gap for entry, _ in entries)


def relayed_more_than(server: Serve, count: float) -> bool:
    return server.metric_of("relay_events_total", "orders") > count


def check_client(client: Returning, expected: list[str]) -> None:
    """Assert that a client has got each of the expected events once, from its first one on."""
    last = json.loads(expected[-1])
    wait_for("the rest", lambda: client.got[-1] == last)
    client.stop()
    assert client.errors == []
    assert client.got == [json.loads(text) for text in expected[len(expected) - len(client.got) :]]


def test_a_cluster_whose_leader_is_killed(tmp_path: Path) -> None:
    """Three servers keep the streams; the leader of the orders is killed under load, several times."""
    kills = max(1, KILLS // 10)
    routes = free_ports(3)
    listed = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    with ExitStack() as stack:
        servers = []
        for number in range(3):
            server = NatsServer(
                tmp_path / f"nats{number}",
                [
                    f'server_name: "n{number}"',
                    f'cluster {{ name: "c", listen: "127.0.0.1:{routes[number]}", routes: [{listed}] }}',
                ],
            )
            stack.callback(server.end)
            servers.append(server)
        urls = ",".join(server.url for server in servers)
        writing = two_nodes(tmp_path, "streaming")
        stack.callback(writing.kill)
        publishers = Publishers(tmp_path, urls, "--nats-replicas", 3)
        stack.callback(publishers.end)
        there = Serve(tmp_path / "edge", "--from-nats", urls, "--workers", 1)
        stack.callback(there.process.kill)
        wait_for("orders at the edge", lambda: hour_paths(tmp_path / "edge"))
        for _ in range(kills):
            time.sleep(3)
            leader = wait_for("a leader", servers[0].leader)
            server = servers[int(leader[1:])]
            server.end()
            count = there.metric_of("relay_events_total", "orders")
            wait_for("more orders without it", partial(relayed_more_than, there, count))
            server.start()
        finish(writing)
        wait_same(tmp_path / "a", tmp_path / "edge")
        assert there.count("a gap") == 0
        publishers.end()
        there.end()
        shares = check_stream(servers[0], tmp_path / "a", "orders")
    if kills > 1:
        print(f"\n{kills} kills of the leader; entries by node: {dict(shares)}")
