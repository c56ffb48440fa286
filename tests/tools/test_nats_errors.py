"""What stops publishing or relaying: the reason is told, once, and nothing crashes or is lost."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from pathlib import Path

import nats
import pytest
from nats_nodes import edge, finish, hour_paths, nats_state, node, publish, wait_same
from nats_servers import NatsServer, nats_server, needs_nats
from running import command, serve, wait_for

from fasttail.sources.relay_state import RelayState

pytestmark = needs_nats
NOWHERE = "nats://127.0.0.1:1"


# ---- publishers


def test_messages_at_the_limit(tmp_path: Path) -> None:
    """A line that does not fit into a message of the server is waited for until the limit is raised."""
    with node(tmp_path / "node", "--layout", "by_block", rate=20_000) as writing:
        server = NatsServer(tmp_path / "nats", ["max_payload: 16KB"])
        try:
            with (
                publish(tmp_path / "node", server, "--streams", "orders") as source,
                edge(tmp_path / "edge", server, "--streams", "orders"),
            ):
                wait_for("the reason", lambda: "max_payload" in str(nats_state(source)["reason"]))
                wait_for("a lag over sessions", lambda: nats_state(source)["lagMs"] > 8000)
                assert sum("does not fit" in line for line in source.log) <= 2
                server.end()
                server.configure(["max_payload: 1MB"])
                server.start()
                wait_for("publishing", lambda: nats_state(source)["nats"] == "publishing")
                finish(writing)
                wait_same(tmp_path / "node", tmp_path / "edge")
        finally:
            server.end()


def test_a_pause_of_the_node(tmp_path: Path) -> None:
    """The last entries are counted, and there is no lag, also if NATS ended before it had confirmed them."""
    with (
        nats_server(tmp_path / "nats") as server,
        node(tmp_path / "node") as writing,
        publish(tmp_path / "node", server, "--streams", "orders") as source,
    ):
        wait_for("entries", lambda: source.metric_of("nats_entries_total", "orders") > 20)
        writing.send_signal(signal.SIGSTOP)
        try:
            wait_for(
                "all entries to be counted",
                lambda: source.metric_of("nats_entries_total", "orders") == len(server.entries()),
            )
            assert source.metric_of("nats_conflicts_total", "orders") == 0
            for _ in range(3):
                writing.send_signal(signal.SIGCONT)
                time.sleep(0.3)
                writing.send_signal(signal.SIGSTOP)
                server.end()
                server.start()
                wait_for("publishing", lambda: nats_state(source)["nats"] == "publishing")
                wait_for("no lag", lambda: nats_state(source)["lagMs"] == 0)
        finally:
            writing.send_signal(signal.SIGCONT)


def test_max_payload_that_holds_no_entry(tmp_path: Path) -> None:
    with (
        nats_server(tmp_path / "nats", "max_payload: 2KB") as server,
        node(tmp_path / "node"),
        publish(tmp_path / "node", server) as source,
    ):
        source.wait_log("ERROR .*max_payload of 2048 bytes is too small: raise it to 4608 or more")
        assert nats_state(source)["nats"] == "refused"


def test_wrong_password(tmp_path: Path) -> None:
    """The reason is told; the password is not. In a URL it is encoded."""
    with (
        nats_server(tmp_path / "nats", 'authorization { user: "u", password: "right%one" }') as server,
        node(tmp_path / "node"),
    ):
        wrong = server.url.replace("//", "//u:wrong-one@")
        with serve(tmp_path / "node", "--nats-url", wrong) as source:
            wait_for("the reason", lambda: "uthorization" in str(nats_state(source)["reason"]))
            source.end()
            assert "wrong-one" not in "\n".join(source.log)
        with serve(tmp_path / "node", "--nats-url", wrong.replace("wrong-one", "right%25one")) as source:
            wait_for("publishing", lambda: nats_state(source)["nats"] == "publishing")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server, node(tmp_path / "node"):
        with publish(tmp_path / "node", server) as source:
            wait_for("publishing", lambda: nats_state(source)["nats"] == "publishing")
        with publish(tmp_path / "node", server, "--nats-max-age-s", 60) as source:
            found = source.wait_log("HL_MAINNET_ORDERS exists with max_age 21600, not 60")
            assert "ERROR" in found.string
            wait_for("the state", lambda: nats_state(source)["nats"] == "refused")


def test_a_limit_that_fasttail_does_not_set(tmp_path: Path) -> None:
    async def set_limit(url: str) -> None:
        client = await nats.connect(url)
        config = (await client.jetstream().stream_info("HL_MAINNET_ORDERS")).config
        await client.jetstream().update_stream(config.evolve(max_msg_size=300))
        await client.close()

    with nats_server(tmp_path / "nats") as server, node(tmp_path / "node"):
        with publish(tmp_path / "node", server) as source:
            wait_for("publishing", lambda: nats_state(source)["nats"] == "publishing")
        asyncio.run(set_limit(server.url))
        with publish(tmp_path / "node", server) as source:
            source.wait_log("HL_MAINNET_ORDERS exists with max_msg_size 300, not without this limit")


def test_a_server_without_jetstream(tmp_path: Path) -> None:
    with node(tmp_path / "node"):
        server = NatsServer(tmp_path / "nats", jetstream=False)
        try:
            with publish(tmp_path / "node", server) as source:
                source.wait_log("no JetStream answers: it may not be enabled on the server; trying again")
        finally:
            server.end()


def test_an_hour_far_ahead_is_not_published(tmp_path: Path) -> None:
    """An edge would write all later lines to that hour's file."""
    with (
        nats_server(tmp_path / "nats") as server,
        node(tmp_path / "node") as writing,
        publish(tmp_path / "node", server, "--streams", "orders") as source,
    ):
        wait_for("publishing", lambda: nats_state(source)["nats"] == "publishing")
        finish(writing)
        last = hour_paths(tmp_path / "node")[-1]
        line = json.loads(last.read_bytes().splitlines()[-1])
        line["block_number"] += 1
        ahead = last.parent.parent / "20990101" / "0"
        ahead.parent.mkdir()
        ahead.write_text(json.dumps(line) + "\n")
        source.wait_log("ERROR .*hour 2099010100 is more than a year ahead of this machine's clock")


def test_a_plain_file_that_is_written_anew(tmp_path: Path) -> None:
    """Its positions are taken. What follows them is published, after a gap, and no line is cut."""
    path = tmp_path / "node/node_order_statuses/hourly/20260505/9"
    path.parent.mkdir(parents=True)
    line = b'{"time":"2026-05-05T09:00:00.0","user":"0x%040d","status":"open","order":{"n":%d}}\n'
    path.write_bytes(b"")
    with (
        nats_server(tmp_path / "nats") as server,
        publish(tmp_path / "node", server, "--streams", "orders") as source,
        edge(tmp_path / "edge", server, "--streams", "orders"),
    ):
        wait_for("publishing", lambda: nats_state(source)["nats"] == "publishing")
        old = b"".join(line % (1, number) for number in range(20))
        path.write_bytes(old)
        wait_for("the first lines", lambda: [p.read_bytes() for p in hour_paths(tmp_path / "edge")] == [old])
        path.write_bytes(b"")
        time.sleep(1.5)  # until it is seen to be shorter
        new = [line % (2, 10**number) for number in range(12)] * 5
        for each in new:
            with path.open("ab") as file:
                file.write(each)
        source.wait_log("hour 2026050509 was written anew: what is before offset [0-9]+ is left out")
        wait_for(
            "the last line at the edge",
            lambda: any(p.read_bytes().endswith(new[-1]) for p in hour_paths(tmp_path / "edge")),
        )
        for each in hour_paths(tmp_path / "edge")[-1].read_bytes().lstrip(b"\0").splitlines(keepends=True):
            assert each in new
        assert source.metric_of("nats_gaps_total", "orders") >= 1


def test_a_file_that_holds_no_credentials(tmp_path: Path) -> None:
    (tmp_path / "user.creds").write_text("SUAM seed without its frame")
    with (
        node(tmp_path / "node"),
        serve(
            tmp_path / "node",
            "--nats-url",
            "nats://127.0.0.1:1",
            "--nats-credentials",
            tmp_path / "user.creds",
        ) as source,
    ):
        source.wait_log("user.creds is no credentials file of a NATS user; trying again")


def test_two_sources_are_one_too_many(tmp_path: Path) -> None:
    run = subprocess.run(
        command("serve", tmp_path, "--nats-url", "nats://a", "--from-nats", "nats://b"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "nats_url and from_nats contradict each other" in run.stderr


# ---- relays


def test_a_relay_does_not_write_into_a_nodes_folder(tmp_path: Path) -> None:
    with node(tmp_path / "node"):
        run = subprocess.run(
            command("relay", "nats://127.0.0.1:1", tmp_path / "node"),
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 2
    assert "has files of stream orders that no relay wrote" in run.stderr


def test_two_relays_do_not_write_to_one_folder(tmp_path: Path) -> None:
    words = command("relay", "nats://127.0.0.1:1", tmp_path)
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        wait_for("its lock", (tmp_path / "fills.relay.json").exists)
        second = subprocess.run(words, capture_output=True, text=True, check=False)
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 2
    assert "another relay writes to" in second.stderr


def run_for_a_moment(folder: Path) -> int:
    """Run a relay until it has begun, and end it. Return its exit code."""
    relay = subprocess.Popen(
        command("relay", NOWHERE, folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert relay.stdout is not None
    next(text for text in relay.stdout if "trying again" in text)
    relay.send_signal(signal.SIGTERM)
    relay.communicate(timeout=60)
    return relay.returncode


def test_a_relay_starts_again_before_anything_was_published(tmp_path: Path) -> None:
    for _ in range(2):
        assert run_for_a_moment(tmp_path) == 0
    with serve(tmp_path, "--from-nats", NOWHERE) as there:
        there.wait_log("nats: stream fills: .*trying again")


def test_a_restart_is_no_other_gap(tmp_path: Path) -> None:
    """A relay that began anew, and has written nothing since, does not begin anew again."""
    RelayState("orders", "streaming", 2026050509, 1000, gaps=2).save(tmp_path)
    for _ in range(2):
        assert run_for_a_moment(tmp_path) == 0
    state = RelayState.read(tmp_path, "orders")
    assert state is not None
    assert (state.gaps, state.size) == (2, 1000)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"{}",
        b'{"stream": "orders", "layout": "flat", "height": 5}',
        b'{"stream": "orders", "height": 5}',
    ],
)
def test_a_state_that_no_relay_saved(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "orders.relay.json").write_bytes(content)
    words = command("relay", NOWHERE, tmp_path)
    run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 2
    assert "orders.relay.json is not the state of a relay" in run.stderr
    assert "Traceback" not in run.stderr


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    words = command("relay", "tls://127.0.0.1:1", tmp_path / "edge", "--nats-ca", tmp_path / "ca.pem")
    relay = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert relay.stdout is not None
    try:
        assert any("cannot read certificates from" in text and "ca.pem" in text for text in relay.stdout)
    finally:
        relay.kill()
        relay.wait()


def test_no_server_is_named(tmp_path: Path) -> None:
    words = command("relay", "", tmp_path)
    run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, "nats_url is empty" in run.stderr) == (2, True)
