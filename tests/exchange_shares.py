"""Counts what a node's folder is made of, to compare its shares with those of genuine traffic."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from exchange_folder import NodeFolder

OPTIONAL_FILL_KEYS = ("builderFee", "cloid", "liquidation", "builder", "deployerFee", "priorityGas")

Shares = dict[str, Counter[str]]
"""Subject -> word -> how often."""


def shares(folder: Path) -> Shares:
    """Count statuses, order types, tifs, kinds of book diffs, and keys and words of fills."""
    node = NodeFolder(folder)
    streams = node.streams()
    made: Shares = {}
    if "orders" in streams:
        made |= _orders(node)
    if "bookDiffs" in streams:
        made |= _diffs(node)
    if "fills" in streams:
        made |= _fills(node)
    return made


def _orders(node: NodeFolder) -> Shares:
    statuses: Counter[str] = Counter()
    types: Counter[str] = Counter()
    tifs: Counter[str] = Counter()
    for event in node.events("orders"):
        order = event["order"]
        statuses[event["status"]] += 1
        types[order["orderType"]] += 1
        tifs[order["tif"] or "null"] += 1
    return {"status": statuses, "orderType": types, "tif": tifs}


def _diffs(node: NodeFolder) -> Shares:
    kinds: Counter[str] = Counter()
    for event in node.events("bookDiffs"):
        diff = event["raw_book_diff"]
        kind = diff if isinstance(diff, str) else next(iter(diff))
        kinds[kind] += 1
        kinds["new with insertBefore"] += kind == "new" and "insertBefore" in diff["new"]
    return {"raw_book_diff": kinds}


def _fills(node: NodeFolder) -> Shares:
    keys: Counter[str] = Counter()
    dirs: Counter[str] = Counter()
    for _, fill in node.events("fills"):
        dirs[fill["dir"]] += 1
        keys.update(key for key in OPTIONAL_FILL_KEYS if key in fill)
        keys["twapId"] += fill["twapId"] is not None
        keys["all fills"] += 1
    return {"fill with": keys, "dir": dirs}


def shares_table(one: Shares, other: Shares, names: tuple[str, str] = ("genuine", "simulated")) -> str:
    """Return the Markdown table of two folders' shares, in percent of each subject."""
    rows = [f"| subject | word | {names[0]} | {names[1]} |", "| --- | --- | ---: | ---: |"]
    for subject in dict.fromkeys([*one, *other]):
        counts = one.get(subject, Counter()), other.get(subject, Counter())
        totals = [each["all fills"] or sum(each.values()) for each in counts]
        for word in sorted(
            counts[0] | counts[1], key=lambda word: (-counts[0][word], -counts[1][word], word)
        ):
            cells = [
                f"{100 * each[word] / total:.3f} %" if total else ""
                for each, total in zip(counts, totals, strict=True)
            ]
            rows.append(f"| {subject} | {word} | {cells[0]} | {cells[1]} |")
    return "\n".join([*rows, ""])
