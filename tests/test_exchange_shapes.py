"""The shapes of events: genuine lines have them, broken lines do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import plain_reader
import pytest
from exchange_example import Example
from exchange_folder import STREAMS
from exchange_shapes import EVENTS, TIME, line_problem, shape_table

STREAM_OF = {name: stream for stream, name in STREAMS.items()}
OTHER_FORMS = {
    "node_order_statuses.plain.docs_2024.jsonl": {1: "of 2024: neither hash nor builder"},
    "node_raw_book_diffs.plain.docs.jsonl": {3: "a page of the docs: side and px before coin"},
}
"""File -> line -> why it has another shape than today's lines."""


def genuine_lines(real_data: Path) -> Iterator[tuple[str, int, str, str, bytes]]:
    """Yield file, line number, stream, layout, line."""
    for path in sorted(real_data.glob("*.jsonl")):
        name, layout, *_ = path.name.split(".")
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            yield path.name, number, STREAM_OF[name], "plain" if layout == "plain" else "by_block", line


def test_genuine_lines_have_the_shapes(real_data: Path) -> None:
    wrong: dict[str, dict[int, str]] = {}
    count = 0
    for name, number, stream, layout, line in genuine_lines(real_data):
        count += 1
        if (problem := line_problem(stream, layout, line)) is not None:
            wrong.setdefault(name, {})[number] = problem
    assert {name: set(lines) for name, lines in wrong.items()} == {
        name: set(lines) for name, lines in OTHER_FORMS.items()
    }
    assert count > 15_000


def test_both_plain_readers_accept_genuine_orders(real_data: Path) -> None:
    """The reader of the other tests and the shapes agree."""
    names = (
        "node_order_statuses.by_block.dz_20260430.jsonl",
        "node_order_statuses.streaming_or_by_block.jnoor.jsonl",
    )
    for name in names:
        for line in (real_data / name).read_bytes().splitlines():
            assert line_problem("orders", "by_block", line) is None
            assert len(plain_reader.read_line(line)) == len(orjson.loads(line)["events"])


def _events(stream: str) -> list[Any]:
    return [event for block in Example().blocks for event in block[stream]]


@pytest.mark.parametrize("stream", EVENTS)
def test_the_example_has_the_shapes(stream: str) -> None:
    events = _events(stream)
    assert events
    assert [EVENTS[stream](event) for event in events] == [None] * len(events)


def _places(value: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield each object or array in a value with each of its keys."""
    if isinstance(value, dict):
        for key in value:
            yield f"{path}.{key}", value, key
            yield from _places(value[key], f"{path}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield f"{path}[{index}]", value, index
            yield from _places(each, f"{path}[{index}]")


@pytest.mark.parametrize("stream", EVENTS)
def test_each_value_of_another_kind_is_found(stream: str) -> None:
    """Each value of each event, replaced by a number with a fraction, which no value is."""
    for event in _events(stream):
        for path, inside, key in list(_places(event)):
            kept, inside[key] = inside[key], 1.5
            assert EVENTS[stream](event) is not None, path
            inside[key] = kept
        assert EVENTS[stream](event) is None


OPTIONAL = ("cloid", "builderFee", "builder", "liquidation", "insertBefore")
"""Keys that may be absent; of `builderFee` alone the shape does not know that `builder` must be there."""


@pytest.mark.parametrize("stream", EVENTS)
def test_each_key_that_is_missing_or_moved_is_found(stream: str) -> None:
    """Ledger deltas and HyperEVM actions of types without a genuine line are open; the example has none."""
    for event in _events(stream):
        for path, inside, key in list(_places(event)):
            if not isinstance(inside, dict):
                continue
            kept = dict(inside)
            del inside[key]
            in_order = "order" in path
            if key not in OPTIONAL or in_order:
                assert EVENTS[stream](event) is not None, path
            inside[key] = kept[key]
            if list(inside) != list(kept):
                assert EVENTS[stream](event) is not None, path
            inside.clear()
            inside.update(kept)


BAD_LINES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("an exponent", lambda line: line.replace(b'"sz":"1.0"', b'"sz":"1e0"', 1)),
    ("a whole number as text", lambda line: line.replace(b'"sz":"1.0"', b'"sz":"1"', 1)),
    ("a number", lambda line: line.replace(b'"sz":"1.0"', b'"sz":1.0', 1)),
    ("a leading zero", lambda line: line.replace(b'"sz":"1.0"', b'"sz":"01.0"', 1)),
    ("a negative size", lambda line: line.replace(b'"sz":"1.0"', b'"sz":"-1.0"', 1)),
    ("a space", lambda line: line.replace(b",", b", ", 1)),
    ("a key twice", lambda line: line.replace(b'"coin":"BTC"', b'"coin":"BTC","coin":"BTC"', 1)),
    ("upper case in an address", lambda line: line.replace(b"0xdddd", b"0xDDDD", 1)),
    ("a short address", lambda line: line.replace(b"0xdddd", b"0xddd", 1)),
    ("a time with a zone", lambda line: line.replace(b'","user"', b'Z","user"', 1)),
    ("an unknown status", lambda line: line.replace(b'"open"', b'"opened"', 1)),
    ("a missing key", lambda line: line.replace(b'"isPositionTpsl":false,', b"", 1)),
    ("no JSON", lambda line: line[:-1]),
]


@pytest.mark.parametrize("layout", ["plain", "by_block"])
@pytest.mark.parametrize(("what", "broken"), BAD_LINES, ids=[what for what, _ in BAD_LINES])
def test_broken_lines_are_rejected(what: str, broken: Callable[[bytes], bytes], layout: str) -> None:
    line = Example().lines("orders", layout)[0]
    assert line_problem("orders", layout, line) is None
    assert broken(line) != line
    assert line_problem("orders", layout, broken(line)) is not None, what


@pytest.mark.parametrize(
    ("text", "right"),
    [("2026-05-05T17:39:14", True), ("2026-05-05T17:39:14.852", True), ("2026-05-05T17:39:14.852711", True),
     ("2026-05-05T17:39:14.852711983", True), ("2026-05-05T17:39:14.000000001", True),
     ("2026-05-05T17:39:14.852711000", False), ("2026-05-05T17:39:14.000", False),
     ("2026-05-05T17:39:14.8", False),
     ("2026-05-05 17:39:14.852", False)],
)  # fmt: skip
def test_times_drop_trailing_groups_of_zeros(text: str, right: bool) -> None:
    assert (TIME(text) is None) == right


def test_the_table_of_shapes_counts_both_sides(real_data: Path) -> None:
    genuine = [
        (stream, event)
        for name, _, stream, layout, line in genuine_lines(real_data)
        if stream == "fills" and "hyperanalyze" in name
        for event in orjson.loads(line)["events"]
    ]
    simulated = [("fills", event) for event in _events("fills")]
    table = shape_table(genuine, simulated)
    keys = "coin px sz side time startPosition dir closedPnl hash oid crossed fee tid feeToken twapId"
    assert f"| fills | `[{{{keys}}}]` | 2,013 | 17 |" in table
    assert table.count("\n") == 2 + 8
