"""What is true of a simulated exchange: books at any height, candles, orders, files, and the info server."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import orjson
import pytest

from fasttail.cli import main
from fasttail.tools.exchange import STREAMS, Exchange, ExchangeOptions, NodeOptions, SynthError, Truth, run
from fasttail.tools.exchange.info_server import InfoServer
from fasttail.tools.exchange.node import Summary
from fasttail.tools.exchange.truth import read_truth, replacing, snapshot_parts, write_truth

pytestmark = pytest.mark.plain_build

OPTIONS = ExchangeOptions(streams=tuple(STREAMS), resting=3000, block_lines=400, lifecycle=20, rejected=0.3)


def test_the_truth_at_a_height_is_that_of_the_exchange() -> None:
    made, truth = Exchange(OPTIONS), Truth(replace(OPTIONS, streams=()))
    snapshots = {}
    for _ in range(60):
        made.next_block()
        snapshots[made.height] = "".join(snapshot_parts(made)).encode()
    for height in (made.height - 40, made.height, made.height - 59):  # forward, and back again
        assert truth.snapshot(height) == snapshots[height]
    with pytest.raises(SynthError, match="the chain begins with block"):
        truth.at(OPTIONS.first_height - 2)
    with pytest.raises(SynthError, match="no coin is named NONE at height"):
        truth.book("NONE", made.height)


def test_a_book_is_in_the_order_of_price_and_time() -> None:
    truth = Truth(OPTIONS)
    bids, asks = truth.book("BTC", OPTIONS.first_height + 50)
    assert len(bids) > 50
    assert len(asks) > 50
    assert [order.px for order in bids] == sorted((order.px for order in bids), reverse=True)
    assert [order.px for order in asks] == sorted(order.px for order in asks)
    assert bids[0].px < asks[0].px
    assert all(order.sz > 0 for order in bids + asks)


def test_candles_are_those_of_the_trades() -> None:
    truth = Truth(OPTIONS)
    truth.at(OPTIONS.first_height + 1200)  # more than a minute
    trades = [trade for trade in truth.history.trades if trade.coin == "BTC" and trade.buyer and trade.seller]
    candles = truth.history.candles("BTC")
    assert len(candles) >= 2
    assert sum(candle.trades for candle in candles) == len(trades)
    for candle in candles:
        inside = [trade for trade in trades if candle.open_ms <= trade.time_ms < candle.open_ms + 60_000]
        prices = [trade.px for trade in inside]
        assert (candle.open, candle.close) == (prices[0], prices[-1])
        assert (candle.high, candle.low) == (max(prices), min(prices))
        assert candle.volume == sum(trade.sz for trade in inside)
        assert candle.public("BTC")["T"] == candle.open_ms + 59_999


def test_fills_and_open_orders_are_a_users_own() -> None:
    truth = Truth(OPTIONS)
    exchange = truth.at(OPTIONS.first_height + 300)
    side = truth.history.trades[-1].buyer or truth.history.trades[-1].seller
    assert side is not None
    user = side.order.maker.account.address
    fills = truth.history.fills(user)
    assert fills
    assert fills[-1][1] == truth.history.trades[-1]
    ladders = [ladder for market in exchange.markets for ladder in (market.bids, market.asks)]
    resting = [order for ladder in ladders for order in ladder.orders()]
    owner = resting[0].maker.account.address
    found = truth.open_orders(owner, exchange.height)
    assert {order.oid for order in found} >= {
        order.oid for order in resting if order.maker.account.address == owner
    }
    assert all(order.maker.account.address == owner for order in found)


def test_the_files_hold_what_is_true(tmp_path: Path) -> None:
    truth = Truth(OPTIONS)
    done = run(tmp_path / "node", NodeOptions(lines=20_000, streams=OPTIONS.streams), source=truth)
    assert done.orders == 20_000
    write_truth(tmp_path / "truth", truth)
    snapshot = (tmp_path / "truth" / "l4_snapshot.json").read_bytes()
    assert snapshot == "".join(snapshot_parts(truth.exchange)).encode() + b"\n"
    lines: dict[str, list[Any]] = {}
    for name in ("trades", "candles", "open_orders", "fills"):
        text = (tmp_path / "truth" / f"{name}.jsonl").read_bytes()
        lines[name] = [orjson.loads(line) for line in text.splitlines()]
    assert len(lines["trades"]) == len(truth.history.trades)
    assert sum(candle["n"] for candle in lines["candles"]) <= len(lines["trades"])
    height, books = orjson.loads(snapshot)
    shown = sum(len(side) for _, book in books for side in (*book["book_orders"], book["untriggered_orders"]))
    assert sum(len(line["orders"]) for line in lines["open_orders"]) == shown
    (fills,) = (tmp_path / "node" / "node_fills" / "hourly").glob("*/*")
    assert (tmp_path / "truth" / "fills.jsonl").read_bytes() == fills.read_bytes()
    sides = {(fill["tid"], fill["side"]): (user, fill["oid"]) for user, fill in lines["fills"]}
    for trade in lines["trades"]:
        users = list(zip(trade["users"], trade["oids"], strict=True))
        assert users == [sides.get((trade["tid"], side), (None, None)) for side in ("B", "A")]
    assert len(list((tmp_path / "truth").iterdir())) == 6
    again, told = read_truth(tmp_path / "truth" / "chain.json")
    assert told == height
    assert again.snapshot(height) + b"\n" == snapshot


def test_a_paced_live_run_can_be_made_again(tmp_path: Path) -> None:
    options = NodeOptions(rate=5000, seconds=1.5, market=replace(OPTIONS, streams=("orders",)))
    truth = Truth(options.exchange)
    run(tmp_path / "node", options, source=truth)
    snapshot = "".join(snapshot_parts(truth.exchange)).encode()
    write_truth(tmp_path / "truth", truth)
    again, height = read_truth(tmp_path / "truth" / "chain.json")
    assert again.snapshot(height - 3) != snapshot
    assert again.snapshot(height) == snapshot
    assert truth.snapshot(height) == snapshot


def test_a_clocked_run_says_that_it_cannot_be_made_again(tmp_path: Path) -> None:
    options = NodeOptions(lines=5000, live=True, market=OPTIONS)
    truth = Truth(options.exchange)
    run(tmp_path / "node", options, source=truth)
    write_truth(tmp_path / "truth", truth)
    with pytest.raises(SynthError, match="took its block times from the clock, so it cannot be made again"):
        read_truth(tmp_path / "truth" / "chain.json")
    with pytest.raises(SynthError, match="took its block times from the clock, so the chain cannot be made"):
        truth.at(truth.exchange.height - 1)


def test_a_chain_with_an_end_ends(tmp_path: Path) -> None:
    truth = Truth(OPTIONS)
    run(tmp_path, NodeOptions(lines=2000), source=truth)
    last = truth.exchange.height
    assert truth.at(last - 1).height == last - 1
    with pytest.raises(SynthError, match=rf"the chain ends with block {last}, so none is {last + 1}"):
        truth.at(last + 1)


def test_files_that_are_no_truth_are_named(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=r"cannot read .*none: No such file"):
        read_truth(tmp_path / "none")
    for text in ("", "{}", '{"height": 3, "start": "never"}', "[]"):
        (tmp_path / "chain.json").write_text(text)
        with pytest.raises(SynthError, match=r"chain\.json does not describe a chain: "):
            read_truth(tmp_path / "chain.json")
    (tmp_path / "file").touch()
    with pytest.raises(SynthError, match=r"cannot write .*file"):
        write_truth(tmp_path / "file", Truth(OPTIONS))


def test_a_truth_without_history_keeps_no_trades(tmp_path: Path) -> None:
    truth = Truth(OPTIONS, history=False)
    truth.at(OPTIONS.first_height + 30)
    assert truth.history.trades == []
    assert truth.snapshot(truth.exchange.height) == Truth(OPTIONS).snapshot(truth.exchange.height)
    with pytest.raises(SynthError, match="without its history, so it has no trades to write"):
        write_truth(tmp_path / "truth", truth)


def test_a_leg_of_one_user_has_no_other_user(tmp_path: Path) -> None:
    truth = Truth(OPTIONS)
    truth.at(OPTIONS.first_height + 30)
    trade = truth.history.trades[0]
    assert trade.buyer is not None
    truth.history.trades = [trade._replace(seller=None)]
    write_truth(tmp_path, truth)
    told = orjson.loads((tmp_path / "trades.jsonl").read_bytes())
    user, fill = orjson.loads((tmp_path / "fills.jsonl").read_bytes())
    assert told["users"] == [trade.buyer.order.maker.account.address, None] == [user, None]
    assert told["oids"] == [trade.buyer.order.oid, None] == [fill["oid"], None]


def test_an_interrupted_truth_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = Truth(OPTIONS)
    truth.at(OPTIONS.first_height + 5)
    write_truth(tmp_path, truth)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    truth.at(OPTIONS.first_height + 10)

    def interrupt(*_: object) -> Iterator[str]:
        yield "{}\n"
        raise KeyboardInterrupt

    monkeypatch.setattr("fasttail.tools.exchange.truth._open_order_lines", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_truth(tmp_path, truth)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_truth_that_cannot_be_written_names_the_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fills.jsonl")
    truth = Truth(OPTIONS)
    with pytest.raises(SynthError, match=rf"^cannot write {tmp_path}/fills\.jsonl: it is not a regular"):
        write_truth(tmp_path, truth)
    assert [path.name for path in tmp_path.iterdir()] == ["fills.jsonl"]

    def fill_disk() -> None:
        with replacing(tmp_path / "out") as file:
            file.write(b"some")
            raise OSError(28, "No space left on device")

    with pytest.raises(SynthError, match=rf"^cannot write {tmp_path}/out: No space left on device$"):
        fill_disk()
    assert [path.name for path in tmp_path.iterdir()] == ["fills.jsonl"]


def test_the_command_tries_the_folder_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def do_not_run(*_: object, **__: object) -> Summary:
        raise AssertionError("it ran")

    monkeypatch.setattr("fasttail.tools.exchange.command.run", do_not_run)
    (tmp_path / "special").mkdir()
    os.mkfifo(tmp_path / "special" / "chain.json")
    for folder in ("/proc/nope", str(tmp_path / "special")):
        assert main(["synth", str(tmp_path / "node"), "--lines", "9", "--truth", folder]) == 2
        assert capsys.readouterr().err.startswith(f"fasttail synth: cannot write {folder}")


def test_the_command_keeps_a_history_only_for_a_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []

    def note(*_: object, source: Truth, **__: object) -> Summary:
        kept.append(source.has_history)
        return Summary()

    monkeypatch.setattr("fasttail.tools.exchange.command.run", note)
    server, files = ["--info-port", "0"], ["--truth", str(tmp_path / "truth")]
    for arguments in (server, files, [*server, *files]):
        assert main(["synth", str(tmp_path / "node"), "--lines", "9", *arguments]) == 0
    assert kept == [False, True, True]


# -- the info server


@pytest.fixture
def truth() -> Truth:
    truth = Truth(OPTIONS)
    truth.at(OPTIONS.first_height + 30)
    return truth


@pytest.fixture
def server(truth: Truth) -> Iterator[InfoServer]:
    server = InfoServer(truth, 0)
    yield server
    server.close()


def ask(server: InfoServer, request: object, path: str = "/info") -> Any:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    url = f"http://127.0.0.1:{server.port}{path}"
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as reply:
        return json.loads(reply.read())


def file_snapshot(path: Path, **options: bool) -> dict[str, Any]:
    inner = {"type": "l4Snapshots", "includeUsers": True, "includeTriggerOrders": True} | options
    height = inner.pop("includeHeightInOutput", True)
    return {"type": "fileSnapshot", "request": inner, "outPath": str(path), "includeHeightInOutput": height}


def test_a_file_snapshot_is_the_truth(server: InfoServer, truth: Truth, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    assert ask(server, file_snapshot(path)) is None
    assert path.read_text() == "".join(snapshot_parts(truth.exchange))
    less = {"includeUsers": False, "includeTriggerOrders": False, "includeHeightInOutput": False}
    ask(server, file_snapshot(path, **less))
    coin, (bids, _) = json.loads(path.read_text())[0]
    assert coin == "BTC"
    assert bids[0]["side"] == "B"


def test_a_file_snapshot_has_the_form_of_a_genuine_one(
    server: InfoServer, tmp_path: Path, genuine_snapshot: list[Any]
) -> None:
    path = tmp_path / "out.json"
    ask(server, file_snapshot(path, includeTriggerOrders=False))
    height, books = json.loads(path.read_text())
    genuine_height, ((_, genuine_sides),) = genuine_snapshot
    assert type(height) is type(genuine_height)
    for _, sides in books:
        assert len(sides) == len(genuine_sides) == 2
        for side in sides:
            for user, order in side:
                assert isinstance(user, str)
                assert list(order) == list(genuine_sides[0][0][1])


@pytest.fixture(scope="module")
def genuine_snapshot(real_data: Path) -> Any:
    import gzip

    (path,) = real_data.glob("l4_snapshot.*.json.gz")
    return json.loads(gzip.decompress(path.read_bytes()))


def test_each_answer_is_of_one_height_while_blocks_are_made(
    server: InfoServer, truth: Truth, tmp_path: Path
) -> None:
    stop = threading.Event()

    def make_blocks() -> None:
        while not stop.is_set():
            truth.next_block()

    thread = threading.Thread(target=make_blocks)
    thread.start()
    try:
        for index in range(5):
            ask(server, file_snapshot(tmp_path / str(index)))
    finally:
        stop.set()
        thread.join()
    for index in range(5):
        data = (tmp_path / str(index)).read_bytes()
        assert Truth(replace(OPTIONS, streams=())).snapshot(orjson.loads(data)[0]) == data


def test_other_questions_have_plausible_answers(server: InfoServer, truth: Truth) -> None:
    names = {market.name for market in truth.exchange.markets}
    universe = ask(server, {"type": "meta"})["universe"]
    assert {"BTC", "ETH"} <= {one["name"] for one in universe} <= names
    assert {one["name"] for one in ask(server, {"type": "meta", "dex": "xyz"})["universe"]} >= {"xyz:TSLA"}
    spot = ask(server, {"type": "spotMeta"})
    assert {pair["name"] for pair in spot["universe"]} >= {"@107", "PURR/USDC"}
    indices = [index for pair in spot["universe"] for index in pair["tokens"]]
    assert all(spot["tokens"][index]["index"] == index for index in indices)
    order = next(truth.exchange.markets[0].bids.orders())
    user = order.maker.account.address
    opened = ask(server, {"type": "openOrders", "user": user.upper().replace("0X", "0x")})
    assert order.oid in {one["oid"] for one in opened}
    shown = ask(server, {"type": "frontendOpenOrders", "user": user})
    assert [one["oid"] for one in shown] == [one["oid"] for one in opened]
    assert {"orderType", "tif", "children"} <= set(shown[0])
    state = ask(server, {"type": "clearinghouseState", "user": user})
    assert state["assetPositions"]
    assert ask(server, {"type": "exchangeStatus"})["time"] == truth.exchange.time_ns // 1_000_000
    assert ask(server, {"type": "openOrders", "user": "0x" + "0" * 40}) == []


@pytest.mark.parametrize(
    ("request_", "path", "status"),
    [
        (b"not json", "/info", 422),
        (b"[]", "/info", 422),
        (b"{}", "/info", 422),
        ({"type": "l2Book", "coin": "BTC"}, "/info", 422),
        ({"type": "openOrders"}, "/info", 422),
        ({"type": "meta"}, "/other", 422),
        ({"type": "fileSnapshot", "request": {"type": "referrerStates"}, "outPath": "/x"}, "/info", 422),
        (file_snapshot(Path("/no/such/folder/x")), "/info", 500),
        (file_snapshot(Path("/dev/full")), "/info", 500),
        (file_snapshot(Path("/")), "/info", 500),
        (file_snapshot(Path("relative")), "/info", 422),
        (file_snapshot(Path("/tmp/\0")), "/info", 422),
        (b"[" * 60_000, "/info", 422),
        (b" " * 5_000_000, "/info", 413),
    ],
)
def test_what_it_does_not_know_is_refused(
    server: InfoServer, request_: object, path: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        ask(server, request_, path)
    assert raised.value.code == status
    assert "\n" not in json.loads(raised.value.read())
    raised.value.close()
    assert capfd.readouterr().err == ""


def test_a_pipe_is_refused_and_the_exchange_goes_on(server: InfoServer, truth: Truth, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(urllib.error.HTTPError) as raised:
        ask(server, file_snapshot(path))
    assert json.loads(raised.value.read()) == f"cannot write {path}: it is not a regular file"
    raised.value.close()
    assert truth.next_block().number == truth.exchange.height
    assert path.is_fifo()


def test_a_snapshot_is_written_while_blocks_are_made(
    server: InfoServer, truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = "".join(snapshot_parts(truth.exchange))

    def make_block_first(path: Path) -> AbstractContextManager[IO[bytes]]:
        assert truth.lock.acquire(timeout=10)
        truth.exchange.next_block()
        truth.lock.release()
        return replacing(path)

    monkeypatch.setattr("fasttail.tools.exchange.info_server.replacing", make_block_first)
    (tmp_path / "out.json").write_text("old")
    ask(server, file_snapshot(tmp_path / "out.json"))
    assert (tmp_path / "out.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def reset(client: socket.socket) -> None:
    """Close a connection so that the other side's next use of it fails."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize(
    ("length", "sent"), [(15, b'{"type":"meta"}'), (5_000_000, b" " * 100_000), (500, b'{"type')]
)
def test_nothing_is_said_of_a_client_that_leaves(
    server: InfoServer, truth: Truth, length: int, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    def answering() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if "process_request" in thread.name]

    client = socket.create_connection(("127.0.0.1", server.port))
    with truth.lock:  # so that it is gone before its answer comes
        client.sendall(b"POST /info HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % length + sent)
        wait_until(lambda: bool(answering()))
        time.sleep(0.1)  # it reads
        reset(client)
    wait_until(lambda: not answering())
    assert capfd.readouterr().err == ""
    assert ask(server, {"type": "exchangeStatus"})


def wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_fault_of_the_program_is_shown(
    server: InfoServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("fasttail.tools.exchange.info_server.answer", fail)
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        ask(server, {"type": "meta"})
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_orders_are_those_of_a_dex(server: InfoServer, truth: Truth) -> None:
    names: dict[str, str] = {}  # dex -> a user with an order there
    for market in truth.exchange.markets:
        for order in market.bids.orders():
            names.setdefault(market.dex, order.maker.account.address)
    assert len(names) > 3
    assert "" in names
    for dex, user in names.items():
        for kind in ("openOrders", "frontendOpenOrders"):
            opened = ask(server, {"type": kind, "user": user, "dex": dex})
            assert {one["coin"].rpartition(":")[0] for one in opened} == {dex}
            assert len({one["oid"] for one in opened}) == len(opened)
        every = truth.open_orders(user, truth.exchange.height)
        shown = [ask(server, {"type": "openOrders", "user": user, "dex": one}) for one in names]
        assert sum(map(len, shown)) == len(every)
    main_orders = ask(server, {"type": "openOrders", "user": names[""], "dex": ""})
    assert ask(server, {"type": "openOrders", "user": names[""]}) == main_orders
    assert ask(server, {"type": "openOrders", "user": names[""], "dex": None}) == main_orders


def test_the_dexs_of_perps_are_named(server: InfoServer, truth: Truth) -> None:
    first, *others = ask(server, {"type": "perpDexs"})
    assert first is None
    names = [dex["name"] for dex in others]
    assert set(names) == {market.dex for market in truth.exchange.markets} - {""}
    assert len(names) == len(set(names))
    for dex in others:
        assert dex["deployer"].startswith("0x")
        universe = ask(server, {"type": "meta", "dex": dex["name"]})["universe"]
        assert [coin for coin, _ in dex["assetToStreamingOiCap"]] == [one["name"] for one in universe]


def test_a_port_in_use_is_named(server: InfoServer, truth: Truth) -> None:
    with pytest.raises(SynthError, match=rf"cannot listen on 127\.0\.0\.1:{server.port}: "):
        InfoServer(truth, server.port)
