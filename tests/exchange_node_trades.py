"""Compares node_trades with node_fills: two streams that tell the same trades."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from exchange_fills import Leg
from exchange_findings import Report
from exchange_folder import Block


def check_node_trades(report: Report, block: Block, trades: list[list[Leg]]) -> None:
    """Compare a block's trades with its pairs of fills: none is missing, in either."""
    pairs: dict[tuple[Any, ...], list[list[Leg]]] = defaultdict(list)
    for legs in trades:
        if [leg.fill["side"] for leg in legs] == ["B", "A"]:
            pairs[_key(legs)].append(legs)
    for index, trade in enumerate(block.events("nodeTrades")):
        report.counts["node_trades"] += 1
        buyer, seller = trade["side_info"]
        key = (trade["coin"], trade["px"], trade["sz"], trade["hash"], buyer["oid"], seller["oid"])
        same = pairs.get(key)
        text = (
            _difference(trade, same.pop(0)) if same else f"{trade['sz']} at {trade['px']} is no pair of fills"
        )
        if text:
            report.add(
                "node-trade", block.number, block.where("nodeTrades", index), f"{trade['coin']}: {text}"
            )
    for missing in pairs.values():
        for legs in missing:
            text = f"{legs[0].fill['coin']}: trade {legs[0].fill['tid']} is not in node_trades"
            report.add("node-trade", block.number, block.where("fills", legs[0].at), text)


def _key(legs: list[Leg]) -> tuple[Any, ...]:
    fill = legs[0].fill
    return fill["coin"], fill["px"], fill["sz"], fill["hash"], fill["oid"], legs[1].fill["oid"]


def _difference(trade: Mapping[str, Any], legs: list[Leg]) -> str | None:
    taker = next((leg.fill["side"] for leg in legs if leg.fill["crossed"]), None)
    if trade["side"] != taker:
        return f"side {trade['side']}, the taker's is {taker}"
    for info, (_, user, fill) in zip(trade["side_info"], legs, strict=True):
        expected = {
            "user": user,
            "start_pos": fill["startPosition"],
            "oid": fill["oid"],
            "twap_id": fill["twapId"],
            "cloid": fill.get("cloid"),
        }
        if info != expected:
            return f"side_info {info}, the fill has {expected}"
    if trade["trade_dir_override"] == "LiquidatedMarket" and "liquidation" not in legs[0].fill:
        return "is a liquidation's, its fills are not"
    return None
