"""What the parser accepts, the values it returns, and its errors, always compared with the plain reader."""

from __future__ import annotations

import threading
from typing import Any

import numpy
import orjson
import plain_reader
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lines import BASE, envelope, event, plain, without

import fasttail


def check(data: bytes, workers: int = 1) -> fasttail.Batch:
    """Parse, compare with the plain reader, and return the batch."""
    expected, rejected = plain_reader.read(data)
    batch = fasttail.parse(data, workers=workers)
    assert [each.offset for each in batch.rejected] == rejected, batch.rejected
    assert batch.to_pylist() == expected
    return batch


PADDING = plain(event()) * 8  # the bytes that follow decide whether the fast path may read a line


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    "change",
    [
        {"time": "2026-05-05T17:39:14.852711"},
        {"time": "2026-05-05T17:39:14.852"},
        {"time": "1970-01-01T00:00:00"},
        {"time": "2000-02-29T23:59:59.999999999"},
        {"hash": "0x" + "ab" * 32},
        {"builder": {"b": "0x" + "12" * 20, "f": 15}},
        {"builder": {"f": 1.5, "b": None, "more": [1, {"x": "y"}]}},
        {"status": "aStatusThatNobodyKnows"},
        {"coin": "xyz:XYZ100"},
        {"coin": "PURR/USDC"},
        {"coin": "#1890"},
        {"coin": "é" * 40},
        {"coin": ""},
        {"side": "A"},
        {"limitPx": "9559659.3399999999"},
        {"limitPx": "0.00000000000000000000000000001"},
        {"limitPx": "123456789012345678901234567890.5"},
        {"limitPx": "1e5"},
        {"limitPx": "-0.0"},
        {"limitPx": "-12.5"},
        {"limitPx": "7"},
        {"sz": "1.7976931348623157e308"},
        {"sz": "12345678.12345678"},
        {"oid": 0},
        {"oid": 2**64 - 1},
        {"timestamp": -5},
        {"timestamp": 2**63 - 1},
        {"triggerCondition": 'Price above 76717 "quoted" \\ \n'},
        {"isTrigger": True, "triggerPx": "76717.0", "orderType": "Stop Market", "tif": None},
        {"children": [dict(BASE["order"], oid=5, tif=None, cloid="other")]},
        {"isPositionTpsl": True},
        {"reduceOnly": True},
        {"orderType": "Something New"},
        {"tif": None},
        {"tif": "NewTif"},
        {"cloid": None},
        {"user": "0X" + "AB" * 20},
        {"user": "u" * 5000},
        {"more": {"of": ["a", {"thing": None}]}, "andMore": 1.5e300},
    ],
    ids=str,
)
@pytest.mark.parametrize("inside", [False, True], ids=["plain", "envelope"])
def test_accepts(change: dict[str, Any], inside: bool) -> None:
    made = event(**change)
    data = envelope([event(), made, event()]) if inside else plain(made)
    assert check(data).rejected == []
    assert len(check(PADDING + data + PADDING)) == 16 + (3 if inside else 1)


@pytest.mark.parametrize("keys", [("hash", "builder"), ("tif",), ("cloid",), ("hash",), ("builder",)])
def test_nullable_keys_may_be_missing(keys: tuple[str, ...]) -> None:
    assert len(check(plain(without(*keys)) + PADDING)) == 9


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"time": "2026-13-05T17:39:14"}, "time: not a time"),
        ({"time": "2025-02-29T00:00:00"}, "time: not a time"),
        ({"time": "2026-05-05 17:39:14"}, "time: not a time"),
        ({"time": "2026-05-05T24:00:00"}, "time: not a time"),
        ({"time": "2026-05-05T17:39:14."}, "time: not a time"),
        ({"time": "2026-05-05T17:39:14.8527119830"}, "time: not a time"),
        ({"time": 5}, "time: of another type"),
        ({"user": None}, "user: of another type"),
        ({"hash": 5}, "hash: of another type"),
        ({"builder": "0x12"}, "builder: of another type"),
        ({"status": None}, "status: of another type"),
        ({"order": []}, "order: of another type"),
        ({"coin": 7}, "coin: of another type"),
        ({"side": "C"}, 'side: neither "A" nor "B"'),
        ({"limitPx": "abc"}, "limitPx: not a decimal number"),
        ({"limitPx": "01.5"}, "limitPx: not a decimal number"),
        ({"limitPx": "+1"}, "limitPx: not a decimal number"),
        ({"limitPx": "1."}, "limitPx: not a decimal number"),
        ({"limitPx": ".5"}, "limitPx: not a decimal number"),
        ({"limitPx": "nan"}, "limitPx: not a decimal number"),
        ({"limitPx": ""}, "limitPx: not a decimal number"),
        ({"limitPx": 1.5}, "limitPx: of another type"),
        ({"oid": "5"}, "oid: of another type"),
        ({"oid": 5.0}, "oid: of another type"),
        ({"oid": -1}, "oid: out of range"),
        ({"timestamp": 2**63}, "timestamp: out of range"),
        ({"isTrigger": None}, "isTrigger: of another type"),
        ({"triggerPx": None}, "triggerPx: of another type"),
        ({"children": None}, "children: of another type"),
        ({"tif": 1}, "tif: of another type"),
    ],
    ids=str,
)
def test_rejects(change: dict[str, Any], reason: str) -> None:
    made = {**BASE, "order": change["order"]} if "order" in change else event(**change)
    data = PADDING + plain(made) + PADDING
    rejected = check(data).rejected
    assert [(each.offset, each.reason) for each in rejected] == [(len(PADDING), reason)]
    whole = check(PADDING + envelope([event(), made]) + PADDING)
    assert [each.reason for each in whole.rejected] == [reason], "an envelope is rejected as a whole"
    assert len(whole) == 16


@pytest.mark.parametrize("key", sorted({*BASE, *BASE["order"]} - {"hash", "builder", "tif", "cloid"}))
def test_other_keys_must_be_there(key: str) -> None:
    rejected = check(plain(without(key)) + PADDING).rejected
    assert [each.reason for each in rejected] == [f"{key}: missing"]


@pytest.mark.fault(14, 16)
@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"{}",
        b"[]",
        b"null",
        b"5",
        b'"text"',
        b"nul",
        b"{}{}",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"   \t ",
        b"\r",
        b"\0\0\0",
        b'{"events":[]}',
        b'{"events":5}',
        b"x" * 3000,
    ],
    ids=repr,
)
def test_what_is_no_order_spoils_no_neighbour(line: bytes) -> None:
    for data in (line, PADDING + line + b"\n" + PADDING, line + b"\n" + PADDING, PADDING + line):
        check(data)


@pytest.mark.fault(13, 15)
def test_marks_around_a_line_are_tolerated() -> None:
    line = plain(event())[:-1]
    data = b"\xef\xbb\xbf" + line + b"\r\n\n\r\n  " + line + b" \t\n\0\0\0\0" + line + b"\n" + line
    batch = check(data + b"\n" + PADDING)
    assert len(batch) == 12
    assert batch.rejected == []
    assert batch.lines == 14


def test_repeated_keys_count_last() -> None:
    line = plain(event())[:-1]
    twice = line.replace(b'"coin":"BTC"', b'"coin":7,"coin":"ETH"').replace(
        b'"status":', b'"status":null,"status":'
    )
    order = b'"order":5,"order":' + orjson.dumps(BASE["order"])
    twice = twice.replace(b'{"time"', b"{" + order + b',"time"')
    assert check(twice).to_pylist()[0]["coin"] == "ETH"
    assert len(check(line.replace(b'"oid":', b'"oid":1,"\\u006fid":'))) == 1


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        (b'"65045.0"', b'"\\u00365045.0"'),
        (b'"0.0003"', b'"0\\u002e0003"'),
        (b'"0.0004"', b'"0.000\\u0034"'),
        (b'"triggerPx":"0.0"', b'"triggerPx":"\\u0030.0"'),
        (b'"2026-05-05T17:39:14.852711983"', b'"2026\\u002d05-05T17:39:14.852711983"'),
    ],
)
def test_numbers_and_times_may_be_escaped(value: bytes, escaped: bytes) -> None:
    for line in (plain(event()), envelope([event()])):
        batch = check(line.replace(value, escaped) + PADDING)
        assert batch.to_pylist()[0]["limitPx"] == "65045.0"
        assert batch.to_pylist()[0]["time"] == BASE["time"]


def test_a_time_is_looked_at_whatever_came_before() -> None:
    """NUL bytes never match the cached second, neither when it is empty nor after a wrong time."""
    wrong = plain(event(time="2026-13-05T17:39:14.852711983"))
    nul, nuls = (plain(event()).replace(b"2026-05-05T17:39:14"[:n], b"\0" * n) for n in (1, 19))
    for data in (nuls, nul, plain(event()) + wrong + nul, wrong + nul, wrong + nuls):
        check(data + PADDING)
    check(plain(event(time="1970-01-01T00:00:00.000000001")) + PADDING)


def test_one_flipped_byte_at_every_position() -> None:
    """The fast path must accept and reject exactly what JSON does."""
    for line in (plain(event(hash="0x" + "ab" * 32, builder={"b": "0x12", "f": 5})), envelope([event()])):
        for at in range(len(line) - 1):
            for flip in (0x01, 0x02, 0x20, 0x80):
                broken = line[:at] + bytes([line[at] ^ flip]) + line[at + 1 :]
                check(broken + PADDING)


def test_cut_at_every_byte() -> None:
    line = plain(event())
    block = envelope([event(), event()])
    for data in (line, block):
        for at in range(len(data)):
            check(data[:at])
            check(data[:at] + b"\n" + PADDING)


def test_nothing_is_read_past_the_end() -> None:
    """Buffers have exact sizes near the fast path's margin; a sanitizer build detects an overread."""
    line = plain(event())
    for size in range(1, 6):
        for spare in range(40):
            check(line * size + b" " * spare)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
decimals = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@settings(max_examples=400, deadline=None)
@given(
    changes=st.dictionaries(
        st.sampled_from(sorted({*BASE, *BASE["order"], "unknown", "other"} - {"order"})),
        json_values | decimals,
        max_size=3,
    ),
    shuffle=st.randoms(use_true_random=False),
    indent=st.booleans(),
    inside=st.booleans(),
)
def test_generated_events(changes: dict[str, Any], shuffle: Any, indent: bool, inside: bool) -> None:
    made = event(**changes)
    for part in (made, made["order"]):
        keys = list(part)
        if shuffle.random() < 0.5:
            shuffle.shuffle(keys)
        items = [(key, part[key]) for key in keys]
        part.clear()
        part.update(items)
    data = orjson.dumps(made, option=orjson.OPT_INDENT_2 if indent else None).replace(b"\n", b" ")
    if inside:
        data = envelope([event()])[:-3] + b"," + data + b"]}"
    check(data + b"\n" + PADDING)


@settings(max_examples=300, deadline=None)
@given(text=decimals)
def test_decimals_are_rounded_as_float_does(text: str) -> None:
    batch = fasttail.parse(plain(event(limitPx=text)) + PADDING)
    assert batch.column("limitPx")[0] == float(text)
    assert batch.column("limitPx_text")[0] == text


def many(orders: int) -> list[dict[str, Any]]:
    coins = ["BTC", "ETH", "xyz:XYZ100", "@107", "kPEPE"]
    made = [
        event(oid=10**11 + i, coin=coins[i % 5], sz=f"{i}.5", cloid=None if i % 3 else "0x" + "1" * 32)
        for i in range(orders)
    ]
    for i in range(0, orders, 50):
        made[i]["order"]["children"] = [dict(BASE["order"], oid=i), dict(BASE["order"], time="x", oid=i + 1)]
        made[i]["builder"] = {"b": "0x1", "f": i}
    return made


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("kind", ["plain", "streaming", "one by_block line", "by_block lines", "all"])
def test_output_does_not_depend_on_the_workers(workers: int, kind: str) -> None:
    events = many(6000)
    data = {
        "plain": plain(*events),
        "streaming": b"".join(envelope([each], i) for i, each in enumerate(events)),
        "one by_block line": envelope(events),
        "by_block lines": b"".join(envelope(events[i * 500 : i * 500 + 500], i) for i in range(12))
        + envelope([]),
        "all": plain(*events[:1000])
        + envelope(events[:3000])
        + b"broken\n"
        + plain(*events[3000:3100])
        + envelope(events[3000:]),
    }[kind]
    batch = check(data, workers)
    alone = fasttail.parse(data)
    assert batch.sums() == alone.sums()
    assert batch.coins == alone.coins
    assert batch.column("coin_code").tolist() == alone.column("coin_code").tolist()
    assert batch.lines == alone.lines


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_a_huge_line_that_only_looks_shareable(workers: int) -> None:
    """A line with false cut points or a broken event gives the same as with one worker."""
    decoy = event(more=[{"a": 1}, {"time": "x"}] * 300)
    events = many(2000)
    good = envelope(events)
    for data in (
        envelope([decoy] * 60),
        envelope([*events[:1000], decoy, *events[1000:]]),
        envelope([*events, event(side="C")]),
        envelope([event(side="C"), *events]),
        good[:-2] + b',"more":[1,{"time":"x"},{"time":"y"}]}\n',
        good[:-2] + b',"block_number":7}\n',
        good[:-2] + b"]\n",
        good.replace(b'"events"', b'"event"'),
        good[:-3] + b"\n",
        envelope([], more=events),
    ):
        both = check(PADDING + data + PADDING, workers)
        assert both.coins == fasttail.parse(PADDING + data + PADDING).coins


def test_rejected_lines_are_all_listed() -> None:
    """Rejected lines are all listed for any number of workers, even more than a worker's list holds."""
    data = b"".join(b"broken\n" * 7 + plain(event(oid=i)) for i in range(1500))
    for workers in (1, 2, 4):
        batch = check(data, workers)
        assert len(batch.rejected) == 7 * 1500
        assert batch.lines == 8 * 1500
    shared = data + envelope(many(3000)) + data
    check(shared, 3)


def test_columns_are_views_for_numpy() -> None:
    batch = fasttail.parse(plain(*many(1000)), workers=2)
    oid = numpy.asarray(batch.column("oid"))
    assert oid.dtype == numpy.uint64
    assert oid.strides == (192,)
    assert not oid.flags.writeable
    assert int(oid.sum()) == batch.sums()["oid"]
    assert numpy.asarray(batch.column("limitPx")).dtype == numpy.float64
    del batch
    assert oid[5] == 10**11 + 5, "a column keeps its batch alive"


def test_takes_any_buffer_and_holds_it() -> None:
    data = bytearray(plain(event()))
    batch = fasttail.parse(memoryview(data))
    with pytest.raises(BufferError):
        data.clear()
    assert batch.raw(0) == data[:-1]
    with pytest.raises(IndexError):
        batch.raw(1)
    with pytest.raises(KeyError):
        batch.column("nothing")
    with pytest.raises(ValueError, match="at least 1"):
        fasttail.parse(b"", workers=0)
    with pytest.raises(TypeError):
        fasttail.parse("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="made by parse"):
        fasttail.Batch()
    assert len(fasttail.parse(b"")) == 0
    assert fasttail.parse(b"").to_pylist() == []
    assert fasttail.parse(b"").column("oid").tolist() == []


@pytest.mark.parametrize("distinct", [9, 3_000, 15_000])
def test_coins_are_numbered_in_the_order_of_the_lines(distinct: int) -> None:
    """Coin codes follow the order of lines, with few new coins and with more than a worker's list holds."""
    lines = [event(oid=i, coin=f"C{i * i * 7919 % distinct}") for i in range(16_000)]
    data = plain(*lines)
    alone = fasttail.parse(data)
    assert alone.coins[1:] == list(dict.fromkeys(line["order"]["coin"] for line in lines))
    for workers in (2, 3, 7):
        batch = fasttail.parse(data, workers=workers)
        assert batch.coins == alone.coins
        assert batch.column("coin_code").tolist() == alone.column("coin_code").tolist()


def test_columns_and_sums_at_the_same_time() -> None:
    """Making columns moves rows that another thread is adding up."""
    data = plain(*many(30_000))
    expected = fasttail.parse(data).sums()
    for _ in range(20):
        batch = fasttail.parse(data, workers=3)
        found: list[dict[str, Any]] = []
        threads = [threading.Thread(target=lambda: found.append(batch.sums())) for _ in range(3)]  # noqa: B023
        for thread in threads:
            thread.start()
        column = batch.column("oid")
        for thread in threads:
            thread.join()
        assert found == [expected] * 3
        assert sum(column) == expected["oid"]


def test_many_threads_may_parse() -> None:
    data = plain(*many(3000))
    expected = fasttail.parse(data).sums()
    found: list[dict[str, Any]] = []
    threads = [
        threading.Thread(
            target=lambda: found.extend(fasttail.parse(data, workers=2).sums() for _ in range(5))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 20
