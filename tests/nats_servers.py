"""Runs real NATS servers with JetStream."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import nats
import pytest
from running import free_ports, wait_for

from fasttail.jetstream.entry import Entry, inflate

SERVER = os.environ.get("NATS_SERVER") or shutil.which("nats-server")

needs_nats = pytest.mark.skipif(
    SERVER is None and not os.environ.get("FASTTAIL_NEED_NATS"),
    reason="no nats-server: apt-get install nats-server",
)


class NatsServer:
    """A server on a port of its own. settings: lines of its configuration file."""

    def __init__(
        self, folder: Path, settings: Sequence[str] = (), *, port: int = 0, jetstream: bool = True
    ) -> None:
        assert SERVER is not None, "FASTTAIL_NEED_NATS is set, but there is no nats-server"
        self.port = port or free_ports(1)[0]
        self.url = f"nats://127.0.0.1:{self.port}"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "nats.conf"
        self._jetstream = jetstream
        self.configure(settings)
        self.start()

    def configure(self, settings: Sequence[str]) -> None:
        """Replace its settings, before a start."""
        self._config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            + "\n".join(settings)
            + f'\njetstream {{ store_dir: "{self.folder}/js", max_file_store: 1TB }}\n' * self._jetstream
        )

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(SERVER), "-c", str(self._config)], stdout=log, stderr=subprocess.STDOUT
            )
        wait_for("the NATS server", self._is_ready)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
            return b"ready" in (self.folder / "log").read_bytes()
        return False

    def end(self, how: int = signal.SIGKILL) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(how)
        self.process.wait(timeout=60)

    def empty(self) -> None:
        """Delete what it has stored. It must have ended."""
        shutil.rmtree(self.folder / "js", ignore_errors=True)

    def leader(self, name: str = "HL_MAINNET_ORDERS") -> str | None:
        """Return the name of the server that leads a stream, None until the others have all that it has."""
        return asyncio.run(self._leader(name))

    async def _leader(self, name: str) -> str | None:
        client = await nats.connect(self.url)
        try:
            found = (await client.jetstream().stream_info(name)).cluster
            if found is None or not all(each.current for each in found.replicas or ()):
                return None
            return found.leader
        except (nats.errors.Error, TimeoutError):
            return None
        finally:
            await client.close()

    def entries(self, name: str = "HL_MAINNET_ORDERS") -> list[tuple[Entry, bytes]]:
        """Return all entries of a stream with their lines."""
        return asyncio.run(self._entries(name))

    async def _entries(self, name: str) -> list[tuple[Entry, bytes]]:
        client = await nats.connect(self.url)
        try:
            stream = client.jetstream()
            state = (await stream.stream_info(name)).state
            found = []
            for sequence in range(
                state.first_seq, state.last_seq + 1
            ):  # a consumer would be faster, but may stall
                message = await stream.get_msg(name, sequence)
                entry = Entry.from_headers(message.headers)
                found.append((entry, inflate(message.data or b"", entry)))
            return found
        finally:
            await client.close()


@contextlib.contextmanager
def nats_server(folder: Path, *settings: str) -> Iterator[NatsServer]:
    """Run a server, and end it afterwards."""
    server = NatsServer(folder, settings)
    try:
        yield server
    finally:
        server.end()
