"""Which orders pass: every condition, at its edges, through the converter and the pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from driving import Drive
from lines import BASE, envelope, event, plain
from running import hour_file

from fasttail.app.reload import legacy_selector
from fasttail.commands.text_converter import Converter
from fasttail.config import ServeSettings, SymbolFilter
from fasttail.engine.filters import Selector

USER = BASE["user"]


def passed(data: bytes, workers: int = 2, **conditions: Any) -> list[int]:
    """Return the oids of the orders of `data` that pass."""
    converter = Converter(capacity=4 << 20, workers=workers, selector=Selector(**conditions), format="json")
    text = converter.convert_line(data, 0)
    assert converter.rejected == 0
    oids = [json.loads(line)["oid"] for line in text.splitlines()]
    assert converter.orders == len(oids)
    return oids


def numbered(*changes: dict[str, Any]) -> bytes:
    """Return events with oid 0, 1, 2 … and these changes."""
    return plain(*[event(oid=i, **change) for i, change in enumerate(changes)])


def test_without_a_condition_everything_passes() -> None:
    data = numbered({}, {"coin": ""}, {"status": "new"}, {"origSz": "0.0"}, {"limitPx": "-1.0"})
    assert passed(data) == [0, 1, 2, 3, 4]
    assert len(passed(data, coins=None, sides=None, statuses=None, users=None, min_notional=0.0)) == 5


def test_an_empty_list_passes_nothing() -> None:
    """An empty list matches nothing; to omit a filter is up to the caller."""
    empty: list[dict[str, Any]] = [{"coins": {}}, {"statuses": []}, {"users": []}, {"sides": []}]
    for conditions in empty:
        assert passed(numbered({}), **conditions) == []


@pytest.mark.parametrize(
    ("price", "size", "least", "passes"),
    [
        ("100000.0", "0.1", 10_000, True),
        ("100000.0", "0.0999999", 10_000, False),
        ("100000.0", "0.1000001", 10_000, True),
        ("9999.9999999999", "1.0", 10_000, False),
        ("10000", "1", 10_000, True),
        ("1e4", "1", 10_000, True),
        ("0.0", "5.0", 0, True),
        ("0.0", "5.0", 0.01, False),
        ("-5.0", "5.0", 0.01, False),
        ("-5.0", "5.0", 0, True),
        ("1" + "0" * 200, "1" + "0" * 200, 1e300, True),
    ],
)  # fmt: skip
def test_least_notional(price: str, size: str, least: float, passes: bool) -> None:
    """The notional is limit price times original size; the remaining size does not matter."""
    data = numbered({"limitPx": price, "origSz": size, "sz": "99999999.0", "triggerPx": "99999999.0"})
    expected = [0] if passes else []
    assert passed(data, min_notional=least) == expected
    assert passed(data, coins={"BTC": least}) == expected
    assert passed(data, coins={"BTC": 0.0}, min_notional=least) == expected, "the higher one counts"
    assert passed(data, coins={"ETH": least}) == []


def test_coins_are_whole_names_in_their_case() -> None:
    names = ["BTC", "btc", "flx:BTC", "BTC2", "BT", "kPEPE", "KPEPE", "@107", "PURR/USDC", "", "Ω"]
    data = numbered(*[{"coin": name} for name in names])
    for i, name in enumerate(names):
        assert passed(data, coins={name: 0}) == [i]
    assert passed(data, coins=dict.fromkeys(names, 0)) == list(range(len(names)))


def test_escaped_text_is_compared_decoded() -> None:
    line = plain(event(oid=0, coin="xyz:XYZ100", status="open", side="B", user="0x" + "ab" * 20))
    escaped = (
        line.replace(b"xyz:XYZ100", rb"xy\u007A:\u0058YZ100")
        .replace(b'"open"', rb'"\u006fpen"')
        .replace(b'"B"', rb'"\u0042"')
        .replace(b"0xabab", rb"0\u0078AB\u0061\u0042")
    )
    assert escaped.count(b"\\") == 7
    other = plain(event(oid=1, coin="ETH", status="filled", side="A"))
    for data in (escaped + other, other + escaped, escaped * 3 + other + line):
        wanted = [0] * (data.count(b"YZ100"))
        assert passed(data, coins={"xyz:XYZ100": 0}) == wanted
        assert passed(data, statuses=["open"]) == wanted
        assert passed(data, sides=["B"]) == wanted
        assert passed(data, users=["0xABab" + "ab" * 18]) == wanted
    quoted = plain(event(oid=0, coin='a"b\\c\n\U0001f600', status='new "one"'))
    assert passed(quoted, coins={'a"b\\c\n\U0001f600': 0}, statuses=['new "one"']) == [0]


def test_texts_too_long_for_any_filter() -> None:
    long = "x" * 5000
    users = {"user": long}, {"user": long + "\\"}
    data = numbered({"coin": long}, {"coin": long + '"'}, {"status": long}, *users)
    assert passed(data, coins={"BTC": 0}) == [2, 3, 4]
    assert passed(data, statuses=["open"]) == [0, 1, 3, 4]
    assert passed(data, users=[USER]) == [0, 1, 2]


def test_users_in_any_case() -> None:
    data = numbered({}, {"user": USER.upper().replace("0X", "0x")}, {"user": USER[:-1]}, {"user": USER + "0"})
    for given in (USER, USER.upper(), USER.swapcase()):
        assert passed(data, users=[given]) == [0, 1]
    assert passed(data, users=["0x" + "0" * 40]) == []
    assert passed(data, users=[USER, USER[:-1]]) == [0, 1, 2]


def test_statuses_known_and_unknown() -> None:
    names = ["open", "filled", "canceled", "cancelled", "badAloPxRejected", "neverSeenBefore", "Open", ""]
    data = numbered(*[{"status": name} for name in names])
    for i, name in enumerate(names):
        assert passed(data, statuses=[name]) == [i]
    assert passed(data, statuses=["filled", "neverSeenBefore"]) == [1, 5]


def test_all_conditions_must_hold() -> None:
    user = "0x" + "1" * 40
    base: dict[str, Any] = {
        "coin": "ETH", "side": "A", "status": "filled", "user": user, "limitPx": "10.0", "origSz": "10.0",
    }  # fmt: skip
    misses = [{"coin": "BTC"}, {"side": "B"}, {"status": "open"}, {"user": USER}, {"origSz": "9.9"}]
    data = numbered(base, *[base | miss for miss in misses])
    conditions: dict[str, Any] = {
        "coins": {"ETH": 0}, "sides": ["A"], "statuses": ["filled"], "users": [user], "min_notional": 100,
    }  # fmt: skip
    assert passed(data, **conditions) == [0]
    for i, name in enumerate(conditions):
        rest = {key: value for key, value in conditions.items() if key != name}
        assert passed(data, **rest) == [0, i + 1]


def test_a_side_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match='"A" or "B"'):
        Selector(sides=["C"])


@pytest.mark.parametrize("workers", [1, 3])
def test_the_order_is_kept_and_every_layout_is_alike(workers: int) -> None:
    """Order is kept even if the data is large enough for parallel workers that see the same coins at once."""
    changes = [
        {"coin": f"C{i * 7919 % 301}", "side": "AB"[i % 2], "origSz": f"{i % 100}.5"} for i in range(2000)
    ]
    events = [event(oid=i, limitPx="2.0", **change) for i, change in enumerate(changes)]
    wanted = {f"C{i}": 41.0 for i in range(0, 301, 3)}
    expected = [
        i
        for i, change in enumerate(changes)
        if change["coin"] in wanted and 2.0 * float(change["origSz"]) >= 41 and change["side"] == "B"
    ]
    for data in (plain(*events), envelope(events), b"".join(envelope([each]) for each in events)):
        assert passed(data, workers, coins=wanted, sides="B") == expected


def symbols_config(*filters: tuple[str, float]) -> Selector:
    symbols = tuple(SymbolFilter(symbol, least) for symbol, least in filters)
    return legacy_selector(ServeSettings(data_dir=Path("unused"), symbols_config=symbols))


def published(folder: Path, chosen: Selector, *events: dict[str, Any]) -> tuple[list[int], int]:
    """Return the ids that reach the old channels, and the number of selected orders."""
    hour_file(folder, "plain", "20260505", 9).write_bytes(plain(*events))
    with Drive(folder, selector=chosen) as drive:
        drive.until_lines(len(events))
    ids = [int(order["id"]) for order in drive.updates()]
    assert [int(order["id"]) for order in drive.batched()] == ids
    assert sum(end.published for end in drive.ends) == len(ids)
    return ids, drive.pipeline.stats()["selected"]


def test_symbols_config(tmp_path: Path) -> None:
    events = [
        event(oid=1, coin="BTC", limitPx="100000.0", origSz="0.1"),
        event(oid=2, coin="BTC", limitPx="100000.0", origSz="0.0999"),
        event(oid=3, coin="ETH", limitPx="10.0", origSz="1.0"),
        event(oid=4, coin="ETH", limitPx="9.0", origSz="1.0", sz="50.0"),
        event(oid=5, coin="SOL", limitPx="100000.0", origSz="100.0"),
        event(oid=6, coin="BTC", limitPx="100000.0", origSz="7.0", status="badAloPxRejected"),
        event(oid=7, coin="ETH", limitPx="10.0", origSz="1.0", status="canceled"),
    ]
    chosen = symbols_config(("BTC", 10_000), ("ETH", 10))
    assert published(tmp_path / "a", chosen, *events) == ([1, 3, 7], 4)
    assert published(tmp_path / "b", symbols_config(("SOL", 0)), *events) == ([5], 1)
    assert published(tmp_path / "c", symbols_config(), *events) == ([1, 2, 3, 4, 5, 7], 7), "no filter"
    assert published(tmp_path / "d", symbols_config(("XRP", 0)), *events) == ([], 0)
