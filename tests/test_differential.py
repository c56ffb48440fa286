"""The parser against the plain reader: generated text, broken lines, every branch of the template path."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path

import plain_reader
import pytest
from agree import PADDING, agree, isa_restored
from hypothesis import given, settings
from hypothesis import strategies as st
from lines import BASE, envelope, event, plain

import fasttail
from fasttail.streams import isa
from fasttail.streams.vocabulary import ORDER_TYPE_NAMES, STATUS_NAMES, TIF_NAMES

FLIPS = (0x01, 0x80, 0x02, 0x40, 0x04, 0x20, 0x08, 0x10)


@pytest.fixture(autouse=True)
def _isa() -> Iterator[None]:
    with isa_restored():
        yield


# ---------------------------------------------------------------- text by grammar
NUMBERS = (
    "0", "-0", "1", "-1", "0.0", "-0.0", "0e0", "1e5", "1E+5", "1e-5", "12.50", "9007199254740992",
    "9007199254740993",
    "-9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615", "18446744073709551616", "1.7976931348623157e308", "1.7976931348623159e308",
    "5e-324", "1e-400",
    "1e400", "-1e309", "0e999999999", "1" * 40, "9" * 309, "01", "1.", ".5", "+1", "-", "1e", "0x1",
)  # fmt: skip
TEXTS = (
    "", "a", "BTC", "xyz:XYZ100", "é", "€uro", "😀", "\x7f", "\x00", "\n", "\t\r\b\f", '"', "\\", "/",
    "\\u0041", '"}]',
    '},{"time":"', "u" * 41, "u" * 42, "u" * 43, "x" * 63, "x" * 64, "x" * 65, "x" * 130, "ÿ" * 32,
    "\ufffe\uffff", "\U0010ffff",
)  # fmt: skip
BROKEN_TEXTS = (
    r'"\ud800"', r'"\udc00\ud800"', r'"\ud83d\u0041"', r'"\x41"', r'"\u00g0"', '"\x01"', '"\t"', '"', "'a'",
    r'"\"',
)  # fmt: skip
SHORT = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", '"': '"', "\\": "\\", "/": "/"}
STRANGE = (
    "nul", "True", "NaN", "-Infinity", "undefined", "[1,]", '{"a":1,}', "{1:2}", "[1 2]", "{}{}", "", ",",
    "/**/1",
)  # fmt: skip


class Writer:
    """Writes JSON text, mostly valid, in every form the grammar allows. Hypothesis makes every choice."""

    def __init__(self, source: random.Random, faults: bool) -> None:
        self.source = source
        self.faults = faults
        self.blanks = source.random() < 0.4

    def maybe(self, chance: float) -> bool:
        return self.source.random() < chance

    def blank(self) -> str:
        return self.source.choice(("", "", " ", "\t", "\r", " \t \r")) if self.blanks else ""

    def text(self, value: str) -> str:
        style = self.source.choice(("plain", "plain", "plain", "short", "units", "UNITS", "some"))
        chosen = self.source.randrange(len(value)) if value and style == "some" else -1
        made = []
        for at, c in enumerate(value):
            if style in ("units", "UNITS") or at == chosen:
                units = c.encode("utf-16-be").hex()
                units = units.upper() if style == "UNITS" else units
                made += [f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)]
            elif c in SHORT and (c in '"\\' or c < " " or style == "short"):
                made.append("\\" + SHORT[c])
            else:
                made.append(f"\\u{ord(c):04x}" if c < " " else c)
        return '"' + "".join(made) + '"'

    def value(self, depth: int = 0) -> str:
        kind = self.source.randrange(8 if depth < 4 else 5)
        if self.faults and self.maybe(0.02):
            return self.source.choice(STRANGE + BROKEN_TEXTS)
        if kind == 0:
            return self.source.choice(("null", "true", "false"))
        if kind == 1:
            return self.source.choice(NUMBERS[:-9] if not self.faults else NUMBERS)
        if kind <= 4:
            return self.text(self.source.choice(TEXTS))
        if kind == 5:
            return self.array([self.value(depth + 1) for _ in range(self.source.randrange(4))])
        keys = [self.source.choice((*TEXTS, *BASE["order"])) for _ in range(self.source.randrange(4))]
        return self.object([(key, self.value(depth + 1)) for key in keys])

    def array(self, values: list[str]) -> str:
        inside = ",".join(self.blank() + value + self.blank() for value in values)
        return f"[{inside or self.blank()}]"

    def object(self, items: list[tuple[str, str]]) -> str:
        inside = ",".join(
            f"{self.blank()}{self.text(key)}{self.blank()}:{self.blank()}{value}{self.blank()}"
            for key, value in items
        )
        return "{" + (inside or self.blank()) + "}"

    def decimal(self) -> str:
        pick = self.source.choice
        whole = pick(("0", "7", "65045", "9559659", "123456789012345", "9" * 20, "00", "", "-0", "-3"))
        text = whole + pick((".0", ".5", "", ".3399999999", "." + "0" * 30 + "1", ".", ".5 "))
        return text + pick(("", "", "", "e5", "E-7", "e+400", "e", "e-400"))

    def time(self) -> str:
        pick = self.source.choice
        day = pick(
            ("2026-05-05", "2024-02-29", "2023-02-29", "1970-01-01", "2261-12-31", "2262-01-01", "2026-04-31")
        )
        second = pick(("00:00:00", "23:59:59", "17:39:14", "24:00:00", "12:60:00"))
        return f"{day}T{second}" + pick(("", ".1", ".123", ".123456", ".123456789", ".", ".1234567890", "Z"))

    def known(self, key: str) -> str:
        """Return a value for a key of the schema, mostly of the right type."""
        if self.maybe(0.01):
            return self.value()
        if key in ("time", "block_time", "local_time"):
            return self.text(self.time() if self.maybe(0.1) else BASE["time"])
        if key in ("limitPx", "sz", "triggerPx", "origSz"):
            return self.text(self.decimal() if self.maybe(0.1) else BASE["order"][key])
        if key in ("oid", "timestamp", "block_number"):
            return self.source.choice(NUMBERS) if self.maybe(0.1) else str(self.source.randrange(10**16))
        if key in ("isTrigger", "isPositionTpsl", "reduceOnly"):
            return self.source.choice(("true", "false"))
        if key == "side":
            return self.text(self.source.choice("AAAAAABBBBBBBC"))
        if key == "children":
            count = self.source.choice((0, 0, 0, 1, 2))
            return self.array([self.order() if self.maybe(0.5) else self.value(2) for _ in range(count)])
        if key == "builder":
            return self.object([("b", self.text("0x12")), ("f", "5")]) if self.maybe(0.3) else "null"
        if key in ("hash", "cloid", "tif") and self.maybe(0.3):
            return "null"
        if key in ("status", "orderType", "tif") and self.maybe(0.5):
            return self.text(
                self.source.choice(
                    {"status": STATUS_NAMES, "orderType": ORDER_TYPE_NAMES, "tif": TIF_NAMES}[key]
                )
            )
        return self.text(self.source.choice(TEXTS) if self.maybe(0.3) else "0x" + "ab" * 20)

    def holder(self, keys: list[str], value: Callable[[str], str]) -> str:
        """Return an object with these keys, possibly shuffled, with missing, repeated or unknown ones."""
        if self.maybe(0.4):
            self.source.shuffle(keys)
        if self.maybe(0.03):
            keys.pop(self.source.randrange(len(keys)))
        items = [(key, value(key)) for key in keys]
        if self.maybe(0.15):
            items.insert(self.source.randrange(len(items) + 1), (self.source.choice(TEXTS), self.value()))
        if self.maybe(0.1):
            key = self.source.choice(keys)
            items.insert(self.source.randrange(len(items) + 1), (key, self.value()))
        return self.object(items)

    def order(self) -> str:
        return self.holder(list(BASE["order"]), self.known)

    def event(self) -> str:
        return self.holder(list(BASE), lambda key: self.order() if key == "order" else self.known(key))

    def line(self) -> bytes:
        if self.maybe(0.5):
            made = self.event()
        else:
            events = [self.event() for _ in range(self.source.randrange(3))]
            keys = ["local_time", "block_time", "block_number", "events"]
            made = self.holder(keys, lambda key: self.array(events) if key == "events" else self.known(key))
        return (self.blank() + made + self.blank()).encode("utf-8", "surrogatepass")


@settings(max_examples=250, deadline=None)
@given(source=st.randoms(use_true_random=False), faults=st.booleans())
def test_text_by_grammar(source: random.Random, faults: bool) -> None:
    writer = Writer(source, faults)
    line = writer.line()
    agree([line, line + b"\r", line[: source.randrange(len(line) + 1)]])


def test_text_by_grammar_in_bulk() -> None:
    """Many lines in one buffer: state that one line leaves in the parser must not affect the next."""
    source = random.Random(20260505)
    lines = [Writer(source, faults=bool(number % 3)).line() for number in range(4000)]
    done = agree(lines)
    assert len(done.orders) > 800
    assert len(done.rejected) > 800


# ---------------------------------------------------------------- broken lines
def branches() -> Iterator[bytes]:
    """Yield lines in the node's own form that take every branch of the template path."""
    text = "0123456789abcdef" * 10
    changes: list[dict[str, object]] = [
        {},
        {"hash": "0x" + "ab" * 32},
        {"hash": "0x12"},
        {"builder": {"b": "0x" + "12" * 20, "f": 15}},
        {"hash": "0x" + "ab" * 32, "builder": {"b": "0x12", "f": 0}},
        {"tif": None}, {"cloid": None}, {"tif": "FrontendMarket"}, {"cloid": "0x12"},
        {
            "isTrigger": True, "triggerCondition": "Price above 76717", "triggerPx": "76717.0",
            "orderType": "Stop Market",
            "tif": None, "cloid": None, "reduceOnly": True, "isPositionTpsl": True,
        },
        {"user": text[:41]}, {"user": text[:43]}, {"user": text[:64]},
        {"status": "perpMarginRejected"}, {"coin": "xyz:XYZ100"}, {"side": "A"},
        {"oid": 7}, {"oid": 12345678901}, {"oid": 123456789012345},
        {"timestamp": 0}, {"timestamp": 12345678},
        {"limitPx": "12345678901234.5"}, {"sz": "1e5"}, {"origSz": "123456789.12345678901"},
    ]  # fmt: skip
    for change in changes:
        yield plain(event(**change))[:-1]
    yield plain(event())[:-1].replace(b',"hash":null,"builder":null', b"")  # 2024
    yield envelope([])[:-1]
    yield envelope([event()])[:-1]
    yield envelope([event(hash="0x12"), event(tif=None)], number=12345678901234567)[:-1]


def flipped(line: bytes, times: int = 2) -> Iterator[bytes]:
    """Yield the line with one bit flipped, `times` times per position; the choice of the bit rotates."""
    for at in range(len(line)):
        for number in range(times):
            bit = FLIPS[(at * times + number) % 8]
            yield line[:at] + bytes([line[at] ^ bit]) + line[at + 1 :]


def cut(line: bytes) -> Iterator[bytes]:
    for at in range(len(line)):
        yield line[:at]


def test_one_flipped_bit_in_every_branch() -> None:
    done = agree((each for line in branches() for each in flipped(line)), workers=(3,))
    assert len(done.orders) > 1000


def test_all_flipped_bits_of_one_line() -> None:
    line = plain(event(hash="0x" + "ab" * 32, builder={"b": "0x12", "f": 5}))[:-1]
    agree(flipped(line, times=8), workers=(1,))


def test_every_byte_at_every_place_of_the_values() -> None:
    """All 256 bytes at each position that the template path reads by hand."""
    line = envelope([event()])[:-1]
    places: list[int] = []
    for mark, size in (
        (b'"local_time":"', 31), (b'"block_number":', 11), (b'"limitPx":"', 9), (b'"sz":"', 8), (b'"oid":',
        14),
        (b'"origSz":"', 8), (b'"cloid":"', 2), (b'"side":"', 3), (b'"tif":"', 5),
    ):  # fmt: skip
        at = line.index(mark) + len(mark)
        places += range(at, at + size)
    agree(
        (line[:at] + bytes([byte]) + line[at + 1 :] for at in places for byte in range(256) if byte != 10),
        workers=(1,),
    )


def test_cut_at_every_byte() -> None:
    agree((each for line in branches() for each in cut(line)), workers=(1,))


def test_the_end_of_the_data_may_be_anywhere() -> None:
    """The last line, without a newline and behind others, may have any length."""
    line = plain(event(hash="0x" + "ab" * 32))
    for name in isa.available():
        isa.use(name)
        for at in range(len(line)):
            data = PADDING + line[:at]
            rejected = fasttail.parse(data).rejected
            wanted = [] if at in (0, len(line) - 1) else [len(PADDING)]
            assert [each.offset for each in rejected] == wanted, (name, at)


def shortened(line: bytes) -> bytes:
    """Shorten a long block to its first events, and any other long line to its beginning."""
    if len(line) < 4000:
        return line
    at = line.find(b'},{"time":"', 1500)
    return line[:at] + b"}]}" if at >= 0 else line[:4000]


def test_broken_genuine_lines(real_data: Path) -> None:
    source = random.Random(3)
    lines = []
    for path in sorted(real_data.glob("*.jsonl")):
        found = path.read_bytes().splitlines()
        picked = [found[0], *source.sample(found, min(4, len(found)))]
        for number, line in enumerate(map(shortened, picked)):
            if number == 0 and "order_statuses" in path.name:
                lines += [*flipped(line, times=1), *cut(line)]
            for _ in range(40):
                at = source.randrange(len(line))
                lines += [line[:at], line[:at] + bytes([line[at] ^ source.choice(FLIPS)]) + line[at + 1 :]]
                lines.append(line[:at] + line[at + 1 :])
                lines.append(line[:at] + line[source.randrange(len(line)) :])
    done = agree((line for line in lines if b"\n" not in line), workers=(3,))
    assert len(done.orders) > 500
    assert len(done.rejected) > 5000


# ---------------------------------------------------------------- numbers and times
def test_decimals_of_every_length() -> None:
    """Decimals with 1 to 20 digits on each side of the point, leading zeros, signs and exponents."""
    digits = "98765432101234567899"
    texts = [f"{digits[:a]}.{digits[20 - b :]}" for a in range(1, 21) for b in range(1, 21)]
    texts += [f"0.{'0' * a}{digits[:b]}" for a in range(24) for b in range(1, 21)]
    texts += [f"1{'0' * a}.{'0' * b}" for a in range(20) for b in range(1, 20)]
    texts += [digits[:a] for a in range(1, 21)]
    wrong = [f"0{texts[number]}" for number in range(0, 400, 7)] + [f"{text}." for text in texts[-20:]]
    wrong += (
        [f"{text}x" for text in texts[::9]]
        + [f"x{text}" for text in texts[::9]]
        + [f"{text} " for text in texts[::50]]
    )
    changes = [{key: text} for text in texts for key in ("limitPx", "origSz")]
    changes += [{key: text} for text in texts[::5] for key in ("sz", "triggerPx")]
    changes += [
        {"sz": f"{sign}{text}{tail}"}
        for text in texts[::11]
        for sign, tail in (("-", ""), ("", "e-12"), ("-", "E+9"))
    ]
    good = agree((plain(event(**change))[:-1] for change in changes), workers=(1,))
    assert good.rejected == []
    bad = agree(
        (plain(event(**{key: text}))[:-1] for text in wrong for key in ("limitPx", "origSz")), workers=(1,)
    )
    assert len(bad.rejected) == 2 * len(wrong)


def test_decimals_that_are_hard_to_round() -> None:
    texts = [
        "9007199254740992.0", "9007199254740993.0", "9007199254740993", "9007199254740991.5",
        "900719925474099.3",
        "0.1", "0.3", "8.5", "1e22", "1e23", "-0", "-0.0", "0e999999999", "0.0e-999999999", "5e-324",
        "2.4703282292062327e-324",
        "2.4703282292062328e-324", "2.2250738585072011e-308", "2.2250738585072014e-308",
        "1.7976931348623157e308",
        "1.7976931348623159e308", "1e309", "-1e309", "1e400", "1e-400", "1e99999999999999999999",
        "1e-99999999999999999999",
        "1" + "0" * 400, "9" * 400, "0." + "0" * 400 + "1", "0." + "0" * 500 + "19e809",
        "0." + "0" * 500 + "17e809",
        "1" * 400 + "e-300", "1." + "1" * 1000, "1090544144181609348671888949248.0",
        "36893488147419103231.0", "18446744073709551615.0",
        "18446744073709551616.0", "99999999999999999999.9", "179769313486231580793" + "0" * 288,
        "17976931348623157e292",
    ]  # fmt: skip
    # exactly halfway between two neighbours, and one unit beside it in the 800th place
    half = "1.00000000000000011102230246251565404236316680908203125"
    texts += [half, half + "0" * 750 + "1", half[:-1] + "4" + "9" * 750, half + "0" * 800]
    source = random.Random(17)
    for _ in range(1500):
        text = str(source.randrange(10 ** source.randrange(1, 30))) + "." + str(source.randrange(10**12))
        texts.append(text if source.random() < 0.6 else f"{text}e{source.randrange(-330, 330)}")
    done = agree((plain(event(limitPx=text, triggerPx=text))[:-1] for text in texts), workers=(1,))
    assert done.rejected == []
    for name in isa.available():
        isa.use(name)
        values = fasttail.parse(done.data).column("limitPx").tolist()
        assert values[: len(texts)] == [float(text) for text in texts]


def test_times_at_every_edge() -> None:
    days = [
        "1969-12-31", "1970-01-01", "1972-02-29", "1999-12-31", "2000-02-29", "2023-02-28", "2023-02-29",
        "2024-02-29",
        "2024-02-30", "2099-12-31", "2100-02-28", "2100-02-29", "2100-03-01", "2200-02-29", "2261-12-31",
        "2262-01-01",
        "2262-04-11", "9999-12-31", "0000-01-01", "2026-00-01", "2026-13-01", "2026-01-00", "2026-01-32",
        "2026-99-99",
    ]  # fmt: skip
    days += [f"2026-{month:02}-{day:02}" for month in range(1, 13) for day in (1, 28, 29, 30, 31)]
    seconds = ["00:00:00", "23:59:59", "23:59:60", "24:00:00", "12:60:00"]
    texts = [f"{day}T{second}.123456789" for day in days for second in seconds]
    texts += [
        f"2026-05-05T17:39:14{fraction}" for n in range(12) for fraction in ("." + "9" * n, "." + "0" * n)
    ]
    texts += [
        f"2026-05-05{second}" for second in ("", "T", "T1:2:3", " 17:39:14", "T17:39:14Z", "T17:39:14+00:00")
    ]
    texts += [
        "",
        "x" * 29,
        "2026-05-05t17:39:14",
        "+026-05-05T17:39:14",
        "2026-05-05T17:39:14,5",
        "٢026-05-05T17:39:14",
    ]
    lines = [plain(event(time=text))[:-1] for text in texts]
    lines += [
        envelope([event(time=text)], block_time=text if number % 2 else BASE["time"], local_time=text)[:-1]
        for number, text in enumerate(texts)
    ]
    done = agree(lines, workers=(1,))
    assert len(done.orders) > 250
    # Every year's ends and the neighbours of the leap day, in order: the cached second must be invalidated.
    years = [
        f"{year}-{day}T00:00:00.000000001"
        for year in range(1970, 2262)
        for day in ("01-01", "02-28", "03-01", "12-31")
    ]
    done = agree((plain(event(time=text))[:-1] for text in years), workers=(1,))
    assert done.rejected == []


def test_integers_at_every_edge() -> None:
    edges = {0, 1, 9, 10, 99_999_999, 10**8, 10**15 - 1, 10**15, 10**16, 10**19, 10**20, 10**40}
    for power in (31, 32, 52, 53, 62, 63, 64, 65, 127):
        edges |= {2**power - 1, 2**power, 2**power + 1}
    for digits in range(1, 22):
        edges |= {10**digits - 1, int("1234567890" * 3) // 10 ** (30 - digits)}
    texts = [f"{sign}{number}" for number in sorted(edges) for sign in ("", "-")]
    texts += [
        "-0",
        "00",
        "01",
        "-01",
        "1.0",
        "1e3",
        "1E3",
        "0.0",
        "1.",
        "-",
        '"5"',
        "5x",
        "5 ",
        " 5",
        "\t5",
        "5,",
        "1_0",
        "0x5",
    ]
    base = envelope([event(oid="@oid", timestamp="@timestamp")], block_number="@block_number")[:-1]
    values = {"oid": b"412036451268", "timestamp": b"1778002753024", "block_number": b"985148182"}
    lines = []
    for key in values:
        line = base
        for other, value in values.items():
            if other != key:
                line = line.replace(b'"@%s"' % other.encode(), value)
        lines += [line.replace(b'"@%s"' % key.encode(), text.encode()) for text in texts]
    begin = base.index(b"[") + 1
    lines += [line[line.index(b'{"time"') : -2] for line in lines if b'"@' not in line[begin:]]
    done = agree(lines)
    found = {order["oid"] for order in done.orders}
    assert {2**53, 2**53 + 1, 2**63, 2**64 - 1} <= found
    assert max(found) == 2**64 - 1
    stamps = {order["timestamp"] for order in done.orders}
    assert min(stamps) == -(2**63)
    assert max(stamps) == 2**63 - 1


# ---------------------------------------------------------------- texts
# What stands at each position: its bytes and their value (None: the line is invalid JSON).
SPECIAL: tuple[tuple[bytes, str | None], ...] = (
    (b'\\"', '"'), (b"\\\\", "\\"), (b"\\u0041", "A"), (b"\\ud83d\\ude00", "😀"), (b"\\n", "\n"), (b"\\q",
    None), (b"\x00", None),
    (b"\x1f", None), (b"\t", None), (b"\x7f", "\x7f"), (b"\x80", None), (b"\xff", None), ("é".encode(), "é"),
    ("€".encode(), "€"), ("😀".encode(), "😀"), (b"\xe2\x82", None), (b'"', None),
)  # fmt: skip
LONGEST = 130
TEXT_KEYS = ("user", "status", "coin", "cloid", "hash", "triggerCondition", "orderType", "tif")


@pytest.mark.parametrize("key", TEXT_KEYS)
def test_texts_of_every_length_with_every_byte_everywhere(key: str) -> None:
    """Texts of length 0 to 130, plain and with each special byte at every position."""
    before, after = plain(event(**{key: "@@"})).split(b"@@")
    letters = (string.ascii_letters * 3)[:LONGEST]
    raw = letters.encode()
    lines: list[bytes] = []
    wanted: list[str] = []
    rejected: list[int] = []
    size = 0
    for length in range(LONGEST + 1):
        lines.append(before + raw[:length] + after)
        wanted.append(letters[:length])
        size += len(lines[-1])
        for at in range(length):
            for special, value in SPECIAL:
                lines.append(before + raw[:at] + special + raw[at + 1 : length] + after)
                if value is None:
                    rejected.append(size)
                else:
                    wanted.append(letters[:at] + value + letters[at + 1 : length])
                size += len(lines[-1])
    data = b"".join(lines) + PADDING
    assert len(lines) > 140_000
    for name in isa.available():
        isa.use(name)
        batch = fasttail.parse(data)
        assert batch.column(key)[:-8] == wanted, name
        assert [each.offset for each in batch.rejected] == rejected, name
        assert {each.reason for each in batch.rejected} == {"not valid JSON", "not UTF-8"}
        sums = batch.sums()
        assert sums["oid"] == BASE["order"]["oid"] * (len(wanted) + 8)
        assert sums["timestamp"] == BASE["order"]["timestamp"] * (len(wanted) + 8)


@pytest.mark.parametrize("key", TEXT_KEYS)
def test_texts_around_each_width_with_every_special_byte(key: str) -> None:
    """Every special byte at the first and last positions and around those of the kernels' widths."""
    edges = [
        length
        for width in (0, 8, 16, 32, 34, 42, 48, 64, 66, 128)
        for length in range(max(0, width - 2), width + 3)
    ]
    before, after = plain(event(**{key: "@@"}))[:-1].split(b"@@")
    lines = []
    for length in edges:
        places = {
            0,
            1,
            length - 2,
            length - 1,
            *(at + d for at in (15, 16, 31, 32, 47, 63, 64) for d in (0, 1)),
        }
        for at in sorted(place for place in places if 0 <= place < length)[:: 3 if length > 50 else 2]:
            for special, _ in SPECIAL:
                lines.append(before + b"a" * at + special + b"b" * (length - at - 1) + after)
        lines.append(before + b"c" * length + after)
    agree(lines, workers=(1,))


def test_words_of_the_lists_and_their_neighbours() -> None:
    """Every status, order type and tif is another word once it is cut, extended, or has one byte changed."""
    lines = []
    for key, names in (("status", STATUS_NAMES), ("orderType", ORDER_TYPE_NAMES), ("tif", TIF_NAMES)):
        for name in names:
            changed = [name[:at] + "~" + name[at + 1 :] for at in range(len(name))]
            for text in (name, name[1:], name[:-1], name + "x", name + name, name.lower(), *changed):
                lines.append(plain(event(**{key: text}))[:-1])
    agree(lines, workers=(1,))


def test_coins_that_are_taken_back() -> None:
    """New coins of lines, events or keys that are discarded in the end are not in the list of coins."""

    def of(coin: str, **changes: object) -> bytes:
        return plain(event(coin=coin, **changes))[:-1]

    block = envelope([])[:-3]
    twice = of("first")[:-2] + b',"coin":"last"}}'
    agree(
        [
            of("a"), of("rejected", side="C"), of("b"), twice, of("c"), of("rejected too")[:-1],
            of("d") + b"x",
            block + of("e") + b"," + of("gone", tif=5) + b"]}",
            block + of("f") + b"," + of("f g") + b"]}",
            of("x").replace(b'"coin":"x"', b'"coin":"\\u0078\\u0079"'),
            twice.replace(b"first", b"another"),
            of("z") + b"\r",
            block + twice.replace(b"first", b"third") + b"]}",
            block + of("h") + b"]} ",
            block + of("i") + b"],}",
            of("j")[:-1] + b',"order":{"coin":"j"}}',
            of("k")[:-1] + b',"order":' + of("l")[of("l").index(b'{"coin') :],
        ]
    )  # fmt: skip


def test_the_smallest_lines_fill_no_array() -> None:
    """The arrays are sized by the smallest valid line, so a buffer full of those must fit."""
    event_ = (
        b'{"time":"1970-01-01T00:00:00","user":"","status":"","order":{"coin":"","side":"A","limitPx":"0","sz":"0","oid":0,'
        b'"timestamp":0,"triggerCondition":"","isTrigger":true,"triggerPx":"0","children":[],"isPositionTpsl":true,'
        b'"reduceOnly":true,"orderType":"","origSz":"0"}}'
    )
    block = (
        b'{"local_time":"1970-01-01T00:00:00","block_time":"1970-01-01T00:00:00","block_number":0,'
        b'"events":[%s]}'
    )
    for lines in (
        [event_] * 3000, [block % b""] * 3000, [block % b",".join([event_] * 3000)], [block % event_] * 3000,
        [block % b"", event_] * 1500,
    ):  # fmt: skip
        assert agree(lines).rejected == []


# ---------------------------------------------------------------- unlike orjson
# The exceptions of docs/parsing.md, "Unlike orjson". The plain reader knows the first three.
def test_unlike_orjson_a_byte_order_mark() -> None:
    line = plain(event())[:-1]
    assert len(agree([b"\xef\xbb\xbf" + line]).rejected) == 0
    assert (
        len(
            agree(
                [b"\xef\xbb\xbf\xef\xbb\xbf" + line, b" \xef\xbb\xbf" + line, line + b"\xef\xbb\xbf"]
            ).rejected
        )
        == 3
    )


def test_unlike_orjson_nul_bytes_in_front() -> None:
    line = plain(event())[:-1]
    assert (
        len(agree([b"\0" + line, b"\0" * 5000 + line, b"\0\0\xef\xbb\xbf " + line, b"\0\0\0"]).rejected) == 0
    )
    assert len(agree([b" \0" + line, b"\xef\xbb\xbf\0" + line, line + b"\0", b"\0 \0" + line]).rejected) == 4


def test_unlike_orjson_a_blank_line() -> None:
    assert len(agree([b"", b" ", b"\r", b"\t \r", b"\xef\xbb\xbf", b"\0", b"\xef\xbb\xbf \r"]).rejected) == 0


def test_unlike_orjson_an_escaped_number_of_more_than_256_bytes() -> None:
    """A text with escapes is decoded into a buffer of 256 bytes; without escapes any length is accepted."""
    for key in ("limitPx", "sz", "triggerPx", "origSz"):
        before, after = plain(event(**{key: "@@"})).split(b"@@")
        for size in range(250, 262):
            whole = b"0." + b"0" * (size - 3) + b"1"
            escaped = whole[:1] + b"\\u002e" + whole[2:]
            assert fasttail.parse(before + whole + after).rejected == []
            batch = fasttail.parse(before + escaped + after)
            said = [f"{key}: not a decimal number"] if size > 256 else []
            assert [each.reason for each in batch.rejected] == said, size
            assert len(plain_reader.read(before + escaped + after)[0]) == 1


def test_coins_have_codes_up_to_255_bytes_also_beside_escapes() -> None:
    for size in range(250, 259):
        for user in ("plain", 'esc"aped'):
            batch = fasttail.parse(plain(event(coin="c" * size, user=user)) * 2)
            assert bool(batch.column("coin_code")[1]) == (size <= 255), (size, user)


def _remapped(middle: int) -> tuple[mmap.mmap, memoryview, int]:
    """Map `middle` bytes of `x` onto 64 MiB of memory, with a writable page on both sides."""
    piece, page = 1 << 26, mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    fixed, shared, no_reserve = 0x10, 0x01, 0x4000
    whole = mmap.mmap(-1, page + middle + page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    base = ctypes.addressof(ctypes.c_char.from_buffer(whole))
    file = os.memfd_create("x")
    try:
        os.ftruncate(file, piece)
        for at in range(0, piece, 1 << 20):
            os.pwrite(file, b"x" * (1 << 20), at)
        for at in range(0, middle, piece):
            assert (
                libc.mmap(base + page + at, piece, mmap.PROT_READ, fixed | shared, file, 0)
                == base + page + at
            )
    finally:
        os.close(file)
    return whole, memoryview(whole), page


def test_unlike_orjson_an_event_of_more_than_4_gib() -> None:
    """An event of more than 4 GiB is rejected, because text offsets of a row have 32 bits. One piece of
    memory is mapped repeatedly.
    """
    _whole, view, page = _remapped(1 << 32)
    line = plain(event())[:-1]
    head, tail = b'{"more":"', b'",' + line[1:] + b"\n" + line
    begin = page - len(head)
    view[begin:page] = head
    view[page + (1 << 32) : page + (1 << 32) + len(tail)] = tail
    end = page + (1 << 32) + len(tail)
    batch = fasttail.parse(view[begin:end])
    assert [(each.offset, each.at, each.reason) for each in batch.rejected] == [(0, 0, "longer than 4 GiB")]
    assert batch.lines == 2
    assert len(batch) == 1
    assert batch.raw(0) == line
