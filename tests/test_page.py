"""The page's files, and the two broadcasts that it shows: what they say is what the node wrote."""

from __future__ import annotations

import gzip
import hashlib
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fill_lines import match
from lines import envelope, event
from running import PATIENCE_S, Serve, serve, wait_for
from websockets.sync.client import ClientConnection, connect

import fasttail
from fasttail.publish.live_view import CoinTotals, CoinWindow
from fasttail.server.page import load_page

UPLOT_SHA512 = {
    "uPlot.iife.min.js": "8df9b8c2bc60abbdd95c5cf260f46681f41def2623b6c1f9ed2cdf823a62797e"
    "2b8277c700c01926043560b4ec73a1ce5fed6d9c68e7905b9eadb73ca08da626",
    "uPlot.min.css": "c57618bc6a0fa8e8e13309299315930efec7be5cab93212acdce14485aff66d0"
    "580bb7a4944dc33410dc72a88c8f657344a49f7d9cdea9545c91d633271f6a7d",
}
"""Of the files in `dist/` of npm's archive of uplot 1.6.32, whose own is the one that the registry names."""


USERS = ("0x" + "1" * 40, "0x" + "2" * 40)


class Viewer:
    """A client of the broadcasts."""

    def __init__(self, port: int, *kinds: str) -> None:
        self.of: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
        self.socket: ClientConnection = connect(f"ws://127.0.0.1:{port}/ws", max_size=None, legacy=True)
        for kind in kinds:
            self.socket.send(json.dumps({"method": "subscribe", "subscription": {"type": kind}}))

    def read_until(self, what: str, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            message = json.loads(self.socket.recv(timeout=PATIENCE_S))
            if message["channel"] in self.of:
                self.of[message["channel"]].append(message["data"])

    def read_another_summary(self) -> None:
        seen = len(self.of["summary"])
        self.read_until("a summary", lambda: len(self.of["summary"]) > seen)

    def flow(self, key: str) -> float:
        return float(sum(each["flow"][key] for each in self.of["summary"]))


@contextmanager
def viewing(folder: Path) -> Iterator[tuple[Serve, Viewer]]:
    """Run a server that follows both streams, which have no line yet, and a viewer whose rows are counted."""
    for path in (orders_path(folder), fills_path(folder)):
        path.parent.mkdir(parents=True)
        path.touch()
    with serve(folder, "--workers", 2) as server:
        viewer = Viewer(server.port, "summary", "tape")
        viewer.read_until("the first summary", lambda: viewer.of["summary"])
        yield server, viewer
        viewer.socket.close()


def orders_path(folder: Path) -> Path:
    return folder / "node_order_statuses_streaming/hourly/20260505/17"


def fills_path(folder: Path) -> Path:
    return folder / "node_fills_streaming/hourly/20260505/17"


def append(path: Path, lines: bytes) -> None:
    with path.open("ab") as file:
        file.write(lines)


def many_orders(count: int) -> list[dict[str, Any]]:
    statuses = ("open", "filled", "canceled", "badAloPxRejected", "somethingNew")
    return [
        event(
            oid=n,
            coin=("BTC", "ETH", "@107")[n % 3],
            side="AB"[n % 2],
            status=statuses[n % 5],
            limitPx=f"{n}.5",
            sz="2",
        )
        for n in range(1, count + 1)
    ]


def streaming(events: list[Any], block: int) -> bytes:
    return b"".join(envelope([each], block + n // 10) for n, each in enumerate(events))


def test_summary_counts_what_the_node_writes(tmp_path: Path) -> None:
    orders = many_orders(5000)
    trades = [
        match(n, *USERS, coin="BTC" if n % 2 else "xyz:GOLD", px="10.5", sz=f"{n}") for n in range(1, 301)
    ]
    with viewing(tmp_path) as (server, viewer):
        append(orders_path(tmp_path), streaming(orders, 7000))
        append(fills_path(tmp_path), streaming([fill for pair in trades for fill in pair], 7000))
        viewer.read_until(
            "all orders", lambda: viewer.flow("orders") == 5000 and viewer.flow("trades") == 300
        )
        assert viewer.flow("notional") == pytest.approx(sum(10.5 * n for n in range(1, 301)))
        statuses = Counter[str]()
        for each in viewer.of["summary"]:
            statuses.update(each["flow"]["statuses"])
            assert 0.5 < each["flow"]["seconds"] < PATIENCE_S
        assert statuses == {
            "open": 1000,
            "filled": 1000,
            "canceled": 1000,
            "badAloPxRejected": 1000,
            "other": 1000,
        }
        last = viewer.of["summary"][-1]
        assert last["streams"]["orders"]["lines"] == server.metric("fasttail_lines_total") == 5000
        assert last["streams"]["fills"]["trades"] == 300
        assert last["health"]["status"] == "ok"
        assert last["health"]["streams"]["fills"]["reading"] == "live"
        assert last["clients"] == {
            "connections": 1, "subscriptions": 2, "queuedBytes": 0, "replays": 0, "bytesBehind": 0
        }  # fmt: skip


def test_coins_are_those_of_the_last_minute(tmp_path: Path) -> None:
    """The counts are exact also for coins that are not among the first in every second."""
    traded = {f"C{n}": 10.5 * n for n in range(1, 31)}
    with viewing(tmp_path) as (_, viewer):
        for part in range(3):
            often = [n for n in range(50) for _ in range(n + 1 + 100 * (n % 3 == part))]
            append(orders_path(tmp_path), of_coins([f"C{n}" for n in often], 7000 + 1000 * part))
            viewer.read_another_summary()
        pairs = [match(n, *USERS, coin=f"C{n}", px="10.5", sz=f"{n}") for n in range(1, 31)]
        append(fills_path(tmp_path), streaming([fill for pair in pairs for fill in pair], 7000))
        orders = 3 * sum(range(51)) + 5000
        viewer.read_until("all", lambda: viewer.flow("orders") == orders and viewer.flow("trades") == 30)
        coins = {each["coin"]: each for each in viewer.of["summary"][-1]["flow"]["coins"]}
        by_orders = sorted(coins.values(), key=lambda coin: -coin["orders"])[:20]
        assert [(each["coin"], each["orders"]) for each in by_orders] == [
            (f"C{n}", 3 * (n + 1) + 100) for n in range(49, 29, -1)
        ]
        by_notional = sorted(coins.values(), key=lambda coin: -coin["notional"])[:20]
        assert {each["coin"]: each["notional"] for each in by_notional} == {
            name: pytest.approx(traded[name]) for name in list(traded)[10:]
        }


def of_coins(coins: list[str], block: int) -> bytes:
    return streaming([event(coin=coin) for coin in coins], block)


def test_what_is_older_than_the_window_is_forgotten() -> None:
    window = CoinWindow(2)
    window.add({"BTC": CoinTotals(5, 1, 100.0), "ETH": CoinTotals(1, 0, 0.0)})
    window.add({"BTC": CoinTotals(2, 0, 0.0)})
    assert window.top() == {"BTC": CoinTotals(7, 1, 100.0), "ETH": CoinTotals(1, 0, 0.0)}
    window.add({})
    assert window.top() == {"BTC": CoinTotals(2, 0, 0.0)}
    window.add({})
    assert window.top() == {}


def test_the_tape_has_the_largest_events(tmp_path: Path) -> None:
    orders = many_orders(2000)
    with viewing(tmp_path) as (_, viewer):
        append(orders_path(tmp_path), streaming(orders, 7000))
        append(
            fills_path(tmp_path),
            streaming([fill for n in (1, 2) for fill in match(n, *USERS, taker="A", sz=f"{n}")], 7000),
        )

        def rows() -> int:
            return sum(len(each["events"]) + each["leftOut"] for each in viewer.of["tape"])

        viewer.read_until("all rows", lambda: rows() == 2002)
        shown = [each for tape in viewer.of["tape"] for each in tape["events"]]
        largest = orders[-1]
        assert {
            "kind": "order", "time": 1778002754852, "coin": largest["order"]["coin"],
            "side": largest["order"]["side"], "px": "2000.5", "sz": "2", "status": largest["status"],
        } in shown  # fmt: skip
        traded = [(each["sz"], each["side"]) for each in shown if each["kind"] == "trade"]
        assert traded == [("1", "A"), ("2", "A")], "the taker's side"
        assert all(
            len([e for e in tape["events"] if e["kind"] == "order"]) <= 6 for tape in viewer.of["tape"]
        )
        for tape in viewer.of["tape"]:
            assert [each["time"] for each in tape["events"]] == sorted(
                each["time"] for each in tape["events"]
            )


def test_nothing_is_counted_while_nobody_looks(tmp_path: Path) -> None:
    """The fills are not read without a viewer, and what passed meanwhile is in no summary."""
    with viewing(tmp_path) as (server, viewer):
        wait_for("the fills", lambda: reading(server) == "live" or reading(server) == "waiting")
        append(orders_path(tmp_path), streaming(many_orders(100), 7000))
        viewer.socket.close()
        wait_for("no reading of fills", lambda: reading(server) == "idle")
        append(orders_path(tmp_path), streaming(many_orders(1000), 8000))
        server.wait_metric("fasttail_lines_total", 1100)
        again = Viewer(server.port, "summary")
        again.read_until("three summaries", lambda: len(again.of["summary"]) == 3)
        assert again.flow("orders") == 0
        append(orders_path(tmp_path), streaming(many_orders(10), 9000))
        again.read_until("ten orders", lambda: again.flow("orders") == 10)
        again.socket.close()


def reading(server: Serve) -> str:
    return str(json.loads(server.get("/health")[1])["streams"]["fills"]["reading"])


def test_files(tmp_path: Path) -> None:
    """Compressed where it is accepted, not sent again while unchanged, and allowed nothing but their own."""
    with serve(tmp_path, "--token-file", token_file(tmp_path)) as server:
        status, headers, body = fetch(server, "/", {"Accept-Encoding": "gzip"})
        assert status == 200
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert gzip.decompress(body) == fetch(server, "/", {})[2]
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        assert fetch(server, "/", {"If-None-Match": headers["ETag"]})[0] == 304
        for path in load_page():
            assert fetch(server, path, {"Accept-Encoding": "gzip"})[0] == 200
        assert fetch(server, "/page/../pyproject.toml", {})[0] == 404
        assert fetch(server, "/", {"If-None-Match": f'"other", {headers["ETag"]}'})[0] == 304
        assert fetch(server, "/", {"If-None-Match": '"other"'})[0] == 200
        assert "Content-Length" not in fetch(server, "/", {"If-None-Match": "*"})[1]
        assert "Content-Encoding" not in fetch(server, "/", {"Accept-Encoding": "gzip;q=0, br"})[1]
        status, headers, _ = fetch(server, "/", {}, "POST")
        assert (status, headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
        assert fetch(server, "/page/page.js", {}, "OPTIONS")[0] == 204
        assert json.loads(fetch(server, "/index.html", {})[2])["paths"][-1] == "/"
        assert server.get("/ws/status")[0] == 401, "figures need the token"


def fetch(server: Serve, path: str, headers: dict[str, str], method: str = "GET") -> tuple[int, Any, bytes]:
    address = f"http://127.0.0.1:{server.port}{path}"
    request = urllib.request.Request(address, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def token_file(folder: Path) -> Path:
    path = folder / "token"
    path.write_text("a-secret-of-some-length")
    path.chmod(0o600)
    return path


def test_weight_and_origin() -> None:
    files = load_page()
    assert sum(len(each.compressed) for each in files.values()) <= 80_000
    vendored = Path(fasttail.__file__).parent / "page" / "vendor"
    for name, expected in UPLOT_SHA512.items():
        assert hashlib.sha512((vendored / name).read_bytes()).hexdigest() == expected
    assert (vendored / "uPlot.LICENSE").read_text().startswith("The MIT License")


def test_page_off(tmp_path: Path) -> None:
    with serve(tmp_path, "--page", "off") as server:
        assert server.get("/")[0] == 404
        with connect(f"ws://127.0.0.1:{server.port}/ws") as client:
            client.send(json.dumps({"method": "subscribe", "subscription": {"type": "tape"}}))
            answer = json.loads(client.recv(timeout=PATIENCE_S))
            assert answer["channel"] == "error"
            assert answer["data"].endswith('"tape" is made for the page, which is switched off')
