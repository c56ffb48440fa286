"""The simulated exchange: the seed, the mix of its orders, exact ends, and options."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import program

from fasttail.tools import exchange
from fasttail.tools.exchange import STREAMS, Exchange, ExchangeOptions, SynthError
from fasttail.tools.exchange.events import BlockEvents

pytestmark = pytest.mark.plain_build

ALL = ExchangeOptions(streams=tuple(STREAMS))


def parsed(data: bytes) -> list[dict[str, Any]]:
    assert data.endswith(b"\n")
    return [orjson.loads(line) for line in data.splitlines()]


@pytest.fixture(scope="module")
def many() -> list[dict[str, Any]]:
    return parsed(exchange.generate(200_000, seed=3))


# -- the seed


def test_equal_seeds_give_equal_bytes_in_any_process() -> None:
    here = exchange.generate(20_000, "streaming", 7)
    env = os.environ | {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"}
    elsewhere = subprocess.run(program("generate"), env=env, stdout=subprocess.PIPE, check=True)
    assert elsewhere.stdout == here
    assert exchange.generate(20_000, "streaming", 8) != here


def test_events_do_not_depend_on_which_streams_are_wanted() -> None:
    options = replace(ALL, lifecycle=10, block_lines=100, resting=2000)
    whole = Exchange(options)
    parts = [Exchange(replace(options, streams=(stream,))) for stream in STREAMS]
    for _ in range(60):
        block = whole.next_block()
        for stream, part in zip(STREAMS, parts, strict=True):
            assert part.next_block().events == {stream: block.events[stream]}


def test_each_stream_has_events() -> None:
    events = Counter[str]()
    for block in Exchange(replace(ALL, block_lines=60, resting=2000)).blocks(30_000):
        events += Counter({stream: len(texts) for stream, texts in block.events.items()})
    assert set(events) == set(STREAMS)


# -- blocks


@pytest.mark.parametrize("orders", [0, 1, 99, 100, 101, 5000, 12_345])
@pytest.mark.parametrize("block_lines", [3.0, 1506.0])
def test_an_end_is_exact(orders: int, block_lines: float) -> None:
    blocks = list(Exchange(replace(ALL, block_lines=block_lines)).blocks(orders))
    assert sum(len(block.events["orders"]) for block in blocks) == orders


def test_blocks_follow_each_other() -> None:
    blocks = list(Exchange(ExchangeOptions(seed=6)).blocks(200_000))
    sizes = sorted(len(block.events["orders"]) for block in blocks)
    assert sum(sizes) == 200_000
    assert sum(size == 0 for size in sizes) in range(1, len(sizes) // 8)
    assert 1000 < sizes[len(sizes) // 2] < 1600
    assert 3000 < sizes[-1] < 4000
    for former, block in pairwise(blocks):
        assert block.number == former.number + 1
        assert 40_000_000 < block.time_ns - former.time_ns < 90_000_000


def test_empty_blocks_are_empty_in_all_streams() -> None:
    exchange_ = Exchange(replace(ALL, block_lines=1506.0))
    empty = [block for block in (exchange_.next_block() for _ in range(200)) if not block.events["orders"]]
    assert empty
    assert all(not texts for block in empty for texts in block.events.values())


def test_a_block_can_be_given_a_time() -> None:
    exchange_ = Exchange(ExchangeOptions(short_times=0.0))
    moment = 2 * 10**18 + 1
    assert exchange_.next_block(moment).time_ns == moment
    assert exchange_.next_block(moment - 10**9).time_ns == moment + 1, "block times rise"


def test_short_times_come_as_often_as_asked() -> None:
    options = ExchangeOptions(block_lines=2)
    digits = Counter(len(event["time"]) - 20 for event in parsed(exchange.generate(20_000, options=options)))
    assert set(digits) <= {9, 6, 3}
    assert 0 < digits[6] < 100  # about 11
    short = parsed(exchange.generate(500, options=replace(options, short_times=1.0)))
    assert {len(event["time"]) for event in short} <= {26, 23}


# -- the mix


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
    assert share("tif", "Alo") == pytest.approx(0.974, abs=0.006)
    assert share("tif", "Ioc") == pytest.approx(0.019, abs=0.004)
    assert share("tif", "Gtc") == pytest.approx(0.006, abs=0.003)
    assert share("orderType", "Limit") == pytest.approx(0.9993, abs=0.0005)
    assert {"Market", "Stop Market", "Stop Limit", "Take Profit Market"} <= set(counts["orderType"])
    assert share("cloid", None) == pytest.approx(0.114, abs=0.02)
    assert share("side", "A") == pytest.approx(0.5, abs=0.02)
    assert sum(event["builder"] is not None for event in many) / len(many) == pytest.approx(0.006, abs=0.004)
    assert sum(n for coin, n in counts["coin"].items() if ":" in coin) / len(many) == pytest.approx(
        0.4, abs=0.03
    )
    assert {"BTC", "xyz:XYZ100", "flx:BTC", "@107", "PURR/USDC", "kPEPE", "W", "#1890"} <= set(counts["coin"])
    assert len(counts["coin"]) > 400
    assert len({event["user"] for event in many}) > 300
    assert sum(bool(order["children"]) for order in orders) <= 100  # mostly of orders from before


def test_lines_are_as_long_as_genuine_ones() -> None:
    plain = exchange.generate(20_000)
    streaming = exchange.generate(20_000, "streaming")
    assert 460 <= len(plain) / 20_000 <= 490
    assert 590 <= len(streaming) / 20_000 <= 620


def test_a_busy_hour_has_two_diffs_for_three_statuses() -> None:
    events = Counter[str]()
    for block in Exchange(replace(ALL, rejected=0.34)).blocks(100_000):
        events += Counter({stream: len(texts) for stream, texts in block.events.items()})
    assert events["bookDiffs"] / events["orders"] == pytest.approx(15_600 / 23_500, abs=0.05)
    assert 200 / 23_500 / 2 < events["fills"] / events["orders"] < 2 * 200 / 23_500


def test_a_transaction_hash_tells_its_block(many: list[dict[str, Any]]) -> None:
    first = ExchangeOptions().first_height
    number, time = first, many[0]["time"]
    for event in many:
        if event["time"] != time:
            time = event["time"]
            number = -1  # empty blocks lie between, so only the hashes tell how many
        assert (event["hash"] is not None) is (event["status"] == "open")
        if event["hash"] is not None:
            told = re.fullmatch(r"0x[0-9a-f]{20}04([0-9a-f]{8})[0-9a-f]{34}", event["hash"])
            assert told is not None
            block = int(told[1], 16)
            assert number in (-1, block)
            number = block
    assert number > first


def test_a_hash_has_64_digits_whatever_its_transactions_number() -> None:
    events = BlockEvents((), 1, long_sides=False)
    events.begin(1_019_927_126, 0)
    hashes = [events.tx_digits() for _ in range(70_000)]
    assert {len(digits) for digits in hashes} == {64}
    head = "043ccada56"
    for number, text in ((0, "0000"), (255, "01ff00"), (256, "02010000"), (65_536, "0301000000")):
        assert hashes[number][20:].startswith(head + text)


def test_the_books_keep_their_size() -> None:
    made = Exchange(ExchangeOptions(resting=3000, rejected=0.2))
    for _ in made.blocks(100_000):
        pass
    resting = sum(len(market.bids) + len(market.asks) for market in made.markets)
    assert 2500 < resting < 5000  # with the quotes of HIP-2


# -- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_lines": 0.0}, "block_lines must be above 0, not 0.0"),
        ({"block_lines": float("inf")}, "block_lines must be above 0, not inf"),
        ({"children": 0.5}, "children must be a share from 0 to 0.1, not 0.5"),
        ({"rejected": 0.95}, "rejected must be a share from 0 to 0.9, not 0.95"),
        ({"short_times": -1.0}, "short_times must be a share from 0 to 1, not -1.0"),
        ({"resting": -1}, "resting must not be negative, not -1"),
        ({"first_height": -1}, "first_height must not be negative, not -1"),
        ({"streams": ("orders", "depth")}, f"streams are {', '.join(STREAMS)}, not depth"),
    ],
)
def test_bad_options_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SynthError) as raised:
        ExchangeOptions(**arguments)
    assert str(raised.value) == message


def test_a_wrong_layout_is_named() -> None:
    with pytest.raises(SynthError, match="layout must be one of plain, by_block, streaming, not wide"):
        exchange.generate(1, "wide")


def test_the_package_imports_nothing_else_of_fasttail() -> None:
    folder = Path(exchange.__file__).parent
    for path in folder.glob("*.py"):
        if path.name == "command.py":  # reads the command's settings
            continue
        for name in re.findall(r"^(?:from|import) (fasttail\.[\w.]+)", path.read_text(), re.MULTILINE):
            assert name.startswith("fasttail.tools.exchange"), f"{path.name} imports {name}"
