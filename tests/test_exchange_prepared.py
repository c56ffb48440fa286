"""Prepared files: a replay is what the exchange gives, at any speed; other files are refused."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from exchange_files import ALL, START, content, events_of, lines_of, ns_of, small_exchange

from fasttail.tools.exchange.blocks import Block
from fasttail.tools.exchange.chain import Exchange, ExchangeOptions
from fasttail.tools.exchange.constants import LAYOUTS, SynthError
from fasttail.tools.exchange.faults import parse_fault
from fasttail.tools.exchange.node import NodeOptions, run
from fasttail.tools.exchange.prepared import Prepared, PreparedBlocks, prepare, replay

pytestmark = pytest.mark.plain_build

NODE = NodeOptions(lines=3000, streams=ALL, start=START, market=ExchangeOptions(seed=4))


def exchange_options(**changes: Any) -> ExchangeOptions:
    return replace(small_exchange(NODE), **changes)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prepared") / "blocks"
    prepare(path, exchange_options(), lines=3000)
    return path


def test_a_file_has_what_the_exchange_gives(file: Path) -> None:
    expected = list(Exchange(exchange_options()).blocks(3000))
    with PreparedBlocks(file) as blocks:
        assert blocks.streams == ALL
        assert blocks.block_lines == 100.0
        for block in expected:
            read = blocks.next_block()
            assert read is not None
            events = {stream: list(chunk) for stream, chunk in read.events.items()}
            assert Block(read.number, read.time_ns, events) == block
        assert blocks.next_block() is None
        assert blocks.next_block() is None


def test_totals_and_equal_bytes(tmp_path: Path, file: Path) -> None:
    total = prepare(tmp_path / "again", exchange_options(), lines=3000)
    assert (tmp_path / "again").read_bytes() == file.read_bytes()
    blocks = list(Exchange(exchange_options()).blocks(3000))
    events = sum(len(events) for block in blocks for events in block.events.values())
    assert total == Prepared(len(blocks), 3000, events, file.stat().st_size)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_a_number_of_blocks_and_a_stop(tmp_path: Path) -> None:
    assert prepare(tmp_path / "blocks", exchange_options(streams=("fills",)), blocks=7).blocks == 7
    with PreparedBlocks(tmp_path / "blocks") as blocks:
        assert blocks.streams == ("fills",)
    calls = iter([False, False, True])
    assert prepare(tmp_path / "stopped", exchange_options(), blocks=7, stop=lambda: next(calls)).blocks == 2
    with PreparedBlocks(tmp_path / "stopped") as blocks:
        assert [blocks.next_block() is None for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("rate", [None, 20_000.0])
def test_a_replay_writes_what_a_run_writes(
    tmp_path: Path, file: Path, layout: str, torn: bool, rate: float | None
) -> None:
    options = replace(NODE, layout=layout, torn=torn)
    made = run(tmp_path / "made", options, source=Exchange(exchange_options()))
    again = replay(tmp_path / "again", file, replace(options, lines=None, rate=rate))
    for stream in ALL:
        assert events_of(tmp_path / "again", stream, layout) == events_of(tmp_path / "made", stream, layout)
        if rate is None:
            same = content(tmp_path / "again", stream, layout) == content(tmp_path / "made", stream, layout)
            assert same
    assert (again.events, again.orders, again.lines) == (made.events, made.orders, made.lines)
    assert again.blocks == made.blocks


def test_a_rate_paces_a_replay(tmp_path: Path, file: Path) -> None:
    fast = replay(tmp_path / "fast", file, NodeOptions(rate=30_000, lines=1500))
    slow = replay(tmp_path / "slow", file, NodeOptions(rate=750, lines=1500))
    assert fast.orders == slow.orders == 1500
    assert slow.seconds > 1.4  # two seconds, but for the blocks' own sizes; at their own times one
    assert fast.seconds < 0.7 * slow.seconds


def test_a_replay_has_the_blocks_times_and_the_real_clock(tmp_path: Path, file: Path) -> None:
    before = datetime.now(UTC).timestamp() * 1e9
    replay(tmp_path, file, NodeOptions(rate=20_000, layout="streaming"))
    lines = lines_of(tmp_path, layout="streaming")
    assert lines[0].block_time.startswith("2026-05-31T22:59:5")
    local = [ns_of(line.local_time) for line in lines]
    assert local[0] > before - 1e9
    assert all(later > former for former, later in pairwise(local))


def test_a_replay_may_end_earlier_and_have_fewer_streams(tmp_path: Path, file: Path) -> None:
    total = replay(tmp_path, file, NodeOptions(lines=1234, streams=("orders", "fills")))
    assert total.orders == len(events_of(tmp_path)) == 1234
    expected = [
        event for block in Exchange(exchange_options()).blocks(3000) for event in block.events["orders"]
    ]
    assert events_of(tmp_path) == [event.encode() for event in expected[:1234]]
    assert {path.name for path in tmp_path.iterdir()} <= {"node_order_statuses", "node_fills"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_replay_has_faults_and_a_second_node(tmp_path: Path, file: Path, layout: str) -> None:
    faults = [parse_fault(text) for text in ("torn-line@0.5", "disk-full@1+0.3", "restart:2@1.4+0.1")]
    options = replace(NODE, layout=layout, faults=faults, second_node=tmp_path / "made2", second_skip=5)
    made = run(tmp_path / "made", options, source=Exchange(exchange_options()))
    again = replay(tmp_path / "again", file, replace(options, second_node=tmp_path / "again2"))
    assert again.faults == made.faults
    assert {record.name for record in made.faults} == {"torn-line", "disk-full", "restart"}
    for stream in ALL:
        for name in ("", "2"):
            one, two = (content(tmp_path / f"{kind}{name}", stream, layout) for kind in ("made", "again"))
            assert one == two


def test_what_is_replayed_is_told(tmp_path: Path, file: Path) -> None:
    told: list[str] = []
    replay(tmp_path, file, NodeOptions(), on_write=lambda block: told.extend(block.events["orders"]))
    assert [event.encode() for event in told] == events_of(tmp_path)
    assert len(told) == 3000


# -- errors


def with_head(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return a file whose first block's line is changed."""
    magic, options, head, rest = data.split(b"\n", 3)
    value = json.loads(head)
    change(value)
    return b"\n".join([magic, options, json.dumps(value).encode(), rest])


def change_count(head: dict[str, Any]) -> None:
    head["streams"]["orders"][0] += 1


def change_length(head: dict[str, Any]) -> None:
    head["streams"]["orders"][1] -= 1


def change_streams(head: dict[str, Any]) -> None:
    del head["streams"]["fills"]


def change_number(head: dict[str, Any]) -> None:
    head["number"] = "one"


def set_to(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda head: head.update(values)


def change_size(length: int) -> Callable[[dict[str, Any]], None]:
    return lambda head: head["streams"].update(orders=[head["streams"]["orders"][0], length])


def with_options(data: bytes, **changes: Any) -> bytes:
    """Return a file whose options are changed."""
    magic, options, rest = data.split(b"\n", 2)
    value = json.loads(options)
    value["options"] |= changes
    return b"\n".join([magic, json.dumps(value).encode(), rest])


DAMAGED = "is damaged: prepare it again"
OTHER_VERSION = "was prepared by another version of fasttail"
EARLY = "ends too early: it was not prepared to its end"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "is not a prepared file"),
        (lambda data: b'{"time":"2026-06-02T10:00:00"}\n' * 99, "is not a prepared file"),
        (lambda data: data[:10], "is not a prepared file"),
        (lambda data: data.replace(b"blocks 1\n", b"blocks 2\n", 1), OTHER_VERSION),
        (lambda data: data.split(b"\n", 1)[0] + b"\n", EARLY),
        (lambda data: data.split(b"\n", 1)[0] + b"\n[1]\n", DAMAGED),
        (lambda data: data.split(b"\n", 1)[0] + b'\n{"options":{}}\n', DAMAGED),
        (lambda data: data.replace(b'"orders", ', b'"others", ', 1), DAMAGED),
        (lambda data: data[: len(data) // 2], EARLY),
        (lambda data: data[: data.rindex(b'{"end"')], EARLY),
        (lambda data: data[:-5], DAMAGED),
        (lambda data: data + b"more", DAMAGED),
        (lambda data: with_head(data, change_count), DAMAGED),
        (lambda data: with_head(data, change_length), DAMAGED),
        (lambda data: with_head(data, change_streams), DAMAGED),
        (lambda data: with_head(data, change_number), DAMAGED),
        (lambda data: data[:3000] + bytes(range(128, 256)) * 20 + data[5560:], DAMAGED),
        (lambda data: with_head(data, set_to(number=True)), DAMAGED),
        (lambda data: with_head(data, set_to(number=-1)), DAMAGED),
        (lambda data: with_head(data, set_to(number=7)), DAMAGED),  # the next one is not 8
        (lambda data: with_head(data, set_to(time_ns=10**30)), DAMAGED),
        (lambda data: with_head(data, set_to(time_ns=253_402_300_799 * 10**9)), DAMAGED),  # the next: earlier
        (lambda data: with_head(data, change_size(2**63)), DAMAGED),
        (lambda data: with_head(data, change_size(10**18)), DAMAGED),
        (lambda data: with_head(data, change_size(-1)), DAMAGED),
        (lambda data: with_head(data, change_size(True)), DAMAGED),
        (lambda data: with_options(data, block_lines=float("inf")), DAMAGED),
        (lambda data: with_options(data, block_lines=1e308), DAMAGED),
        (lambda data: with_options(data, block_lines=1e-308), DAMAGED),
        (lambda data: with_options(data, block_lines=10**400), DAMAGED),
        (lambda data: with_options(data, block_lines=True), DAMAGED),
        (lambda data: with_options(data, streams=[["orders"]]), DAMAGED),
        (lambda data: with_options(data, streams=["orders", "orders"]), DAMAGED),
        (lambda data: data.split(b"\n", 1)[0] + b"\n" + b"[" * 60_000 + b"\n", DAMAGED),
        (lambda data: data.replace(b'"coin":"', b'"coin":\xff', 1), DAMAGED),
        (lambda data: data[:-1], DAMAGED),
    ],
)  # fmt: skip
def test_other_and_damaged_files_are_named(
    tmp_path: Path, file: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "blocks"
    path.write_bytes(damage(file.read_bytes()))
    with pytest.raises(SynthError) as raised:
        replay(tmp_path / "node", path, NodeOptions(streams=ALL, rate=1e6))
    assert str(raised.value) == f"{path} {message}"


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=rf"^cannot read {tmp_path}/none: No such file or directory$"):
        replay(tmp_path / "node", tmp_path / "none", NodeOptions())
    with pytest.raises(SynthError, match=rf"^cannot read {tmp_path}: Is a directory$"):
        replay(tmp_path / "node", tmp_path, NodeOptions())
    with pytest.raises(
        SynthError, match=rf"^cannot write {tmp_path}/none/blocks: No such file or directory$"
    ):
        prepare(tmp_path / "none" / "blocks", exchange_options(), blocks=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(SynthError, match=rf"^cannot write {tmp_path}/full: File too large$"):
            prepare(tmp_path / "full", exchange_options(), blocks=50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/"), Path("."), Path("/dev/full")):
        with pytest.raises(SynthError) as raised:
            prepare(path, exchange_options(), blocks=1)
        assert str(raised.value) == f"cannot write {path}: it is not a regular file"
    assert (tmp_path / "fifo").is_fifo()


def test_files_of_other_names_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "blocks").write_text("old")
    (tmp_path / "blocks.part").write_text("mine")
    (tmp_path / "link").symlink_to("blocks")
    prepare(tmp_path / "link", exchange_options(), blocks=1)
    assert (tmp_path / "blocks.part").read_text() == "mine"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "blocks").read_bytes().startswith(b"fasttail exchange blocks 1\n")
    assert len(list(tmp_path.iterdir())) == 3


def test_options_that_do_not_fit_are_named(tmp_path: Path, file: Path) -> None:
    prepare(tmp_path / "orders", exchange_options(streams=("orders", "fills")), blocks=1)
    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: prepare(tmp_path / "x", exchange_options()),
            "a prepared file needs an end: lines or blocks",
        ),
        (
            lambda: prepare(tmp_path / "x", exchange_options(streams=("fills",)), lines=1),
            "lines counts order statuses, so it needs the stream orders",
        ),
        (
            lambda: replay(tmp_path / "node", file, NodeOptions(live=True)),
            "prepared events keep their times, so they cannot be live",
        ),
        (
            lambda: replay(tmp_path / "node", tmp_path / "orders", NodeOptions(streams=("bookDiffs",))),
            f"{tmp_path}/orders was prepared without bookDiffs: it has orders, fills",
        ),
    ]  # fmt: skip
    for call, message in cases:
        with pytest.raises(SynthError) as raised:
            call()
        assert str(raised.value) == message
    assert not (tmp_path / "x").exists()


def test_an_interrupted_preparation_leaves_no_file(tmp_path: Path) -> None:
    def interrupt() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "blocks", exchange_options(), blocks=5, stop=interrupt)
    assert list(tmp_path.iterdir()) == []
