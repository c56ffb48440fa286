"""A file replaced while it is followed: its content decides whether it is the same one."""

# ruff: noqa: F811 (fixtures of test_follower)
from __future__ import annotations

import dataclasses
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import Drive
from lines import event, plain
from running import hour_file, serve
from test_follower import GRACE, Node, StartTail, Tail, node, start  # noqa: F401  (fixtures)
from test_ws import Bot

from fasttail.sources.position import Position

LONG = b"first line " + b"x" * 3000 + b"\n"


def by_rename(path: Path, content: bytes) -> None:
    """Replace the file as rsync does."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.rename(path)


def by_deletion(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def in_place(path: Path, content: bytes) -> None:
    """Replace the file as cp does: truncated first, with the same inode."""
    path.write_bytes(content)


def by_link(path: Path, content: bytes) -> None:
    """Replace the symbolic link behind the hour's name."""
    target = path.with_name(f"target{len(os.listdir(path.parent))}")
    target.write_bytes(content)
    link = path.with_name("link")
    link.symlink_to(target)
    link.rename(path)


def by_hard_link(path: Path, content: bytes) -> None:
    other = path.with_name(f"linked{len(os.listdir(path.parent))}")
    other.write_bytes(content)
    path.unlink()
    os.link(other, path)


def by_gzip(path: Path, content: bytes) -> None:
    """Compress, remove and unpack the file again, with more content."""
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(content))
    path.unlink()
    path.write_bytes(gzip.decompress(packed.read_bytes()))


WAYS = [by_rename, by_deletion, in_place, by_link, by_hard_link, by_gzip]
ways = pytest.mark.parametrize("replace", WAYS, ids=lambda way: way.__name__)
Replace = Callable[[Path, bytes], None]


@pytest.mark.fault(43)
@ways
@pytest.mark.parametrize("begin", [b"1\n2\n", LONG + b"2\n"], ids=["short", "long"])
@pytest.mark.parametrize("looks", [True, False], ids=["looks", "no-look"])
def test_replaced_by_a_longer_copy(
    node: Node, start: StartTail, replace: Replace, begin: bytes, looks: bool
) -> None:
    """No line is lost or repeated, no matter how many replacements happen between two checks."""
    path = node.write("20260505/9", begin)
    tail = start(start="oldest")
    tail.settle()
    content = begin
    for number in range(10, 16):
        content += b"%d\n" % number
        replace(path, content)
        if looks or number % 2:
            tail.settle()
    node.write("20260505/9", b"more\n")
    node.write("20260505/10", b"next\n")
    assert tail.settle() == [*content.splitlines(), b"more", b"next"]
    assert tail.follower.truncations == 0


@pytest.mark.fault(24, 43)
@ways
def test_replaced_by_other_content(node: Node, start: StartTail, replace: Replace) -> None:
    path = node.write("20260505/9", b"1\n2\n")
    tail = start(start="oldest")
    tail.settle()
    replace(path, b"3\n4\n5\n")
    assert tail.settle() == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.fault(43)
@ways
def test_the_same_beginning_is_not_enough(node: Node, start: StartTail, replace: Replace) -> None:
    """An equal beginning is not enough: the line before the reading position differs."""
    path = node.write("20260505/9", LONG + b"2\n")
    tail = start(start="oldest")
    tail.settle()
    replace(path, LONG + b"3\n4\n")
    assert tail.settle() == [LONG.rstrip(), b"2", LONG.rstrip(), b"3", b"4"]


@pytest.mark.fault(43)
@pytest.mark.parametrize("size", [0, 5, len(LONG) - 1, len(LONG) + 1])
@pytest.mark.parametrize("replace", [by_rename, in_place, by_deletion], ids=lambda way: way.__name__)
def test_a_copy_that_is_still_being_written(
    node: Node, start: StartTail, size: int, replace: Replace
) -> None:
    """A copy in progress, with no other content so far, is waited for."""
    content = LONG + b"2\n"
    path = node.write("20260505/9", content)
    tail = start(start="oldest")
    tail.settle()
    replace(path, content[:size])
    assert tail.wait(GRACE - 1) == content.splitlines()
    with path.open("ab") as file:
        file.write(content[size:] + b"3\n")
    assert tail.settle() == [*content.splitlines(), b"3"]
    assert tail.follower.truncations == 0


@pytest.mark.fault(19, 43)
@pytest.mark.parametrize("later", [True, False], ids=["next-hour", "no-next-hour"])
@pytest.mark.parametrize("replace", [by_rename, in_place], ids=lambda way: way.__name__)
def test_fewer_bytes_that_stay(node: Node, start: StartTail, replace: Replace, later: bool) -> None:
    """After the grace time, a shorter file counts as rewritten and is read before the next hour."""
    path = node.write("20260505/9", b"1\n2\n3\n")
    tail = start(start="oldest")
    tail.settle()
    replace(path, b"1\n2\n")
    if later:
        node.write("20260505/10", b"next\n")
    tail.wait(GRACE - 1)
    assert tail.lines == [b"1", b"2", b"3"]
    tail.wait(2 * GRACE)
    assert tail.lines == [b"1", b"2", b"3", b"1", b"2"] + ([b"next"] if later else [])


@pytest.mark.fault(43)
def test_replaced_while_a_line_is_held(node: Node, start: StartTail) -> None:
    path = node.write("20260505/9", b"1\nhal")
    tail = start(start="oldest")
    tail.settle()
    by_rename(path, b"1\nhalf a li")
    tail.settle()
    by_rename(path, b"1\nhalf a line\n2\n")
    assert tail.settle() == [b"1", b"half a line", b"2"]


@pytest.mark.fault(43)
@pytest.mark.parametrize("later", [True, False], ids=["next-hour", "no-next-hour"])
@pytest.mark.parametrize("size", [0, 3, 6, 9], ids=lambda size: f"copied-{size}")
@pytest.mark.parametrize("replace", [by_rename, by_deletion], ids=lambda way: way.__name__)
def test_replaced_while_only_half_a_line_is_there(
    node: Node, start: StartTail, replace: Replace, size: int, later: bool
) -> None:
    """If only half a line is known, a copy that may complete it is waited for."""
    content = b"half a line\n2\n"
    path = node.write("20260505/9", content[:6])
    tail = start(start="oldest")
    tail.settle()
    replace(path, content[:size])
    if later:
        node.write("20260505/10", b"next\n")
    assert tail.wait(1) == []
    with path.open("ab") as file:
        file.write(content[size:])
    assert tail.settle() == [b"half a line", b"2"] + ([b"next"] if later else [])
    assert tail.follower.torn_lines == 0


@pytest.mark.fault(23, 43)
@pytest.mark.parametrize("replace", [by_rename, by_deletion], ids=lambda way: way.__name__)
def test_half_a_line_replaced_by_other_content(node: Node, start: StartTail, replace: Replace) -> None:
    path = node.write("20260505/9", b"half a li")
    tail = start(start="oldest")
    tail.settle()
    replace(path, b"1\n2\n")
    assert tail.wait(GRACE + 1) == [b"half a li", b"1", b"2"]


@pytest.mark.fault(15, 43)
@pytest.mark.parametrize("replace", [by_rename, by_deletion], ids=lambda way: way.__name__)
def test_replaced_by_a_copy_that_begins_with_a_hole(node: Node, start: StartTail, replace: Replace) -> None:
    """The first bytes of the copy are a hole, so the bytes before the reading position decide."""
    content = bytes(100) + b"1\n2\n"
    path = node.write("20260505/9", content)
    tail = start(start="oldest")
    assert tail.settle() == [b"1", b"2"]
    replace(path, content + b"3\n")
    assert tail.settle() == [b"1", b"2", b"3"]


@pytest.mark.fault(1, 43)
def test_replaced_at_the_change_of_hour(node: Node, start: StartTail) -> None:
    """Additional lines of the copy come before the next hour."""
    path = node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    by_rename(path, b"1\n2\nhal")
    node.write("20260505/10", b"4\n")
    tail.wait(1)
    by_rename(path, b"1\n2\nhalf\n3\n")
    assert tail.settle() == [b"1", b"2", b"half", b"3", b"4"]


@pytest.mark.fault(4, 43)
@ways
def test_a_former_hour_replaced_by_a_longer_copy(node: Node, start: StartTail, replace: Replace) -> None:
    path = node.write("20260505/9", b"1\n2\n")
    node.write("20260505/10", b"3\n")
    tail = start(start="oldest")
    tail.settle()
    for content in (b"1\n2\nlate 1\n", b"1\n2\nlate 1\nlate 2\n"):
        replace(path, content)
        tail.wait(1)
    assert tail.late == [b"late 1", b"late 2"]
    assert tail.lines == [b"1", b"2", b"3", b"late 1", b"late 2"]


@pytest.mark.fault(4, 43)
@pytest.mark.parametrize("replace", [by_rename, in_place], ids=lambda way: way.__name__)
def test_a_former_hour_while_a_copy_of_the_next_is_being_written(
    node: Node, start: StartTail, replace: Replace
) -> None:
    """Late lines of the previous hour, and the end of its grace time, do not wait for the copy."""
    node.write("20260505/9", b"1\n")
    path = node.write("20260505/10", b"2\n3\n")
    tail = start(start="oldest", grace_s=2 * GRACE)
    tail.settle()
    tail.wait(GRACE)
    replace(path, b"2\n")
    tail.wait(1)
    node.write("20260505/9", b"late\nhal")
    assert tail.wait(1) == [b"1", b"2", b"3", b"late"]
    assert tail.wait(GRACE) == [b"1", b"2", b"3", b"late", b"hal"]
    assert tail.position().previous_hours == ()
    path.write_bytes(b"2\n3\n4\n")
    assert tail.wait(1) == [b"1", b"2", b"3", b"late", b"hal", b"4"]


@pytest.mark.fault(4, 43)
def test_a_former_hour_replaced_while_its_late_lines_are_read(node: Node, start: StartTail) -> None:
    """If the grace time ends during a visit, the copy's additional lines still come once each."""
    path = node.write("20260505/9", b"1\n")
    node.write("20260505/10", b"2\n")
    tail = start(start="oldest")
    tail.settle()
    node.write("20260505/9", b"late 1\nhal")
    tail.clock.now += 1
    tail.check(at_eof=True)  # starts a visit of the previous hour
    by_rename(path, b"1\nlate 1\nhalf\nlate 2\n")
    tail.clock.now += GRACE
    assert tail.settle() == [b"1", b"2", b"late 1", b"half", b"late 2"]
    assert tail.wait(1) == tail.lines
    assert tail.position().previous_hours == ()


@pytest.mark.fault(4, 23)
def test_a_former_hour_without_a_byte_made_anew(node: Node, start: StartTail) -> None:
    """Nothing of the hour was read, so a new file under its name is read from its start."""
    path = node.write("20260505/9", b"")
    node.write("20260505/10", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    path.unlink()
    tail.wait(1)
    node.write("20260505/9", b"late\nhal")
    assert tail.wait(1) == [b"1", b"late"]
    assert tail.wait(GRACE) == [b"1", b"late", b"hal"]


@pytest.mark.fault(4, 24, 43)
@ways
def test_a_former_hour_replaced_by_other_content(node: Node, start: StartTail, replace: Replace) -> None:
    path = node.write("20260505/9", b"1\n2\n")
    node.write("20260505/10", b"3\n")
    tail = start(start="oldest")
    tail.settle()
    replace(path, b"other lines\nof that hour\n")
    assert tail.wait(1) == [b"1", b"2", b"3"]
    assert any("rewritten after its hour" in notice for notice in tail.notices)


@pytest.mark.fault(4, 22)
def test_a_former_hour_moved_away_and_back(node: Node, start: StartTail) -> None:
    path = node.write("20260505/9", b"1\n")
    node.write("20260505/10", b"2\n")
    tail = start(start="oldest")
    tail.settle()
    path.rename(path.with_name("away"))
    tail.wait(1)
    path.with_name("away").rename(path)
    node.write("20260505/9", b"late\n")
    assert tail.wait(1) == [b"1", b"2", b"late"]


@pytest.mark.fault(22, 43)
def test_moved_away_and_back(node: Node, start: StartTail) -> None:
    path = node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    path.rename(path.with_name("away"))
    tail.wait(GRACE + 1)
    path.with_name("away").rename(path)
    node.write("20260505/9", b"2\n")
    assert tail.settle() == [b"1", b"2"]


@pytest.mark.fault(23, 43)
@pytest.mark.parametrize("seconds", [0.0, GRACE + 1], ids=["at-once", "let-go"])
def test_deleted_and_made_again_as_it_was(node: Node, start: StartTail, seconds: float) -> None:
    path = node.write("20260505/9", b"1\n2\n")
    tail = start(start="oldest")
    tail.settle()
    path.unlink()
    tail.wait(seconds)
    assert tail.reader.is_open == (seconds == 0)
    path.write_bytes(b"1\n")
    tail.wait(1)
    path.write_bytes(b"1\n2\n3\n")
    assert tail.settle() == [b"1", b"2", b"3"]


@pytest.mark.fault(23, 43)
@pytest.mark.parametrize("begin", [b"", b"1\n"], ids=["first", "second"])
@pytest.mark.parametrize("rest", [b"\n2\n", b" line\n2\n"], ids=["whole", "half"])
def test_let_go_within_a_line_and_made_again(node: Node, start: StartTail, begin: bytes, rest: bytes) -> None:
    """A complete line delivered without its newline is not repeated; one delivered in part is."""
    path = node.write("20260505/9", begin + b"last")
    tail = start(start="oldest")
    tail.settle()
    path.unlink()
    assert tail.wait(GRACE + 1)[-1] == b"last"
    assert not tail.reader.is_open
    node.write("20260505/9", begin + b"last" + rest)
    again = [b"last line"] if b"line" in rest else []
    assert [line for line in tail.settle() if line] == [*begin.splitlines(), b"last", *again, b"2"]


@pytest.mark.fault(43)
def test_gone_at_a_restart_and_back_as_it_was(node: Node, start: StartTail) -> None:
    path = node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    path.rename(path.with_name("away"))
    resumed = start(resume=tail.position())
    resumed.settle()
    path.with_name("away").rename(path)
    node.write("20260505/9", b"2\n")
    assert resumed.settle() == [b"2"]


@pytest.mark.fault(24, 27)
def test_written_anew_right_before_the_checkpoint(node: Node, start: StartTail) -> None:
    """The checkpoint keeps fingerprints of the content that was read, not of the present content."""
    former = node.write("20260505/9", b"1\n")
    path = node.write("20260505/10", b"2\n")
    tail = start(start="oldest")
    tail.settle()
    position = tail.position()
    former.write_bytes(b"other lines\n")
    path.write_bytes(b"3\n4\n")
    resumed = start(resume=position.with_fingerprints())
    assert resumed.settle() == [b"3", b"4"]
    assert any("rewritten after its hour" in notice for notice in resumed.notices)


@pytest.mark.fault(27, 43)
@ways
def test_a_former_hour_without_a_mark_replaced_after_a_restart(
    node: Node, start: StartTail, replace: Replace
) -> None:
    """Without a fingerprint, device and inode decide at the restart, and content from then on."""
    path = node.write("20260505/9", b"1\n")
    node.write("20260505/10", b"2\n")
    tail = start(start="oldest")
    tail.settle()
    position = tail.position()
    previous_hours = tuple(dataclasses.replace(left, tail_fingerprint="") for left in position.previous_hours)
    resumed = start(resume=dataclasses.replace(position, previous_hours=previous_hours))
    resumed.settle()
    replace(path, b"1\nlate\n")
    assert resumed.wait(1) == [b"late"]


@pytest.mark.fault(32, 43)
def test_replaced_while_it_could_not_be_read(node: Node, start: StartTail) -> None:
    """After ESTALE, the file of a network drive has another inode when it is reopened."""
    path = node.write("20260505/9", b"1\n").resolve()
    tail = start(start="oldest")
    tail.settle()
    break_descriptor(tail, path)
    by_rename(path, b"1\n2\n")
    tail.settle()
    assert tail.settle() == [b"1", b"2"]


def break_descriptor(tail: Tail, path: Path) -> None:
    """Make all further reads of the descriptor fail with EISDIR."""
    links = {int(fd): os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    [fd] = [fd for fd, link in links.items() if link == str(path)]
    folder = os.open(path.parent, os.O_RDONLY)
    os.dup2(folder, fd, inheritable=False)
    os.close(folder)


@pytest.mark.fault(27, 43)
def test_the_place_after_a_replacement_is_good_for_a_restart(node: Node, start: StartTail) -> None:
    path = node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    by_rename(path, b"1\n2\n")
    tail.settle()
    position = Position.from_json(tail.position().to_json())
    assert (position.offset, position.ino, position.previous_hours) == (4, path.stat().st_ino, ())
    by_rename(path, b"1\n2\n3\n")
    assert start(resume=position).settle() == [b"3"]


both_ways = pytest.mark.parametrize("inotify", [True, False], ids=["inotify", "polling"])


@pytest.mark.fault(43)
@both_ways
def test_a_mirror_under_the_pipeline(tmp_path: Path, inotify: bool) -> None:
    """Each order comes once, and the position has no previous hour for the replaced file."""
    path = hour_file(tmp_path, "plain", "20260505", 9)
    lines = plain(event(oid=0))
    path.write_bytes(lines)
    with Drive(tmp_path, inotify=inotify, rescan_s=0.1) as drive:
        drive.until_lines(1)
        for oid in range(1, 8):
            lines += plain(event(oid=oid))
            by_rename(path, lines)
            drive.until_lines(oid + 1)
        assert [int(each["id"]) for each in drive.updates()] == list(range(8))
        drive.stop()
        position = drive.pipeline.position()
        assert position is not None
        assert position.previous_hours == ()


@pytest.mark.fault(43)
def test_a_replay_goes_on_in_the_file_that_took_the_name(tmp_path: Path) -> None:
    """A client that resumes while a mirror keeps replacing the file gets every order once."""
    path = hour_file(tmp_path, "plain", "20260505", 9)
    lines = b"".join(plain(event(oid=oid)) for oid in range(3000))
    path.write_bytes(lines)
    total = 3000
    with serve(tmp_path, "--from", "oldest", "--rescan-s", "0.1", "--block-size", "4k") as running:
        with Bot(running) as bot:
            running.wait_metric("fasttail_lines_total", total)
            bot.subscribe(type="orders", format="raw", cursor="p2026050509-0000000000000-0000000")
            got: list[int] = []
            for _ in range(5):
                lines += b"".join(plain(event(oid=oid)) for oid in range(total, total + 200))
                total += 200
                by_rename(path, lines)
                running.wait_metric("fasttail_lines_total", total)
            while len(got) < total:
                message = bot.next()
                if message["channel"] == "orders":
                    got += [each["order"]["oid"] for each in message["data"]]
                else:
                    assert message["channel"] == "live", message
        assert got == list(range(total))
