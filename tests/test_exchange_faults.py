"""Faults of the simulated node: what they leave in the files, and that their record is true."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from exchange_files import (
    START,
    chain_blocks,
    content,
    events_of,
    hour_files,
    lines_of,
    ns_of,
    read_lines,
    run_node,
)

from fasttail.tools.exchange.blocks import Block
from fasttail.tools.exchange.constants import LAYOUTS, STREAMS, SynthError
from fasttail.tools.exchange.faults import FAULTS, Fault, FaultRecord, Faults, parse_fault
from fasttail.tools.exchange.node import NodeOptions, Summary, run

pytestmark = pytest.mark.plain_build

STREAMS_USED = ("orders", "bookDiffs", "fills", "twapStatuses", "writerActions")
BLOCK_LINES = 60.0
LINES = 3700  # about 62 blocks, or 4 s

REQUESTS = {
    "silent-stream": "silent-stream@1+1",
    "lost-diff": "lost-diff@1",
    "missing-block": "missing-block@1",
    "late-hole": "late-hole:0.5@1+0.5",
    "restart": "restart:5@1+0.5",
    "torn-line": "torn-line@1",
    "clock-jump": "clock-jump@1+1",
    "disk-full": "disk-full@1+1",
}


class Recorded:
    """Gives blocks that an exchange made before."""

    def __init__(self, blocks: list[Block]) -> None:
        self._blocks = iter(blocks)

    def next_block(self, time_ns: int | None = None, max_orders: int | None = None) -> Block | None:
        return next(self._blocks, None)


@cache
def whole_chain() -> list[Block]:
    return chain_blocks(NodeOptions(lines=LINES, start=START, streams=STREAMS_USED), None, BLOCK_LINES)


def run_faulty(
    root: Path,
    *requests: str,
    layout: str = "plain",
    torn: bool = False,
    **callbacks: Any,
) -> tuple[Summary, list[Block]]:
    """Run a node with faults for some seconds of its clock. Return the totals, and the whole chain."""
    options = NodeOptions(
        lines=LINES,
        start=START,
        streams=STREAMS_USED,
        layout=layout,
        torn=torn,
        faults=[parse_fault(request) for request in requests],
    )
    chain = whole_chain()
    return run(root, options, source=Recorded(chain), **callbacks), chain


def readable_by_record(chain: list[Block], records: Sequence[FaultRecord], stream: str) -> Counter[bytes]:
    """Return how often each event must be readable in the files, going by what the faults told."""
    blocks = {block.number: block.events[stream] for block in chain}
    expected = Counter(event.encode() for events in blocks.values() for event in events)
    steps = {"lost": -1, "torn": -1, "glued": -1, "repeated": 1, "late": 0, "shifted": 0}
    for record in records:
        if record.stream == stream:
            events = blocks[record.block][record.first : record.first + record.events]
            assert len(events) == record.events
            for event in events:
                expected[event.encode()] += steps[record.effect]
    assert min(expected.values(), default=0) >= 0
    return +expected


def effects(total: Summary) -> Counter[str]:
    """Return how many events had which effect."""
    counts: Counter[str] = Counter()
    for record in total.faults:
        counts[record.effect] += record.events
    return +counts


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("name", [*FAULTS, "torn-line:cut", "torn-line:nul", "all at once", "all in turn"])
def test_the_record_is_true(tmp_path: Path, layout: str, torn: bool, name: str) -> None:
    requests = [REQUESTS.get(name) or f"{name}@1"]
    if name == "all at once":
        requests = list(REQUESTS.values())
    elif name == "all in turn":
        requests = [text.replace("@1", f"@{0.5 + 0.4 * i}") for i, text in enumerate(REQUESTS.values())]
    told: dict[str, Counter[bytes]] = {stream: Counter() for stream in STREAMS_USED}

    def wrote(block: Block) -> None:
        for stream, events in block.events.items():
            told[stream].update(event.encode() for event in events)

    total, chain = run_faulty(tmp_path, *requests, layout=layout, torn=torn, on_write=wrote)
    names = {re.split("[:@]", request)[0] for request in requests}
    assert {record.name for record in total.faults} <= names
    assert name == "all at once" or {record.name for record in total.faults} == names
    found = {stream: Counter(events_of(tmp_path, stream, layout)) for stream in STREAMS_USED}
    for stream in STREAMS_USED:
        assert found[stream] == readable_by_record(chain, total.faults, stream)
        assert found[stream] == told[stream]
    assert total.events == sum(counter.total() for counter in found.values())
    assert total.orders == found["orders"].total()
    assert total.lines == sum(len(lines_of(tmp_path, stream, layout)) for stream in STREAMS_USED)
    assert total.bytes == sum(len(content(tmp_path, stream, layout)) for stream in STREAMS_USED)


def test_records_come_as_they_are_made(tmp_path: Path) -> None:
    seen: list[FaultRecord] = []
    total, _ = run_faulty(tmp_path, REQUESTS["disk-full"], on_fault=seen.append)
    assert tuple(seen) == total.faults != ()


def test_without_faults_nothing_is_told(tmp_path: Path) -> None:
    total, chain = run_faulty(tmp_path, layout="streaming")
    assert total.faults == ()
    assert Counter(events_of(tmp_path, "orders", "streaming")) == readable_by_record(chain, (), "orders")


# -- each fault


@pytest.mark.parametrize(
    ("request_", "silent"), [("silent-stream@1+2", "bookDiffs"), ("silent-stream:fills@1+2", "fills")]
)
def test_a_silent_stream_has_no_lines_for_a_time(tmp_path: Path, request_: str, silent: str) -> None:
    total, chain = run_faulty(tmp_path, request_, layout="by_block")
    numbers = [block.number for block in chain]
    for stream in STREAMS_USED:
        here = [line.number for line in lines_of(tmp_path, stream, "by_block")]
        if stream != silent:
            assert here == numbers
            continue
        missing = [number for number in numbers if number not in here]
        assert missing == list(range(missing[0], missing[0] + len(missing)))
        assert 25 <= len(missing) <= 38  # two seconds
        assert 12 <= numbers.index(missing[0]) <= 19  # after one second
        assert [record.block for record in total.faults] == missing


def test_one_diff_is_lost(tmp_path: Path) -> None:
    total, chain = run_faulty(tmp_path, "lost-diff@1", layout="streaming")
    (record,) = total.faults
    assert (record.stream, record.effect, record.events) == ("bookDiffs", "lost", 1)
    block = chain[record.block - chain[0].number]
    lost = block.events["bookDiffs"][record.first].encode()
    diffs = [event.encode() for one in chain for event in one.events["bookDiffs"]]
    diffs.remove(lost)
    assert events_of(tmp_path, "bookDiffs", "streaming") == diffs


def test_a_block_is_missing_in_all_streams(tmp_path: Path) -> None:
    total, chain = run_faulty(tmp_path, "missing-block@1", layout="by_block")
    assert [record.stream for record in total.faults] == list(STREAMS_USED)
    (missing,) = {record.block for record in total.faults}
    for stream in STREAMS_USED:
        here = [line.number for line in lines_of(tmp_path, stream, "by_block")]
        assert here == [block.number for block in chain if block.number != missing]
    assert effects(total)["lost"] > 0


def test_a_late_hole_is_filled_after_newer_blocks(tmp_path: Path) -> None:
    total, chain = run_faulty(tmp_path, "late-hole:0.5@1+0.5", layout="by_block")
    numbers = [block.number for block in chain]
    late = sorted({record.block for record in total.faults})
    assert 6 <= len(late) <= 10
    for stream in STREAMS_USED:
        here = [line.number for line in lines_of(tmp_path, stream, "by_block")]
        assert sorted(here) == numbers
        assert here != numbers
        at = here.index(late[0])
        assert here[at : at + len(late)] == late
        assert 5 <= here[at - 1] - late[-1] <= 11  # half a second
        assert [number for number in here if number not in late] == [n for n in numbers if n not in late]
        local = [ns_of(line.local_time) for line in lines_of(tmp_path, stream, "by_block")]
        assert local == sorted(local)


def test_a_hole_that_is_open_at_the_end_is_filled_there(tmp_path: Path) -> None:
    total, chain = run_faulty(tmp_path, "late-hole:1000@1+0.5", layout="by_block")
    late = sorted({record.block for record in total.faults})
    assert [line.number for line in lines_of(tmp_path, layout="by_block")][-len(late) :] == late
    assert len(lines_of(tmp_path, layout="by_block")) == len(chain)


def test_a_late_hole_comes_after_a_newer_block_at_least(tmp_path: Path) -> None:
    total, _ = run_faulty(tmp_path, "late-hole:0@1+0.5", layout="by_block")
    last = max(record.block for record in total.faults)
    here = [line.number for line in lines_of(tmp_path, layout="by_block")]
    assert here[here.index(last) + 1] == last + 2
    assert here.index(last + 1) < here.index(last)


def test_a_paced_run_fills_an_open_hole_at_its_end_too(tmp_path: Path) -> None:
    faults = [parse_fault("late-hole:1000@0.2+0.2")]
    total = run_node(tmp_path, NodeOptions(rate=2000, lines=1200, layout="by_block", faults=faults))
    late = [record.block for record in total.faults]
    assert len(late) > 1
    here = [line.number for line in lines_of(tmp_path, layout="by_block")]
    assert here[-len(late) :] == late
    assert total.orders == 1200


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("torn", [False, True])
def test_a_restart_writes_blocks_again(tmp_path: Path, layout: str, torn: bool) -> None:
    total, chain = run_faulty(tmp_path, "restart:5@1+0.5", layout=layout, torn=torn)
    repeated = sorted({record.block for record in total.faults if record.effect == "repeated"})
    # Of the interrupted one, maybe no line was there. Blocks without lines are repeated without being told.
    first = repeated[0]
    assert 3 <= len(repeated) <= 6
    assert repeated[-1] - first <= 5
    if layout == "plain":
        return
    for stream in ("orders", "bookDiffs"):
        here = [line.number for line in lines_of(tmp_path, stream, layout)]
        steps_back = [index for index in range(1, len(here)) if here[index] < here[index - 1]]
        assert len(steps_back) == 1
        assert first <= here[steps_back[0]] <= first + 2  # its first line may be stuck to a half one
        assert set(here) == {block.number for block in chain if block.events[stream] or layout == "by_block"}
    cut = effects(total)["torn"]
    assert (cut > 0) == (torn or layout == "by_block")


def test_a_node_writes_nothing_while_it_is_down(tmp_path: Path) -> None:
    run_faulty(tmp_path, "restart:5@1+1", layout="streaming")
    lines = lines_of(tmp_path, "orders", "streaming")
    local = [ns_of(line.local_time) for line in lines]
    pause = max(later - former for former, later in pairwise(local))
    assert 900_000_000 < pause < 1_300_000_000


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("form", "end"), [("glued", b""), ("cut", b"\n"), ("nul", b"\0\n")])
def test_a_torn_line_stays_a_half(tmp_path: Path, layout: str, form: str, end: bytes) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    run_faulty(whole, layout=layout)
    total, _ = run_faulty(torn, f"torn-line:bookDiffs:{form}@1", layout=layout)
    before = content(whole, "bookDiffs", layout).split(b"\n")
    after = content(torn, "bookDiffs", layout)
    index = next(
        i for i, line in enumerate(before) if not after.startswith(b"\n".join(before[: i + 1]) + b"\n")
    )
    half = before[index][: (len(before[index]) + 1) // 2]
    if form == "nul":
        end = bytes(len(before[index]) - len(half)) + b"\n"
    assert b"\n".join([*before[:index], half]) + end + b"\n".join(before[index + 1 :]) == after
    assert list(effects(total)) == (["torn", "glued"] if form == "glued" else ["torn"])
    assert {record.stream for record in total.faults} == {"bookDiffs"}
    for stream in STREAMS_USED:
        assert stream == "bookDiffs" or content(whole, stream, layout) == content(torn, stream, layout)


def test_a_torn_line_before_a_new_hour_has_nothing_stuck_to_it(tmp_path: Path) -> None:
    options = NodeOptions(
        lines=3000, start=START, layout="by_block", hour_seconds=0.01, faults=[parse_fault("torn-line@1")]
    )
    total = run_node(tmp_path, options, block_lines=BLOCK_LINES)
    assert [record.effect for record in total.faults] == ["torn"]
    ends = [path.read_bytes()[-1:] for path in hour_files(tmp_path, layout="by_block")]
    assert len(ends) - ends.count(b"\n") == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_full_disk_cuts_each_stream_within_a_line(tmp_path: Path, layout: str) -> None:
    total, chain = run_faulty(tmp_path, "disk-full@1+1", layout=layout)
    for stream in ("orders", "bookDiffs"):
        records = [record for record in total.faults if record.stream == stream]
        assert {record.effect for record in records} == {"torn", "lost", "glued"}
        torn, glued = ([one for one in records if one.effect == effect] for effect in ("torn", "glued"))
        assert len(torn) == len(glued) == 1
        assert 12 <= glued[0].block - torn[0].block <= 19
        lost = {one.block for one in records if one.effect == "lost"}
        assert lost <= set(range(torn[0].block, glued[0].block))
        assert any(block.number in lost for block in chain)
        unreadable = [
            line for line in content(tmp_path, stream, layout).split(b"\n") if line.count(b'{"') > 1
        ]
        assert unreadable


@pytest.mark.parametrize("seconds", [3700, -3700, 20])
def test_a_clock_that_jumps_takes_the_hour_file_along(tmp_path: Path, seconds: int) -> None:
    total, chain = run_faulty(tmp_path, f"clock-jump:{seconds}@2+1", layout="by_block")
    shifted = {record.block for record in total.faults}
    assert 12 <= len(shifted) <= 19
    for line in lines_of(tmp_path, "orders", "by_block"):
        lag_s = (ns_of(line.local_time) - ns_of(line.block_time)) / 1e9
        assert lag_s == pytest.approx(0.35 + (seconds if line.number in shifted else 0), abs=0.1)
    where = {
        line.number: path.parts[-2:]
        for path in hour_files(tmp_path, "orders", "by_block")
        for line in read_lines(path.read_bytes(), "by_block")
    }
    assert len(where) == len(chain)
    files = {where[number] for number in shifted}
    later = {where[number] for number in where if number > max(shifted)}
    assert later == {("20260531", "23")}  # back again; the run began at 22:59:59
    wrong = {3700: ("20260601", "0"), -3700: ("20260531", "21"), 20: ("20260531", "23")}
    assert files == {wrong[seconds]}


def test_faults_befall_the_first_node_only(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    faults = [parse_fault(request) for request in REQUESTS.values()]
    options = NodeOptions(
        lines=3000, start=START, streams=STREAMS_USED, faults=faults, second_node=two, second_skip=0
    )
    run_node(one, options, block_lines=BLOCK_LINES)
    run_node(
        tmp_path / "whole",
        NodeOptions(**vars(options) | {"faults": (), "second_node": None}),
        block_lines=60.0,
    )
    for stream in STREAMS_USED:
        assert content(two, stream) == content(tmp_path / "whole", stream)
    assert content(one) != content(two)


def test_what_a_stopped_run_did_not_write_is_told_as_lost(tmp_path: Path) -> None:
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 40

    for request in ("late-hole@1+100", "restart:3@1+100"):
        calls = 0
        root = tmp_path / request.partition(":")[0].partition("@")[0]
        faults = [parse_fault(request)]
        options = NodeOptions(start=START, streams=STREAMS_USED, faults=faults)
        total = run_node(root, options, block_lines=BLOCK_LINES, stop=stop)
        assert total.interrupted
        assert total.blocks == 40
        chain = chain_blocks(options, 40, BLOCK_LINES)
        assert effects(total)["lost"] > 500
        for stream in STREAMS_USED:
            assert Counter(events_of(root, stream)) == readable_by_record(chain, total.faults, stream)


def test_a_paced_run_has_its_faults_in_seconds_of_its_own(tmp_path: Path) -> None:
    faults = [parse_fault("silent-stream:orders@0.4+0.6")]
    options = NodeOptions(
        rate=2000, lines=3000, layout="by_block", streams=("orders", "bookDiffs"), faults=faults
    )
    total = run_node(tmp_path, options)
    assert 6 <= len(total.faults) <= 13
    assert {record.stream for record in total.faults} == {"orders"}
    assert total.orders + sum(record.events for record in total.faults) == 3000


# -- requests


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("torn-line@3", Fault("torn-line", 3.0)),
        ("torn-line:nul:fills@0.5", Fault("torn-line", 0.5, stream="fills", form="nul")),
        ("silent-stream@10", Fault("silent-stream", 10.0, 5.0)),
        ("silent-stream:orders@10+60", Fault("silent-stream", 10.0, 60.0, stream="orders")),
        ("lost-diff@0", Fault("lost-diff", 0.0)),
        ("restart@5", Fault("restart", 5.0, 1.0, amount=10.0)),
        ("restart:3@5+0.25", Fault("restart", 5.0, 0.25, amount=3.0)),
        ("late-hole:30@1+2", Fault("late-hole", 1.0, 2.0, amount=30.0)),
        ("clock-jump@1", Fault("clock-jump", 1.0, 2.0, amount=3700.0)),
        ("clock-jump:-5@1+9", Fault("clock-jump", 1.0, 9.0, amount=-5.0)),
        ("disk-full@1+9", Fault("disk-full", 1.0, 9.0)),
        ("missing-block@1.5", Fault("missing-block", 1.5)),
        ("restart:1000000@0+31536000", Fault("restart", 0.0, 31_536_000.0, amount=1_000_000.0)),
        ("clock-jump:-315360000@0", Fault("clock-jump", 0.0, 2.0, amount=-315_360_000.0)),
    ],
)
def test_a_request_names_fault_arguments_time_and_duration(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quake@1", f"fault must be one of {', '.join(FAULTS)}, not quake"),
        ("", f"fault must be one of {', '.join(FAULTS)}, not "),
        ("restart", "fault restart needs a time: restart@TIME[+DURATION]"),
        ("restart@", "fault restart@ must have seconds from 0 on, not nothing"),
        ("restart@soon", "fault restart@soon must have seconds from 0 on, not soon"),
        ("restart@-1", "fault restart@-1 must have seconds from 0 on, not -1"),
        ("restart@nan", "fault restart@nan must have seconds from 0 on, not nan"),
        ("disk-full@1+", "fault disk-full@1+ must have seconds from 0 on, not nothing"),
        ("lost-diff@1+1", "fault lost-diff takes no duration: lost-diff@1+1"),
        ("lost-diff:3@1", "fault lost-diff takes no argument, not 3"),
        ("restart:some@1", "fault restart takes a number of blocks, not some"),
        ("restart:1.5@1", "fault restart takes a number of blocks, not 1.5"),
        ("clock-jump:far@1", "fault clock-jump takes seconds, not far"),
        ("late-hole:-1@1", "fault late-hole takes seconds, not -1"),
        ("restart:1000001@0", "fault restart takes at most 1000000 blocks, not 1000001"),
        ("restart:99999999999999999999@0",
         "fault restart takes at most 1000000 blocks, not 99999999999999999999"),
        ("clock-jump:1e30@0", "fault clock-jump takes at most 315360000 seconds, not 1e30"),
        ("clock-jump:-1e12@0", "fault clock-jump takes at most 315360000 seconds, not -1e12"),
        ("late-hole:1e10@0", "fault late-hole takes at most 31536000 seconds, not 1e10"),
        ("disk-full@1+1e300", "fault disk-full lasts at most 31536000 seconds, not 1e300"),
        ("silent-stream:trades@1", f"fault silent-stream takes {', '.join(STREAMS)}, not trades"),
        ("torn-line:half@1", f"fault torn-line takes {', '.join(STREAMS)}, glued, cut, nul, not half"),
    ],
)  # fmt: skip
def test_a_bad_request_is_named(text: str, message: str) -> None:
    with pytest.raises(SynthError) as raised:
        parse_fault(text)
    assert str(raised.value) == message


@pytest.mark.parametrize("request_", ["lost-diff@1", "silent-stream@1", "torn-line:bookDiffs@1"])
def test_a_fault_of_a_stream_that_is_not_written_is_named(tmp_path: Path, request_: str) -> None:
    name = re.split("[:@]", request_)[0]
    with pytest.raises(SynthError, match=rf"^fault {name} needs the stream bookDiffs, which is not written$"):
        run_node(tmp_path, NodeOptions(lines=1, faults=[parse_fault(request_)]))


def test_equal_seeds_have_equal_faults() -> None:
    def torn_at(seed: int) -> list[FaultRecord]:
        records: list[FaultRecord] = []
        events = {"orders": [f"{i}" for i in range(1000)]}
        Faults([Fault("torn-line", 0.0)], ["orders"], "plain", seed=seed, tell=records.append).apply(
            Block(1, 1, events)
        )
        return records

    assert torn_at(1) == torn_at(1) != torn_at(2)
