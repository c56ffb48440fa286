"""The synthetic node: the form of its orders, equal content in all layouts, and how files grow and rotate."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from fasttail.tools import synth
from fasttail.tools.synth import NodeOptions

pytestmark = pytest.mark.plain_build

EVENT_KEYS = ["time", "user", "hash", "builder", "status", "order"]
ORDER_KEYS = [
    "coin", "side", "limitPx", "sz", "oid", "timestamp", "triggerCondition", "isTrigger", "triggerPx",
    "children", "isPositionTpsl", "reduceOnly", "orderType", "origSz", "tif", "cloid",
]  # fmt: skip
ENVELOPE_KEYS = ["local_time", "block_time", "block_number", "events"]
DECIMAL = re.compile(r"-?[0-9]+\.[0-9]+")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.(\d{3}){1,3})?")
START = datetime(2026, 5, 31, 22, 59, 59, tzinfo=UTC)


def parsed(data: bytes) -> list[dict[str, Any]]:
    assert data.endswith(b"\n")
    return [orjson.loads(line) for line in data.splitlines()]


def events_of(data: bytes) -> list[bytes]:
    """Return the raw bytes of the events in envelopes of the compact form, which other tests check."""
    events = []
    for line in data.splitlines():
        inner = line[line.index(b'"events":[') + 10 : -2]
        events += [b'{"time":' + part for part in inner.split(b'{"time":')[1:]]
    return [event.rstrip(b",") for event in events]


def hour_files(root: Path, layout: str = "plain") -> list[Path]:
    """Return a layout's hour files, oldest first."""
    hourly = root / synth.LAYOUTS[layout] / "hourly"
    return sorted(hourly.glob("*/*"), key=lambda path: (path.parent.name, int(path.name)))


def content(root: Path, layout: str = "plain") -> bytes:
    return b"".join(path.read_bytes() for path in hour_files(root, layout))


def ns_of(text: str) -> int:
    second, _, fraction = text.partition(".")
    whole = int(datetime.fromisoformat(second).replace(tzinfo=UTC).timestamp())
    return whole * 10**9 + int(fraction.ljust(9, "0"))


@pytest.fixture(scope="module")
def many() -> list[dict[str, Any]]:
    return parsed(synth.generate(200_000, seed=3))


# -- the seed


@pytest.mark.parametrize("children", [synth.CHILDREN_SHARE, 0.2])
def test_all_layouts_hold_the_same_orders(children: float) -> None:
    plain = synth.generate(30_000, "plain", 5, children=children)
    streaming = synth.generate(30_000, "streaming", 5, children=children)
    by_block = synth.generate(30_000, "by_block", 5, children=children)
    assert plain.splitlines() == events_of(streaming) == events_of(by_block)
    assert len(plain.splitlines()) == 30_000


def test_orders_do_not_depend_on_how_they_are_cut_into_blocks() -> None:
    def without_block(data: bytes) -> list[Any]:
        events = parsed(data)
        return [
            (e["user"], e["status"], e["order"] | {"timestamp": 0, "children": len(e["order"]["children"])})
            for e in events
        ]

    large = synth.generate(20_000, seed=9, children=0.01)
    small = synth.generate(20_000, seed=9, children=0.01, block_lines=3.5)
    assert without_block(large) == without_block(small)


def test_slices_of_a_block_are_the_block() -> None:
    whole, sliced = synth.Synth(4), synth.Synth(4)
    for _ in range(20):
        block = whole.take_events(whole.begin_block())
        sliced.begin_block()
        slices = []
        while sliced.events_left > 0:
            slices.append(sliced.take_events(37))
        for layout in ("plain", "streaming"):
            assert b"".join(synth.render(part, layout) for part in slices) == synth.render(block, layout)


# -- the form of an order


def check_order(order: dict[str, Any]) -> None:
    assert list(order) == ORDER_KEYS
    for key in ("limitPx", "sz", "triggerPx", "origSz"):
        assert DECIMAL.fullmatch(order[key]), order
    assert order["side"] in ("A", "B")
    assert order["cloid"] is None or re.fullmatch("0x[0-9a-f]{32}", order["cloid"])
    assert isinstance(order["oid"], int)
    assert len(str(order["oid"])) == 12
    assert order["isTrigger"] is order["triggerCondition"].startswith("Price ")
    assert order["isTrigger"] is (order["tif"] is None)
    assert order["isTrigger"] is (order["triggerPx"] != "0.0")
    assert float(order["sz"]) <= float(order["origSz"])
    for child in order["children"]:
        check_order(child)
        assert child["reduceOnly"] is True
        assert child["tif"] is None
        assert child["side"] != order["side"]


@pytest.mark.parametrize("children", [synth.CHILDREN_SHARE, 0.2])
def test_every_line_has_the_nodes_fields_order_and_form(children: float) -> None:
    for line in synth.generate(60_000, seed=2, children=children).splitlines():
        event = orjson.loads(line)
        assert orjson.dumps(event) == line  # compact, ASCII, no escapes, no duplicate keys
        assert list(event) == EVENT_KEYS
        assert TIME.fullmatch(event["time"])
        assert re.fullmatch("0x[0-9a-f]{40}", event["user"])
        assert (event["hash"] is not None) is (event["status"] == "open")
        assert event["hash"] is None or re.fullmatch("0x[0-9a-f]{64}", event["hash"])
        assert event["builder"] is None or list(event["builder"]) == ["b", "f"]
        assert event["order"]["timestamp"] <= ns_of(event["time"]) // 10**6
        check_order(event["order"])


def test_fields_stand_as_in_genuine_lines(real_data: Path) -> None:
    made = orjson.loads(synth.generate(1, "streaming"))
    paths = [path for path in sorted(real_data.glob("node_order_statuses.streaming*")) if path.stat().st_size]
    for path in paths:
        with path.open("rb") as file:
            real = orjson.loads(file.readline())
        assert list(real) == list(made)
        assert list(real["events"][0]) == list(made["events"][0])
        assert list(real["events"][0]["order"]) == list(made["events"][0]["order"])


def test_the_mix_is_that_of_all_coins(many: list[dict[str, Any]]) -> None:
    def share(what: str, value: object) -> float:
        return counts[what][value] / len(many)

    orders = [event["order"] for event in many]
    counts = {
        "status": Counter(event["status"] for event in many),
        **{
            key: Counter(order[key] for order in orders)
            for key in ("coin", "tif", "cloid", "orderType", "side")
        },
    }
    assert share("status", "badAloPxRejected") == pytest.approx(0.59, abs=0.01)
    assert sum(n for status, n in counts["status"].items() if status.endswith("Rejected")) > 0.6 * len(many)
    assert share("status", "open") == pytest.approx(0.195, abs=0.02)
    assert share("status", "canceled") == pytest.approx(0.19, abs=0.02)
    assert 0.002 < share("status", "filled") < 0.02
    assert len(counts["status"]) >= 18
    assert share("tif", "Alo") == pytest.approx(0.974, abs=0.005)
    assert share("tif", "Ioc") == pytest.approx(0.019, abs=0.004)
    assert share("tif", "Gtc") == pytest.approx(0.006, abs=0.002)
    assert share("orderType", "Limit") == pytest.approx(0.9995, abs=0.0003)
    assert {"Market", "Stop Market", "Stop Limit", "Take Profit Market"} <= set(counts["orderType"])
    assert share("cloid", None) == pytest.approx(0.114, abs=0.02)
    assert share("side", "A") == pytest.approx(0.5, abs=0.02)
    assert sum(event["builder"] is not None for event in many) / len(many) == pytest.approx(0.006, abs=0.003)
    assert sum(n for coin, n in counts["coin"].items() if ":" in coin) / len(many) == pytest.approx(
        0.4, abs=0.02
    )
    assert {"BTC", "xyz:XYZ100", "flx:BTC", "@107", "PURR/USDC", "kPEPE", "W"} <= set(counts["coin"])
    assert len({event["user"] for event in many}) > 300
    assert sum(bool(order["children"]) for order in orders) <= 20  # about 3
    assert any(len(order["sz"].partition(".")[2]) == 10 for order in orders)  # noise of binary floats


def test_lines_are_as_long_as_genuine_ones() -> None:
    plain = sorted(map(len, synth.generate(20_000).splitlines()))
    streaming = sorted(map(len, synth.generate(20_000, "streaming").splitlines()))
    assert 460 <= sum(plain) / len(plain) <= 490
    assert 590 <= sum(streaming) / len(streaming) <= 620


def test_an_order_lives_as_in_a_node(many: list[dict[str, Any]]) -> None:
    opened: dict[int, dict[str, Any]] = {}
    newest = 0
    ended = 0
    for event in many:
        order, status = event["order"], event["status"]
        if order["oid"] in opened:
            first = opened[order["oid"]]
            assert status not in ("open", "badAloPxRejected")
            for key in (
                "coin",
                "side",
                "limitPx",
                "timestamp",
                "origSz",
                "tif",
                "cloid",
                "orderType",
                "children",
            ):
                assert order[key] == first[key]
            assert status != "filled" or order["sz"] == "0.0"
            if status != "triggered":
                del opened[order["oid"]]
                ended += 1
        else:
            assert status == "open" or status.endswith("ejected"), status
            assert order["oid"] > newest
            newest = order["oid"]
            assert order["timestamp"] == ns_of(event["time"]) // 10**6
            if status == "open":
                opened[order["oid"]] = order
    assert ended > 30_000


def test_lines_of_2024_have_no_hash_and_builder() -> None:
    lines = synth.generate(20_000, style="2024", children=0.01).splitlines()
    for line in lines:
        event = orjson.loads(line)
        assert orjson.dumps(event) == line
        assert list(event) == [key for key in EVENT_KEYS if key not in ("hash", "builder")]
        assert TIME.fullmatch(event["time"])
        assert len(event["time"]) <= 23
        check_order(event["order"])
    assert 380 <= sum(map(len, lines)) / len(lines) <= 440


# -- times and blocks


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (1_777_999_154_852_711_983, "2026-05-05T16:39:14.852711983"),
        (1_777_999_154_852_711_000, "2026-05-05T16:39:14.852711"),
        (1_777_999_154_852_000_000, "2026-05-05T16:39:14.852"),
        (1_777_999_154_000_000_000, "2026-05-05T16:39:14"),
        (1_777_999_154_000_000_100, "2026-05-05T16:39:14.000000100"),
        (0, "1970-01-01T00:00:00"),
    ],
)
def test_times_drop_trailing_groups_of_zeros(ns: int, text: str) -> None:
    assert synth.text_time(ns) == text


def test_short_times_come_as_often_as_asked() -> None:
    digits = Counter(len(event["time"]) - 20 for event in parsed(synth.generate(20_000, block_lines=2)))
    assert set(digits) <= {9, 6, 3}
    assert 0 < digits[6] < 100  # about 11
    assert {len(event["time"]) for event in parsed(synth.generate(500, short_times=1.0))} <= {26, 23}


def test_blocks_follow_each_other() -> None:
    blocks = list(synth.iter_blocks(200_000, seed=6))
    sizes = sorted(len(block.events) for block in blocks)
    assert sum(sizes) == 200_000
    assert sizes[0] == 0
    assert 1000 < sizes[len(sizes) // 2] < 1500
    assert 3000 < sizes[-1] < 3900
    assert [block.number for block in blocks] == list(range(blocks[0].number, blocks[0].number + len(blocks)))
    for former, block in pairwise(blocks):
        assert 40_000_000 < block.time_ns - former.time_ns < 90_000_000
        assert block.local_ns > block.time_ns


def test_by_block_has_one_line_per_block() -> None:
    lines = parsed(synth.generate(200_000, "by_block", 6))
    assert all(list(line) == ENVELOPE_KEYS for line in lines)
    assert [line["block_number"] - lines[0]["block_number"] for line in lines] == list(range(len(lines)))
    assert any(line["events"] == [] for line in lines)
    assert all(event["time"] == line["block_time"] for line in lines for event in line["events"])
    assert sum(len(line["events"]) for line in lines) == 200_000


@pytest.mark.parametrize("block_lines", [0.5, 1506.0, 20_000.0])
def test_streaming_has_one_event_per_line_and_rising_local_times(block_lines: float) -> None:
    lines = parsed(synth.generate(60_000, "streaming", 6, block_lines=block_lines))
    assert len(lines) == 60_000
    assert all(list(line) == ENVELOPE_KEYS and len(line["events"]) == 1 for line in lines)
    assert all(line["events"][0]["time"] == line["block_time"] for line in lines)
    local = [ns_of(line["local_time"]) for line in lines]
    assert all(later > former for former, later in pairwise(local))
    if block_lines == 1506.0:
        gaps = [
            later - former
            for former, later, one, two in zip(local, local[1:], lines, lines[1:], strict=False)
            if one["block_number"] == two["block_number"]
        ]
        assert 8_000 <= sorted(gaps)[len(gaps) // 2] <= 40_000
        assert max(gaps) <= 41_000


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasttail.tools.synth.orders.MAX_RESTING", 50)
    monkeypatch.setattr("fasttail.tools.synth.orders.MAX_TRIGGERS", 3)
    node = synth.Synth(1, children=0.1)
    sizes = [(node.resting, node.waiting_triggers) for _ in node.blocks(200_000)]
    assert max(resting for resting, _ in sizes) == 50
    assert max(triggers for _, triggers in sizes) == 3


# -- files


@pytest.mark.parametrize("layout", synth.LAYOUTS)
@pytest.mark.parametrize("torn", [False, True])
def test_a_run_writes_what_the_generator_gives(tmp_path: Path, layout: str, torn: bool) -> None:
    total = synth.run(tmp_path, NodeOptions(lines=12_345, layout=layout, seed=5, start=START, torn=torn))
    expected = synth.generate(12_345, layout, 5, start=START)
    assert content(tmp_path, layout) == expected
    assert total.orders == 12_345
    assert total.lines == expected.count(b"\n")
    assert total.bytes == len(expected)
    assert total.files == len(hour_files(tmp_path, layout)) == 1
    assert not total.interrupted
    assert [path.name for path in tmp_path.iterdir()] == [synth.LAYOUTS[layout]]


@pytest.mark.parametrize("layout", synth.LAYOUTS)
@pytest.mark.parametrize("torn", [False, True])
def test_a_paced_run_writes_the_same_as_one_at_full_speed(tmp_path: Path, layout: str, torn: bool) -> None:
    total = synth.run(
        tmp_path, NodeOptions(rate=4000, lines=1234, layout=layout, seed=5, start=START, torn=torn)
    )
    blocks = synth.iter_blocks(1234, 5, start=START, block_lines=4000 * 0.0641)
    assert content(tmp_path, layout) == b"".join(synth.render(block, layout) for block in blocks)
    assert total.orders == 1234
    assert 0.15 < total.seconds < 5


def test_files_of_one_seed_hold_the_same_orders_whenever_they_are_made(tmp_path: Path) -> None:
    for layout in synth.LAYOUTS:
        synth.run(tmp_path / layout, NodeOptions(rate=20_000, lines=3000, layout=layout, seed=8))
    plain = content(tmp_path / "plain").splitlines()
    assert plain == events_of(content(tmp_path / "by_block", "by_block"))
    assert plain == events_of(content(tmp_path / "streaming", "streaming"))


def test_the_clock_rotates_hours_and_dates(tmp_path: Path) -> None:
    start = datetime(2026, 5, 31, 23, 59, 58, tzinfo=UTC)
    synth.run(tmp_path, NodeOptions(lines=100_000, layout="streaming", start=start))
    files = hour_files(tmp_path, "streaming")
    assert [path.parts[-2:] for path in files] == [("20260531", "23"), ("20260601", "0")]
    assert content(tmp_path, "streaming") == synth.generate(100_000, "streaming", start=start)
    for path in files:
        blocks = [line["block_number"] for line in parsed(path.read_bytes())]
        assert blocks == sorted(blocks)
    first = parsed(files[1].read_bytes())[0]
    assert first["local_time"].startswith("2026-06-01T00:00:00.")
    assert first["block_time"].startswith("2026-05-31T23:59:59.")  # the hour follows this node's clock


@pytest.mark.parametrize("torn", [False, True])
def test_hours_may_be_short(tmp_path: Path, torn: bool) -> None:
    total = synth.run(tmp_path, NodeOptions(lines=60_000, seed=2, hour_seconds=0.5, start=START, torn=torn))
    names = [path.parts[-2:] for path in hour_files(tmp_path)]
    assert names[:4] == [("20260531", "22"), ("20260531", "23"), ("20260601", "0"), ("20260601", "1")]
    assert [int(hour) for _, hour in names[2:]] == list(range(len(names) - 2))
    assert total.files == len(names)
    assert content(tmp_path) == synth.generate(60_000, seed=2, start=START)
    assert all(
        path.read_bytes().endswith(b"}}\n") for path in hour_files(tmp_path)
    )  # each file is completed before the next


def test_real_clock_with_short_hours(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    total = synth.run(tmp_path, NodeOptions(rate=500, seconds=1.3, hour_seconds=0.4))
    files = hour_files(tmp_path)
    hours = [
        datetime.strptime(path.parent.name, "%Y%m%d").replace(tzinfo=UTC).timestamp() // 3600 + int(path.name)
        for path in files
    ]
    assert 3 <= len(hours) <= 5
    assert hours == [hours[0] + i for i in range(len(hours))]
    assert 0 <= hours[0] - before.timestamp() // 3600 <= 1
    assert total.orders == content(tmp_path).count(b"\n")
    # A second run continues where the first one stopped, because a restarted node never goes back an hour.
    for hour_seconds in (None, 3600.0):
        before_run = files[-1].stat().st_size
        again = synth.run(tmp_path, NodeOptions(lines=10, hour_seconds=hour_seconds))
        assert hour_files(tmp_path) == files
        assert files[-1].stat().st_size == before_run + again.bytes


def test_foreign_names_in_the_folder_are_ignored(tmp_path: Path) -> None:
    hourly = tmp_path / "node_order_statuses" / "hourly"
    for name in ("20991231/24", "20991231/07", "20991231/5.lz4", "2099123/1", "lost+found/3", "99999999/1"):
        (hourly / name).parent.mkdir(parents=True, exist_ok=True)
        (hourly / name).touch()
    (hourly / "20991230").touch()
    synth.run(tmp_path, NodeOptions(lines=10))
    written = [path for path in hourly.glob("*/*") if path.stat().st_size]
    assert len(written) == 1
    assert written[0].parent.name < "2099"


class Writes:
    """Replaces os.write: records each call and writes at most `most` bytes of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int = 1 << 30) -> None:
        self.calls: list[tuple[float, bytes]] = []
        self._real = os.write
        self._most = most
        monkeypatch.setattr(os, "write", self)

    def __call__(self, fd: int, data: memoryview) -> int:
        written = self._real(fd, data[: self._most])
        self.calls.append((time.monotonic(), bytes(data[:written])))
        return written


def test_torn_writes_cut_lines_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes(monkeypatch)
    synth.run(tmp_path, NodeOptions(rate=20_000, seconds=0.5, torn=True))
    assert sum(not data.endswith(b"\n") for _, data in writes.calls) > 20


def test_the_rest_of_a_torn_line_comes_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes(monkeypatch)
    synth.run(tmp_path, NodeOptions(rate=4, seconds=2.5, torn=True))
    waits = [
        later - at
        for (at, data), (later, _) in pairwise(writes.calls)
        if data.strip() and not data.endswith(b"\n")
    ]
    assert waits
    assert (
        sorted(waits)[len(waits) // 2] < 0.1
    )  # 1 to 3 ms unless the machine is busy; the next line is 250 ms away


def test_by_default_writes_are_whole_lines_and_smooth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(monkeypatch)
    total = synth.run(tmp_path, NodeOptions(rate=20_000, seconds=1.0))
    assert all(data.endswith(b"\n") for _, data in writes.calls)
    assert 1000 < total.orders < 26_000
    assert len(writes.calls) > 20  # 2 ms apart; fewer on a busy machine
    assert total.bytes == sum(len(data) for _, data in writes.calls)


def test_at_low_rates_each_line_is_written_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes(monkeypatch)
    total = synth.run(tmp_path, NodeOptions(rate=30, seconds=1.0, layout="streaming"))
    assert 1 < total.orders < 50
    assert len(writes.calls) > 0.7 * total.orders


def test_at_low_rates_most_blocks_are_empty(tmp_path: Path) -> None:
    total = synth.run(tmp_path, NodeOptions(rate=5, seconds=1.0, layout="by_block"))
    lines = parsed(content(tmp_path, "by_block"))
    assert total.lines == total.blocks == len(lines) > 2
    assert total.orders == sum(len(line["events"]) for line in lines) <= 10
    assert sum(line["events"] == [] for line in lines) > len(lines) / 2


def test_short_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Writes(monkeypatch, most=1000)
    synth.run(tmp_path, NodeOptions(lines=500, start=START))
    assert content(tmp_path) == synth.generate(500, start=START)


def test_a_stream_is_live_and_a_set_of_lines_is_not(tmp_path: Path) -> None:
    now = time.time_ns()
    synth.run(tmp_path / "stream", NodeOptions(rate=500, seconds=0.4, lag_s=0.1, layout="streaming"))
    synth.run(tmp_path / "set", NodeOptions(rate=5000, lines=500, layout="streaming"))
    synth.run(tmp_path / "forced", NodeOptions(lines=500, live=True, layout="streaming"))
    stream, made, forced = (
        parsed(content(tmp_path / name, "streaming")) for name in ("stream", "set", "forced")
    )
    for line in stream:
        assert -110_000_000 < ns_of(line["block_time"]) - now < 30 * 10**9
        assert 95_000_000 < ns_of(line["local_time"]) - ns_of(line["block_time"]) < 170_000_000
    assert made[0]["block_time"].startswith("2026-06-02T10:00:00.")
    assert abs(ns_of(made[0]["local_time"]) - now) < 60 * 10**9
    assert abs(ns_of(forced[0]["block_time"]) - now) < 60 * 10**9


@pytest.mark.parametrize("layout", synth.LAYOUTS)
def test_local_times_rise_at_full_speed_too(tmp_path: Path, layout: str) -> None:
    synth.run(tmp_path, NodeOptions(lines=20_000, layout=layout))
    if layout != "plain":
        local = [ns_of(line["local_time"]) for line in parsed(content(tmp_path, layout))]
        assert local == sorted(local)
        assert local[-1] < time.time_ns() + 50_000_000  # without running ahead of the clock


def test_local_times_rise_though_the_clock_steps_back() -> None:
    node = synth.Synth(1)
    data = b""
    for local in (10**18, 10**18, 10**18 - 10**9, 10**18 + 10**9):
        data += synth.render(node.take_events(node.begin_block(local_ns=local)), "streaming")
    times = [ns_of(line["local_time"]) for line in parsed(data)]
    assert all(later > former for former, later in pairwise(times))
    assert times[-1] > 10**18 + 10**9


# -- termination and errors


@pytest.fixture
def handlers() -> Iterator[None]:
    """Check that a run restores the handlers of SIGINT and SIGTERM."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("rate", [None, 2.0, 20_000.0])
def test_a_signal_ends_the_run_at_a_lines_end(
    tmp_path: Path, number: signal.Signals, rate: float | None
) -> None:
    calls = 0

    def interrupt() -> bool:  # called often during a run, so the signal arrives within it
        nonlocal calls
        calls += 1
        if calls == 8:
            os.kill(os.getpid(), number)
        return False

    total = synth.run(tmp_path, NodeOptions(rate=rate, seconds=30, torn=True), stop=interrupt)
    assert total.interrupted
    assert total.seconds < 20
    data = content(tmp_path)
    assert data.count(b"\n") == total.orders
    assert len(data) == total.bytes
    assert not data or data.endswith(b"}}\n")


def test_stop_ends_a_run_in_a_thread(tmp_path: Path) -> None:
    stop = threading.Event()
    totals: list[synth.Summary] = []
    thread = threading.Thread(
        target=lambda: totals.append(synth.run(tmp_path, NodeOptions(rate=1000), stop=stop.is_set))
    )
    thread.start()
    deadline = time.monotonic() + 120
    while not any(path.is_file() and path.stat().st_size for path in tmp_path.rglob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stop.set()
    thread.join(120)
    assert totals[0].interrupted
    assert content(tmp_path).count(b"\n") == totals[0].orders > 0


def test_progress_comes_about_once_a_second(tmp_path: Path) -> None:
    seen: list[synth.Summary] = []
    total = synth.run(tmp_path, NodeOptions(rate=100, seconds=2.5), progress=seen.append)
    assert 1 <= len(seen) <= total.seconds
    assert 0 < seen[0].orders < total.orders
    assert 0 < seen[0].bytes < total.bytes
    assert 0.9 < seen[0].seconds < total.seconds


@pytest.mark.parametrize("rate", [None, 5000.0])
def test_what_was_written_is_told_when_it_stands_in_the_file(tmp_path: Path, rate: float | None) -> None:
    told = b""

    def wrote(block: synth.Block) -> None:
        nonlocal told
        told += synth.render(block, "plain")
        assert content(tmp_path) == told

    synth.run(tmp_path, NodeOptions(rate=rate, lines=1000), on_write=wrote)
    assert told.count(b"\n") == 1000


def test_no_lines_make_no_file(tmp_path: Path) -> None:
    assert synth.run(tmp_path / "new", NodeOptions(lines=0)).files == 0
    assert (tmp_path / "new").is_dir()
    assert hour_files(tmp_path / "new") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "wide"}, "layout must be one of plain, by_block, streaming, not wide"),
        ({"rate": 0.0}, "rate must be above 0, not 0.0"),
        ({"rate": float("nan")}, "rate must be above 0, not nan"),
        ({"rate": float("inf")}, "rate must be above 0, not inf"),
        ({"seconds": -1.0}, "seconds must be above 0, not -1.0"),
        ({"hour_seconds": 0.0}, "hour_seconds must be above 0, not 0.0"),
        ({"lines": -1}, "lines must not be negative, not -1"),
        ({"children": 1.5}, "children must be a share from 0 to 1, not 1.5"),
        ({"style": "2025"}, "style must be 2026 or 2024, not 2025"),
        ({"style": "2024", "layout": "by_block"}, "style 2024 has the plain layout only"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(synth.SynthError) as raised:
        synth.run(tmp_path, NodeOptions(**({"lines": 1} | arguments)))
    assert str(raised.value) == message


def test_a_file_instead_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(synth.SynthError, match="is not a directory"):
            synth.run(path, NodeOptions(lines=1))
    (tmp_path / "node_order_statuses").touch()
    with pytest.raises(synth.SynthError, match=r"cannot write .*/node_order_statuses/.*: "):
        synth.run(tmp_path, NodeOptions(lines=1))


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    hour = tmp_path / "node_order_statuses" / "hourly" / "20260531" / "22"
    hour.parent.mkdir(parents=True)
    hour.symlink_to("/dev/full")
    for torn in (False, True):
        with pytest.raises(synth.SynthError, match=rf"cannot write {hour}: No space left on device"):
            synth.run(tmp_path, NodeOptions(lines=100, start=START, torn=torn))
    assert not [name for name in os.listdir("/proc/self/fd") if _link(name) == "/dev/full"]


def _link(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""


def test_a_missing_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(synth.SynthError, match=r"cannot write .*: Permission denied"):
            synth.run(tmp_path, NodeOptions(lines=1))
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(synth.SynthError, match=r"cannot write .*: Permission denied"):
        synth.run(tmp_path / "below", NodeOptions(lines=1))
