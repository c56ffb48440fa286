"""JSON's corner cases, wherever a value can stand in a line; the parser must agree with orjson."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from agree import agree, isa_restored
from lines import BASE, envelope, event, plain

import fasttail
from fasttail.streams import isa

HOLE = b'"@"'

VALID = {
    "structure": [
        b"{}", b"[]", b"[[]]", b"[{}]", b'{"":{}}', b"[[],[[]]]", b'{"a":[{"b":[]}]}',
        b'[1,"a",null,true,false,{}]',
        b'{"a":1,"a":2}', b'{"a":1,"a":1}', b'{"":0}', b'{"":0,"":1}', b'{"a":{"a":{"a":"a"}}}',
        b'[null,null]',
        b'{"order":5,"events":[],"time":null}', b'[{"time":"x"},{"time":"y"}]', b'["},{\\"time\\":\\""]',
        b'{"\\u0061":1,"a":2}', b'{"a\\u0000b":1}', b'{"' + b"k" * 300 + b'":1}', b'["a","b"]',
    ],
    "white space": [
        b" [ ] ", b"\t{\t}\t", b"\r[\r1\r,\r2\r]\r", b'{ "a" : 1 , "b" : [ ] }', b"   1   ",
        b'\t\r "x"\t\r ', b" null ",
        b"[1 ,2]", b"[1, 2]", b'{"a" :1}', b'{"a": 1}', b" " * 100 + b"1" + b" " * 100,
    ],
    "literals": [b"null", b"true", b"false", b"[true]", b"[null,false]"],
    "numbers": [
        b"0", b"-0", b"1", b"-1", b"9", b"10", b"0.0", b"-0.0", b"0.5", b"1.0", b"-1.5", b"123.456", b"1e0",
        b"1E0", b"1e+0",
        b"1e-0", b"1E+1", b"1E-1", b"0e0", b"0e1", b"0E+1", b"0e-1", b"-0e1", b"1e01",
        b"1e00000000000000000001", b"1.5e3",
        b"1.5E-3", b"20e1", b"123e65", b"1e22", b"1e23", b"0.1", b"3.141592653589793238462643383279",
        b"1e-400", b"-1e-400",
        b"1e-999999999", b"1e-99999999999999999999", b"0e999999999", b"0e99999999999999999999",
        b"-0.000e999999999",
        b"0.0e+99999999999", b"5e-324", b"2e-324", b"2.2250738585072014e-308", b"9007199254740991",
        b"9007199254740992",
        b"9007199254740993", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808",
        b"-9223372036854775809", b"18446744073709551615", b"18446744073709551616", b"-18446744073709551616",
        b"100000000000000000000", b"1" + b"0" * 308, b"-1" + b"0" * 308, b"9" * 308, b"1e308", b"-1e308",
        b"1.7976931348623157e308", b"-1.7976931348623157e308", b"1.7976931348623158e308",
        b"17976931348623157e292",
        b"0." + b"0" * 500 + b"1e500", b"0." + b"0" * 500 + b"17e809", b"0." + b"0" * 400 + b"1e709",
        b"1" + b"0" * 400 + b"e-100",
        b"1" * 400 + b"e-92", b"1" * 400 + b"e-400", b"0." + b"1" * 400, b"1." + b"9" * 400,
        b"0." + b"0" * 399 + b"1",
        b"0" + b"." + b"0" * 1000, b"17" + b"0" * 400 + b"." + b"0" * 50 + b"e-94", b"[1,1.0,1e0,-0]",
    ],
    "strings": [
        b'""', b'"a"', b'" "', b'"\x7f"', b'"a\x7fb"', b'"/"', b'"[]{},:"', b"\"'\"",
        b'"' + b"a" * 1000 + b'"',
        "é".join('""').encode(), '"€"'.encode(), '"😀"'.encode(), b'"\xc2\x80"', b'"\xdf\xbf"',
        b'"\xe0\xa0\x80"', b'"\xed\x9f\xbf"',
        b'"\xee\x80\x80"', b'"\xef\xbf\xbd"', b'"\xef\xbf\xbe"', b'"\xef\xbf\xbf"', b'"\xef\xb7\x90"',
        b'"\xf0\x90\x80\x80"',
        b'"\xf0\x9f\xbf\xbe"', b'"\xf4\x8f\xbf\xbf"', b'"\xef\xbb\xbf"', b'"a\xe2\x80\xa8\xe2\x80\xa9"',
        b'"' + b"\xc3\xa9" * 64 + b'"',
    ],
    "escapes": [
        b'"\\""', b'"\\\\"', b'"\\/"', b'"\\b"', b'"\\f"', b'"\\n"', b'"\\r"', b'"\\t"', b'"\\\\\\""',
        b'"\\\\n"', b'"\\\\\\\\"',
        b'"\\u0000"', b'"\\u0022"', b'"\\u005c"', b'"\\u005C"', b'"\\u0061"', b'"\\u00e9"', b'"\\u00E9"',
        b'"\\u20AC"', b'"\\u20ac"',
        b'"\\uFFFF"', b'"\\uffff"', b'"\\uFFFE"', b'"\\uD7FF"', b'"\\uE000"', b'"\\u001f"', b'"\\u007f"',
        b'"\\u0080"', b'"\\u07ff"',
        b'"\\u0800"', b'"\\uABCD\\uabcd"', b'"\\u0123\\u4567\\u89AB\\ucDeF"',
        b'"\\"\\\\\\/\\b\\f\\n\\r\\t"', b'"\\u0041bc"',
        b'"x\\u006Fy"', b'"' + b"\\u0061" * 50 + b'"', b'"' + b"\\n" * 400 + b'"',
    ],
    "surrogates": [
        b'"\\ud800\\udc00"', b'"\\uD800\\uDC00"', b'"\\ud83d\\ude00"', b'"\\uD83D\\uDE00"',
        b'"\\udbff\\udfff"', b'"\\uDBFF\\uDFFE"',
        b'"\\ud834\\udd1e x"', b'"\\ud83d\\ude39\\ud83d\\udc8d"', b'"\\\\ud800"', b'"\\\\\\ud800\\udc00"',
        b'"\\ud800\\udfff"',
    ],
}  # fmt: skip

INVALID = {
    "structure": [
        b"", b"[", b"]", b"{", b"}", b"[1", b"[1,", b"[,1]", b"[1,,2]", b"[1,]", b"[,]", b"[1 2]", b"[1:2]",
        b"[[1]", b"[1]]",
        b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":1,}', b'{,"a":1}', b'{"a":1,,"b":2}', b'{"a" 1}',
        b'{"a",1}', b'{"a"::1}',
        b'{"a":1:2}', b'{"a":1 "b":2}', b"{1:1}", b"{null:1}", b"{a:1}", b"{'a':1}", b'{"a":}', b'{"a"}',
        b'{:1}', b"{{}}", b"[}",
        b"{]", b'{"a":[}', b'[{]}', b'["a":1]', b"[1}", b'{"a":1]', b'{[]:1}', b'{"a":1;"b":2}', b"(1)",
        b"<1>", b"[1;2]",
        b"[/**/]", b"[1]//", b"/**/1", b"#1", b"*", b"[*]", b"&", b"\\", b"[\\u000a]", b":", b",",
    ],
    "white space": [
        b"[\x0c]", b"[\x0b]", b"\x0c1", b"1\x0c", b"[\xc2\xa0]", b"[\xe2\x81\xa0]", b"[\xe3\x80\x80]",
        b"[\xef\xbb\xbf]", b"\x1f[]", b"[\x00]",
        b"[1\x001]", b'{"a"\x00:1}', b'{"a":\x00 1}', b"1\x00", b"\x851", b"\xa01",
    ],
    "literals": [
        b"nul", b"nulll", b"tru", b"truee", b"fals", b"falsee", b"True", b"FALSE", b"Null", b"NULL", b"nan",
        b"NaN", b"-NaN", b"+NaN",
        b"inf", b"Infinity", b"-Infinity", b"+Infinity", b"-inf", b"undefined", b"none", b"None", b"t",
        b"n", b"f", b"nil", b"x", b"nxll",
        b"tXue", b"trXe", b"truX", b"fXlse", b"faXse", b"falXe", b"falsX", b"nuXl", b"nulX", b"[nul]",
        b"[tru]", b"[fals]",
        b"nulL", b"true1", b"null0", b"@", b"'a'", b"`a`", b"abc",
    ],
    "numbers": [
        b"+1", b"++1", b"--1", b"-", b"+", b"-a", b"- 1", b"01", b"-01", b"00", b"-00", b"012", b"0123.5",
        b".5", b"-.5", b".", b"1.", b"-1.",
        b"0.", b"1.e1", b"1.E1", b"0.e1", b"1e", b"1E", b"1e+", b"1e-", b"1E+", b"0e", b"0e+", b"0E-",
        b"1.5e", b"1.5e+", b"1ee1", b"1e1e1",
        b"1e1.5", b"1e.5", b"1.2.3", b"1..2", b"1,5e", b"1_000", b"1 000", b"1a", b"1x", b"0x1", b"0x",
        b"0X1F", b"0b1", b"0o7", b"1f", b"1L",
        b"1.0f", b"1e5d", b"1/2", b"1+2", b"1-2", b"2.e3", b"2.e-3", b"9.e+", b"-1x", b"-2.", b"1e+-2",
        b"\xef\xbc\x91", b"1\xef\xbc\x91",
        b"1e400", b"-1e400", b"1e309", b"1E+309", b"1e99999999999999999999", b"-1e999999999", b"1.8e308",
        b"1.7976931348623159e308",
        b"17976931348623159e292", b"1" + b"0" * 309, b"-1" + b"0" * 309, b"9" * 309, b"9" * 400,
        b"-" + b"9" * 400, b"1" + b"0" * 399,
        b"0.1e400", b"0.0001e313", b"10e308", b"0." + b"0" * 500 + b"19e809", b"0." + b"0" * 400 + b"18e709",
        b"-0." + b"0" * 500 + b"19e809", b"1" * 400 + b"e-90", b"18" + b"0" * 400 + b".5e-93",
        b"1." + b"9" * 400 + b"e308",
        b"[1e400]", b'{"a":-1e400}', b"[0,1e999]",
    ],
    "strings": [
        b'"', b'"a', b'a"', b'"a""', b'""a', b'"a"b', b'"a" "b"', b"'", b"'a'", b'"a\x00b"', b'"\x00"',
        b'"\x01"', b'"\x08"', b'"\t"', b'"\x0c"',
        b'"\r"', b'"\x1f"', b'"a\x1fb"', b'"' + b"a" * 100 + b'\x1f"', b'"' + b"a" * 33 + b'\x00"', b"\xe9",
        b"a", b'["a', b'["a]', b'["a,"b"]',
    ],
    "escapes": [
        b'"\\"', b'"\\', b'"\\\\\\"', b'"\\a"', b'"\\v"', b'"\\0"', b'"\\x41"', b"\"\\'\"", b'"\\U0041"',
        b'"\\N"', b'"\\ "', b'"\\\x00"', b'"\\\t"',
        b'"\\\xc3\xa9"', b'"\\\xff"', b'"\\u"', b'"\\u0"', b'"\\u00"', b'"\\u004"', b'"\\u004g"',
        b'"\\u00g1"', b'"\\u0g41"', b'"\\ug041"',
        b'"\\u 041"', b'"\\u-041"', b'"\\u+041"', b'"\\u00\\u41"', b'"\\u00\xc3\xa9"', b'"\\u0', b'"\\u00A',
        b'"\\u00A"x', b'\\n', b'"a\\',
        b'"\\{"', b'"\\u@000"', b'"\\u:000"', b'"\\u000G"', b'"\\u000`"', b'"\\u/000"',
    ],
    "surrogates": [
        b'"\\ud800"', b'"\\uD800"', b'"\\udbff"', b'"\\udc00"', b'"\\uDFFF"', b'"\\ud800a"',
        b'"\\ud800\\n"', b'"\\ud800\\u0041"',
        b'"\\ud800\\ud800"', b'"\\ud800\\ue000"', b'"\\ud800\\udbff"', b'"\\udc00\\ud800"', b'"\\ud800\\u"',
        b'"\\ud800\\u1"', b'"\\ud800\\udc0"',
        b'"\\ud800\\uxxxx"', b'"\\ud800\\', b'"\\ud800\\udc00\\udc00"', b'"\\ud800\\ud800\\udc00"',
        b'"\\ud800\\\\udc00"', b'"\\ud800 \\udc00"',
        b'"\\udbff\\u"', b'"\\ud83d\xed\xb8\x80"',
    ],
    "UTF-8": [
        b'"\x80"', b'"\xbf"', b'"\xff"', b'"\xfe"', b'"\xc0\x80"', b'"\xc0\xaf"', b'"\xc1\xbf"', b'"\xc2"',
        b'"\xc2\x41"', b'"\xc2\xc2"', b'"\xc3\x28"',
        b'"\xdf"', b'"\xe0\x80\x80"', b'"\xe0\x9f\xbf"', b'"\xe2\x82"', b'"\xe2\x28\xa1"',
        b'"\xe2\x82\x28"', b'"\xed\xa0\x80"', b'"\xed\xbf\xbf"',
        b'"\xed\xa0\xbd\xed\xb8\x80"', b'"\xef\xbf"', b'"\xef\xbf\xc0"', b'"\xf0\x80\x80\x80"',
        b'"\xf0\x8f\xbf\xbf"', b'"\xf0\x9f\x98"', b'"\xf0\x9f"',
        b'"\xf0\x28\x8c\xbc"', b'"\xf0\x90\x28\xbc"', b'"\xf0\x90\x80\x28"', b'"\xf4\x90\x80\x80"',
        b'"\xf5\x80\x80\x80"', b'"\xf8\x88\x80\x80\x80"',
        b'"\xfc\x84\x80\x80\x80\x80"', b'"a\xe9"', b'"' + b"a" * 63 + b'\x80"',
        b'"' + b"\xc3\xa9" * 32 + b'\xc3"', b'["\xff"]', b'{"\xff":0}', b"[\xff]",
        b'"\xe0\xff"', b'"\x81\x81"', b'"\xe0\xa0',
    ],
    "BOM and NUL": [
        b"\xef\xbb\xbf{}", b"\xef\xbb\xbf", b"\xef\xbb{}", b"\xfe\xff\x00[", b"\xff\xfe[\x00]\x00", b"\x00",
        b"{}\x00", b"\x00\x00{}", b"[1,\x00]", b"[]\xef\xbb\xbf",
    ],
    "trailing": [
        b"{}{}", b"{}[]", b"[][]", b"{}x", b"{}}", b"[]]", b"{},", b"[],", b"1 2", b"1,2", b'"a"1',
        b"null null", b"nulltrue", b"{} x", b"[]#", b'{}"', b"{}:", b"{}/",
        b"1]", b"1}", b'""""', b'{"a":1}{"a":2}', b"[1]x", b"5 x", b'"x" y', b"true false",
    ],
}  # fmt: skip

KEYS = sorted({*BASE, *BASE["order"], "local_time", "block_time", "block_number", "events"})


def insert(line: bytes, mark: bytes, text: bytes, behind: bool = True) -> bytes:
    """Insert `text` after (or before) the only `mark` of the line."""
    assert line.count(mark) == 1, (line, mark)
    return line.replace(mark, mark + text if behind else text + mark)


def unknown_places() -> Iterator[bytes]:
    """Yield an event with a hole at every place where an unknown value can stand."""
    rich = plain(event(builder={"b": "0x12", "f": 5}, children=[dict(BASE["order"], oid=5)]))[:-1]
    base = plain(event())[:-1]
    more = b'"more":' + HOLE
    yield b"{" + more + b"," + base[1:]
    yield base[:-1] + b"," + more + b"}"
    yield insert(base, b'"status":', more + b",", behind=False)
    yield insert(base, b'"order":{', more + b",")
    yield base[:-2] + b"," + more + b"}}"
    yield insert(base, b'"tif":', more + b",", behind=False)
    yield insert(rich, b'"builder":{', more + b",")
    yield insert(rich, b'"f":5', b"," + more)
    yield insert(rich, b'"children":[{', more + b",")
    yield insert(base, b'"children":[', HOLE)
    yield insert(base, b'"children":[', b"{}," + HOLE + b",[]")
    yield insert(base, b'"children":[', b"[" + HOLE + b"]")


def repeated_places() -> Iterator[bytes]:
    """Yield events with a duplicate key whose first value is a hole; the last one counts."""
    base = plain(event())[:-1]
    for key in (
        b"time",
        b"status",
        b"builder",
        b"order",
        b"oid",
        b"limitPx",
        b"children",
        b"isTrigger",
        b"cloid",
    ):
        yield insert(base, b'"%s":' % key, b'"%s":%s,' % (key, HOLE), behind=False)


def known_places() -> Iterator[bytes]:
    """Yield an event with a hole as the value of each key."""
    for key in KEYS:
        if key in BASE or key in BASE["order"]:
            yield plain(event(**{key: "@"}))[:-1]


def of_layouts(made: bytes) -> Iterator[bytes]:
    """Yield the event as a plain line, a streaming line, and as first, middle and last of a by_block line."""
    good = plain(event())[:-1]
    yield made
    for events in ((made,), (made, good, good), (good, made, good), (good, good, made)):
        yield envelope([])[:-3] + b",".join(events) + b"]}"


def envelope_places() -> Iterator[bytes]:
    line = envelope([event(), event()])[:-1]
    more = b'"more":' + HOLE
    yield b"{" + more + b"," + line[1:]
    yield line[:-1] + b"," + more + b"}"
    yield insert(line, b'"events":', more + b",", behind=False)
    yield insert(line, b'"events":[', HOLE + b",")
    yield insert(line, b'"block_number":', b'"block_number":' + HOLE + b",", behind=False)
    for key in ("local_time", "block_time", "block_number"):
        changes: dict[str, Any] = {key: "@"}
        yield envelope([event()], **changes)[:-1]
    yield envelope([])[:-3].removesuffix(b"[") + HOLE + b"}"


PLACES = [
    *(line for made in unknown_places() for line in of_layouts(made)),
    *(line for made in repeated_places() for line in list(of_layouts(made))[:2]),
    *(line for made in known_places() for line in list(of_layouts(made))[:2]),
    *envelope_places(),
    HOLE,
]


def filled(case: bytes, place: bytes) -> bytes:
    return place.replace(HOLE, case)


@pytest.fixture(autouse=True)
def _isa() -> Iterator[None]:
    with isa_restored():
        yield


@pytest.fixture
def deep() -> Iterator[None]:
    """Raise the recursion limit, because comparing values of 1,024 levels needs it."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    yield
    sys.setrecursionlimit(before)


def test_the_cases_are_what_they_say() -> None:
    """This checks the cases themselves: orjson accepts exactly those in VALID."""
    for cases in VALID.values():
        for case in cases:
            orjson.loads(case)
    for cases in INVALID.values():
        for case in cases:
            with pytest.raises(orjson.JSONDecodeError):
                orjson.loads(case)
    assert sum(map(len, (*VALID.values(), *INVALID.values()))) > 450
    assert isa.name() in isa.available()


@pytest.mark.parametrize("kind", VALID)
def test_valid(kind: str) -> None:
    done = agree(filled(case, place) for case in VALID[kind] for place in PLACES)
    # the parser agrees with the oracle, which accepts each case as an unknown value
    wrong = set(done.rejected)
    at = 0
    for _ in VALID[kind]:
        for number, place in enumerate(PLACES):
            line_end = done.data.index(b"\n", at)
            if number < UNKNOWN and b'"order":"@"' not in place:
                assert at not in wrong, done.data[at:line_end]
            at = line_end + 1


@pytest.mark.parametrize("kind", INVALID)
def test_invalid(kind: str) -> None:
    agree(filled(case, place) for case in INVALID[kind] for place in PLACES)


UNKNOWN = sum(len(list(of_layouts(made))) for made in unknown_places())


@pytest.mark.parametrize("kind", ["strings", "escapes", "surrogates", "UTF-8"])
def test_as_keys(kind: str) -> None:
    places = [
        place.replace(b'"more":' + HOLE, HOLE + b":[1]") for place in PLACES if b'"more":' + HOLE in place
    ]
    places.append(b"{%s:1}" % HOLE)
    assert len(places) > 40
    agree(filled(case, place) for case in VALID.get(kind, []) + INVALID[kind] for place in places)


def nests(depth: int) -> Iterator[bytes]:
    """Yield values of nesting `depth`: arrays, objects, alternating, and with neighbours."""
    yield b"[" * depth + b"]" * depth
    yield b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)
    yield b'[{"a":' * (depth // 2) + (b"[]" if depth % 2 else b"0") + b"}]" * (depth // 2)
    yield b'{"a":[' * (depth // 2) + (b"{}" if depth % 2 else b"0") + b"]}" * (depth // 2)
    yield b"[[]," * (depth - 1) + b"[]" + b",{}]" * (depth - 1)
    yield b"[ " * depth + b"0" + b" ]" * depth


def depth_around(place: bytes) -> int:
    """Return the number of brackets open at the hole."""
    before = re.sub(rb'"[^"]*"', b"", place[: place.index(HOLE)])
    return before.count(b"[") + before.count(b"{") - before.count(b"]") - before.count(b"}")


@pytest.mark.usefixtures("deep")
@pytest.mark.parametrize("total", [1023, 1024, 1025, 1026])
def test_nesting_is_counted_from_the_lines_first_bracket(total: int) -> None:
    places = [
        *(line for made in unknown_places() for line in of_layouts(made)),
        *(line for key in ("builder", "children") for line in of_layouts(plain(event(**{key: "@"}))[:-1])),
        *envelope_places(),
        HOLE,
    ]
    assert {depth_around(place) for place in places} == {0, 1, 2, 3, 4, 5, 6}
    lines = [filled(nest, place) for place in places for nest in nests(total - depth_around(place))]
    done = agree(lines)
    said = {each.reason for each in fasttail.parse(done.data).rejected}
    assert ("nested deeper than 1024" in said) == (total > 1024)
    assert total <= 1024 or said == {"nested deeper than 1024"}


def test_a_very_deep_line_needs_no_stack() -> None:
    base = plain(event())[:-1]
    for opening in (b"[", b'{"a":'):
        for line in (opening * 2_000_000, base[:-1] + b',"more":' + opening * 2_000_000):
            agree([line])


def test_marks_and_holes_at_every_place() -> None:
    """A byte order mark, NUL, control byte, 0x7f or 0x80 before any byte of a line."""
    lines = []
    for line in (plain(event(builder={"b": "0x12", "f": 5}))[:-1], envelope([event()])[:-1]):
        for at in range(len(line) + 1):
            for mark in (b"\xef\xbb\xbf", b"\0", b"\x1f", b"\x7f", b"\x80", b"\\", b'"', b" ", b"\t", b"\r"):
                lines.append(line[:at] + mark + line[at:])
    agree(lines)
