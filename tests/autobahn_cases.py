"""Runs Autobahn's fuzzing client against fasttail's client and server and against picows alone, as a table.

    python tests/autobahn_cases.py PYTHON2 LIBRARIES REPORTS [CASES...]

scripts/autobahn runs it. The exit code is 1 if a case fails here that picows alone passes.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

from fasttail.connection import incoming
from fasttail.connection.compression import Compression
from fasttail.connection.connection import Client
from fasttail.connection.hub import Hub
from fasttail.connection.wire import header, text_frame
from fasttail.server import server
from fasttail.server.server import Server

BINARY = 0x2
LARGEST = 32 << 20
"""Some cases send messages of 16 MiB; the service itself accepts 64 KiB."""

GROUPS = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "closing",
    "9": "limits, speed",
    "10": "auto-fragmentation",
    "12": "compression, defaults",
    "13": "compression, parameters",
}
GOOD = ("OK", "NON-STRICT", "INFORMATIONAL")


class Echo(Client):
    """Echoes every message."""

    def on_text(self, payload: bytes) -> None:
        self.send(text_frame(payload))

    def on_binary(self, payload: bytes) -> None:
        self.send(header(BINARY, len(payload)) + payload)


class PlainEcho(WSListener):
    """Echoes frame by frame, as picows' own examples do."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type != WSMsgType.PONG:
            payload = frame.get_payload_as_bytes()
            transport.send(frame.msg_type, payload, frame.fin, frame.rsv1, frame.rsv2, frame.rsv3)


async def serve(agent: str) -> None:
    """Serve on a free port, printed to standard output, until standard input ends."""
    if agent == "picows":
        plain = await ws_create_server(
            lambda request: PlainEcho(), "127.0.0.1", 0, max_frame_size=LARGEST, use_aiofastnet=False
        )
        port = plain.sockets[0].getsockname()[1]
    else:
        for module in (incoming, server):
            setattr(module, "MAX_INCOMING", LARGEST)  # noqa: B010 - two modules, one constant
        hub = Hub(())
        ours = Server(
            hub,
            port=0,
            health=lambda: (200, {}),
            live=lambda: (200, {}),
            metrics=lambda: b"",
            routes={"/": lambda: Echo(hub, 4 * LARGEST)},
            status=dict,
            compression=Compression(),
        )
        await ours.start()
        port = ours.port
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def fuzz(agent: str, python2: str, libraries: Path, reports: Path, cases: Sequence[str]) -> dict[str, Any]:
    """Return the result of each case."""
    command = [sys.executable, __file__, "--serve", agent]
    spec = reports / f"{agent}.json"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = f"ws://127.0.0.1:{int(process.stdout.readline())}"
        wanted = {
            "outdir": str(reports / agent),
            "servers": [{"agent": agent, "url": url}],
            "cases": list(cases),
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        spec.write_text(json.dumps(wanted))
        wstest = "import sys; from autobahntestsuite import wstest; sys.exit(wstest.run())"
        with (reports / f"{agent}.log").open("w") as log:
            subprocess.run(
                [python2, "-c", wstest, "--mode", "fuzzingclient", "--spec", str(spec)],
                cwd=reports,  # elsewhere, so that Autobahn's own modules are found first
                env={**os.environ, "PYTHONPATH": str(libraries)},
                stdout=log,
                stderr=log,
                check=True,
            )
        process.communicate()
    results: dict[str, Any] = json.loads((reports / agent / "index.json").read_text())[agent]
    return results


def table(ours: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    """Return one row per group of cases, then the cases that are not simply OK."""
    lines = ["| cases | about | fasttail | picows alone |", "|---|---|---|---|"]
    for group, about in GROUPS.items():
        cases = [case for case in ours if case.split(".")[0] == group]
        if cases:
            told = " | ".join(counted([results[case] for case in cases]) for results in (ours, plain))
            lines.append(f"| {group}.* ({len(cases)}) | {about} | {told} |")
    for case, result in ours.items():
        if result["behavior"] != "OK" or result["behaviorClose"] != "OK":
            other = plain[case]
            lines.append(
                f"{case}: {result['behavior']}, close {result['behaviorClose']} "
                f"(picows: {other['behavior']}, close {other['behaviorClose']})"
            )
    return lines


def counted(results: list[dict[str, Any]]) -> str:
    counts = Counter(verdict(result) for result in results)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def verdict(result: dict[str, Any]) -> str:
    """Return the case's result, or that of its closing handshake if worse."""
    behavior, close = str(result["behavior"]), str(result["behaviorClose"])
    return close if behavior in GOOD and close not in GOOD else behavior


def main(words: Sequence[str]) -> int:
    if words[0] == "--serve":
        uvloop.run(serve(words[1]))
        return 0
    python2, libraries, reports = words[0], Path(words[1]).resolve(), Path(words[2]).resolve()
    reports.mkdir(parents=True, exist_ok=True)
    cases = words[3:] or [f"{group}.*" for group in GROUPS]
    ours = fuzz("fasttail", python2, libraries, reports, cases)
    plain = fuzz("picows", python2, libraries, reports, cases)
    print("\n".join(table(ours, plain)))
    worse = [case for case in ours if verdict(ours[case]) not in GOOD and verdict(plain[case]) in GOOD]
    if worse:
        print("fail here and not with picows alone:", *worse)
    return bool(worse)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
