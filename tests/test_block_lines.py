"""Runs of lines for NATS: what they hold, their positions and hashes; entries, and how they are compared."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from fill_lines import FIRST_BLOCK, match, render
from lines import envelope, event

from fasttail.engine.block_lines import BlockLines, LineRun
from fasttail.jetstream.agreement import Agreement
from fasttail.jetstream.entry import HEADER, Deflater, Entry, EntryError, inflate
from fasttail.sources.cursor import BlockPosition

REJECTED = b'{"no event": 1}\n'
Block = tuple[int, list[dict[str, Any]]]


def chain(chance: random.Random, count: int = 40) -> list[Block]:
    oids = iter(range(10**9))
    return [
        (7000 + i, [event(oid=next(oids)) for _ in range(chance.choice([0, 1, 1, 2, 9]))])
        for i in range(count)
    ]


def lines_of(blocks: list[Block], layout: str) -> list[bytes]:
    if layout == "by_block":
        return [envelope(events, height) for height, events in blocks]
    return [envelope([each], height) for height, events in blocks for each in events]


def cutter(max_bytes: int = 1 << 20, stream: str = "orders") -> BlockLines:
    return BlockLines(stream, capacity=1 << 22, max_bytes=max_bytes)


def take(cut: BlockLines, lines: list[bytes], chance: random.Random, most: int) -> list[LineRun]:
    """Return the runs of the lines, taken in pieces of any number of them."""
    runs: list[LineRun] = []
    while lines:
        count = chance.randint(1, most)
        runs += cut.take_data(b"".join(lines[:count]))
        lines = lines[count:]
    return runs


WRITTEN_MS = 1_778_000_000_000


def entry_of(run: LineRun, after: BlockPosition | None = None, node: str = "other") -> Entry:
    return Entry(
        "streaming",
        after or run.after,
        run.last,
        2026050517,
        len(run.data),
        run.events,
        run.hash,
        node,
        WRITTEN_MS,
    )


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
@pytest.mark.parametrize("seed", range(5))
def test_runs_hold_every_line_with_its_position(layout: str, seed: int) -> None:
    chance = random.Random(seed)
    blocks = chain(chance)
    lines = lines_of(blocks, layout)
    for _ in range(5):
        lines.insert(chance.randrange(1, len(lines)), REJECTED)
    runs = take(cutter(chance.choice([1, 4000, 1 << 20])), lines, chance, chance.choice([1, 7, 99]))
    assert b"".join(run.data for run in runs).rstrip(REJECTED) == b"".join(lines).rstrip(REJECTED)
    position = runs[0].after
    for run in runs:
        assert run.after >= position
        for line in run.data.splitlines():
            found = json.loads(line)
            if "events" not in found:
                continue
            height = found["block_number"]
            before = position.events if position.height == height else 0
            position = BlockPosition(height, before + len(found["events"]))
        assert run.last == position
        assert run.events == len(run.hashes) // 8
    assert sum(run.events for run in runs) == sum(len(events) for _, events in blocks)


@pytest.mark.parametrize("seed", range(5))
def test_hashes_do_not_depend_on_the_cuts(seed: int) -> None:
    """Nor on the layout, because it is the events that are hashed."""
    chance = random.Random(seed)
    blocks = chain(chance)
    totals = {
        sum(run.hash for run in take(cutter(size), lines_of(blocks, layout), chance, most)) % (1 << 64)
        for layout in ("streaming", "by_block")
        for size, most in ((1, 1), (4000, 20), (1 << 20, 99))
    }
    assert len(totals) == 1
    blocks[20][1].append(event(oid=10**6))
    assert sum(run.hash for run in cutter().take_data(b"".join(lines_of(blocks, "by_block")))) not in totals


def test_runs_are_no_larger_than_asked_for() -> None:
    lines = lines_of(chain(random.Random(1), 200), "streaming")
    runs = cutter(3000).take_data(b"".join(lines))
    assert max(len(run.data) for run in runs) <= 3000
    assert len(runs) > 10


def test_what_was_written_again_is_left_out() -> None:
    blocks = chain(random.Random(2))
    lines = lines_of(blocks, "by_block")
    cut = cutter()
    runs = cut.take_data(b"".join(lines[:30])) + cut.take_data(b"".join(lines[20:]))
    assert b"".join(run.data for run in runs) == b"".join(lines)


@pytest.mark.parametrize("seed", range(5))
def test_reading_begins_after_a_position(seed: int) -> None:
    """As a relay reads an entry of which it has written a part."""
    chance = random.Random(seed)
    blocks = [each for each in chain(chance) if each[1]]
    lines = lines_of(blocks, "streaming")
    known = chance.randrange(1, len(lines))
    height = json.loads(lines[known - 1])["block_number"]
    events = sum(json.loads(line)["block_number"] == height for line in lines[:known])
    begin = chance.randrange(known)
    first = json.loads(lines[begin])["block_number"]
    before = BlockPosition(first, sum(json.loads(line)["block_number"] == first for line in lines[:begin]))
    cut = cutter()
    cut.begin_after(before, BlockPosition(height, events))
    assert b"".join(run.data for run in cut.take_data(b"".join(lines[begin:]))) == b"".join(lines[known:])


def test_fills() -> None:
    lines = render([match(tid, "0x" + "1" * 40, "0x" + "2" * 40) for tid in range(10)], "streaming")
    runs = cutter(stream="fills").take_data(lines)
    assert [run.data for run in runs] == [lines]
    assert runs[0].last == BlockPosition(FIRST_BLOCK + 9, 2)
    assert runs[0].events == 20


# ---- two nodes


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
@pytest.mark.parametrize("seed", range(10))
def test_two_nodes_agree(layout: str, seed: int) -> None:
    """However both cut their lines, and whichever is ahead; one event that differs is noticed once."""
    chance = random.Random(seed)
    blocks = chain(chance, 60)
    other = [(height, [dict(each) for each in events]) for height, events in blocks]
    differs = seed % 2 == 1
    if differs:
        chosen = chance.choice([events for height, events in other[5:] if events])
        chosen[-1]["status"] = "filled"
    own_runs = take(cutter(chance.choice([1, 3000])), lines_of(blocks, layout), chance, 5)
    runs = take(cutter(chance.choice([1, 3000])), lines_of(other, layout), chance, 5)
    entries = [entry_of(runs[0])]
    entries += [entry_of(run, before.last) for before, run in pairwise(runs)]
    agreement = Agreement()
    found: list[Entry] = []
    while own_runs or entries:
        if own_runs and (not entries or chance.random() < 0.5):
            found += agreement.add_run(own_runs.pop(0))
        else:
            found += agreement.add_entry(entries.pop(0))
    assert len(found) == differs
    assert agreement.compared > 5


# ---- entries


def test_an_entry_is_read_as_it_was_written() -> None:
    run = cutter().take_data(b"".join(lines_of(chain(random.Random(3)), "by_block")))[0]
    entry = entry_of(run)
    assert Entry.from_headers({HEADER: entry.to_header()}) == entry
    assert inflate(Deflater().deflate(run.data), entry) == run.data


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("v1", "v2"), ("streaming", "plainer"), ("2026050517", "2026023017"), ("2026050517", "2026050524"),
        ("2026050517", "../../etc/x"), ("2026050517", "2027050717"), (" 8 ", " 0 "), (" 8 ", " 99999999 "),
        ("7000-0000001", "6000-0000001"),
        ("n1", "n/1"), ("v1 ", ""),
    ],
)  # fmt: skip
def test_headers_that_cannot_be(old: str, new: str) -> None:
    entry = Entry(
        "streaming", BlockPosition(7000, 0), BlockPosition(7000, 1), 2026050517, 8, 1, 5, "n1", WRITTEN_MS
    )
    text = entry.to_header()
    assert old in text
    assert Entry.from_headers({HEADER: text}) == entry
    with pytest.raises(EntryError):
        Entry.from_headers({HEADER: text.replace(old, new)})
    with pytest.raises(EntryError):
        Entry.from_headers(None)


def test_a_body_is_never_inflated_beyond_its_header() -> None:
    entry = Entry("streaming", BlockPosition(7000, 0), BlockPosition(7000, 1), 2026050517, 8, 1, 5, "n1", 1)
    deflater = Deflater()
    for _ in range(2):
        assert inflate(deflater.deflate(b"1234567\n"), entry) == b"1234567\n"
    for body in (
        b"",
        b"no zstd",
        Deflater().deflate(b"12345\n"),
        Deflater().deflate(b"1" * (64 << 20)),
        Deflater().deflate(b"12345678"),
    ):
        with pytest.raises(EntryError):
            inflate(body, entry)
