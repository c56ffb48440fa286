"""A small node by hand: ten blocks of all eight streams, with snapshots before and after, all in agreement.

The tests of the checks break one thing in it at a time.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from exchange_fills import ZERO_HASH, direction, is_spot
from exchange_folder import STREAMS, SUFFIXES, scaled, time_ms

FIRST = 1_019_927_126
A, B, C, D = ("0x" + letter * 40 for letter in "abcd")
HIP2 = "0x" + "f" * 40
TIMES = (
    "2026-06-02T09:59:59.612000001", "2026-06-02T09:59:59.676000002", "2026-06-02T09:59:59.740000003",
    "2026-06-02T09:59:59.804", "2026-06-02T09:59:59.868000005", "2026-06-02T09:59:59.932000006",
    "2026-06-02T09:59:59.996000007", "2026-06-02T10:00:00.060000008", "2026-06-02T10:00:00.124000009",
    "2026-06-02T10:00:00.188000010",
)  # fmt: skip
LOCAL = "2026-06-02T10:00:0"
"""All lines are written in the same hour, 10, seconds after their blocks."""


def transaction(block: int, action: int) -> str:
    """Return a transaction hash: anything, 04, the block's number, action and part, anything."""
    return f"0x{'7' * 20}04{FIRST + block:08x}01{action:02x}00{'9' * 28}"


def order(oid: int, side: str, px: str, sz: str, **changes: Any) -> dict[str, Any]:
    """Return an order as statuses and snapshots show it."""
    made = {
        "coin": "BTC",
        "side": side,
        "limitPx": px,
        "sz": sz,
        "oid": oid,
        "timestamp": 1780394000000,
        "triggerCondition": "N/A",
        "isTrigger": False,
        "triggerPx": "0.0",
        "children": [],
        "isPositionTpsl": False,
        "reduceOnly": False,
        "orderType": "Limit",
        "origSz": sz,
        "tif": "Alo",
        "cloid": None,
    }
    assert changes.keys() <= made.keys()
    return made | changes


def stop(oid: int, side: str, px: str, sz: str, above: str, **changes: Any) -> dict[str, Any]:
    trigger = {
        "triggerCondition": f"Price above {above}",
        "isTrigger": True,
        "triggerPx": above + ".0",
        "reduceOnly": True,
        "orderType": "Stop Market",
        "tif": None,
    }
    return order(oid, side, px, sz, **(trigger | changes))


def decimal(value: Decimal) -> str:
    text = f"{value.normalize():f}"
    return text if "." in text else text + ".0"


class Example:
    """The node's events, block by block, and the books before and after.

    blocks: for each block, stream -> events.
    """

    def __init__(self) -> None:
        self.blocks: list[dict[str, list[Any]]] = [{stream: [] for stream in STREAMS} for _ in TIMES]
        self.positions: dict[tuple[str, str], Decimal] = {
            (A, "BTC"): Decimal(-7),
            (B, "@107"): Decimal("3.5"),
            (HIP2, "@107"): Decimal(1000),
        }
        self.tid = 9000
        self.placed: dict[int, int] = {}
        """Oid -> timestamp."""
        self.first: list[Any] = [FIRST - 1, []]
        self.last: list[Any] = [FIRST + len(TIMES) - 1, []]
        _fill(self)

    # Building.

    def status(
        self, block: int, user: str, word: str, made: dict[str, Any], action: int | None = None
    ) -> None:
        """Add a status. With the number of an action it is the one that placed or rejected the order."""
        if action is not None:
            self.placed[made["oid"]] = time_ms(TIMES[block])
        if made["oid"] in self.placed:
            made = made | {"timestamp": self.placed[made["oid"]]}
        event = {
            "time": TIMES[block],
            "user": user,
            "hash": transaction(block, action) if word == "open" and action is not None else None,
            "builder": None,
            "status": word,
            "order": made,
        }
        self.blocks[block]["orders"].append(event)

    def diff(self, block: int, user: str, oid: int, where: tuple[str, str, str], diff: Any) -> None:
        """Add a book diff; `where` is coin, side and px."""
        coin, side, px = where
        made = {"user": user, "oid": oid, "coin": coin, "side": side, "px": px, "raw_book_diff": diff}
        self.blocks[block]["bookDiffs"].append(made)

    def trade(
        self, block: int, coin: str, px: str, sz: str, sides: list[dict[str, Any]], digest: str, **extra: Any
    ) -> None:
        """Add a trade: `sides` are buyer and seller, each user, oid, crossed and further keys of the fill."""
        self.tid += 1
        infos = []
        for side, values in zip("BA", sides, strict=True):
            fill = self._leg(coin, px, sz, side, values, extra) | {
                "time": time_ms(TIMES[block]),
                "hash": digest,
            }
            self.blocks[block]["fills"].append([values["user"], fill])
            infos.append(
                {
                    "user": values["user"],
                    "start_pos": fill["startPosition"],
                    "oid": fill["oid"],
                    "twap_id": fill["twapId"],
                    "cloid": fill.get("cloid"),
                }
            )
        taker = "B" if sides[0]["crossed"] else "A"
        override = "LiquidatedMarket" if "liquidation" in extra else "Na"
        trade = {"coin": coin, "side": taker, "time": TIMES[block], "px": px, "sz": sz, "hash": digest}
        self.blocks[block]["nodeTrades"].append(trade | {"trade_dir_override": override, "side_info": infos})

    def _leg(
        self, coin: str, px: str, sz: str, side: str, values: dict[str, Any], extra: dict[str, Any]
    ) -> dict[str, Any]:
        user, fee = values["user"], values.get("fee", "0.01")
        start = self.positions.get((user, coin), Decimal(0))
        change = Decimal(sz) if side == "B" else -Decimal(sz)
        base = is_spot(coin) and (Decimal(fee) > 0) == (side == "B")
        self.positions[user, coin] = start + change - (Decimal(fee) if base else 0)
        word = direction(coin, side, scaled(decimal(start)), scaled(sz))
        fill: dict[str, Any] = {
            "coin": coin,
            "px": px,
            "sz": sz,
            "side": side,
            "time": 0,
            "startPosition": decimal(start),
            "dir": word,
            "closedPnl": "0.0" if word.startswith("Open") or word == "Buy" else "0.5",
            "hash": "",
            "oid": values["oid"],
            "crossed": values["crossed"],
            "fee": fee,
            "builderFee": values.get("builderFee"),
            "tid": self.tid,
            "cloid": values.get("cloid"),
            "liquidation": extra.get("liquidation"),
            "feeToken": "HYPE" if base else "USDC",
            "builder": values.get("builder"),
            "twapId": values.get("twapId", ""),
        }
        made = {key: value for key, value in fill.items() if value is not None}
        return made | {"twapId": made["twapId"] or None}

    def twap(self, block: int, number: int, status: str, executed: str, notional: str) -> None:
        state = {
            "coin": "BTC",
            "user": C,
            "side": "B",
            "sz": "0.4",
            "executedSz": executed,
            "executedNtl": notional,
            "minutes": 5,
            "reduceOnly": False,
            "randomize": False,
            "timestamp": time_ms(TIMES[block]),
        }
        event = {"time": TIMES[block], "twap_id": number, "state": state, "status": status}
        self.blocks[block]["twapStatuses"].append(event)

    def misc(self, block: int, digest: str, **inner: Any) -> None:
        self.blocks[block]["miscEvents"].append({"time": TIMES[block], "hash": digest, "inner": inner})

    # Finding what to break.

    def a_status(self, oid: int, word: str) -> Any:
        return next(
            event
            for block in self.blocks
            for event in block["orders"]
            if (event["order"]["oid"], event["status"]) == (oid, word)
        )

    def a_diff(self, oid: int, kind: str) -> Any:
        return next(
            event
            for block in self.blocks
            for event in block["bookDiffs"]
            if event["oid"] == oid and kind in event["raw_book_diff"]
        )

    def a_fill(self, oid: int, nth: int = 0) -> Any:
        found = [fill for block in self.blocks for _, fill in block["fills"] if fill["oid"] == oid]
        return found[nth]

    def a_misc(self, kind: str) -> Any:
        return next(
            event["inner"][kind]
            for block in self.blocks
            for event in block["miscEvents"]
            if kind in event["inner"]
        )

    # Writing.

    def lines(self, stream: str, layout: str) -> list[bytes]:
        made: list[bytes] = []
        for place, block in enumerate(self.blocks):
            events = block[stream]
            if layout == "plain":
                made += [orjson.dumps(event) for event in events]
                continue
            groups = [events] if layout == "by_block" else [[event] for event in events]
            for part, group in enumerate(groups):
                head = {
                    "local_time": f"{LOCAL}{place}.{500_000_000 + 17_000 * (part + 1) + 1:09}",
                    "block_time": TIMES[place],
                    "block_number": FIRST + place,
                }
                made.append(orjson.dumps(head | {"events": group}))
        return made

    def write(self, folder: Path, layout: str = "by_block") -> Path:
        """Write the node's folder and both snapshots beside it; return it."""
        for stream, name in STREAMS.items():
            path = folder / (name + SUFFIXES[layout]) / "hourly" / "20260602" / "10"
            path.parent.mkdir(parents=True)
            path.write_bytes(b"".join(line + b"\n" for line in self.lines(stream, layout)))
        (folder / "first.json").write_bytes(orjson.dumps(self.first))
        (folder / "last.json").write_bytes(orjson.dumps(self.last))
        return folder


def _coin(bids: list[Any], asks: list[Any], waiting: list[Any]) -> dict[str, Any]:
    return {"book_orders": [bids, asks], "untriggered_orders": waiting}


def _fill(node: Example) -> None:
    """Tell the story: the books before, ten blocks, the books after."""
    trigger = stop(103, "B", "110.0", "0.5", "105")
    node.first[1] = [
        [
            "BTC",
            _coin(
                [[A, order(100, "B", "99.0", "5.0", origSz="6.0")], [C, order(101, "B", "99.0", "2.0")]],
                [[A, order(102, "A", "101.0", "3.0")]],
                [[C, trigger]],
            ),
        ],
        ["@107", _coin([], [[HIP2, order(104, "A", "20.0", "10.0", coin="@107")]], [])],
    ]
    _block_makers(node)
    _block_takers(node)
    _block_triggers(node, trigger)
    _block_children(node)
    _block_twap(node)
    _block_spot(node)
    _block_outcome_and_liquidation(node)
    _other_streams(node)
    node.last[1] = [["BTC", _btc_after(node)], ["@107", _spot_after(node)]]


def _block_makers(node: Example) -> None:
    """Block 0: one order enters, one is rejected."""
    bid = order(110, "B", "100.0", "1.0", cloid="0x" + "1" * 32)
    node.status(0, D, "open", bid, 1)
    node.status(0, D, "badAloPxRejected", order(111, "B", "101.0", "1.0"), 2)
    node.diff(0, D, 110, ("BTC", "B", "100.0"), {"new": {"sz": "1.0"}})


def _block_takers(node: Example) -> None:
    """Block 1: a taker fills two bids to their ends. Block 2: another fills one and rests."""
    taker = order(112, "A", "99.0", "6.0", tif="Ioc")
    hash1, hash2 = transaction(1, 4), transaction(2, 1)
    node.status(1, B, "open", taker, 4)
    node.status(1, D, "filled", order(110, "B", "100.0", "0.0", origSz="1.0", cloid="0x" + "1" * 32))
    node.status(1, A, "filled", order(100, "B", "99.0", "0.0", origSz="6.0"))
    node.status(1, B, "filled", taker | {"sz": "0.0", "timestamp": time_ms(TIMES[1])})
    node.diff(1, D, 110, ("BTC", "B", "100.0"), "remove")
    node.diff(1, A, 100, ("BTC", "B", "99.0"), {"update": {"origSz": "5.0", "newSz": "0.0"}})
    node.diff(1, A, 100, ("BTC", "B", "99.0"), "remove")
    fee = {"fee": "0.05", "builderFee": "0.01", "builder": C}
    seller = {"user": B, "oid": 112, "crossed": True} | fee
    buyer = {"user": D, "oid": 110, "crossed": False, "cloid": "0x" + "1" * 32, "fee": "-0.001"}
    node.trade(1, "BTC", "100.0", "1.0", [buyer, seller], hash1)
    node.trade(1, "BTC", "99.0", "5.0", [{"user": A, "oid": 100, "crossed": False}, seller], hash1)

    node.status(2, B, "open", order(113, "A", "99.0", "3.0", tif="Gtc"), 1)
    node.status(2, C, "filled", order(101, "B", "99.0", "0.0", origSz="2.0"))
    node.status(2, A, "open", order(114, "A", "101.0", "0.7"), 2)
    node.diff(2, C, 101, ("BTC", "B", "99.0"), "remove")
    node.diff(2, B, 113, ("BTC", "A", "99.0"), {"new": {"sz": "1.0"}})
    node.diff(2, A, 114, ("BTC", "A", "101.0"), {"new": {"sz": "0.7", "insertBefore": 102}})
    seller = {"user": B, "oid": 113, "crossed": True}
    node.trade(2, "BTC", "99.0", "2.0", [{"user": C, "oid": 101, "crossed": False}, seller], hash2)


def _block_triggers(node: Example, trigger: dict[str, Any]) -> None:
    """Block 3: a stop triggers and takes. Block 9: a stop triggers and rests, a reduce-only order is cut."""
    node.status(3, C, "triggered", trigger)
    node.status(3, C, "filled", trigger | {"sz": "0.0"})
    node.diff(3, B, 113, ("BTC", "A", "99.0"), {"update": {"origSz": "1.0", "newSz": "0.5"}})
    buyer, seller = {"user": C, "oid": 103, "crossed": True}, {"user": B, "oid": 113, "crossed": False}
    node.trade(3, "BTC", "99.0", "0.5", [buyer, seller], transaction(3, 9))

    limit = stop(118, "A", "102.0", "0.6", "98", orderType="Stop Limit")
    node.status(4, D, "open", limit, 2)
    node.status(9, D, "triggered", limit | {"timestamp": time_ms(TIMES[4])})
    node.status(9, A, "open", order(130, "B", "80.0", "4.0", reduceOnly=True), 3)
    node.diff(9, D, 118, ("BTC", "A", "102.0"), {"new": {"sz": "0.6"}})
    node.diff(9, A, 130, ("BTC", "B", "80.0"), {"new": {"sz": "2.0"}})


def _block_children(node: Example) -> None:
    """Block 4: a parent enters. Block 5: it is filled, its children open; an order is canceled."""
    timestamp = time_ms(TIMES[4])
    upper = stop(115, "A", "120.0", "0.3", "120", orderType="Take Profit Market", timestamp=timestamp)
    lower = stop(115, "A", "70.0", "0.3", "70", timestamp=timestamp)
    parent = order(115, "B", "90.0", "0.3", children=[upper, lower], tif="Gtc")
    node.status(4, A, "open", parent, 1)
    node.blocks[4]["orders"].reverse()
    node.diff(4, A, 115, ("BTC", "B", "90.0"), {"new": {"sz": "0.3"}})

    taker = order(119, "A", "90.0", "0.3", tif="Ioc")
    node.status(5, A, "canceled", order(114, "A", "101.0", "0.7", timestamp=time_ms(TIMES[2])))
    node.status(5, D, "open", taker, 1)
    node.status(5, A, "filled", parent | {"sz": "0.0"})
    node.status(5, D, "filled", taker | {"sz": "0.0"})
    for place, child in enumerate((upper, lower), 2):
        node.status(5, A, "open", child | {"oid": 114 + place}, place)
        node.blocks[5]["orders"][-1]["order"]["timestamp"] = node.placed[114 + place] = timestamp
    node.diff(5, A, 114, ("BTC", "A", "101.0"), "remove")
    node.diff(5, A, 115, ("BTC", "B", "90.0"), "remove")
    sides = [{"user": A, "oid": 115, "crossed": False}, {"user": D, "oid": 119, "crossed": True}]
    node.trade(5, "BTC", "90.0", "0.3", sides, transaction(5, 1))
    node.status(6, A, "siblingFilledCanceled", lower | {"oid": 117})


def _block_twap(node: Example) -> None:
    """A TWAP begins in block 4, has slices in 6 and 7, ends in 8."""
    node.twap(4, 7, "activated", "0.0", "0.0")
    for block, sizes in ((6, ("0.5", "0.3")), (7, ("0.3", "0.2"))):
        before, after = sizes
        node.diff(block, B, 113, ("BTC", "A", "99.0"), {"update": {"origSz": before, "newSz": after}})
        sz = decimal(Decimal(before) - Decimal(after))
        slice_ = {"user": C, "oid": 120 + block, "crossed": True, "twapId": 7}
        node.trade(block, "BTC", "99.0", sz, [slice_, {"user": B, "oid": 113, "crossed": False}], ZERO_HASH)
    node.twap(8, 7, "finished", "0.3", "29.7")


def _block_spot(node: Example) -> None:
    """Block 6: HIP-2 places an order and sells from another."""
    taker = order(121, "B", "20.0", "2.0", coin="@107", tif="Ioc")
    node.status(6, B, "open", taker, 1)
    node.status(6, B, "filled", taker | {"sz": "0.0"})
    node.diff(6, HIP2, 104, ("@107", "A", "20.0"), {"update": {"origSz": "10.0", "newSz": "8.0"}})
    node.diff(6, HIP2, 122, ("@107", "B", "19.0"), {"new": {"sz": "10.5"}})
    sides = [
        {"user": B, "oid": 121, "crossed": True},
        {"user": HIP2, "oid": 104, "crossed": False, "fee": "0.0"},
    ]
    node.trade(6, "@107", "20.0", "2.0", sides, transaction(6, 1))
    again = order(123, "B", "20.0", "1.0", coin="@107", tif="Ioc")
    node.status(6, B, "open", again, 2)
    node.status(6, B, "filled", again | {"sz": "0.0"})
    node.diff(6, HIP2, 104, ("@107", "A", "20.0"), {"update": {"origSz": "8.0", "newSz": "7.0"}})
    sides[0] = {"user": B, "oid": 123, "crossed": True}
    node.trade(6, "@107", "20.0", "1.0", sides, transaction(6, 2))


def _block_outcome_and_liquidation(node: Example) -> None:
    """Block 8: an outcome is minted, and a position is liquidated."""
    for coin in ("#10", "#11"):
        values = {"user": B, "oid": 128, "crossed": True}
        extra = {"time": time_ms(TIMES[8]), "hash": transaction(8, 1), "dir": "Mint"}
        node.tid += 1
        node.blocks[8]["fills"].append([B, node._leg(coin, "0.5", "10.0", "B", values, {}) | extra])
    node.diff(8, B, 113, ("BTC", "A", "99.0"), {"update": {"origSz": "0.2", "newSz": "0.1"}})
    sides = [{"user": D, "oid": 129, "crossed": True}, {"user": B, "oid": 113, "crossed": False}]
    liquidation = {"liquidatedUser": D, "markPx": "98.9", "method": "market"}
    node.trade(8, "BTC", "99.0", "0.1", sides, transaction(8, 2), liquidation=liquidation)


def _other_streams(node: Example) -> None:
    """Funding when the hour begins, a transfer, an oracle update, an action of HyperEVM."""
    size = node.positions[A, "BTC"]
    delta = {
        "user": A,
        "coin": "BTC",
        "funding_amount": "-0.00001",
        "szi": decimal(size),
        "funding_rate": "0.0000125",
    }
    if size < 0:
        delta["funding_amount"] = "0.00001"
    node.misc(7, ZERO_HASH, Funding={"deltas": [delta]})
    send = {
        "type": "send", "user": B, "destination": D, "sourceDex": "spot", "destinationDex": "spot",
        "token": "HYPE", "amount": "1.0", "usdcValue": "20.0", "fee": "0.0", "nativeTokenFee": "0.0",
        "nonce": 1780394400000, "feeToken": "",
    }  # fmt: skip
    node.misc(7, transaction(7, 3), LedgerUpdate={"users": [B, D], "delta": send})
    gold = ["flx:GOLD", {"px": "4000.0", "last_update_time": TIMES[2], "daily_px": "3990.0"}]
    inputs: list[Any] = [["flx:GOLD", "4000.0"]]
    update = {
        "update_class": "Deployer",
        "mark_px_inputs": inputs, "spot_px_inputs": [], "external_perp_px_inputs": [],
        "oracle_pxs": {
            "coin_to_mark_px": [gold], "coin_to_oracle_px": [gold],
            "coin_to_external_perp_px": [],
        },
    }  # fmt: skip
    node.blocks[2]["oracleUpdates"].append(update)
    action = {"type": "SystemSendAssetAction", "destination": C, "fromSubAccount": None, "sourceDexOrSpot": 0}
    action |= {"destinationDexOrSpot": 0, "token": 0, "wei": 795700}
    event = {"user": "0x20" + "0" * 38, "nonce": 5, "evm_tx_hash": "0x" + "8" * 64, "action": action}
    node.blocks[3]["writerActions"].append(event)


def _btc_after(node: Example) -> dict[str, Any]:
    at = [time_ms(text) for text in TIMES]
    upper = dict(node.a_status(116, "open")["order"])
    rested = {"isTrigger": False, "triggerPx": "0.0", "triggerCondition": "Triggered", "tif": "Gtc"}
    stopped = stop(118, "A", "102.0", "0.6", "98", orderType="Stop Limit", timestamp=at[9]) | rested
    cut = order(130, "B", "80.0", "2.0", reduceOnly=True, timestamp=at[9], origSz="4.0")
    left = order(113, "A", "99.0", "0.1", tif="Gtc", timestamp=at[2], origSz="3.0")
    return _coin([[A, cut]], [[B, left], [A, order(102, "A", "101.0", "3.0")], [D, stopped]], [[A, upper]])


def _spot_after(node: Example) -> dict[str, Any]:
    bid = order(122, "B", "19.0", "10.5", coin="@107", timestamp=time_ms(TIMES[6]))
    ask = order(104, "A", "20.0", "7.0", coin="@107", origSz="10.0")
    return _coin([[HIP2, bid]], [[HIP2, ask]], [])
