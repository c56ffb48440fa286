"""A simulated node, publishers and edges beside real NATS servers, and what their folders hold."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nats_servers import NatsServer
from running import PATIENCE_S, Serve, command, serve, wait_for

STEMS = {"orders": "node_order_statuses", "fills": "node_fills"}


@contextmanager
def node(
    folder: Path, *options: object, rate: int = 3000, seconds: float = 600, hour_s: int = 4
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a simulated node, of which the first orders are written."""
    writing = subprocess.Popen(
        command("synth", folder, "--rate", rate, "--seconds", seconds, "--hour-seconds", hour_s, *options),
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for("the first orders", lambda: list(folder.glob("node_order_statuses*/hourly/*/*")))
        yield writing
    finally:
        writing.kill()
        writing.wait()


def finish(writing: subprocess.Popen[bytes]) -> None:
    """Let the node end at a whole line."""
    writing.send_signal(signal.SIGINT)
    writing.wait(timeout=PATIENCE_S)


def hour_paths(folder: Path, stream: str = "orders") -> list[Path]:
    paths = folder.glob(f"{STEMS[stream]}*/hourly/*/*")
    return sorted(paths, key=lambda path: (path.parent.name, int(path.name)))


def events(folder: Path, stream: str = "orders") -> list[tuple[int, str]]:
    """Return the events in whole lines of a folder, each with its block."""
    found = []
    for path in hour_paths(folder, stream):
        data = path.read_bytes()
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            block = json.loads(line.lstrip(b"\0"))  # a relay that began within an hour
            found += [(block["block_number"], json.dumps(event)) for event in block["events"]]
    return found


def more_hours(folder: Path, count: int) -> bool:
    return len(hour_paths(folder)) > count


def last_block(folder: Path, stream: str) -> tuple[int, list[Any]] | None:
    """Return the block and the events of a folder's last whole line."""
    for path in reversed(hour_paths(folder, stream)):
        data = whole_lines(path)
        if data:
            line = json.loads(data[data.rfind(b"\n", 0, -1) + 1 :])
            return line["block_number"], line["events"]
    return None


def wait_same(node_folder: Path, edge: Path, stream: str = "orders") -> list[tuple[int, str]]:
    """Wait until an edge ends as the node does, and return its events: the node's from some block on."""
    written = events(node_folder, stream)
    last = last_block(node_folder, stream)
    wait_for("the last event at the edge", lambda: last_block(edge, stream) == last)
    found = events(edge, stream)
    assert found == written[len(written) - len(found) :]
    assert len(found) == len(written) or written[len(written) - len(found) - 1][0] != found[0][0], (
        "a whole block"
    )
    return found


def nats_state(server: Serve, stream: str = "orders") -> dict[str, Any]:
    return dict(json.loads(server.get("/health")[1])["nats"][stream])


def publish(folder: Path, server: NatsServer, *options: object) -> Any:
    return serve(folder, "--nats-url", server.url, "--workers", 1, *options)


def edge(folder: Path, server: NatsServer, *options: object) -> Any:
    return serve(folder, "--from-nats", server.url, "--workers", 1, *options)


def whole_lines(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]
