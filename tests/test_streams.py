"""Several streams in one pipeline: which goes first, what is posted, and when a stream is read at all."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from driving import Drive
from fill_lines import FIRST_BLOCK, Event, match, render
from lines import envelope, event
from running import hour_file, wait_for

from fasttail.engine.events import BatchEnd, StreamOpened
from fasttail.engine.filters import Selector
from fasttail.engine.source import StreamSource
from fasttail.engine.topics import Topic

USERS = [f"0x{i:040x}" for i in range(1, 4)]


def fills_path(folder: Path, hour: int = 9, layout: str = "streaming") -> Path:
    path = hour_file(folder, layout, "20260505", hour, stream="node_fills")
    path.touch()
    return path


def orders_path(folder: Path, layout: str = "streaming") -> Path:
    path = hour_file(folder, layout, "20260505", 9)
    path.touch()
    return path


def matches(count: int, first: int = 0) -> list[list[Event]]:
    """Return blocks of one match each."""
    return [match(first + i, *USERS[:2]) for i in range(count)]


def has_events(source: StreamSource, count: int) -> bool:
    return bool(source.stats()["orders"] == count)


def ends(drive: Drive, stream: str) -> list[BatchEnd]:
    return [end for end in drive.ends if end.stream == stream]


def test_a_stream_is_followed_when_it_is_wanted(tmp_path: Path) -> None:
    orders_path(tmp_path)
    path = fills_path(tmp_path)
    path.write_bytes(render(matches(3), "streaming"))
    with Drive(tmp_path, streams=["fills"]) as drive:
        source = drive.pipeline.sources[1]
        assert source.follower is None
        assert source.stats()["state"] == "idle"
        topic = Topic("trades")
        drive.pipeline.follow("fills")
        drive.until_applied(drive.pipeline.add_topic(topic))
        opened = [each for each in drive.files if isinstance(each, StreamOpened)]
        assert [(each.stream, each.end) for each in opened] == [("fills", 0)]
        assert opened[0].file is not None
        assert opened[0].file[0] == str(path)
        drive.until(lambda: sum(message.orders for message in drive.messages(topic)) == 3)
        drive.pipeline.remove_topic(topic)
        drive.until_applied(drive.pipeline.unfollow("fills"))
        assert source.stats()["state"] == "idle"
        assert source.stats()["trades"] == 3
        with path.open("ab") as file:
            file.write(render(matches(2, 3), "streaming"))
        drive.until_applied(drive.pipeline.follow("fills"))
        assert [each.end for each in drive.files if isinstance(each, StreamOpened)] == [0, 0]
    with pytest.raises(ValueError, match="stream 'nodeTrades' is not followed"):
        drive.pipeline.follow("nodeTrades")


def test_the_end_of_a_file_is_told_though_nobody_wanted_what_was_in_it(tmp_path: Path) -> None:
    """Batches without a message wake nobody; but a replay must know how far an hour was read."""
    orders_path(tmp_path)
    path = fills_path(tmp_path)
    with Drive(tmp_path, streams=["fills"], rescan_s=0.05) as drive:
        source = drive.pipeline.sources[1]
        drive.pipeline.follow("fills")
        drive.until_applied(drive.pipeline.add_topic(Topic("trades", selector=Selector(coins={"NONE": 0.0}))))
        for i in range(20):
            with path.open("ab", buffering=0) as file:
                file.write(render(matches(1, i), "streaming"))
            wait_for("the batch", partial(has_events, source, 2 * (i + 1)))
        later = fills_path(tmp_path, 10)
        drive.until(lambda: any(each.file and each.file[0] == str(later) for each in drive.files))
        told = [(end.hour, end.end) for end in ends(drive, "fills")]
        told += [(each.hour, each.end) for each in drive.changes if each.stream == "fills"]
        assert max(told_end for hour, told_end in told if hour == 2026050509) == path.stat().st_size
        assert len(ends(drive, "fills")) < source.stats()["batches"], "not each of them was posted"


def block_lines(blocks: range) -> bytes:
    """Return lines of order statuses, a few of each block."""
    return b"".join(
        envelope([event(oid=10 * block + i)], FIRST_BLOCK + block) for block in blocks for i in range(3)
    )


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
def test_streams_that_are_behind_stay_together(tmp_path: Path, layout: str) -> None:
    """Of two streams with much to read, neither gets more than 32 blocks and a batch ahead of the other."""
    count = 3000
    if layout == "streaming":
        orders_path(tmp_path).write_bytes(block_lines(range(count)))
    else:
        lines = [envelope([event(oid=10 * b + i) for i in range(3)], FIRST_BLOCK + b) for b in range(count)]
        orders_path(tmp_path, layout).write_bytes(b"".join(lines))
    fills_path(tmp_path, layout=layout).write_bytes(render(matches(count), layout))
    seen = {"orders": 0, "fills": 0}
    furthest = 0
    topics = {"orders": Topic("orders", format="raw"), "fills": Topic("fills", format="raw")}
    drive = Drive(tmp_path, streams=["fills"], window=1 << 14, frames=False, pieces=False, min_batch_s=0)
    drive.pipeline.follow("fills")
    number = [drive.pipeline.add_topic(topic) for topic in topics.values()][-1]
    with drive:
        drive.until_applied(number)
        newest = FIRST_BLOCK + count - 1
        drive.until(lambda: all(last_block(drive, topic) == newest for topic in topics.values()))
    for end in drive.ends:
        for message in end.messages:
            seen[end.stream] = height(message.data) - FIRST_BLOCK
        if all(each < count - 1 for each in seen.values()):
            furthest = max(furthest, abs(seen["orders"] - seen["fills"]))
    assert 0 < furthest <= 64


def height(data: bytes) -> int:
    text = data[data.rindex(b'"height":') + 9 :]
    return int(text[: text.index(b",")])


def last_block(drive: Drive, topic: Topic) -> int:
    messages = drive.messages(topic)
    return height(messages[-1].data) if messages else 0


def test_what_was_taken_for_another_stream_is_not_shown(tmp_path: Path) -> None:
    """The events of the ring name their stream."""
    orders_path(tmp_path).write_bytes(block_lines(range(2)))
    fills_path(tmp_path).write_bytes(render(matches(2), "streaming"))
    with Drive(tmp_path, streams=["fills"]) as drive:
        topic = Topic("userFills", user=USERS[0])
        drive.pipeline.follow("fills")
        drive.pipeline.add_topic(topic)
        drive.until(lambda: bool(drive.messages(topic)) and bool(ends(drive, "orders")))
        carried = {end.stream for end in drive.ends for each in end.messages if each.topic == topic.id}
        assert carried == {"fills"}
        assert {each.stream for each in drive.changes} == {"orders", "fills"}
        assert [start for start in drive.starts if start.lines > 6] == []
