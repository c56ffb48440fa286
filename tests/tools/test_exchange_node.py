"""The simulated node: lines in each layout, how files grow and change, ends and errors, a second node."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby, pairwise
from operator import eq
from pathlib import Path
from typing import Any

import orjson
import pytest
from exchange_files import (
    ALL,
    START,
    Line,
    chain_blocks,
    chain_events,
    content,
    events_of,
    hour_files,
    lines_of,
    ns_of,
    read_lines,
    run_node,
)

from fasttail.tools.exchange import node
from fasttail.tools.exchange.blocks import Block
from fasttail.tools.exchange.chain import ExchangeOptions
from fasttail.tools.exchange.constants import BLOCK_S, LAYOUTS, NS, STREAMS, SynthError
from fasttail.tools.exchange.files import HourClock
from fasttail.tools.exchange.layouts import Chunk, Part, folder_name, render, text_time
from fasttail.tools.exchange.node import NodeOptions, Summary, run

pytestmark = pytest.mark.plain_build

ENVELOPE_KEYS = ["local_time", "block_time", "block_number", "events"]
HOUR_NS = 3600 * NS


def part_of(events: list[str], stream: str = "orders", **changes: Any) -> Part:
    part = Part(stream, 985148209, 1_777_999_154_852_711_983, 10**18 + 5, events, 0, len(events))
    return part._replace(**changes)


def numbered(count: int) -> list[str]:
    return [f'{{"event":{index}}}' for index in range(count)]


# -- lines


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
    assert text_time(ns) == text


def test_envelopes_are_those_of_genuine_lines(real_data: Path) -> None:
    for layout in ("by_block", "streaming"):
        made = orjson.loads(render(part_of(numbered(1)), layout))
        assert list(made) == ENVELOPE_KEYS
        for path in sorted(real_data.glob(f"*.{layout}.*.jsonl")):
            with path.open("rb") as file:
                line = file.readline()
            real = orjson.loads(line)
            assert list(real) == list(made)
            assert {key: type(real[key]) for key in real} == {key: type(made[key]) for key in made}
            times = ns_of(real["block_time"]), ns_of(real["local_time"])
            again = part_of(
                [orjson.dumps(event).decode() for event in real["events"]],
                path.name.partition(".")[0],
                number=real["block_number"],
                time_ns=times[0],
                local_ns=times[1],
            )
            if layout == "by_block":
                assert render(again, layout) == line


@pytest.mark.parametrize("stream", ALL)
def test_only_some_streams_have_two_events_in_a_streaming_line(stream: str) -> None:
    part = part_of(numbered(5), stream)
    sizes = [len(orjson.loads(line)["events"]) for line in render(part, "streaming").splitlines()]
    assert sizes == ([2, 2, 1] if stream in ("twapStatuses", "writerActions") else [1] * 5)
    assert len(render(part, "plain").splitlines()) == 5
    assert len(render(part, "by_block").splitlines()) == 1


def test_a_block_without_events_has_a_line_in_by_block_only() -> None:
    assert [render(part_of([]), layout).count(b"\n") for layout in LAYOUTS] == [0, 1, 0]
    assert orjson.loads(render(part_of([]), "by_block"))["events"] == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stream", ["orders", "twapStatuses"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 1500])
def test_a_chunk_gives_the_lines_of_its_events(layout: str, stream: str, count: int) -> None:
    part = part_of(numbered(count), stream)
    chunk = Chunk.of(part.events)
    assert render(part._replace(events=chunk), layout) == render(part, layout)
    assert list(chunk) == part.events
    assert chunk[1:] == part.events[1:]


@pytest.mark.parametrize("stream", ["orders", "writerActions"])
@pytest.mark.parametrize("layout", ["plain", "streaming"])
def test_parts_of_a_block_are_the_block(layout: str, stream: str) -> None:
    whole = part_of(numbered(1001), stream)
    parts = [
        whole._replace(events=whole.events[first : first + 36], first=first) for first in range(0, 1001, 36)
    ]
    assert b"".join(render(part, layout) for part in parts) == render(whole, layout)


def local_times(part: Part) -> list[int]:
    texts = [line.local_time for line in read_lines(render(part, "streaming"), "streaming")]
    times = [ns_of(text) for text in texts]
    assert texts == [text_time(ns) for ns in times]  # some have fewer digits
    return times


@pytest.mark.parametrize("local_ns", [10**18, 10**18 + 999_000_000, 10**18 + 999_999_999])
def test_local_times_rise_as_in_a_node(local_ns: int) -> None:
    times = local_times(part_of(numbered(3886), local_ns=local_ns))
    assert times[0] == local_ns
    gaps = [later - former for former, later in pairwise(times)]
    assert min(gaps) >= 9_000
    assert max(gaps) <= 40_000
    assert times[-1] - times[0] < 64_100_000


def test_local_times_of_a_huge_block_stay_within_its_time() -> None:
    times = local_times(part_of(numbered(20_000), span_ns=64_100_000))
    assert all(later > former for former, later in pairwise(times))
    assert times[-1] - times[0] <= 64_100_000
    times = local_times(part_of(numbered(20_000), span_ns=10**10))  # longer than the table of gaps
    assert min(later - former for former, later in pairwise(times)) >= 9_000


# -- what a run writes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("torn", [False, True])
def test_a_run_writes_what_the_exchange_gives(tmp_path: Path, layout: str, torn: bool) -> None:
    options = NodeOptions(
        lines=1234, streams=ALL, layout=layout, market=ExchangeOptions(seed=5), start=START, torn=torn
    )
    total = run_node(tmp_path, options)
    expected = chain_events(options)
    assert {stream: events_of(tmp_path, stream, layout) for stream in ALL} == expected
    data = {stream: content(tmp_path, stream, layout) for stream in ALL}
    assert total.orders == len(expected["orders"]) == 1234
    assert len(expected["bookDiffs"]) > 100
    assert total.events == sum(map(len, expected.values()))
    assert total.lines == sum(text.count(b"\n") for text in data.values())
    assert total.bytes == sum(map(len, data.values()))
    assert total.files == sum(len(hour_files(tmp_path, stream, layout)) for stream in ALL)
    assert not total.interrupted
    assert {path.name for path in tmp_path.iterdir()} <= {folder_name(stream, layout) for stream in ALL}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("torn", [False, True])
def test_a_paced_run_writes_the_same_as_one_at_full_speed(tmp_path: Path, layout: str, torn: bool) -> None:
    streams = ("orders", "bookDiffs", "fills")
    for name, rate in (("paced", 4000), ("full", None)):
        options = NodeOptions(
            rate=rate,
            lines=1000,
            streams=streams,
            layout=layout,
            market=ExchangeOptions(seed=5),
            start=START,
            torn=torn,
        )
        total = run_node(tmp_path / name, options, block_lines=250.0)
        assert total.orders == 1000
    for stream in streams:
        assert content(tmp_path / "paced", stream, layout) == content(tmp_path / "full", stream, layout)


def test_a_run_makes_its_exchange_itself(tmp_path: Path) -> None:
    total = run(tmp_path, NodeOptions(lines=2000, layout="by_block", start=START))
    lines = lines_of(tmp_path, layout="by_block")
    assert sum(len(line.events) for line in lines) == total.orders == 2000
    assert len(lines) == total.blocks < 30


def test_the_exchange_has_the_nodes_streams_start_and_rate() -> None:
    market = ExchangeOptions(seed=7, first_height=5, block_lines=3.0, streams=("fills",))
    made = NodeOptions(market=market, lines=1, start=START).exchange
    assert made == replace(market, streams=("orders",), start=START)
    made = NodeOptions(market=market, rate=1000, lines=1).exchange
    assert made == replace(market, streams=("orders",), block_lines=1000 * BLOCK_S)
    live = NodeOptions(market=market, rate=1000, lag_s=2.0).exchange
    assert 1.9 < (datetime.now(UTC) - live.start).total_seconds() < 60.0


def test_by_block_has_a_line_per_block_in_each_stream(tmp_path: Path) -> None:
    options = NodeOptions(lines=2000, streams=ALL, layout="by_block", start=START)
    run_node(tmp_path, options, block_lines=20.0)
    numbers = {stream: [line.number for line in lines_of(tmp_path, stream, "by_block")] for stream in ALL}
    first = numbers["orders"][0]
    assert len(numbers["orders"]) > 50
    assert all(one == list(range(first, first + len(numbers["orders"]))) for one in numbers.values())
    times = {stream: [line.block_time for line in lines_of(tmp_path, stream, "by_block")] for stream in ALL}
    assert all(one == times["orders"] for one in times.values())
    assert any(not line.events for line in lines_of(tmp_path, "orders", "by_block"))


def test_streaming_lines_of_a_block_are_contiguous_and_rise(tmp_path: Path) -> None:
    run_node(tmp_path, NodeOptions(lines=3000, streams=ALL, layout="streaming", start=START))
    for stream in ALL:
        lines = lines_of(tmp_path, stream, "streaming")
        numbers = [line.number for line in lines]
        assert numbers == sorted(numbers)
        locals_ = [ns_of(line.local_time) for line in lines]
        assert all(later > former for former, later in pairwise(locals_))
        assert all(line.events for line in lines)
        assert all(
            350_000_000 <= ns_of(line.local_time) - ns_of(line.block_time) < 450_000_000 for line in lines
        )


# -- hours


def test_each_stream_changes_its_hour_by_its_own_clock(tmp_path: Path) -> None:
    start = datetime(2026, 5, 31, 23, 59, 58, tzinfo=UTC)
    options = NodeOptions(lines=5000, streams=("orders", "bookDiffs"), layout="streaming", start=start)
    run_node(tmp_path, options)
    borders = {}
    for stream in options.streams:
        files = hour_files(tmp_path, stream, "streaming")
        assert [path.parts[-2:] for path in files] == [("20260531", "23"), ("20260601", "0")]
        before, after = (list(read_lines(path.read_bytes(), "streaming")) for path in files)
        assert {line.number for line in before}.isdisjoint(line.number for line in after)
        assert after[0].local_time.startswith("2026-06-01T00:00:00.")
        assert after[0].block_time.startswith("2026-05-31T23:59:59.")  # the hour follows this node's clock
        borders[stream] = after[0].local_time
    assert len(set(borders.values())) == 2


def test_a_block_may_be_in_one_hour_in_a_stream_and_in_the_next_one_in_another(tmp_path: Path) -> None:
    options = NodeOptions(
        lines=20_000, streams=("orders", "bookDiffs"), layout="by_block", start=START, hour_seconds=0.0643
    )
    run_node(tmp_path, options)
    hours = [
        {
            line.number: path
            for path in hour_files(tmp_path, stream, "by_block")
            for line in read_lines(path.read_bytes(), "by_block")
        }
        for stream in options.streams
    ]
    same = [hours[0][number].parts[-2:] == hours[1][number].parts[-2:] for number in hours[0]]
    assert len(same) > 100
    assert 0.5 * len(same) < sum(same) < len(same)


@pytest.mark.parametrize("torn", [False, True])
def test_hours_may_be_short(tmp_path: Path, torn: bool) -> None:
    options = NodeOptions(
        lines=6000, market=ExchangeOptions(seed=2), hour_seconds=0.5, start=START, torn=torn
    )
    total = run_node(tmp_path, options)
    names = [path.parts[-2:] for path in hour_files(tmp_path)]
    assert names[:4] == [("20260531", "22"), ("20260531", "23"), ("20260601", "0"), ("20260601", "1")]
    assert [int(hour) for _, hour in names[2:]] == list(range(len(names) - 2))
    assert total.files == len(names)
    assert events_of(tmp_path) == chain_events(options)["orders"]
    # Each file is completed before the next one.
    assert all(path.read_bytes().endswith(b"}}\n") for path in hour_files(tmp_path))


def test_short_hours_are_those_of_all_streams(tmp_path: Path) -> None:
    options = NodeOptions(lines=6000, streams=ALL, layout="by_block", hour_seconds=0.5, start=START)
    run_node(tmp_path, options)
    names = [[path.parts[-2:] for path in hour_files(tmp_path, stream, "by_block")] for stream in ALL]
    assert len(names[0]) > 4
    assert all(one == names[0] for one in names)


def test_a_clock_maps_times_to_hours() -> None:
    assert HourClock(None).at(5 * HOUR_NS - 1) == 4
    clock = HourClock(10.0)
    assert [clock.at(7 * HOUR_NS + seconds * NS) for seconds in (0, 9, 10, 25, -1)] == [7, 7, 8, 9, 6]
    clock = HourClock(10.0, 12)
    assert [clock.at(7 * HOUR_NS + seconds * NS) for seconds in (0, 10)] == [12, 13]


def test_real_clock_with_short_hours(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    total = run_node(tmp_path, NodeOptions(rate=500, seconds=1.3, hour_seconds=0.4))
    files = hour_files(tmp_path)
    hours = [
        datetime.strptime(path.parent.name, "%Y%m%d").replace(tzinfo=UTC).timestamp() // 3600 + int(path.name)
        for path in files
    ]
    assert 2 <= len(hours) <= 5  # fewer on a busy machine
    assert hours == [hours[0] + i for i in range(len(hours))]
    assert 0 <= hours[0] - before.timestamp() // 3600 <= 1
    assert total.orders == content(tmp_path).count(b"\n")
    # A second run continues where the first one stopped, because a restarted node never goes back an hour.
    for hour_seconds in (None, 3600.0):
        before_run = files[-1].stat().st_size
        again = run_node(tmp_path, NodeOptions(lines=10, hour_seconds=hour_seconds))
        assert hour_files(tmp_path) == files
        assert files[-1].stat().st_size == before_run + again.bytes


def test_foreign_names_in_the_folder_are_ignored(tmp_path: Path) -> None:
    hourly = tmp_path / "node_order_statuses" / "hourly"
    for name in ("20991231/24", "20991231/07", "20991231/5.lz4", "2099123/1", "lost+found/3", "99999999/1"):
        (hourly / name).parent.mkdir(parents=True, exist_ok=True)
        (hourly / name).touch()
    (hourly / "20991230").touch()
    run_node(tmp_path, NodeOptions(lines=10))
    written = [path for path in hourly.glob("*/*") if path.stat().st_size]
    assert len(written) == 1
    assert written[0].parent.name < "2099"


# -- habits of writing


class Writes:
    """Replaces os.write: records each call and writes at most `most` bytes of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int = 1 << 30) -> None:
        self.calls: list[tuple[float, bytes, int]] = []  # when, what, descriptor
        self._real = os.write
        self._most = most
        monkeypatch.setattr(os, "write", self)

    def __call__(self, fd: int, data: memoryview) -> int:
        written = self._real(fd, data[: self._most])
        self.calls.append((time.monotonic(), bytes(data[:written]), fd))
        return written


def test_torn_writes_cut_lines_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes(monkeypatch)
    run_node(tmp_path, NodeOptions(lines=20_000, torn=True))
    assert sum(not data.endswith(b"\n") for _, data, _ in writes.calls) > 20


def test_the_rest_of_a_torn_line_comes_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes(monkeypatch)
    run_node(tmp_path, NodeOptions(rate=4, seconds=3.0, torn=True))
    waits = [
        later - at
        for (at, data, _), (later, _, _) in pairwise(writes.calls)
        if data.strip() and not data.endswith(b"\n")
    ]
    # 1 to 3 ms unless the machine is busy; the next line is 250 ms away.
    assert waits
    assert sorted(waits)[len(waits) // 2] < 0.1


class SteppedClock:
    """A clock for a node that only its own sleeps advance, so that a busy machine makes no difference."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = time.monotonic()
        self._begin, self._begin_ns = self._now, time.time_ns()
        monkeypatch.setattr(node, "time", self)

    def monotonic(self) -> float:
        return self._now

    def time_ns(self) -> int:
        return self._begin_ns + int((self._now - self._begin) * 1e9)

    def sleep(self, seconds: float) -> None:
        self._now += seconds + 1e-6


def test_by_default_writes_are_whole_lines_and_smooth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(monkeypatch)
    SteppedClock(monkeypatch)
    total = run_node(tmp_path, NodeOptions(rate=20_000, seconds=1.0))
    assert all(data.endswith(b"\n") for _, data, _ in writes.calls)
    assert 5_000 < total.orders < 30_000
    assert len(writes.calls) > 10 * total.blocks  # 2 ms apart
    assert total.bytes == sum(len(data) for _, data, _ in writes.calls)


def test_at_low_rates_each_line_is_written_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes(monkeypatch)
    SteppedClock(monkeypatch)
    total = run_node(tmp_path, NodeOptions(rate=30, seconds=1.5, layout="streaming"))
    assert 5 < total.orders < 90
    assert len(writes.calls) > 0.7 * total.orders


def test_at_low_rates_most_blocks_are_empty(tmp_path: Path) -> None:
    options = NodeOptions(rate=5, seconds=1.0, layout="by_block", start=START)
    total = run_node(tmp_path, options)
    lines = lines_of(tmp_path, layout="by_block")
    assert total.lines == total.blocks == len(lines) > 2
    sizes = [len(block.events["orders"]) for block in chain_blocks(options, total.blocks, None)]
    assert [len(line.events) for line in lines] == sizes
    assert total.orders == sum(sizes)
    assert sum(not line.events for line in lines) > len(lines) / 2


def test_short_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Writes(monkeypatch, most=1000)
    options = NodeOptions(lines=500, start=START)
    run_node(tmp_path, options)
    assert events_of(tmp_path) == chain_events(options)["orders"]


def test_streams_of_a_block_are_interleaved_and_diffs_mostly_ahead(tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []

    def wrote(block: Block) -> None:
        (stream,) = block.events
        told.append((block.number, stream))

    options = NodeOptions(rate=8000, lines=8000, streams=("orders", "bookDiffs"))
    run_node(tmp_path, options, on_write=wrote)
    ahead, mixed = [], []
    for _, parts in groupby(told, key=lambda one: one[0]):
        order = [stream for _, stream in parts]
        if len(set(order)) == 2:
            ahead.append(order[0] == "bookDiffs")
            mixed.append(len(list(groupby(order))) > 2)
    assert len(ahead) > 8
    assert sum(ahead) > 0.7 * len(ahead)
    assert any(mixed)


def test_streams_of_a_block_come_in_changing_order(tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []
    options = NodeOptions(lines=5000, streams=("orders", "bookDiffs", "fills"), layout="by_block")
    run_node(tmp_path, options, on_write=lambda block: told.append((block.number, *block.events)))
    orders = Counter(
        tuple(stream for _, stream in parts) for _, parts in groupby(told, key=lambda one: one[0])
    )
    assert len(orders) >= 2
    assert sum(count for order, count in orders.items() if order[0] == "bookDiffs") > 0.7 * orders.total()


def test_a_late_writer_catches_up_and_leaves_nothing_out(tmp_path: Path) -> None:
    calls = 0

    def pause() -> bool:
        nonlocal calls
        calls += 1
        if calls == 10:
            time.sleep(0.7)
        return False

    options = NodeOptions(rate=2000, seconds=1.5, layout="by_block", streams=("orders", "bookDiffs"))
    total = run_node(tmp_path, options, stop=pause)
    for stream in options.streams:
        numbers = [line.number for line in lines_of(tmp_path, stream, "by_block")]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert len(numbers) == total.blocks
    assert total.blocks > 14  # 23 unless the machine is busy; 12 or 13 if the pause were not caught up


# -- times


def test_a_stream_is_live_and_a_set_of_lines_is_not(tmp_path: Path) -> None:
    now = time.time_ns()
    run_node(tmp_path / "stream", NodeOptions(rate=500, seconds=0.6, lag_s=0.1, layout="streaming"))
    run_node(tmp_path / "set", NodeOptions(rate=5000, lines=500, layout="streaming"))
    run_node(tmp_path / "forced", NodeOptions(lines=500, live=True, layout="streaming"))
    stream, made, forced = (
        lines_of(tmp_path / name, layout="streaming") for name in ("stream", "set", "forced")
    )
    for line in stream:
        assert -110_000_000 < ns_of(line.block_time) - now < 30 * NS
    # A busy machine writes later than planned, never earlier.
    lags = sorted(ns_of(line.local_time) - ns_of(line.block_time) for line in stream)
    assert lags[0] > 85_000_000
    assert lags[len(lags) // 4] < 1000_000_000
    assert made[0].block_time.startswith("2026-06-02T10:00:00.")
    assert abs(ns_of(made[0].local_time) - now) < 60 * NS
    assert all(abs(ns_of(line.block_time) - now) < 60 * NS for line in forced)
    numbers = {line.number: line.block_time for line in forced}
    assert all(one < two for one, two in pairwise(numbers.values()))


def test_live_blocks_have_the_chains_own_times(tmp_path: Path) -> None:
    options = NodeOptions(rate=200, seconds=1.5, layout="by_block")
    run_node(tmp_path, options)
    lines = lines_of(tmp_path, layout="by_block")
    gaps = [ns_of(later.block_time) - ns_of(former.block_time) for former, later in pairwise(lines)]
    chain = chain_blocks(options, len(lines), None)
    seeded = [later.time_ns - former.time_ns for former, later in pairwise(chain)]
    assert len(gaps) > 4
    assert sum(map(eq, gaps, seeded)) > 0.7 * len(gaps)  # but for times with fewer digits
    assert all(50_000_000 < gap < 80_000_000 for gap in gaps)


@pytest.mark.parametrize("layout", ["by_block", "streaming"])
def test_local_times_rise_at_full_speed_too(tmp_path: Path, layout: str) -> None:
    run_node(tmp_path, NodeOptions(lines=20_000, layout=layout))
    local = [ns_of(line.local_time) for line in lines_of(tmp_path, layout=layout)]
    assert all(later > former for former, later in pairwise(local))
    assert local[-1] < time.time_ns() + 50_000_000  # without running ahead of the clock


def test_local_times_rise_though_the_clock_steps_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10**18, 10**18, 10**18 - NS, *range(10**18 + NS, 10**18 + 2 * NS, 10**6)])
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    run_node(tmp_path, NodeOptions(lines=1000, layout="streaming"))
    times = [ns_of(line.local_time) for line in lines_of(tmp_path, layout="streaming")]
    assert all(later > former for former, later in pairwise(times))
    assert times[-1] > 10**18 + NS


# -- a second node


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_second_node_has_the_same_events_at_other_places(tmp_path: Path, layout: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    market = ExchangeOptions(block_lines=100)
    options = NodeOptions(lines=5000, streams=ALL, layout=layout, start=START, second_node=two, market=market)
    total = run_node(one, options)
    blocks = chain_blocks(options, 20)
    for stream in ALL:
        skipped = sum(len(block.events[stream]) for block in blocks)
        assert events_of(two, stream, layout) == events_of(one, stream, layout)[skipped:]
    assert 0 < len(events_of(two, "orders", layout)) < 5000
    assert total.second is not None
    assert total.second.events == sum(len(events_of(two, stream, layout)) for stream in ALL)
    assert total.events == sum(len(events_of(one, stream, layout)) for stream in ALL)
    if layout != "plain":
        local = [
            {line.number: ns_of(line.local_time) for line in reversed(lines_of(root, "orders", layout))}
            for root in (one, two)
        ]
        assert min(local[1]) == blocks[-1].number + 1
        later = [local[1][number] - local[0][number] for number in local[1]]
        assert all(-200_000_000 < ns < 300_000_000 for ns in later)
        assert min(later) < 0 < max(later), "now one node is ahead and now the other"


def test_a_second_node_changes_its_hours_at_other_blocks(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    options = NodeOptions(lines=8000, layout="by_block", start=START, second_node=two, second_skip=0)
    run_node(one, options)
    first = [
        next(read_lines(hour_files(root, "orders", "by_block")[1].read_bytes(), "by_block")).number
        for root in (one, two)
    ]
    assert 1 <= first[0] - first[1] <= 5  # 180 ms are three blocks


def test_a_second_node_of_a_paced_run_follows_the_first_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    options = NodeOptions(
        rate=2000, lines=1500, layout="streaming", streams=("orders", "bookDiffs"), second_node=two,
        second_skip=3, second_lag_s=0.3,
    )  # fmt: skip
    run_node(one, options)
    for stream in options.streams:
        events = events_of(one, stream, "streaming")
        assert events_of(two, stream, "streaming") == events[-len(events_of(two, stream, "streaming")) :]
        local = [
            {line.number: ns_of(line.local_time) for line in reversed(lines_of(root, stream, "streaming"))}
            for root in (one, two)
        ]
        assert local[1]
        lags = sorted(local[1][number] - local[0][number] for number in local[1])
        assert lags[len(lags) // 2] > 100_000_000  # 300 ms unless the machine is busy


# -- ends and errors


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

    options = NodeOptions(rate=rate, seconds=60, torn=True, streams=("orders", "bookDiffs"))
    total = run_node(tmp_path, options, stop=interrupt)
    assert total.interrupted
    assert total.seconds < 50
    data = {stream: content(tmp_path, stream) for stream in options.streams}
    assert data["orders"].count(b"\n") == total.orders
    assert sum(text.count(b"\n") for text in data.values()) == total.events == total.lines
    assert sum(map(len, data.values())) == total.bytes
    assert all(not text or text.endswith(b"}\n") for text in data.values())


def test_stop_ends_a_run_in_a_thread(tmp_path: Path) -> None:
    stop = threading.Event()
    totals: list[Summary] = []
    thread = threading.Thread(
        target=lambda: totals.append(run_node(tmp_path, NodeOptions(rate=1000), stop=stop.is_set))
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
    seen: list[Summary] = []
    total = run_node(tmp_path, NodeOptions(rate=100, seconds=2.5), progress=seen.append)
    assert 1 <= len(seen) <= 2
    assert 0 < seen[0].orders < total.orders
    assert 0 < seen[0].bytes < total.bytes
    assert 0.9 < seen[0].seconds < total.seconds


@pytest.mark.parametrize("rate", [None, 5000.0])
def test_what_was_written_is_told_when_it_stands_in_the_file(tmp_path: Path, rate: float | None) -> None:
    told: dict[str, bytes] = dict.fromkeys(("orders", "bookDiffs"), b"")

    def wrote(block: Block) -> None:
        ((stream, events),) = block.events.items()
        told[stream] += "".join(f"{event}\n" for event in events).encode()
        assert content(tmp_path, stream) == told[stream]

    run_node(tmp_path, NodeOptions(rate=rate, lines=1000, streams=tuple(told)), on_write=wrote)
    assert told["orders"].count(b"\n") == 1000
    assert told["bookDiffs"].count(b"\n") > 100


def test_no_lines_make_no_file(tmp_path: Path) -> None:
    for rate in (None, 100.0):
        total = run_node(tmp_path / "new", NodeOptions(lines=0, rate=rate))
        assert total.files == total.blocks == 0
        assert (tmp_path / "new").is_dir()
        assert hour_files(tmp_path / "new") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "wide"}, "layout must be one of plain, by_block, streaming, not wide"),
        ({"rate": 0.0}, "rate must be from 0.01 to 10,000,000, not 0"),
        ({"rate": float("nan")}, "rate must be from 0.01 to 10,000,000, not nan"),
        ({"rate": 1e9}, "rate must be from 0.01 to 10,000,000, not 1e+09"),
        ({"seconds": -1.0}, "seconds must be above 0, not -1.0"),
        ({"hour_seconds": 0.0}, "hour_seconds must be above 0, not 0.0"),
        ({"lines": -1}, "lines must not be negative, not -1"),
        ({"second_skip": -1}, "second_skip must not be negative, not -1"),
        ({"lag_s": -0.5}, "lag_s must not be negative, not -0.5"),
        ({"second_lag_s": float("nan")}, "second_lag_s must not be negative, not nan"),
        ({"streams": ()}, f"streams must name at least one of {', '.join(STREAMS)}"),
        ({"streams": ("orders", "trades")}, f"streams must be of {', '.join(STREAMS)}, not trades"),
        ({"streams": ("orders", "orders")}, "streams must be named once, but orders is there twice"),
        ({"streams": ("fills",)}, "lines counts order statuses, so it needs the stream orders"),
        ({"live": True, "start": START}, "live events follow the real clock, so they have no start"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SynthError) as raised:
        NodeOptions(**({"lines": 1} | arguments))
    assert str(raised.value) == message


def test_a_file_instead_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SynthError, match="is not a directory"):
            run_node(path, NodeOptions(lines=1))
        with pytest.raises(SynthError, match="is not a directory"):
            run_node(tmp_path / "good", NodeOptions(lines=1, second_node=path))
    (tmp_path / "node_order_statuses").touch()
    with pytest.raises(SynthError, match=r"cannot write .*/node_order_statuses/.*: "):
        run_node(tmp_path, NodeOptions(lines=1))


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    hour = tmp_path / "node_raw_book_diffs" / "hourly" / "20260531" / "22"
    hour.parent.mkdir(parents=True)
    hour.symlink_to("/dev/full")
    for torn in (False, True):
        options = NodeOptions(lines=1000, start=START, torn=torn, streams=("orders", "bookDiffs"))
        with pytest.raises(SynthError, match=rf"cannot write {hour}: No space left on device"):
            run_node(tmp_path, options)
    open_files = [_link(name) for name in os.listdir("/proc/self/fd")]
    assert not [path for path in open_files if path == "/dev/full" or path.startswith(str(tmp_path))]


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
        with pytest.raises(SynthError, match=r"cannot write .*: Permission denied"):
            run_node(tmp_path, NodeOptions(lines=1))
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SynthError, match=r"cannot write .*: Permission denied"):
        run_node(tmp_path / "below", NodeOptions(lines=1))


def test_lines_that_cannot_be_read_are_skipped_by_the_tests_reader() -> None:
    data = b'{"a":1}\n{"a":{"a":2}\n{"b":1}\n{"c'
    assert list(read_lines(data, "plain")) == [Line([b'{"a":1}']), Line([b'{"b":1}'])]
