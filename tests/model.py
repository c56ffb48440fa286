"""Models a node that does anything a node may do to its files, and checks what a tail must make of it.

The tail is Follower, Reader and Watcher, driven as the pipeline drives them, on real files and with a
simulated clock. The reference is a list of lines for each *content* (what one file holds from its creation or
truncation on) and three rules:

* a line is delivered once, or again if the fault makes the tail restart a file (`again`)
* a line may be missing only if the tail cannot have read it (`lost`): it was destroyed before it was read, or
  written to an hour that was left longer than the grace time ago. Such lines are counted
* lines that cannot be lost arrive in the order of contents, and within each in the order of writing, except
  late ones. A partial line is delivered only if its rest does not come within the grace time, and then it is.
  Nothing is delivered from an hour that is no longer watched, and no deleted file stays open

`python tests/model.py --minutes N` tries new seeds and prints each that fails.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from fasttail.sources.follower import RESCAN_S, Follower
from fasttail.sources.position import Position, PreviousHour
from fasttail.sources.reader import FILL_EOF, FILL_ERROR, FILL_LINES, FILL_NO_FILE, Reader
from fasttail.sources.watcher import WAIT_DATA, WAIT_DIRS, Watcher

GRACE = 5.0
STEM = "node_order_statuses"
STREAM = STEM + "_streaming"
WHOLE = re.compile(rb"(\d{9}):x*:\1")


@dataclass(eq=False)
class Line:
    """One numbered line. begun: when its first byte was written."""

    number: int
    place: tuple[int, int]  # its hour, and the index of its content
    data: bytes
    end: int  # offset after it
    begun: float
    tick: int  # number of its write
    lost: bool = False
    again: int = 0  # how many more deliveries are allowed
    came: int = 0
    shut: bool = False  # its hour was no longer watched
    torn: bool = False  # its beginning was delivered as a partial line


@dataclass(eq=False)
class Content:
    """What one file holds. path: None once the file has no name under which the tail looks for it."""

    hour: int
    path: Path | None
    ino: int
    lines: list[Line] = field(default_factory=list)
    size: int = 0
    was: set[int] = field(default_factory=set)  # its inodes before it was copied
    rest: bytes = b""  # unwritten rest of its last line
    deadline: float | None = None  # of the grace time since the tail left it
    left: int | None = None  # the last write before that
    shut: bool = False  # the tail was idle after the deadline
    gone: list[Line] = field(default_factory=list)  # truncated lines
    fd: int = -1  # keeps the nameless file open, so that the kernel does not reuse its inode
    stale: bool = False  # a writer unaware of the change may still append through fd
    deleted: bool = False  # it has no name at all
    copied: bool = False  # a copy took its name since the tail was last idle
    looked: float | None = None  # when the tail reached its end while it had no name
    held: bool = False  # the tail had it open when it lost its name
    changed: float = 0.0  # when it lost its name, or its last write since


@dataclass
class Counts:
    """Totals of a run."""

    steps: int = 0
    lines: int = 0
    lost: int = 0  # not delivered, and could not have been
    again: int = 0  # delivered more than once
    late: int = 0
    torn: int = 0
    restarts: int = 0
    kills: int = 0
    copies: int = 0
    holes: int = 0
    layouts: int = 0

    def add(self, other: Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class Model:
    """One run of one seed. An AssertionError means that the tail did something wrong."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.now = 1000.0
        self.window = self.rng.choice([1, 7, 60, 4096, 1 << 16])
        self.inotify = self.rng.random() < 0.5
        self.stream = STREAM
        self.hour = 0  # the newest hour
        self.contents: list[Content] = []
        self.by_number: dict[int, Line] = {}
        self.came: list[Line] = []  # delivered on time, in the order of first delivery
        self.tick = 0
        self.fds: list[int] = []  # of files that a copy replaced
        # Partial lines whose rest will not come: (hour, offset) -> the text, and the index of its content.
        self.owed: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.given: set[tuple[int, int, bytes]] = set()  # delivered partial lines: hour, offset, text
        self.notices: list[str] = []
        self.done: list[str] = []
        self.counts = Counts()
        self.saved: Position | None = None  # as in a checkpoint
        self.saved_came: list[Line] = []  # delivered since then
        self.cut: dict[int, int] = {}  # inode -> the smallest size it was truncated to since then
        self.unseen: dict[int, int] = {}  # the same, for truncations that the tail has not noticed yet
        self.start(None)

    # ---- the tail ----

    def start(self, resume: Position | None) -> None:
        self.reader = Reader(window=self.window, max_line=1 << 20)
        self.watcher = Watcher(use_inotify=self.inotify, poll_ms=1)
        self.watch = self.watcher.watch()
        self.follower = Follower(
            self.folder,
            start="oldest",
            grace_s=GRACE,
            resume=resume,
            notice=lambda level, text: self.notices.append(text),
            clock=lambda: self.now,
        )
        self.resume = resume
        self.down = False  # between two processes, when only the checkpoint exists
        previous_hours = {left.ino for left in resume.previous_hours} if resume else set()
        self.unseen = {ino: end for ino, end in self.unseen.items() if ino in previous_hours}
        self.sure = True  # whether the model knows when grace times end
        self.due = 0.0
        self.idle = False
        self.pieces: set[tuple[int, bytes]] = set()

    def turn(self, most: int = 1 << 30, *, alone: bool = False) -> bool:
        """Run a round of the pipeline loop with at most `most` reads; return whether more can be done now.

        alone: the node does nothing meanwhile.
        """
        if self.down:
            return False
        happened = self.watcher.wait_once(0)
        if happened & (WAIT_DATA | WAIT_DIRS) or self.now >= self.due:
            self.idle = False
        if happened & WAIT_DIRS:
            self.due = 0.0
        while not self.idle and most > 0:
            most -= 1
            code = self.reader.fill_once()
            if code == FILL_LINES:
                for data in self.reader.take_lines().split(b"\n")[:-1]:
                    self.take(data, final=False)
            self.idle = code in (FILL_EOF, FILL_NO_FILE, FILL_ERROR)
        if self.now < self.due:
            return not self.idle
        if self.idle and not alone and self.rng.random() < 0.03:
            # Between the read that found the end and the following check.
            self.rng.choice([self.append, self.finish, self.append_here, self.rotate])()
            self.append_here()
        before = self.position()
        self.follower.check(self.reader, self.watch, self.idle)
        self.due = self.now + self.follower.next_check_s
        after = self.position()
        if before is not None and after is not None and before.offset > after.offset:
            self.unseen.pop(before.ino, None)
        if before is not None and after is not None and before.ino != after.ino:
            left = self.content(before.ino)
            self.unseen.pop(before.ino, None)
            if left is not None and left.path != Path(after.path):
                left.deadline = self.now + GRACE
                left.left = self.tick
        while (tail := self.follower.take_final_line()) is not None:
            self.take(tail, final=True)
        if self.sure and self.idle and self.reader.is_open and self.follower.next_check_s > 0:
            self.check_gone()
            for content in self.contents:
                content.shut |= content.deadline is not None and 0 < content.deadline <= self.now
        return self.follower.next_check_s == 0 or not self.idle

    def check_gone(self) -> None:
        """Check that a deleted file does not stay open forever. The tail is idle."""
        position = self.position()
        content = None if position is None else self.content(position.ino)
        if position is None or content is None or not content.deleted:
            return
        if content.looked is None or content.looked < content.changed or position.previous_hours:
            content.looked = self.now
        # A shortened file may grow again, a deleted one too, and then the rest of a partial line may come.
        assert self.now < content.looked + 3 * (GRACE + RESCAN_S), "a deleted file is still open"

    def settle(self, *, alone: bool = False) -> None:
        for _ in range(10_000):
            if not self.turn(alone=alone):
                return
        raise AssertionError("does not come to rest")

    def position(self) -> Position | None:
        return self.saved if self.down else self.follower.position(self.reader)

    def content(self, ino: int) -> Content | None:
        """Return the newest content of the file with that inode."""
        return next((each for each in reversed(self.contents) if ino in {each.ino, *each.was}), None)

    def take(self, data: bytes, *, final: bool) -> None:
        """Check a line that the tail delivers."""
        if final and self.follower.final_origin is not None:
            path, offset = self.follower.final_origin
            self.owed.pop((self.hour_of(path), offset), None)
        data = data.lstrip(b"\0")  # a hole is not part of a line; the parser skips it
        if (found := WHOLE.fullmatch(data)) is None:
            self.take_piece(data, final)
            return
        line = self.by_number[int(found[1])]
        line.came += 1
        assert not line.shut, f"{line.number} came though the grace time of its hour was over"
        line.torn = line.torn or final  # its newline is still to come
        self.saved_came.append(line)
        if line.came > 1:
            assert line.again > 0, f"{line.number} came twice"
            line.again -= 1
            self.counts.again += 1
        elif self.follower.late or self.given_up_late(line, final):
            self.counts.late += 1
            left = self.contents[line.place[1]].left
            in_time = left is not None and line.tick <= left
            assert line.torn or not in_time, f"{line.number} was there when its hour was left"
        elif not line.lost:
            self.came.append(line)

    def given_up_late(self, line: Line, final: bool) -> bool:
        """Return whether only its newline was missing when the grace time of its hour ended."""
        deadline = self.contents[line.place[1]].deadline
        return final and deadline is not None and self.now >= deadline

    def take_piece(self, data: bytes, final: bool) -> None:
        """Accept a piece only of a line whose rest did not come in time, or whose end was truncated."""
        if final:
            self.give_up(data)
            return
        for line in self.by_number.values():
            start = line.end - len(line.data) - 1
            # A rewritten line may begin like the one whose beginning was delivered.
            given = (line.place[0], start, line.data.removesuffix(data)) in self.given
            if line.data.endswith(data) and (line.torn or given):
                return
        raise AssertionError(f"{data!r} is no line")

    def give_up(self, data: bytes) -> None:
        """Check a partial line that the tail delivers because its rest did not come."""
        assert self.follower.final_origin is not None
        path, offset = self.follower.final_origin
        found = False
        self.given.add((self.hour_of(path), offset, data))
        if len(data) > 9:  # contains the whole number; a shorter piece may be another line's
            assert (offset, data) not in self.pieces, f"gave out {data!r} twice"
            self.pieces.add((offset, data))
        for content in self.contents:
            for line in content.lines + content.gone:
                if content.hour != self.hour_of(path) or line.end - len(line.data) - 1 != offset:
                    continue
                # Two contents of an hour may begin alike; the right one has no end yet.
                owed = line.lost or (content.rest and line is content.lines[-1])
                if not owed or not line.data.startswith(data):
                    continue
                if content.path is not None and line not in content.gone:
                    over = content.deadline is not None and self.now >= content.deadline
                    # Also if an emptied content was left: whatever takes its name is the same hour.
                    over = over or any(
                        each.hour == content.hour and each.deadline and self.now >= each.deadline
                        for each in self.contents
                    )
                    if not over and self.now < line.begun + GRACE * 0.99:
                        continue
                    if not any(other.hour > content.hour for other in self.contents):
                        continue
                line.torn = line.lost = found = True
        self.counts.torn += 1
        assert found, f"gave out {data!r}, at {offset} of {path}: too soon, or no line's beginning"

    # ---- what the reference knows ----

    def reached(self, content: Content) -> bool:
        """Return whether the tail must see what is written to it now."""
        if content.path is None:
            return False
        position = self.position()
        if position is None:
            return self.resume is None or content.hour >= self.hour_of(self.resume.path)
        if content.ino == position.ino:
            return True
        at = self.hour_of(position.path)
        if content.deadline is not None and content.hour < at:
            return self.now < content.deadline
        return content.hour >= at

    def lose(self, lines: list[Line]) -> None:
        for line in lines:
            if not line.came:
                line.lost = True

    def path(self, hour: int) -> Path:
        return self.folder / self.stream / "hourly" / f"202605{1 + hour // 24:02}" / str(hour % 24)

    def hour_of(self, path: str) -> int:
        date, hour = path.split("/")[-2:]
        return (int(date[-2:]) - 1) * 24 + int(hour)

    def named(self, hour: int) -> Content | None:
        """Return the content under the hour's name."""
        path = self.path(hour)
        return next((each for each in reversed(self.contents) if each.path == path), None)

    # ---- what the node does ----

    def write(self, hour: int, count: int, torn: bool) -> None:
        """Write `count` lines; if `torn`, only a part of the last."""
        content = self.named(hour)
        path = self.path(hour)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            if content is None:
                content = Content(hour, path, path.stat().st_ino)
                self.contents.append(content)
            self.write_rest(content)
            place = self.contents.index(content)
            for i in range(count):
                number = len(self.by_number)
                self.tick += 1
                data = b"%09d:%s:%09d" % (number, b"x" * self.rng.choice([0, 1, 30, 200]), number)
                content.size += len(data) + 1
                lost = not self.reached(content)
                line = Line(number, (hour, place), data, content.size, self.now, self.tick, lost)
                line.shut = content.shut
                content.lines.append(line)
                self.by_number[number] = line
                cut = self.rng.randrange(1, len(data) + 1) if torn and i == count - 1 else len(data) + 1
                whole = data + b"\n"
                content.rest = whole[cut:]
                # Byte by byte, with turns of the tail in between.
                if self.rng.random() < 0.1:
                    for at in range(cut):
                        file.write(whole[at : at + 1])
                        if at % 50 == 0:
                            self.turn(2, alone=True)
                else:
                    file.write(whole[:cut])

    def write_rest(self, content: Content) -> None:
        if content.rest and content.path is not None:
            rest, content.rest = content.rest, b""
            if not self.reached(content):
                content.lines[-1].lost = True
            with content.path.open("ab", buffering=0) as file:
                file.write(rest)

    def append(self) -> None:
        self.write(self.hour, self.rng.choice([1, 1, 2, 5, 60]), self.rng.random() < 0.3)

    def finish(self) -> None:
        if (content := self.named(self.hour)) is not None:
            self.write_rest(content)

    def append_here(self) -> None:
        """Append to the hour that the tail is at."""
        position = self.position()
        content = None if position is None else self.content(position.ino)
        if content is not None and content.path is not None:
            self.write(content.hour, 1, torn=False)

    def append_stale(self) -> None:
        """Append as a writer that does not know that its file has lost its name."""
        content = next((each for each in reversed(self.contents) if each.stale), None)
        if content is None:
            return
        position = self.position()
        newer = any(each.path is not None and each.hour >= content.hour for each in self.contents)
        number = len(self.by_number)
        self.tick += 1
        data = b"%09d::%09d" % (number, number)
        content.size += len(data) + 1
        here = content.held and position is not None and position.ino == content.ino
        reached = here and not newer and self.now < content.changed + GRACE
        content.held = reached
        place = (content.hour, self.contents.index(content))
        line = Line(number, place, data, content.size, self.now, self.tick, lost=not reached)
        content.lines.append(line)
        self.by_number[number] = line
        content.changed = self.now
        os.write(content.fd, data + b"\n")

    def append_late(self) -> None:
        """Append to a previous hour, perhaps long after it was left or deleted."""
        hour = max(0, self.hour - self.rng.choice([1, 1, 2, 3]))
        left = [each.hour for each in self.contents if each.path is not None and each.deadline is not None]
        if left and self.rng.random() < 0.5:
            hour = self.rng.choice(left[-3:])
        self.write(hour, self.rng.choice([1, 3]), self.rng.random() < 0.2)

    def rotate(self) -> None:
        """Go to the next hour, or one much later, perhaps on another date.

        Partial lines may get their rest or not.
        """
        for content in self.contents[-4:]:
            if self.rng.random() < 0.6:
                self.write_rest(content)
        self.hour += self.rng.choice([1, 1, 1, 1, 2, 5, 23])
        if self.rng.random() < 0.8:
            self.append()

    def rotate_many(self) -> None:
        for _ in range(self.rng.randrange(2, 5)):
            self.rotate()

    def some(self) -> Content | None:
        """Return a content with a name, usually the newest."""
        there = [each for each in self.contents if each.path is not None]
        if not there:
            return None
        return there[-1] if self.rng.random() < 0.6 else self.rng.choice(there[-4:])

    def truncate(self) -> None:
        """Truncate to nothing or to the end of a line, perhaps after making a copy: the file starts over."""
        if (content := self.some()) is not None:
            self.cut_down(content)

    def rewrite(self) -> None:
        """Do the same, then immediately write more than before."""
        if (content := self.some()) is None:
            return
        size = content.size
        self.cut_down(content, look=False)
        self.grow(content.hour, size)

    def grow(self, hour: int, size: int) -> None:
        for _ in range(100):
            self.write(hour, 1, torn=False)
            if (content := self.named(hour)) is None or content.size > size:
                return

    def cut_down(self, content: Content, *, look: bool = True, last: bool = False) -> None:
        """look: the tail may check it before it grows. last: it does not grow before that."""
        self.see_copy(content)
        if content.path is None:
            return
        # Once it grows past the position again, only a fingerprint in the checkpoint distinguishes the
        # content.
        inodes = {content.ino, *content.was}
        unmarked = (
            self.saved is not None and not self.saved.tail_fingerprint and inodes & self.inodes(self.saved)
        )
        if unmarked and self.down and not last:
            return
        position = self.position()
        if self.rng.random() < 0.3:
            shutil.copy(content.path, content.path.with_name(f"{content.path.name}.1"))
        kept = self.rng.randrange(len(content.lines) + 1) if self.rng.random() < 0.3 else 0
        if content.rest:
            kept = len(content.lines) - 1 if self.rng.random() < 0.3 else min(kept, len(content.lines) - 1)
        end = content.lines[kept - 1].end if kept else 0
        self.lose(content.lines[kept:])
        with content.path.open("r+b") as file:
            file.truncate(end)
        # What a tail has not read yet may be truncated without changing what its position means.
        unread = (
            position is not None
            and any(left.ino in inodes and left.offset <= end for left in position.previous_hours)
            and (self.down or not self.follower.late)
        )
        for seen in (self.cut,) if unread else (self.cut, self.unseen):
            for ino in inodes:
                seen[ino] = min(end, seen.get(ino, end))
        fresh = Content(content.hour, content.path, content.ino, size=end, deadline=content.deadline)
        fresh.was = content.was
        fresh.shut = content.shut
        content.rest = b""
        if kept == 0:
            self.contents.append(fresh)
            content.path = None
        else:
            if position is not None and position.ino == content.ino and end < position.offset:
                for line in content.lines[:kept]:
                    line.again += line.came > 0
            content.gone += content.lines[kept:]
            del content.lines[kept:]
            content.size = end
            fresh = content
        if fresh.deadline is not None:
            fresh.deadline = 0.0  # shorter than when it was left, it is no longer watched
        if not self.down:
            here = position is not None and position.ino == content.ino
            if look and here and self.rng.random() < 0.5:
                self.settle_on(content.ino)
                self.save()
            elif unmarked:
                self.save(marked=True)

    @staticmethod
    def inodes(position: Position) -> set[int]:
        return {position.ino, *(left.ino for left in position.previous_hours)}

    def settle_on(self, ino: int) -> None:
        """Run until the tail has checked the end of that file, which it has open."""
        for _ in range(10_000):
            self.due, self.idle = 0.0, False
            more = self.turn(alone=True)
            position = self.position()
            if not more or position is None or position.ino != ino:
                return
        raise AssertionError("does not come to rest")

    def delete(self) -> None:
        """Delete a file, or rename it to a name that is not watched. The next line creates the file again."""
        if (content := self.some()) is None:
            return
        self.remove(content, self.rng.random() < 0.5)
        if self.rng.random() < 0.4:
            if self.rng.random() < 0.5:
                self.turn(alone=True)
            else:
                self.settle(alone=True)
            self.append_stale()

    def remove(self, content: Content, rename: bool) -> None:
        self.see_copy(content)
        assert content.path is not None
        position = self.position()
        here = position is not None and position.ino == content.ino
        content.held = here and not self.down and self.reader.is_open
        if not content.held:
            self.lose(content.lines)
        content.fd = os.open(content.path, os.O_WRONLY | os.O_APPEND)
        content.changed = self.now
        content.stale = not content.rest
        if content.rest:
            line = content.lines[-1]
            if content.held:
                piece = line.data[: len(line.data) + 1 - len(content.rest)]
                place = (content.hour, line.end - len(line.data) - 1)
                self.owed[place] = piece, self.contents.index(content)
            line.lost = True
            content.rest = b""
        if rename:
            content.path.rename(content.path.with_name(f"moved.{len(self.contents)}.{self.rng.random()}"))
        else:
            content.path.unlink()
            content.deleted = True
        content.path = None

    def quiet(self) -> None:
        """Delete the current file and have no other for some time."""
        self.append()
        self.settle(alone=True)
        position = self.position()
        content = None if position is None else self.content(position.ino)
        if content is None or content.path is None:
            return
        self.remove(content, rename=False)
        for _ in range(self.rng.randrange(1, 8)):
            self.now += GRACE / 2
            self.settle(alone=True)
            if self.rng.random() < 0.2:
                self.append_stale()

    def wipe(self) -> None:
        """Delete the whole folder; the node creates it again."""
        for content in self.contents:
            if content.path is not None:
                self.remove(content, rename=False)
        shutil.rmtree(
            self.folder / self.stream if self.rng.random() < 0.5 else self.folder, ignore_errors=True
        )

    def mirror(self) -> None:
        """Replace a file by a copy, perhaps with more lines, perhaps twice before a check."""
        for _ in range(self.rng.choice([1, 1, 2])):
            content = self.some()
            if content is None or content.path is None:
                return
            copy = content.path.with_name("copy")
            shutil.copy(content.path, copy)
            self.fds.append(os.open(content.path, os.O_RDONLY))
            copy.rename(content.path)
            content.was = {*content.was, content.ino}
            content.ino = content.path.stat().st_ino
            content.copied = True
            self.counts.copies += 1
            if self.rng.random() < 0.7:
                self.write(content.hour, self.rng.choice([1, 3]), self.rng.random() < 0.2)

    def see_copy(self, content: Content) -> None:
        """Let the tail notice a copy before it disappears."""
        if content.copied and not self.down:
            self.due, self.idle = 0.0, False
            self.settle(alone=True)
        content.copied = False

    def hole(self) -> None:
        """Write some lines past a gap in the file and fill the gap later, in parts and in any order."""
        self.append()
        self.finish()
        self.due, self.idle = 0.0, False
        self.settle(alone=True)
        content = self.named(self.hour)
        position = self.position()
        if content is None or content.path is None or position is None:
            return
        if (position.ino, position.offset) != (content.ino, content.size):
            # It is elsewhere, or the file was truncated and the tail waits for its former size.
            return
        self.counts.holes += 1
        begin, first = content.size, len(self.by_number)
        place = (content.hour, self.contents.index(content))
        for number in range(first, first + self.rng.randrange(3, 9)):
            self.tick += 1
            data = b"%09d:%s:%09d" % (number, b"x" * self.rng.choice([0, 1, 30, 200]), number)
            content.size += len(data) + 1
            # Marked lost because their order is unspecified. Their delivery is checked below.
            line = Line(number, place, data, content.size, self.now, self.tick, lost=True)
            content.lines.append(line)
            self.by_number[number] = line
        lines = content.lines[-(len(self.by_number) - first) :]
        data = b"".join(line.data + b"\n" for line in lines)
        cuts = [begin, *(line.end for line in lines)]
        parts = [(at, data[at - begin : end - begin]) for at, end in pairwise(cuts)]
        self.rng.shuffle(parts)
        fd = os.open(content.path, os.O_WRONLY)
        for at, part in parts:
            os.pwrite(fd, part, at)
            if self.rng.random() < 0.5:
                self.settle(alone=True)
            if self.rng.random() < 0.3:
                self.now += GRACE / 4
                self.settle(alone=True)
        os.close(fd)
        self.now += 1.0
        self.settle(alone=True)
        assert [line.came for line in lines] == [1] * len(lines), "of lines behind a hole and in it"

    def change_layout(self) -> None:
        """Restart the node with another layout and remove the old folder."""
        self.finish()
        for _ in range(4):
            self.now += GRACE
            self.settle(alone=True)
        for content in self.contents:
            self.see_copy(content)
            if content.path is not None or content.held:
                self.lose(content.lines)
                if content.rest:
                    content.lines[-1].lost = True
                    content.rest = b""
                content.path, content.held, content.stale = None, False, False
        self.owed.clear()
        self.counts.layouts += 1
        old = self.stream
        suffixes = ["", "_by_block", "_streaming"]
        self.stream = self.rng.choice([name for suffix in suffixes if (name := STEM + suffix) != old])
        self.now += 60.0
        self.settle(alone=True)
        self.hour += 1
        for _ in range(3):
            self.write(self.hour, 1, torn=False)
            self.now += RESCAN_S + 0.1
            self.settle(alone=True)
        position = self.position()
        assert position is not None
        assert self.stream + "/" in position.path, (self.stream, position)
        shutil.rmtree(self.folder / old, ignore_errors=True)
        self.save()

    def litter(self) -> None:
        """Create files and folders that are not node hours."""
        folder = self.path(self.hour).parent
        folder.mkdir(parents=True, exist_ok=True)
        name = self.rng.choice(["24", "07", "3.tmp", "x"])
        (folder / name).write_bytes(b"no line of ours\n")
        (folder.parent / "20269").mkdir(exist_ok=True)

    # ---- what the tail does ----

    def read(self) -> None:
        for _ in range(self.rng.randrange(6)):
            self.turn(self.rng.choice([1, 1, 3, 100]))

    def wait(self) -> None:
        for _ in range(self.rng.choice([1, 3, 10, 30])):
            self.now += self.rng.choice([0.02, 0.1, 0.5])
            self.turn()

    def save(self, *, marked: bool = False) -> None:
        """Save a checkpoint, to which a kill returns. Some contain no fingerprints."""
        self.saved = self.position()
        seen = self.saved is None or self.inodes(self.saved).isdisjoint(self.unseen)
        if self.saved is not None and seen and not marked and self.rng.random() < 0.3:
            previous_hours = tuple(replace(left, tail_fingerprint="") for left in self.saved.previous_hours)
            self.saved = replace(
                self.saved, head_fingerprint="", tail_fingerprint="", previous_hours=previous_hours
            )
        self.saved_came = []
        self.cut = dict(self.unseen)

    def stop(self) -> None:
        """Stop in order, between two batches, while the node continues."""
        position = self.position()
        content = None if position is None else self.content(position.ino)
        anew = None
        if content is not None and content.path is not None and self.rng.random() < 0.1:
            anew = content.hour, content.size
            self.cut_down(content, look=False)
        self.save()
        self.counts.restarts += 1
        self.restart(anew=anew)

    def kill(self) -> None:
        """Kill at any moment: what was delivered since the last checkpoint comes again."""
        self.counts.kills += 1
        self.restart(killed=True)

    def check_order(self) -> None:
        """Check the order since the last start: a restarted tail may have found more in older hours."""
        must = [(*line.place, line.number) for line in self.came if not line.lost]
        wrong = next(((a, b) for a, b in pairwise(must) if a > b), None)
        assert wrong is None, f"out of order: (hour, content, line) {wrong}"
        self.came = []

    def restart(self, *, killed: bool = False, anew: tuple[int, int] | None = None) -> None:
        """Restart from the checkpoint. anew: the hour that grows meanwhile, and beyond which size."""
        saved = self.saved
        self.check_order()
        self.owed.clear()
        self.reader.close()
        self.watcher.close()
        at = -1 if saved is None else self.hour_of(saved.path)
        previous_hours = {left.ino: left for left in saved.previous_hours} if saved else {}
        for content in self.contents:
            left = next(
                (previous_hours[ino] for ino in (content.ino, *content.was) if ino in previous_hours), None
            )
            known = left is not None and content.path == Path(left.path) and self.uncut(left)
            # Whatever has the name of a file of which nothing was read is read from its start.
            known = (
                known
                and left is not None
                and (left.tail_fingerprint != "" or left.offset == 0 or left.ino == content.ino)
            )
            content.shut = False
            for line in content.lines + content.gone:
                line.shut = False
            content.deadline = self.now + left.grace_left_s if left is not None and known else None
            # A new process does not know nameless files, or hours that were left long ago.
            content.held = False
            if content.path is None or (content.hour < at and not known):
                self.lose(content.lines)
                if content.rest:
                    content.lines[-1].lost = True
        self.down = True
        actions = [self.append, self.append, self.finish, self.rotate, self.delete]
        actions += [self.truncate, self.rewrite]
        for _ in range(self.rng.randrange(3)):
            self.rng.choice(actions)()
        last = None if saved is None or self.rng.random() > 0.1 else self.content(saved.ino)
        if last is not None:
            self.cut_down(last, last=True)
        if anew is not None:
            self.grow(*anew)
        copied = last is None and saved is not None and self.copy(saved)
        self.down = False
        if saved is not None and (self.holds(saved) or not Path(saved.path).exists()):
            for line in self.saved_came if killed else []:
                line.again += 1
        else:
            # By policy everything that exists, from the oldest on.
            for content in self.contents:
                if content.path is not None:
                    for line in content.lines:
                        line.again += line.came > 0
        renew = saved is not None and not self.holds(saved)
        self.saved_came = []
        self.start(saved)
        self.turn(0, alone=True)  # the first scan decides
        self.sure = self.reader.is_open
        if renew or copied:
            self.save()  # the old checkpoint would wrongly be valid again once that file has grown
        if saved is not None and last is not None and self.rng.random() < 0.5:
            self.grow(last.hour, saved.offset)  # before anything is read

    def copy(self, saved: Position) -> bool:
        """Replace the file of a checkpoint with fingerprints by another with the same content."""
        content = self.content(saved.ino)
        if not (saved.head_fingerprint and saved.tail_fingerprint) or content is None or content.path is None:
            return False
        if self.rng.random() > 0.2 or not self.holds(saved):
            return False
        copy = content.path.with_name("copy")
        shutil.copy(content.path, copy)
        self.fds.append(os.open(content.path, os.O_RDONLY))
        copy.rename(content.path)
        content.was = {*content.was, content.ino}
        content.ino = content.path.stat().st_ino
        content.deadline = None
        return True

    def holds(self, saved: Position) -> bool:
        content = self.content(saved.ino)
        if content is None or (
            content.ino != saved.ino and not (saved.head_fingerprint and saved.tail_fingerprint)
        ):
            return False
        return content.path == Path(saved.path) and self.uncut(saved)

    def uncut(self, place: Position | PreviousHour) -> bool:
        """Return whether the content before that position is unchanged since the checkpoint."""
        return self.cut.get(place.ino, place.offset) >= place.offset

    # ---- a run ----

    def run(self, steps: int) -> Counts:
        actions = [self.append] * 10 + [self.finish] * 2 + [self.rotate] * 2
        actions += [self.append_late] * 3 + [self.append_stale] * 2
        actions += [self.read] * 8 + [self.wait] * 3 + [self.settle] * 2
        actions += [self.truncate, self.rewrite] + [self.delete] * 2
        actions += [self.rotate_many, self.litter, self.quiet, self.save, self.save, self.stop, self.kill]
        actions += [self.mirror] * 3 + [self.hole]
        for _ in range(steps):
            action = self.rng.choice(actions if self.rng.random() < 0.99 else [self.wipe, self.change_layout])
            self.done.append(action.__name__)
            action()
        self.end()
        for fd in [*self.fds, *(content.fd for content in self.contents if content.fd >= 0)]:
            os.close(fd)
        self.counts.steps = steps
        self.reader.close()
        self.watcher.close()
        return self.counts

    def went_on(self, place: tuple[int, int]) -> bool:
        """Return whether the piece was all of its file and a later file of that name begins like it.

        The tail cannot distinguish that from a copy.
        """
        piece, index = self.owed[place]
        later = [each for each in self.contents[index + 1 :] if each.hour == place[0]]
        return place[1] == 0 and any(
            line.data.startswith(piece) for each in later for line in (each.lines + each.gone)[:1]
        )

    def end(self) -> None:
        """Let the node write what it owes and a last line; then the tail must have everything it can get."""
        for content in self.contents:
            self.write_rest(content)
        self.hour += 1
        self.write(self.hour, 1, torn=False)
        for _ in range(60 + 2 * len(self.contents)):
            self.settle(alone=True)
            self.now += GRACE
        missing = [line.number for line in self.by_number.values() if not line.came and not line.lost]
        assert not missing, f"missing: {missing}"
        owed = [place for place in self.owed if not self.went_on(place)]
        assert not owed, f"not given out: {owed}"
        self.check_order()
        self.counts.lines = len(self.by_number)
        self.counts.lost = sum(not line.came for line in self.by_number.values())


def try_seed(seed: int, steps: int) -> Counts:
    """Run once in a new folder. The error of a failing run names its seed and last steps."""
    with tempfile.TemporaryDirectory(prefix="fasttail-model-") as folder:
        model = Model(Path(folder, "data"), seed)
        try:
            return model.run(steps)
        except BaseException as error:
            how = f"window {model.window}, {'inotify' if model.inotify else 'polling'}"
            error.add_note(f"seed {seed}, {how}, step {len(model.done)}: {' '.join(model.done[-12:])}")
            error.add_note("\n".join(model.notices[-8:]))
            raise


def main() -> int:
    parser = argparse.ArgumentParser(description="the tailer's model test, with seeds not tried before")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long")
    parser.add_argument("--steps", type=int, default=150, help="of each seed")
    parser.add_argument("--seed", type=int, help="where to begin (default: by the clock)")
    args = parser.parse_args()
    begin = time.monotonic()
    first = seed = args.seed if args.seed is not None else time.time_ns() // 1_000_000
    total, failed = Counts(), []
    while time.monotonic() - begin < args.minutes * 60:
        try:
            total.add(try_seed(seed, args.steps))
        except AssertionError as error:
            failed.append(seed)
            print(f"FAILED: {error}", *error.__notes__, sep="\n  ", flush=True)
        seed += 1
    print(f"{seed - first} seeds from {first}, {vars(total)}; {len(failed)} failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
