"""The checks of simulated and genuine node folders: each one can fail, and genuine lines keep the rules."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from exchange_checks import check
from exchange_clock import action_of
from exchange_example import FIRST, HIP2, TIMES, A, B, C, Example, order, transaction
from exchange_fills import ZERO_HASH
from exchange_findings import RULES, Report
from exchange_folder import read_snapshot, scaled

LAYOUTS = ("plain", "by_block", "streaming")


def checked(node: Example, folder: Path, layout: str = "by_block") -> Report:
    node.write(folder, layout)
    return check(folder, folder / "first.json", folder / "last.json", shapes=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_example_keeps_all_rules(layout: str, tmp_path: Path) -> None:
    report = checked(Example(), tmp_path, layout)
    assert report.findings == []
    assert report.counts["status: open"] == 12
    assert report.counts["trades"] == 12


def test_the_example_meets_a_case_of_everything(tmp_path: Path) -> None:
    """A rule that meets no case would prove nothing."""
    counts = checked(Example(), tmp_path).counts
    assert {
        "diffs: insertBefore", "diffs: new of a user without statuses", "fills: TWAP slices", "TWAPs ended",
        "fills: builder fees", "fills: one-sided", "funding: positions compared", "orders: children",
        "oracle updates", "orders: reduce-only, cut when they entered the book", "trades: liquidations",
        "snapshot: waiting trigger orders", "node_trades", "sizes: orders without statuses",
    } <= counts.keys()  # fmt: skip


# One thing broken at a time.

Break = Callable[[Example], Any]


def _set(found: Callable[[Example], Any], /, **values: Any) -> Break:
    """Return a change of keys of what `found` returns."""

    def change(node: Example) -> None:
        found(node).update(values)

    return change


def _status(oid: int, word: str, /, **values: Any) -> Break:
    return _set(lambda node: node.a_status(oid, word), **values)


def _order(oid: int, word: str, /, **values: Any) -> Break:
    return _set(lambda node: node.a_status(oid, word)["order"], **values)


def _diff(oid: int, kind: str, /, **values: Any) -> Break:
    return _set(lambda node: node.a_diff(oid, kind), **values)


def _fill(oid: int, nth: int = 0, /, **values: Any) -> Break:
    return _set(lambda node: node.a_fill(oid, nth), **values)


def _trade(**values: Any) -> Break:
    return _set(lambda node: node.blocks[2]["nodeTrades"][0], **values)


def _without(stream: str, which: Callable[[Any], bool]) -> Break:
    """Return the loss of a stream's events."""

    def change(node: Example) -> None:
        for block in node.blocks:
            block[stream] = [event for event in block[stream] if not which(event)]

    return change


def _swapped(block: int, stream: str, one: int, other: int) -> Break:
    def change(node: Example) -> None:
        events = node.blocks[block][stream]
        events[one], events[other] = events[other], events[one]

    return change


def _again(block: int, stream: str, event: int, later: int) -> Break:
    def change(node: Example) -> None:
        node.blocks[later][stream].append(node.blocks[block][stream][event])

    return change


def _last(change: Callable[[dict[str, Any]], Any], coin: int = 0) -> Break:
    """Return a change of a coin of the last snapshot."""
    return lambda node: change(node.last[1][coin][1])


def _first_child_becomes_open(node: Example) -> None:
    node.a_status(116, "open")["order"]["oid"] = 90


def _fill_by_a_stranger(node: Example) -> None:
    for block in node.blocks:
        for pair in block["fills"]:
            if pair[1]["oid"] == 101:
                pair[0] = A


def _self_trade(node: Example) -> None:
    for pair in node.blocks[5]["fills"]:
        pair[0] = A


def _both_sides_twap(node: Example) -> None:
    for _, fill in node.blocks[6]["fills"]:
        fill["twapId"] = 7 if fill["hash"] == ZERO_HASH else None


def _no_twap(node: Example) -> None:
    for _, fill in node.blocks[6]["fills"]:
        fill["twapId"] = None


def _hip2_status(node: Example) -> None:
    node.status(6, HIP2, "canceled", order(104, "A", "20.0", "7.0", coin="@107"))


def _resting_taker(node: Example) -> None:
    """A bid rests above the best ask."""
    node.status(9, A, "open", order(140, "B", "99.5", "1.0"), 5)
    node.diff(9, A, 140, ("BTC", "B", "99.5"), {"new": {"sz": "1.0"}})


def _ended_rests(node: Example) -> None:
    _without("bookDiffs", lambda event: event["oid"] == 114 and event["raw_book_diff"] == "remove")(node)


def _maker_behind(node: Example) -> None:
    """The order that block 3 fills is no longer the first of its level."""
    node.status(2, A, "open", order(141, "A", "99.0", "1.0"), 3)
    node.diff(2, A, 141, ("BTC", "A", "99.0"), {"new": {"sz": "1.0", "insertBefore": 113}})


BREAKS: list[tuple[str, Break]] = [
    ("event-time", _status(110, "open", time=TIMES[1])),
    ("event-time", _fill(101, time=1)),
    ("hash-block", _status(110, "open", hash=transaction(3, 1))),
    ("hash-block", _fill(101, hash=transaction(3, 1))),
    ("hash-order", _status(114, "open", hash=transaction(2, 0))),
    ("hash-open", _status(110, "open", hash=None)),
    ("hash-open", _status(111, "badAloPxRejected", hash=transaction(0, 2))),
    ("shape", _status(110, "open", extra=1)),
    ("oid-rises", _order(113, "open", oid=105)),
    ("oid-rises", _first_child_becomes_open),
    ("oid-rises", _again(0, "orders", 1, 3)),  # a rejection, twice
    ("life", _status(110, "filled", status="triggered")),
    ("life", _status(103, "triggered", status="filled")),
    ("life", _again(5, "orders", 0, 6)),  # a cancellation, twice
    ("life", _status(114, "canceled", status="badAloPxRejected")),
    ("no-status-user", _hip2_status),
    ("status-order", _status(114, "canceled", user=B)),
    ("status-order", _order(101, "filled", side="A")),
    ("status-order", _diff(110, "new", user=C)),
    ("status-order", _diff(104, "update", user=C)),
    ("status-order", _order(114, "canceled", cloid="0x" + "1" * 32)),
    ("status-order", _order(114, "canceled", timestamp=1780394399999)),
    ("status-order", _order(103, "filled", origSz="0.6")),
    ("orig-size", _order(111, "badAloPxRejected", origSz="2.0")),
    ("timestamp", _order(111, "badAloPxRejected", timestamp=1)),
    ("new-unopened", _without("orders", lambda event: event["order"]["oid"] == 114)),
    ("new-twice", _again(2, "bookDiffs", 2, 3)),
    ("new-size", _diff(113, "new", raw_book_diff={"new": {"sz": "3.0"}})),
    ("new-size", _diff(130, "new", raw_book_diff={"new": {"sz": "5.0"}})),
    ("new-price", _diff(114, "new", px="102.0")),
    ("open-not-resting", _without("bookDiffs", lambda event: event["oid"] == 115)),
    ("insert-before", _diff(114, "new", raw_book_diff={"new": {"sz": "0.7", "insertBefore": 113}})),
    ("diff-unknown", _diff(104, "update", oid=105)),
    ("diff-unknown", _diff(114, "remove", oid=115114)),
    ("diff-price", _diff(114, "remove", px="101.5")),
    ("update-size", _diff(104, "update", raw_book_diff={"update": {"origSz": "11.0", "newSz": "8.0"}})),
    ("update-size", _diff(104, "update", raw_book_diff={"update": {"origSz": "10.0", "newSz": "12.0"}})),
    ("remove-unended", _without("orders", lambda event: event["status"] == "canceled")),
    ("ended-resting", _ended_rests),
    ("crossed", _resting_taker),
    ("priority", _maker_behind),
    ("rest-size", _diff(113, "update", raw_book_diff={"update": {"origSz": "1.0", "newSz": "0.6"}})),
    ("cancel-size", _order(114, "canceled", sz="0.6")),
    ("cancel-size", _order(117, "siblingFilledCanceled", sz="0.6")),
    ("filled-size", _order(112, "filled", sz="0.1")),
    ("filled-size", _without("orders", lambda event: event["order"]["sz"] == "0.0")),
    ("filled-size", _without("fills", lambda event: event[1]["oid"] == 121)),
    ("filled-size", _order(112, "open", sz="7.0", origSz="7.0")),
    ("maker-size", _fill(100, sz="4.0")),
    ("maker-size", _fill(104, sz="1.5")),
    ("maker-size", _without("bookDiffs", lambda event: "0.1" in str(event["raw_book_diff"]))),
    ("maker-order", _diff(113, "new", px="98.0")),
    ("fill-limit", _order(119, "open", limitPx="90.5")),
    ("fill-order", _fill_by_a_stranger),
    ("fill-order", _fill(119, oid=102)),
    ("fill-order", _fill(119, oid=131)),
    ("snapshot-queue", _last(lambda coin: coin["book_orders"][1].reverse())),
    ("snapshot-queue", _last(lambda coin: coin["book_orders"][0].clear())),
    ("snapshot-queue", lambda node: node.last[1].pop()),
    ("snapshot-order", _last(lambda coin: coin["book_orders"][1][0][1].update(sz="0.2"))),
    ("snapshot-order", _last(lambda coin: coin["book_orders"][1][0][1].update(origSz="1.0"))),
    ("snapshot-order", _last(lambda coin: coin["book_orders"][1][2][1].update(tif=None))),
    ("snapshot-order", _last(lambda coin: coin["book_orders"][1][0].__setitem__(0, C))),
    ("snapshot-order", _last(lambda coin: coin["book_orders"][0][0][1].update(cloid="0x5"), coin=1)),
    ("snapshot-trigger", _last(lambda coin: coin["untriggered_orders"].clear())),
    ("snapshot-trigger", _last(lambda coin: coin["untriggered_orders"].append(coin["book_orders"][0][0]))),
    ("snapshot-trigger", _last(lambda coin: coin["untriggered_orders"][0][1].update(triggerPx="121.0"))),
    ("snapshot-trigger", _last(lambda coin: coin["untriggered_orders"][0].__setitem__(0, C))),
    ("trade-pair", _without("fills", lambda event: event[1]["oid"] == 101)),
    ("trade-pair", _swapped(1, "fills", 0, 1)),
    ("trade-pair", _swapped(1, "fills", 1, 3)),
    ("trade-equal", _fill(101, px="99.1")),
    ("trade-equal", _fill(113, sz="1.9")),
    ("trade-equal", _fill(101, hash=transaction(2, 2))),
    ("trade-taker", _fill(119, crossed=False)),
    ("trade-taker", _fill(115, crossed=True)),
    ("trade-again", lambda node: [fill.update(tid=9001) for fill in (node.a_fill(115), node.a_fill(119))]),
    ("one-sided", _without("fills", lambda event: event[1]["coin"] == "#11")),
    ("one-sided", lambda node: node.blocks[8]["fills"][0][1].update(coin="#12")),
    ("self-trade", _self_trade),
    ("start-position", _fill(113, 1, startPosition="2.0")),
    ("start-position", _fill(123, startPosition="5.5")),  # a spot fee was paid in the coin
    ("spot-balance", _fill(104, startPosition="1.9")),
    ("spot-balance", _fill(121, startPosition="-0.1")),
    ("dir", _fill(101, dir="Close Long")),
    ("dir", _fill(121, dir="Open Long")),
    ("closed-pnl", _fill(101, closedPnl="0.1")),
    ("closed-pnl", _fill(121, closedPnl="-0.1")),
    ("liquidation", lambda node: node.a_fill(129).pop("liquidation")),
    ("liquidation", lambda node: node.a_fill(129)["liquidation"].update(liquidatedUser=A)),
    ("twap-fill", _fill(126, crossed=False)),
    ("twap-fill", _fill(126, hash=transaction(6, 5))),
    ("twap-fill", _both_sides_twap),
    ("twap-fill", _fill(126, twapId=8)),
    ("twap-fill", _fill(126, coin="ETH")),
    ("zero-hash", _no_twap),
    ("builder-fee", lambda node: node.a_fill(112).pop("builder")),
    ("builder-fee", _fill(112, builderFee="0.06")),
    ("taker-hash", _fill(119, hash=transaction(5, 2))),
    ("node-trade", _without("nodeTrades", lambda trade: trade["sz"] == "0.3")),
    ("node-trade", _without("fills", lambda event: event[1]["sz"] == "0.3")),
    ("node-trade", _trade(side="B")),
    ("node-trade", lambda node: node.blocks[2]["nodeTrades"][0]["side_info"].reverse()),
    ("node-trade", lambda node: node.blocks[2]["nodeTrades"][0]["side_info"][0].update(start_pos="1.0")),
    ("node-trade", _trade(trade_dir_override="LiquidatedMarket")),
    ("twap-life", _again(8, "twapStatuses", 0, 9)),
    ("twap-life", _again(4, "twapStatuses", 0, 5)),
    ("twap-life", lambda node: node.blocks[8]["twapStatuses"][0]["state"].update(user=B)),
    ("twap-executed", lambda node: node.blocks[8]["twapStatuses"][0]["state"].update(executedSz="0.2")),
    ("twap-executed", lambda node: node.blocks[8]["twapStatuses"][0]["state"].update(executedNtl="29.6")),
    ("twap-executed", lambda node: node.blocks[8]["twapStatuses"][0]["state"].update(sz="0.2")),
    ("twap-executed", lambda node: node.blocks[4]["twapStatuses"][0]["state"].update(executedSz="0.1")),
    ("funding", _again(7, "miscEvents", 0, 9)),
    ("funding-delta", lambda node: node.a_misc("Funding")["deltas"][0].update(funding_amount="-1.0")),
    ("funding-delta", lambda node: node.a_misc("Funding")["deltas"][0].update(szi="-17.0")),
    ("oracle-coin", lambda node: node.blocks[2]["oracleUpdates"][0].update(mark_px_inputs=[["GOLD", "4.0"]])),
]  # fmt: skip
"""A rule, and a change of the example that breaks it."""


@pytest.mark.parametrize(
    ("rule", "change"), BREAKS, ids=[f"{at}-{rule}" for at, (rule, _) in enumerate(BREAKS)]
)
def test_a_broken_rule_is_found(rule: str, change: Break, tmp_path: Path) -> None:
    node = Example()
    change(node)
    report = checked(node, tmp_path)
    assert rule in report.broken, str(report)
    finding = next(finding for finding in report.findings if finding.rule == rule)
    assert finding.text


# What only lines show: numbers, times, files.


def _line(node: Example, folder: Path, change: Callable[[dict[str, Any]], Any], at: int = 4) -> Report:
    """Check the example with one line of the order statuses changed."""
    node.write(folder)
    path = folder / "node_order_statuses_by_block/hourly/20260602/10"
    lines = path.read_bytes().splitlines()
    value = orjson.loads(lines[at])
    change(value)
    lines[at] = orjson.dumps(value)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return check(folder, folder / "first.json", folder / "last.json")


LINE_BREAKS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("number", lambda value: value.update(block_number=FIRST + 5)),
    ("number", lambda value: value.update(block_number=FIRST + 2)),
    ("block-time", lambda value: value.update(block_time=TIMES[4] + "001")),
    ("local-time", lambda value: value.update(local_time="2026-06-02T10:00:03.4")),
    ("hour-file", lambda value: value.update(local_time="2026-06-02T09:00:04.5")),
    ("hour-file", lambda value: value.update(local_time="2026-06-03T10:00:04.5")),
]


@pytest.mark.parametrize(("rule", "change"), LINE_BREAKS)
def test_a_broken_line_is_found(rule: str, change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    assert rule in _line(Example(), tmp_path, change).broken


def test_a_later_block_with_an_earlier_time_is_found(tmp_path: Path) -> None:
    node = Example().write(tmp_path)
    for path in node.glob("*_by_block/hourly/20260602/10"):
        path.write_bytes(path.read_bytes().replace(TIMES[2].encode(), b"2026-06-02T09:59:59.612"))
    assert "block-time" in check(node, node / "first.json", node / "last.json").broken


def test_a_torn_line_is_found(tmp_path: Path) -> None:
    """In the newest file a last line may be unfinished; elsewhere no line."""
    node = Example().write(tmp_path, "streaming")
    path = node / "node_fills_streaming/hourly/20260602/10"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"local_time":')
    assert check(node).ok
    path.write_bytes(whole + b'{"local_time":\n')
    assert check(node).broken == {"line": 1}
    path.write_bytes(whole + b'{"block_number":"7","block_time":"","local_time":"","events":[]}\n')
    assert check(node).broken == {"line": 1}
    path.write_bytes(whole + b'{"local_time":')
    path.with_name("11").write_bytes(b"")
    assert check(node).broken == {"line": 1}


def test_a_block_that_cannot_be_read_does_not_end_the_checks(tmp_path: Path) -> None:
    node = Example()
    del node.a_status(110, "open")["order"]
    node.write(tmp_path)
    report = check(tmp_path)
    assert report.broken["shape"] == 1
    assert report.counts["blocks"] == len(TIMES)


def test_funding_out_of_time_is_found(tmp_path: Path) -> None:
    """The last block is two minutes into an hour without funding."""
    node = Example()
    later = [text if text < TIMES[9] else "2026-06-02T11:02:00.188" for text in TIMES]
    node.write(tmp_path)
    for path in tmp_path.glob("*/hourly/20260602/10"):
        data = path.read_bytes()
        for old, new in zip(TIMES, later, strict=True):
            data = data.replace(old.encode(), new.encode())
        path.write_bytes(data)
    assert "funding" in check(tmp_path, hour_files=False).broken


def test_each_rule_can_be_broken() -> None:
    assert {rule for rule, _ in BREAKS} | {rule for rule, _ in LINE_BREAKS} | {"line"} == set(RULES)


def test_findings_are_counted_but_few_are_kept(tmp_path: Path) -> None:
    node = Example()
    for block in node.blocks:
        for event in block["orders"]:
            event["hash"] = None
    node.write(tmp_path)
    report = check(tmp_path, keep=3)
    assert report.broken["hash-open"] == 12
    assert sum(finding.rule == "hash-open" for finding in report.findings) == 3
    assert "node_order_statuses_by_block/hourly/20260602/10:1" in str(report)
    assert not report.ok


@pytest.mark.parametrize("layout", ["plain", "streaming"])
def test_the_other_layouts_are_checked_too(layout: str, tmp_path: Path) -> None:
    """In plain what needs no book: lives, sizes, fills, trades, TWAPs, times."""
    found: set[str] = set()
    rules = ["hash-open", "life", "cancel-size", "trade-pair", "start-position", "node-trade"]
    for rule in rules:
        node = Example()
        next(change for name, change in BREAKS if name == rule)(node)
        found |= {rule} & checked(node, tmp_path / rule, layout).broken.keys()
    assert found == set(rules)


# Snapshots.


def test_both_forms_of_a_snapshot_are_read(tmp_path: Path) -> None:
    """An old snapshot may have its waiting trigger orders at the end of both sides."""
    node = Example()
    node.write(tmp_path)
    wanted = read_snapshot(tmp_path / "first.json").coins["BTC"]
    coin = node.first[1][0][1]
    bids, asks = coin["book_orders"]
    node.first[1][0][1] = [bids + coin["untriggered_orders"], asks + coin["untriggered_orders"]]
    path = tmp_path / "old.json.gz"
    path.write_bytes(gzip.compress(orjson.dumps(node.first)))
    assert read_snapshot(path).coins["BTC"] == wanted
    node.first[1][0][1] = [[each for _, each in bids], [each for _, each in asks]]
    path.write_bytes(gzip.compress(orjson.dumps(node.first)))
    found = read_snapshot(path).coins["BTC"]
    assert found.waiting is None
    assert [(each.user, each.order) for each in found.bids] == [(None, each.order) for each in wanted.bids]


def test_blocks_before_the_first_snapshot_are_not_applied(tmp_path: Path) -> None:
    node = Example().write(tmp_path)
    report = check(node, node / "last.json")
    assert report.ok
    assert report.counts["blocks"] == len(TIMES)
    assert "diffs: new" not in report.counts


def test_without_snapshots_orders_from_before_are_let_pass(tmp_path: Path) -> None:
    report = check(Example().write(tmp_path))
    assert report.findings == []
    assert report.counts["statuses of orders from before"] > 0


# Small parts.


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.0", 0), ("1.5", 150_000_000), ("-0.5", -50_000_000), ("9559659.3399999999", 955_965_934_000_000),
     ("-3135809.4000000001", -313_580_940_000_000), ("0.00000001", 1)],
)  # fmt: skip
def test_decimals_are_scaled(text: str, value: int) -> None:
    assert scaled(text) == value


def test_a_hash_tells_its_action() -> None:
    assert action_of("0xde93a8a0729ade63d8840417805ba9010b00" + "0" * 28) == (11, 0)
    assert action_of(transaction(0, 7)) == (7, 0)
