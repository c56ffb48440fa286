"""Parser paths that other tests do not reach: rare forms of JSON and numbers, and the Python interface."""

from __future__ import annotations

import io
import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy
import orjson
import plain_reader
import pytest
from driving import Drive
from lines import BASE, envelope, event, plain
from running import hour_file

import fasttail
from fasttail.engine import pool, table
from fasttail.engine.rejects import Rejected
from fasttail.streams import isa

PADDING = plain(event()) * 8


def check(line: bytes) -> fasttail.Batch:
    """Parse the line among good ones, and alone without a newline; compare with the plain reader."""
    batch = fasttail.parse(line.removesuffix(b"\n"))
    for data in (line.removesuffix(b"\n"), PADDING + line + PADDING):
        expected, rejected = plain_reader.read(data)
        batch = fasttail.parse(data)
        assert [each.offset for each in batch.rejected] == rejected, batch.rejected
        assert batch.to_pylist() == expected
    return batch


def with_coin(text: bytes) -> bytes:
    """Return the base line with `text` inside the quotes of its coin."""
    return plain(event()).replace(b'"BTC"', b'"' + text + b'"')


def with_unknown(value: bytes) -> bytes:
    """Return the base line with one more key and this raw value."""
    return plain(event()).replace(b'"user"', b'"more":' + value + b',"user"')


@pytest.mark.parametrize(
    "text",
    [
        rb"\u0041",
        rb"\u00e9",
        rb"\u00E9",
        rb"\u20ac",
        rb"\u20AC",
        rb"\ud83d\ude00",
        rb"\uD83D\uDE00",
        rb"\/\b\f\n\r\t\"\\",
        "\N{EURO SIGN}".encode(),
        "\U0001f600".encode(),
        "\U00010000\U0010ffff\ud7ff\ue000\u0800\x7f".encode(),
        rb"\u0041" * 300,
    ],
)
def test_every_escape_is_decoded(text: bytes) -> None:
    batch = check(with_coin(text))
    assert batch.rejected == []
    name = orjson.loads(b'"' + text + b'"')
    assert batch.to_pylist()[8]["coin"] == name
    code = batch.column("coin_code")[8]
    if len(name) < 256:
        assert batch.coins[code] == name
    else:
        assert code == 0, "a name over 255 bytes has no code"


@pytest.mark.parametrize(
    "text",
    [
        rb"\x41",
        rb"\u00g0",
        rb"\u004",
        rb"\ud800",
        rb"\udc00",
        rb"\ud83d\u0041",
        rb"\ud83dxxxxxx",
        rb"\ud83d\n12345",
        rb"\ud83d\ug000",
        b"\x01",
        b"\x1f",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\x80",
        b"\xc3(",
        b"\xe2\x82(",
        b"\xf0\x9f\x98(",
        b"\xe2\x28\xa1",
    ],
)
def test_what_no_string_may_hold(text: bytes) -> None:
    assert len(check(with_coin(text)).rejected) == 1
    assert len(check(with_unknown(b'"' + text + b'"')).rejected) == 1


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    "tail", [b"\\", b"\\u", b"\\u00e", b"\\ud83d", b"\\ud83d\\", b"\\ud83d\\ude0", b"\xc3", b"\xf0\x9f\x98"]
)
def test_a_line_that_ends_within_a_character(tail: bytes) -> None:
    assert len(check(b'{"user":"abc' + tail).rejected) == 1


@pytest.mark.parametrize(
    "number",
    [
        b"1.7976931348623157e308",
        b"1.7976931348623159e308",
        b"-1.7976931348623159e+308",
        b"17976931348623159" + b"0" * 292,
        b"17976931348623157" + b"0" * 292,
        b"1" + b"0" * 308,
        b"9" * 308,
        b"9" * 309,
        b"9" * 500,
        b"9" * 500 + b"e-192",
        b"0." + b"0" * 400 + b"1e709",
        b"0." + b"9" * 450 + b"e309",
        b"9" * 450 + b"." + b"9" * 20 + b"e-142",
        b"-" + b"9" * 500 + b"e-192",
        b"-1.7976931348623157e308",
        b"-1.7976931348623159e308",
        b"0.0017976931348623157e311",
        b"0.0017976931348623159e311",
        b"1e309",
        b"1e99999999999",
        b"1e-99999999999",
        b"0e99999999999",
        b"-0",
        b"-0.0e-0",
        b"5E+3",
        b"1.5E-3",
    ],
)
def test_numbers_at_the_edge_of_float64(number: bytes) -> None:
    check(with_unknown(number))


@pytest.mark.parametrize(
    "number", [b"-", b"+1", b"01", b"-01", b"1.", b".5", b"1.e5", b"1e", b"1e+", b"1e-", b"-a", b"0x1", b"1-"]
)
def test_what_is_no_number(number: bytes) -> None:
    assert len(check(with_unknown(number)).rejected) == 1
    assert len(check(b'{"more":' + number).rejected) == 1


@pytest.mark.parametrize(
    "text", ["1e", "1e+", "1E-", "1ee5", "1e5x", "1.5.5", "-", "-.5", "--1", "1 ", " 1", "0x10"]
)
def test_what_is_no_decimal(text: str) -> None:
    (rejected,) = check(plain(event(sz=text))).rejected
    assert rejected.reason == "sz: not a decimal number"


@pytest.mark.parametrize(
    "text",
    [
        "9" * 800,
        "0." + "0" * 320 + "1" * 800,
        "1" + "0" * 771 + ".5",
        "1." + "0" * 780 + "1",
        "1e999",
        "-1e999",
        "1e-999",
        "0e5",
        "-0e5",
        "5e+3",
        "5E-3",
        "9007199254740993",
        "9007199254740993." + "0" * 780 + "1",
        "1e99999999999",
    ],
)
def test_decimals_of_any_length(text: str) -> None:
    batch = check(plain(event(sz=text)))
    assert batch.rejected == []
    assert batch.column("sz")[8] == float(text)
    assert batch.to_pylist()[8]["sz"] == text


@pytest.mark.parametrize(
    ("field", "number", "accepted"),
    [
        ("oid", b"18446744073709551615", True),
        ("oid", b"18446744073709551616", False),
        ("oid", b"99999999999999999999999", False),
        ("oid", b"-0", True),
        ("oid", b"-1", False),
        ("timestamp", b"-9223372036854775808", True),
        ("timestamp", b"-9223372036854775809", False),
        ("timestamp", b"9223372036854775808", False),
        ("timestamp", b"-0", True),
    ],
)
def test_integers_at_their_ends(field: str, number: bytes, accepted: bool) -> None:
    old = str(BASE["order"][field]).encode()
    data = PADDING + plain(event()).replace(
        b'"%b":%b' % (field.encode(), old), b'"%b":%b' % (field.encode(), number)
    )
    batch = fasttail.parse(data)
    assert [each.reason for each in batch.rejected] == ([] if accepted else [f"{field}: out of range"])
    if accepted:
        assert batch.column(field)[8] == int(number)


@pytest.mark.parametrize(
    "time", ["2026-04-31T00:00:00", "2026-05-05T17:39:14.85x", "2026-05-05T17:60:00", "1969-12-31T23:59:59"]
)
def test_what_is_no_time(time: str) -> None:
    (rejected,) = check(plain(event(time=time))).rejected
    assert rejected.reason == "time: not a time"
    escaped = plain(event(time=time)).replace(time.encode(), time.encode().replace(b"-", b"\\u002d", 1))
    assert [each.reason for each in check(escaped).rejected] == ["time: not a time"]


@pytest.mark.parametrize("kind", [b"[", b'{"a":'])
def test_the_deepest_nesting(kind: bytes) -> None:
    """At most 1,024 nested brackets are accepted, including the line's own."""
    close = b"]" if kind == b"[" else b"}"
    for depth, accepted in ((1023, True), (1024, False), (3000, False)):
        batch = fasttail.parse(PADDING + with_unknown(kind * depth + b"1" + close * depth))
        assert [each.reason for each in batch.rejected] == ([] if accepted else ["nested deeper than 1024"])


@pytest.mark.parametrize(
    "line",
    [
        b"{5}",
        b'{"a"}',
        b'{"a" 5}',
        b'{"a":}',
        b'{"a":5',
        b'{"a":5,',
        b'{"a":5,}',
        b'{"a":5 5}',
        b'{"a":{5}}',
        b'{"a":{"b"',
        b'{"a":{"b"}}',
        b'{"a":{"b":1,}}',
        b'{"a":{"b":1 2}}',
        b'{"a":{',
        b'{"a":[',
        b'{"a":[1',
        b'{"a":[1 2]}',
        b'{"a":[1,]}',
        b'{"a":[1}}',
        b'{"a":{"b',
        b'{"a":tru}',
        b'{"a":falze}',
        b'{"a":nul',
        b"{,}",
        b"[1,",
        b"tru",
        b'"',
        b"-",
    ],
)
def test_what_is_no_json(line: bytes) -> None:
    for data in (line, line + b"\n" + PADDING):
        (rejected,) = fasttail.parse(data).rejected
        assert rejected.reason == "not valid JSON"
        assert rejected.offset <= rejected.at <= len(line)


@pytest.mark.parametrize(
    "value", [b"5", b"null", b"{}", b'[{"time":5}]', b"[5]", b"[{},5]", b"[[]]", b'["x"]']
)
def test_events_that_are_none(value: bytes) -> None:
    assert len(check(envelope([]).replace(b"[]", value)).rejected) == 1
    assert len(check(envelope([event()]).replace(b"]}", b"," + value.strip(b"[]") + b"]}")).rejected) == 1


def test_a_last_line_without_newline_whose_events_are_long() -> None:
    """Near the end of the data, the fast path leaves events of an unterminated line to the general path."""
    for data in (envelope([event()] * 9), PADDING + envelope([event(), event(oid=5)])):
        assert fasttail.parse(data[:-1]).to_pylist() == fasttail.parse(data).to_pylist()
        assert len(fasttail.parse(data[:-2]).rejected) == 1


def test_every_column() -> None:
    batch = fasttail.parse(
        plain(event(), event(isTrigger=True, reduceOnly=True, status="new", tif=None, triggerPx="2.5"))
    )
    numbers = {
        "oid": [412036451268] * 2,
        "timestamp": [1778002753024] * 2,
        "time_ns": [1778002754852711983] * 2,
        "limitPx": [65045.0] * 2,
        "sz": [0.0003] * 2,
        "origSz": [0.0004] * 2,
        "coin_code": [1, 1],
        "status_code": [1, 0],
        "orderType_code": [1, 1],
        "tif_code": [3, 0],
        "flags": [0, 5],
    }
    for name, values in numbers.items():
        assert batch.column(name).tolist() == values
        assert len(numpy.asarray(batch.column(name))) == 2
    for name in ("limitPx", "sz", "origSz"):
        assert batch.column(f"{name}_text") == [row[name] for row in batch.to_pylist()]


def test_how_a_column_may_be_asked_for() -> None:
    column = fasttail.parse(plain(event())).column("oid").obj
    assert len(column) == 1
    with pytest.raises(TypeError, match="read-write"):
        io.BytesIO(b"12345678").readinto(column)
    with pytest.raises(BufferError, match="strided"):
        zlib.crc32(column)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 256"):
        fasttail.parse(b"", workers=257)
    with pytest.raises(TypeError, match="made by compiled code"):
        table.RowTable()
    with pytest.raises(TypeError):
        pool.WorkerPool(1, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected one of"):
        isa.use("mmx")


def test_every_instruction_set_gives_the_same() -> None:
    before = isa.name()
    data = plain(*[event(oid=i, sz=f"{i}.{i}", coin=f"C{i}") for i in range(200)]) + envelope(
        [event(), event(cloid=None)]
    )
    expected, _ = plain_reader.read(data)
    try:
        for name in isa.available():
            isa.use(name)
            assert isa.name() == name
            assert fasttail.parse(data).to_pylist() == expected
    finally:
        isa.use(before)


@pytest.mark.parametrize("escaped", [False, True])
def test_keys_that_are_nearly_known(escaped: bool) -> None:
    """Keys that resemble known ones are not mistaken for them; their values would have the wrong type."""
    keys = list(BASE) + list(BASE["order"]) + ["block_number", "events"]
    nearly = {made for key in keys for made in (key + "x", key[:-1], key + "\0", key + "\0x", key.swapcase())}
    nearly |= {"", "\0", *(start + "n" * n for start in ("", "triggerCondition") for n in range(1, 40))}
    for key in sorted(nearly - set(keys)):
        text = "".join(f"\\u{ord(c):04x}" for c in key) if escaped else orjson.dumps(key).decode()[1:-1]
        for before in (b'"oid"', b'"user"'):
            line = plain(event()).replace(before, b'"' + text.encode() + b'":[5],' + before)
            assert check(line).rejected == [], key


def test_every_key_written_with_escapes() -> None:
    for key in [*BASE, *BASE["order"]]:
        escaped = b'"' + b"".join(b"\\u%04x" % ord(c) for c in key) + b'":'
        assert check(plain(event()).replace(b'"%b":' % key.encode(), escaped)).rejected == []


@pytest.mark.parametrize("blank", [b" ", b"\t", b"\r", b" \t", b"\n", b"\x0b", b"\x0c", b"\0"])
def test_blanks_in_runs_of_any_length(blank: bytes) -> None:
    for count in (1, 2, 3, 15, 16, 17, 18, 31, 32, 33, 34, 100):
        for place in (b'{"time"', b'"user"', b'"coin"', b"}}"):
            line = plain(event()).removesuffix(b"\n").replace(place, blank * count + place)
            rejected = check(line + blank * count + b"\n").rejected
            assert bool(rejected) == (blank[0] not in b" \t\r") or blank == b"\n"


def test_a_line_ends_at_a_newline_as_at_the_end_of_the_data() -> None:
    """A line cut anywhere gives the same error at the same byte, whatever follows the newline."""
    made = event(coin="é\N{EURO SIGN}\n\U0001f600", children=[{"a": [1.5e-3, True, None, {}]}], hash="0x1")
    line = orjson.dumps(made).replace(b":", b" : ").replace(b'"BTC', rb'"\ud83d\ude00')
    for cut in range(1, len(line)):
        start = line[:cut]
        for head in (start, start.replace(b'{"time" : ', b'{"time":'), b"[" + start, line[cut:]):
            alone = fasttail.parse(head).rejected
            assert fasttail.parse(head + b"\n" + line[cut:] + b"\n" + PADDING).rejected[:1] == alone, head


def test_what_is_said_of_rejected_lines() -> None:
    """Rejected lines are listed in order as `Rejected`, even more than a worker's list holds."""
    line = b'{"time":5,"order":{}}\n'
    for workers in (1, 2, 3):
        batch = fasttail.parse(line * 30_000, workers=workers)
        assert batch.rejected == [
            Rejected(at, at + 8, "time: of another type") for at in range(0, 30_000 * len(line), len(line))
        ]
        assert {type(each) for each in batch.rejected} == {Rejected}
        assert {hash(each) for each in batch.rejected[:9]} == {
            hash(tuple(each)) for each in batch.rejected[:9]
        }
    assert repr(batch.rejected[1]) == "Rejected(offset=22, at=30, reason='time: of another type')"


def _shuffled(rng: random.Random, made: dict[str, Any]) -> dict[str, Any]:
    made["order"] = dict(rng.sample(list(made["order"].items()), len(made["order"])))
    return dict(rng.sample(list(made.items()), len(made)))


def _check_outlined(line: bytes, shuffled: list[bytes]) -> None:
    """Parse the line among shuffled ones, and alone, where it does not use the structural index."""
    warm = b"\n".join(shuffled[:2]) + b"\n"
    batch = fasttail.parse(warm + line + b"\n" + b"\n".join(shuffled[2:8]) + b"\n")
    alone = fasttail.parse(line)
    assert batch.to_pylist()[2:-6] == alone.to_pylist(), line
    assert [(each.at - len(warm), each.reason) for each in batch.rejected] == [
        (each.at, each.reason) for each in alone.rejected
    ], line
    assert len(batch) == 8 + len(alone)


def test_lines_that_go_by_their_outline() -> None:
    """After lines with shuffled keys, which enable the structural index, any line reads as without it."""
    rng = random.Random(7)
    shuffled = [orjson.dumps(_shuffled(rng, event(oid=n, coin=f"C{n % 50}"))) for n in range(40)]
    base = event(coin="ODD", children=[{"a": {"b": [1, "{]"]}}, []], builder={"b": "0x}", "f": 1}, tif=None)
    tried = []
    for spaced in (False, True):
        for _ in range(3):
            made = _shuffled(rng, json.loads(orjson.dumps(base)))
            line = json.dumps(made).encode() if spaced else orjson.dumps(made)
            tried.append(line)
            tried += [line[:at] + line[at + 1 :] for at in range(len(line))]  # one byte missing
            tried += [
                line[:at] + bytes([byte]) + line[at + cut :]  # a byte inserted, or replaced by another
                for byte in b' "{}[]:,\\\t\r\x00\x7f\x80a0-'
                for at in range(0, len(line), 7)
                for cut in (0, 1)
            ]
            marks = [at for at, byte in enumerate(line) if byte in b' "{}[]:,']
            tried += [
                line[: at + 1] + more + line[at + 1 :] for at in marks for more in (b" ", b"x", b'"a"', b"{}")
            ]
    behind = [b"", b" ", b"}", b",", b" x"]
    tried += [shuffled[0] + more for more in behind] + [more + shuffled[0] for more in behind]
    text = shuffled[1]
    for old, new in (
        (b"0", b"00"),
        (b"false", b"fals"),
        (b"false", b'"false'),
        (b"null", b"nul"),
        (b'"', b'""'),
    ):
        at = text.index(old)
        tried.append(text[:at] + new + text[at + len(old) :])
    # duplicate and unknown keys, lines near the maximum length for an index, and 64-byte boundaries
    tried += [text[:-1] + b"," + text[1:], text[:-1] + b',"more":1}', text.replace(b'"user":', b'"time":')]
    tried += [
        b"{" + more + text[1:] for more in (b'"user":x,', b'"order":1,', b'"order":{"coin":x},', b'"oid":1,')
    ]
    tried += [
        text[:-1] + more + b"}" for more in (b',"order":1', b',"order":{}', b',"hash":[1', b',"hash":[1]]')
    ]
    for length in (*range(70), *range(1024 - len(text) - 3, 1024 - len(text) + 4)):
        tried.append(text.replace(b'"user":"', b'"user":"' + b"x" * length))
    before = isa.name()
    try:
        for name in isa.available():
            isa.use(name)
            for line in tried:
                _check_outlined(line, shuffled)
    finally:
        isa.use(before)


def test_coins_of_rejected_lines_get_no_code() -> None:
    """With one worker, coins get their codes while parsing, and those of a rejected line are revoked."""
    many = [event(coin=f"NEW{n}") for n in range(200)]
    for bad in (
        envelope([*many, event(coin="BAD", sz="x")]),
        plain(event(coin="BAD")).replace(b"}}", b"}}}"),
        plain(_shuffled(random.Random(1), event(coin="BAD"))).replace(b"}\n", b"}x\n"),
    ):
        data = (
            plain(event(coin="FIRST")) + bad + plain(event(coin="NEW7")) + plain(event(coin="NEW3")) + PADDING
        )
        for workers in (1, 2):
            batch = fasttail.parse(data, workers=workers)
            assert len(batch.rejected) == 1
            assert batch.coins[:4] == ["", "FIRST", "NEW7", "NEW3"]
            assert batch.column("coin_code").tolist()[:3] == [1, 2, 3]
            assert len(batch.coins) == 5


def test_large_data_and_a_shared_line_within() -> None:
    """The data is large enough for huge pages, and for pages that are released with the table."""
    line = plain(event())
    data = line * ((40 << 20) // len(line)) + line[:-1]
    batch = fasttail.parse(data, workers=3)
    assert len(batch) == batch.lines == len(data) // len(line) + 1
    assert batch.sums()["oid"] == BASE["order"]["oid"] * len(batch)
    del batch
    assert len(fasttail.parse(line)) == 1


def test_rejects_while_a_line_is_shared() -> None:
    """Rejected lines fill their lists beside a shared line, so the batch is cut again at newlines."""
    data = b"broken\n" * 3000 + envelope([event(oid=i) for i in range(2000)]) + b"broken\n" * 3000
    for workers in (2, 3, 4):
        batch = fasttail.parse(data, workers=workers)
        assert (len(batch), len(batch.rejected), batch.lines) == (2000, 6000, 6001)


def test_memory_of_a_long_line_is_given_back(tmp_path: Path) -> None:
    """The pipeline releases tables that only a line longer than its window needed."""
    events = [event(oid=i) for i in range(1500)]
    hour_file(tmp_path, "by_block", "20260505", 9).write_bytes(envelope(events) + envelope([event()]))
    with Drive(tmp_path) as drive:
        drive.until_lines(2)
    assert len(drive.updates()) == 1501
