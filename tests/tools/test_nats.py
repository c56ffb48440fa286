"""Publishers and relays with a real NATS server: what an edge serves is what the node wrote."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nats
import pytest
from nats_accounts import make_credentials
from nats_nodes import (
    STEMS,
    edge,
    events,
    finish,
    hour_paths,
    more_hours,
    nats_state,
    node,
    publish,
    wait_same,
    whole_lines,
)
from nats_servers import nats_server, needs_nats
from running import PATIENCE_S, command, serve, wait_for
from test_checkpoint import fill
from test_stream_truth import Returning
from test_tls import make

pytestmark = needs_nats


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
def test_two_edges_are_equal(tmp_path: Path, layout: str) -> None:
    """Two edges have the same bytes, all streams, and serve a client that came from the node."""
    with (
        nats_server(tmp_path / "nats") as server,
        node(tmp_path / "node", "--streams", "orders,fills", "--layout", layout) as writing,
        publish(tmp_path / "node", server) as source,
    ):
        relay = subprocess.Popen(command("relay", server.url, tmp_path / "second"), stdout=subprocess.DEVNULL)
        try:
            with edge(tmp_path / "first", server) as first:
                wait_for("publishing", lambda: nats_state(source)["nats"] == "publishing")
                wait_for("an hour at the edge", lambda: len(hour_paths(tmp_path / "first")) > 1)
                moving = Returning(
                    source.port, first.port, stay_s=0.4, type="orders", format="raw", coins=["BTC"]
                )
                time.sleep(3)
                finish(writing)
                for stream in STEMS:
                    wait_same(tmp_path / "node", tmp_path / "second", stream)
                    got = wait_same(tmp_path / "node", tmp_path / "first", stream)
                    assert len(got) > 100
                btc = [
                    json.loads(event) for _, event in events(tmp_path / "first") if '"coin": "BTC"' in event
                ]
                wait_for("all orders at the client", lambda: moving.got and moving.got[-1] == btc[-1])
                moving.stop()
                assert moving.got == btc[-len(moving.got) :]
                assert len(moving.got) > 20
                assert moving.errors == []
                assert first.metric_of("relay_events_total", "fills") > 0
        finally:
            relay.send_signal(signal.SIGTERM)
            assert relay.wait(timeout=PATIENCE_S) == 0
        for stream in STEMS:
            both = [
                [each.read_bytes() for each in hour_paths(tmp_path / name, stream)]
                for name in ("first", "second")
            ]
            assert both[0][-1] == both[1][-1]
            assert both[0][1:] == both[1][-len(both[0]) + 1 :]


def test_a_server_that_dies_hangs_and_is_emptied(tmp_path: Path) -> None:
    """The edge gets each event once, and live clients of the node get theirs meanwhile."""
    with (
        nats_server(tmp_path / "nats") as server,
        node(tmp_path / "node") as writing,
        publish(tmp_path / "node", server) as source,
        edge(tmp_path / "edge", server) as there,
    ):
        live = source.client()
        wait_for("an hour at the edge", lambda: len(hour_paths(tmp_path / "edge")) > 1)
        memory = source.metric("fasttail_rss_bytes")
        for empties in (False, True):
            server.end()
            if empties:
                server.empty()
            wait_for("the loss to be noticed", lambda: nats_state(source)["nats"] == "connecting")
            hours = len(hour_paths(tmp_path / "node"))
            wait_for("an hour without NATS", partial(more_hours, tmp_path / "node", hours))
            live.wait_orders(len(live.orders) + 1000)
            assert source.metric("fasttail_rss_bytes") < memory + (16 << 20), "the node's file is the queue"
            server.start()
            wait_for("publishing", lambda: nats_state(source)["nats"] == "publishing")
        server.process.send_signal(signal.SIGSTOP)
        wait_for("the hang to be noticed", lambda: nats_state(source)["nats"] == "connecting")
        assert nats_state(source)["lagMs"] > 3000
        server.process.send_signal(signal.SIGCONT)
        wait_for("publishing", lambda: nats_state(source)["nats"] == "publishing")
        finish(writing)
        wait_same(tmp_path / "node", tmp_path / "edge")
        assert there.count("a gap") == 0
        numbers = [entry.after for entry, _ in server.entries()][1:]
        assert numbers == [entry.last for entry, _ in server.entries()][:-1]
        source.wait_metric_of("nats_behind_seconds", "orders", 0)


@pytest.mark.parametrize("hour_s", [4, 600])
def test_an_absence_longer_than_the_retention_is_told(tmp_path: Path, hour_s: int) -> None:
    """The edge begins anew, and a client that resumes there gets a gap, within one hour too."""
    kept = ("--nats-max-bytes", "1M", "--streams", "orders")
    with (
        nats_server(tmp_path / "nats") as server,
        node(tmp_path / "node", rate=20_000, hour_s=hour_s) as writing,
        publish(tmp_path / "node", server, *kept) as source,
    ):
        with edge(tmp_path / "edge", server, "--streams", "orders") as there:
            wait_for("orders at the edge", lambda: len(events(tmp_path / "edge")) > 2000)
            client = Returning(there.port, type="orders", format="raw")
            wait_for("orders", lambda: client.got)
            there.end(signal.SIGKILL)
        begun = source.metric_of("nats_bytes_total", "orders")
        wait_for(
            "more than is kept", lambda: source.metric_of("nats_bytes_total", "orders") > begun + (3 << 20)
        )
        with edge(tmp_path / "edge", server, "--streams", "orders", "--port", client.ports[0]) as there:
            there.wait_log("a gap from block")
            wait_for("the gap", lambda: client.errors)
            finish(writing)
            got = wait_same(tmp_path / "node", tmp_path / "edge")
            if "'error'" in client.errors[0]:  # it came when the files had gone
                assert re.search("older than the data on disk|no data on disk|No such file", client.errors[0])
            else:
                assert "'gap'" in client.errors[0]
                wait_for("the rest", lambda: client.got[-1] == json.loads(got[-1][1]))
            client.stop()
            assert there.metric_of("relay_gaps_total", "orders") == 1
            if hour_s == 600:
                assert hour_paths(tmp_path / "edge")[0].read_bytes().startswith(b"\0"), (
                    "no offset is used again"
                )


def test_small_messages(tmp_path: Path) -> None:
    """A server with small messages gets smaller entries."""
    with (
        nats_server(tmp_path / "nats", "max_payload: 16KB") as server,
        node(tmp_path / "node", rate=20_000) as writing,
        publish(tmp_path / "node", server, "--streams", "orders"),
        edge(tmp_path / "edge", server, "--streams", "orders"),
    ):
        wait_for("orders at the edge", lambda: len(hour_paths(tmp_path / "edge")) > 1)
        finish(writing)
        wait_same(tmp_path / "node", tmp_path / "edge")
        assert max(entry.size for entry, _ in server.entries()) <= 12288 * 9 // 10


def test_plain_lines(tmp_path: Path) -> None:
    """The edge's files have the node's offsets, so cursors mean the same; what it does not have is told."""
    with (
        nats_server(tmp_path / "nats") as server,
        node(tmp_path / "node", "--layout", "plain") as writing,
        publish(tmp_path / "node", server, "--nats-node", "a") as source,
        edge(tmp_path / "edge", server) as there,
    ):
        wait_for("an hour at the edge", lambda: len(hour_paths(tmp_path / "edge")) > 1)
        moving = Returning(source.port, there.port, stay_s=0.4, type="orders", format="raw")
        wait_for("orders", lambda: len(moving.got) > 3000)
        with publish(tmp_path / "node", server, "--nats-node", "b") as second:
            second.wait_log(
                "not published: node a publishes it, and lines of the plain layout name no blocks"
            )
        source.end(signal.SIGKILL)
        with publish(tmp_path / "node", server, "--nats-node", "a", "--port", source.port):
            wait_for("an hour more", partial(more_hours, tmp_path / "edge", 3))
            finish(writing)
            written = [whole_lines(path) for path in hour_paths(tmp_path / "node")]
            wait_for("all at the edge", lambda: whole_lines(hour_paths(tmp_path / "edge")[-1]) == written[-1])
            relayed = [whole_lines(path) for path in hour_paths(tmp_path / "edge")]
            begun = written[-len(relayed) :]
            assert relayed[1:] == begun[1:]
            assert relayed[0] == begun[0][-len(relayed[0].lstrip(b"\0")) :].rjust(len(begun[0]), b"\0")
            orders = [json.loads(line) for each in written for line in each.splitlines()]
            wait_for("the rest", lambda: moving.got[-1] == orders[-1])
            moving.stop()
            assert moving.got == orders[-len(moving.got) :]
            first = hour_paths(tmp_path / "edge")[0]
            cursor = f"p{first.parent.name}{int(first.name):02d}-{0:013d}-{0:07d}"
            in_hole = Returning(there.port, type="orders", cursor=cursor)
            wait_for("an answer", lambda: in_hole.errors or in_hole.got)
            in_hole.stop()
            if relayed[0].startswith(b"\0"):
                assert "older than the data on disk" in in_hole.errors[0]


def test_foreign_and_damaged_messages_are_left_out(tmp_path: Path) -> None:
    """An edge counts them and continues; a publisher appends after them."""
    with (
        nats_server(tmp_path / "nats") as server,
        node(tmp_path / "node") as writing,
        publish(tmp_path / "node", server, "--streams", "orders") as source,
        edge(tmp_path / "edge", server, "--streams", "orders") as there,
    ):
        wait_for("an hour at the edge", lambda: len(hour_paths(tmp_path / "edge")) > 1)
        entry, _ = server.entries()[-1]

        async def disturb() -> None:
            client = await nats.connect(server.url)
            await client.publish("hl.mainnet.orders", b"hello", headers={"Fasttail": "v1 é"})
            await client.publish("hl.mainnet.orders", b"x" * 100, headers={"Fasttail": entry.to_header()})
            await client.flush()
            await client.close()

        asyncio.run(disturb())
        there.wait_metric_of("relay_damaged_entries_total", "orders", 1)
        count = len(events(tmp_path / "edge"))
        wait_for("more orders", lambda: len(events(tmp_path / "edge")) > count)
        finish(writing)
        wait_same(tmp_path / "node", tmp_path / "edge")
        assert source.metric_of("nats_gaps_total", "orders") == 0


def test_a_full_disk(tmp_path: Path) -> None:
    """A relay that cannot write tries again, and loses nothing."""
    with (
        nats_server(tmp_path / "nats") as server,
        node(tmp_path / "node") as writing,
        publish(tmp_path / "node", server, "--streams", "orders"),
        serve(
            tmp_path / "edge", "--from-nats", server.url, "--streams", "orders", "--workers", 1,
            wrap=["prlimit", f"--fsize={200_000}:"],
        ) as there,
    ):  # fmt: skip
        there.wait_log("File too large; trying again")
        subprocess.run(["prlimit", "--pid", str(there.process.pid), "--fsize=unlimited"], check=True)
        wait_for("an hour at the edge", lambda: len(hour_paths(tmp_path / "edge")) > 1)
        finish(writing)
        wait_same(tmp_path / "node", tmp_path / "edge")
        assert there.count("a gap") == 0


MOUNT = 'mount -t tmpfs -o size=64m none "$0" && exec "$@"'


def test_a_full_file_system(tmp_path: Path) -> None:
    """The same on a file system that another process fills."""
    folder = tmp_path / "edge"
    folder.mkdir()
    within = ["unshare", "-Urm", "sh", "-c", MOUNT, str(folder)]
    if subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    with (
        nats_server(tmp_path / "nats") as server,
        node(tmp_path / "node") as writing,
        publish(tmp_path / "node", server, "--streams", "orders"),
        serve(folder, "--from-nats", server.url, "--streams", "orders", "--workers", 1, wrap=within) as there,
    ):
        seen = Path("/proc", str(there.process.pid), "root") / folder.relative_to("/")
        wait_for("an hour at the edge", lambda: len(hour_paths(seen)) > 1)
        with pytest.raises(OSError, match="No space left"):
            fill(seen / "other")
        there.wait_log("No space left on device; trying again")
        (seen / "other").unlink()
        wait_for("another hour", partial(more_hours, seen, len(hour_paths(seen))))
        finish(writing)
        wait_same(tmp_path / "node", seen)
        assert there.count("a gap") == 0


def test_the_pages_consumer(tmp_path: Path) -> None:
    """The program of docs/nats.md prints coins and prices."""
    page = (Path(__file__).parents[2] / "docs" / "nats.md").read_text()
    code = page[page.index("```python\n") + 10 :]
    code = code[: code.index("```")]
    if sys.version_info >= (3, 14):
        code = code.replace("from backports import zstd", "from compression import zstd")
    with (
        nats_server(tmp_path / "nats") as server,
        node(tmp_path / "node"),
        publish(tmp_path / "node", server) as source,
    ):
        wait_for("publishing", lambda: nats_state(source)["nats"] == "publishing")
        program = tmp_path / "consumer.py"
        program.write_text(code.replace("nats://127.0.0.1:4222", server.url))
        running = subprocess.Popen([sys.executable, "-u", program], stdout=subprocess.PIPE, text=True)
        try:
            assert running.stdout is not None
            for _ in range(100):
                coin, price = running.stdout.readline().split()
                assert coin
                assert float(price) >= 0
        finally:
            running.kill()
            running.communicate()


def test_nats_is_imported_only_where_it_is_used() -> None:
    code = "import sys, fasttail.app, fasttail.cli; sys.exit('nats' in sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_tls_and_credentials(tmp_path: Path) -> None:
    """A server with accounts of an operator checks user and certificate, and what is wrong is told."""
    own, other = (make(tmp_path, name) for name in ("own", "other"))
    credentials = tmp_path / "user.creds"
    encrypted = f'tls {{ cert_file: "{own.cert}", key_file: "{own.key}" }}'
    settings = [encrypted, *make_credentials(credentials, "hl.mainnet")]
    with nats_server(tmp_path / "nats", *settings) as server, node(tmp_path / "node") as writing:
        server.url = server.url.replace("nats://", "tls://")
        known = ("--streams", "orders", "--nats-credentials", credentials, "--nats-ca", own.cert)
        with publish(tmp_path / "node", server, *known), edge(tmp_path / "edge", server, *known):
            wait_for("an hour at the edge", lambda: len(hour_paths(tmp_path / "edge")) > 1)
            nobody = ("--streams", "orders", "--nats-ca", own.cert)
            with publish(tmp_path / "node", server, *nobody) as refused:
                refused.wait_log("nats: stream orders: .*[Aa]uthorization")
            foreign = ("--streams", "orders", "--nats-credentials", credentials, "--nats-ca", other.cert)
            with publish(tmp_path / "node", server, *foreign) as distrusting:
                distrusting.wait_log("nats: stream orders: .*CERTIFICATE_VERIFY_FAILED")
            secret = credentials.read_text().split("SEED-----\n")[1].split("\n")[0]
            assert not refused.find(secret)
            assert not distrusting.find(secret)
            finish(writing)
            wait_same(tmp_path / "node", tmp_path / "edge")
