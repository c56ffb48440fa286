"""Reader: complete lines of a growing file, wherever reads cut them, in bounded memory."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from running import program

from fasttail.sources.reader import (
    FILL_EOF,
    FILL_ERROR,
    FILL_LINES,
    FILL_NO_FILE,
    FILL_PARTIAL,
    FILL_SKIPPED,
    Reader,
)

MB = 1 << 20


def drain(reader: Reader) -> list[bytes]:
    """Return the complete lines up to the current end of the file, without their newlines."""
    blocks = []
    while (code := reader.fill_once()) != FILL_EOF:
        assert code in (FILL_LINES, FILL_PARTIAL, FILL_SKIPPED)
        if code == FILL_LINES:
            block = reader.take_lines()
            assert block.endswith(b"\n")
            blocks.append(block)
    return b"".join(blocks).split(b"\n")[:-1]


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(path: Path) -> list[int]:
    """Return this process's descriptors of one file."""
    links = {int(fd): os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    return [fd for fd, link in links.items() if link == str(path.resolve())]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "9"


@pytest.mark.fault(9)
def test_growing_file(path: Path) -> None:
    reader = Reader()
    assert reader.fill_once() == FILL_NO_FILE
    path.write_bytes(b"one\ntwo\nthr")
    reader.open(path)
    assert reader.fill_once() == FILL_LINES
    assert reader.tell() == 0
    assert reader.fill_once() == FILL_LINES, "lines are offered until they are consumed"
    assert reader.take_lines() == b"one\ntwo\n"
    assert (reader.tell(), reader.partial_bytes, reader.read_offset()) == (8, 3, 11)
    assert reader.fill_once() == FILL_EOF
    with path.open("ab") as file:
        file.write(b"ee")
        file.flush()
        assert reader.fill_once() == FILL_PARTIAL
        assert reader.fill_once() == FILL_EOF
        file.write(b"\n")
        file.flush()
    assert reader.fill_once() == FILL_LINES
    assert reader.take_lines() == b"three\n"
    assert (reader.tell(), reader.partial_bytes) == (14, 0)
    assert reader.bytes_read == 14


@pytest.mark.fault(10, 13)
@pytest.mark.parametrize("window", [1, 2, 3, 7, 64, 1 << 19])
def test_cut_anywhere(path: Path, window: int) -> None:
    """Every line is complete wherever it is cut: inside UTF-8, an escape or CR LF, or at an empty line."""
    lines = ['{"coin":"ü🚀"}', "", r'{"error":"a\"b\\"}', "crlf\r", "x" * 1000, "", "end"]
    content = "\n".join(lines).encode() + b"\n"
    path.write_bytes(content)
    reader = Reader(window=window)
    reader.open(path)
    assert drain(reader) == [line.encode() for line in lines]
    assert reader.tell() == len(content)


@pytest.mark.fault(10, 12, 15)
def test_any_window_and_limit_against_plain_python(path: Path) -> None:
    """Lines and the count of oversize lines do not depend on the window and the writer's pieces."""
    rng = random.Random(1)
    for _ in range(300):
        limit = rng.choice([1, 2, 5, 20, 100])
        longest = rng.choice([3, 2 * limit + 2, 6 * limit])
        lines = [rng.randbytes(rng.randrange(longest)).replace(b"\n", b"n") for _ in range(rng.randrange(30))]
        if rng.random() < 0.3:  # holes
            lines = [bytes(rng.randrange(longest)) + line for line in lines]
        content = b"".join(line + b"\n" for line in lines)
        lines = [line.lstrip(b"\0") for line in lines]
        path.write_bytes(b"")
        reader = Reader(window=rng.choice([1, 2, 3, 10, 50, 1000]), max_line=limit)
        reader.open(path)
        got = []
        with path.open("ab", buffering=0) as file:
            at = 0
            while at < len(content):
                size = rng.choice([1, 2, 10, 1000])
                file.write(content[at : at + size])
                at += size
                got += drain(reader)
                done = content[: reader.tell()].rstrip(b"\0")
                assert done.endswith(b"\n") or not done, "always a line start"
        assert [line.lstrip(b"\0") for line in got] == [line for line in lines if len(line) <= limit]
        assert reader.oversize_lines == sum(len(line) > limit for line in lines)
        assert (reader.tell(), reader.read_offset(), reader.partial_bytes) == (len(content), len(content), 0)


def test_long_line_takes_time_in_proportion(path: Path) -> None:
    """A long line takes linear time: scanning all of it at every read would touch 64 GB."""
    path.write_bytes(b"x" * (32 * MB) + b"\ny\n")
    reader = Reader(window=8192)
    reader.open(path)
    begin = time.process_time()
    assert [len(line) for line in drain(reader)] == [32 * MB, 1]
    assert time.process_time() - begin < 2


@pytest.mark.fault(12)
def test_memory_of_a_long_line_is_given_back(path: Path) -> None:
    path.write_bytes(b"x" * (48 * MB) + b"\nnext\n")
    reader = Reader()
    reader.open(path)
    before = rss()
    while reader.fill_once() != FILL_LINES:
        pass
    assert rss() - before > 40 * MB
    assert len(reader.take_lines()) > 48 * MB
    assert drain(reader) in ([b"next"], [])
    assert rss() - before < 8 * MB


@pytest.mark.fault(12)
def test_oversize_line_in_bounded_memory(path: Path) -> None:
    """A line of 400 MB, nearly all a hole, needs bounded memory. A separate process measures the peak."""
    with path.open("wb") as file:
        file.write(b"before\n{")
        file.seek(400 * MB)
        file.write(b"\nafter\n")
    run = subprocess.run([*program("oversize_line"), str(path)], capture_output=True, text=True, check=True)
    *told, growth = run.stdout.split()
    assert told == ["b'before\\nafter\\n'", "1", str(400 * MB + 7)]
    assert int(growth) < 8 << 10, "KiB"


def test_oversize_line_is_one_line_for_tell(path: Path) -> None:
    """While an oversize line is skipped, its start is the position to resume at."""
    path.write_bytes(b"a\n" + b"x" * 100)
    reader = Reader(window=8, max_line=10)
    reader.open(path)
    assert drain(reader) == [b"a"]
    assert (reader.tell(), reader.read_offset(), reader.partial_bytes, reader.oversize_lines) == (
        2,
        102,
        100,
        1,
    )
    with path.open("ab") as file:
        file.write(b"xx\nb\n")
    other = Reader(window=16, max_line=10)
    other.open(path, reader.tell())
    assert drain(reader) == drain(other) == [b"b"]
    assert reader.oversize_lines == other.oversize_lines == 1


def test_take_tail(path: Path) -> None:
    path.write_bytes(b"a\nunfinished")
    reader = Reader()
    reader.open(path)
    assert reader.fill_once() == FILL_LINES
    with pytest.raises(ValueError, match="lines first"):
        reader.take_partial_line()
    reader.take_lines()
    assert reader.take_partial_line() == b"unfinished"
    assert (reader.tell(), reader.read_offset(), reader.partial_bytes) == (12, 12, 0)
    assert reader.take_partial_line() == b""
    with path.open("ab") as file:
        file.write(b" rest\nb\n")
    assert drain(reader) == [b" rest", b"b"]


def test_take_tail_of_an_oversize_line(path: Path) -> None:
    path.write_bytes(b"x" * 100)
    reader = Reader(window=8, max_line=10)
    reader.open(path)
    assert drain(reader) == []
    assert reader.take_partial_line() == b""
    assert (reader.tell(), reader.partial_bytes) == (100, 0)


@pytest.mark.fault(42)
def test_beyond_4_gib(path: Path) -> None:
    start = 5 << 30
    with path.open("wb") as file:
        file.seek(start)
        file.write(b"far\naway\n")
    reader = Reader()
    reader.open(path, start)
    assert drain(reader) == [b"far", b"away"]
    assert (reader.tell(), reader.size()) == (start + 9, start + 9)


def lines_of(reader: Reader, rounds: int = 50) -> list[bytes]:
    """Return lines like `drain`, but continue at the end of the file."""
    blocks = [reader.take_lines() for _ in range(rounds) if reader.fill_once() == FILL_LINES]
    return b"".join(blocks).split(b"\n")[:-1]


@pytest.mark.fault(20)
@pytest.mark.parametrize("window", [2, 7, 64, 1 << 19])
@pytest.mark.parametrize("size", [1, 3, 100, 1023, 1024, 1025, 5000])
def test_a_wary_reader_knows_when_what_it_has_read_is_another(path: Path, window: int, size: int) -> None:
    """With `check_rewrites`, one changed byte before the position stops the reader."""
    content = b"".join(b"%d\n" % number for number in range(size))[-size:-1] + b"\n"
    for back in {1, min(size, 2), min(size, 1024)}:
        for rest in (b"", b"the rest of a line", b"x" * 2000):
            path.write_bytes(content + rest)
            reader = Reader(window=window)
            reader.check_rewrites = True
            reader.open(path)
            lines_of(reader, 5000)
            assert (reader.tell(), reader.preceding_bytes()) == (size, content[-1024:])
            with path.open("r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
                file.seek(size - back)
                file.write(bytes([content[size - back] ^ 1]))
            assert not lines_of(reader, 1000)
            assert reader.rewritten
            assert not reader.verify_unchanged()
            assert reader.fill_once() == FILL_EOF
            reader.seek(0)
            assert not reader.rewritten
            assert lines_of(reader, 5000)


@pytest.mark.fault(20)
def test_what_was_read_before_is_known_after_a_visit_and_a_long_line(path: Path) -> None:
    other = path.with_name("8")
    other.write_bytes(b"late\n")
    path.write_bytes(b"one\n" + b"x" * 100 + b"\n" + b"two\n")
    reader = Reader(window=8, max_line=16)
    reader.check_rewrites = True
    reader.open(path)
    assert lines_of(reader) == [b"one", b"two"]
    before = reader.preceding_bytes()
    assert before
    assert path.read_bytes().endswith(before)
    reader.begin_visit(other, 0)
    assert lines_of(reader) == [b"late"]
    assert reader.preceding_bytes() == b"late\n"
    reader.end_visit()
    assert reader.preceding_bytes() == before
    reader.open(path, 4)
    assert reader.preceding_bytes() == b"one\n"
    assert reader.verify_unchanged()
    path.write_bytes(b"ONE\n" + b"x" * 100 + b"\n" + b"two\n")
    assert not reader.verify_unchanged()


@pytest.mark.fault(15)
@pytest.mark.parametrize("window", [1, 3, 16, 1 << 19])
def test_a_hole_is_passed_over_where_a_line_should_begin(path: Path, window: int) -> None:
    """A hole at the start of a line is skipped, however long, and the lines around it are intact."""
    holes = (1, 2, 15, 16, 17, 1000)
    path.write_bytes(b"".join(b"before\n" + bytes(size) + b"x" * 16 + b"\n" for size in holes))
    reader = Reader(window=window, max_line=16)
    reader.open(path)
    got = [line.lstrip(b"\0") for line in drain(reader)]
    assert got == [b"before", b"x" * 16] * len(holes)
    assert reader.oversize_lines == 0
    assert reader.tell() == path.stat().st_size


@pytest.mark.fault(19)
def test_shrunk_file_reads_as_end(path: Path) -> None:
    path.write_bytes(b"one\ntwo\n")
    reader = Reader()
    reader.open(path)
    assert drain(reader) == [b"one", b"two"]
    os.truncate(path, 0)
    assert drain(reader) == []
    assert reader.size() < reader.read_offset()
    path.write_bytes(b"new\n")
    reader.seek(0)
    assert drain(reader) == [b"new"]


def test_open_replaces_and_drops_what_is_held(path: Path) -> None:
    path.write_bytes(b"a\nhalf")
    reader = Reader()
    reader.open(path)
    assert drain(reader) == [b"a"]
    before = reader.identity()
    assert before == (path.stat().st_dev, path.stat().st_ino)
    other = path.with_name("10")
    other.write_bytes(b"skip\nb\n")
    reader.open(other, 5)
    assert reader.identity() != before
    assert drain(reader) == [b"b"]


def test_failed_open_changes_nothing(path: Path) -> None:
    path.write_bytes(b"a\nhalf")
    reader = Reader()
    reader.open(path)
    assert drain(reader) == [b"a"]
    with pytest.raises(FileNotFoundError):
        reader.open(path.with_name("missing"))
    with pytest.raises(IsADirectoryError):
        reader.open(path.parent)
    assert (reader.tell(), reader.partial_bytes) == (2, 4)


@pytest.mark.fault(23)
def test_deleted_file_is_read_on(path: Path) -> None:
    path.write_bytes(b"a\n")
    reader = Reader()
    with path.open("ab", buffering=0) as file:
        reader.open(path)
        path.unlink()
        file.write(b"b\n")
        assert drain(reader) == [b"a", b"b"]
        assert reader.stat().st_nlink == 0


def test_visit(path: Path) -> None:
    path.write_bytes(b"a\nhal")
    former = path.with_name("8")
    former.write_bytes(b"old\nlate\nx")
    reader = Reader()
    reader.open(path)
    assert drain(reader) == [b"a"]
    reader.begin_visit(former, 4)
    with pytest.raises(ValueError, match="nested"):
        reader.begin_visit(former, 4)
    path.rename(path.with_name("gone"))  # the previous file stays open
    assert drain(reader) == [b"late"]
    assert (reader.tell(), reader.partial_bytes) == (9, 1)
    reader.end_visit()
    with pytest.raises(ValueError, match="no visit"):
        reader.end_visit()
    with path.with_name("gone").open("ab") as file:
        file.write(b"f\n")
    assert drain(reader) == [b"half"]
    assert descriptors(former) == []


def test_descriptors(path: Path) -> None:
    path.write_bytes(b"a\n")

    reader = Reader()
    reader.open(path)
    reader.open(path)
    [fd] = descriptors(path)
    assert os.get_inheritable(fd) is False
    reader.begin_visit(path, 0)
    assert len(descriptors(path)) == 2
    reader.close()
    assert descriptors(path) == []
    assert not reader.is_open
    reader.open(path)
    reader.begin_visit(path, 0)
    del reader
    assert descriptors(path) == []


def test_read_error_is_a_code(path: Path) -> None:
    """A read error is returned as a code, and reopening the file recovers."""
    path.write_bytes(b"a\n")
    reader = Reader()
    reader.open(path)
    [fd] = descriptors(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.dup2(folder, fd, inheritable=False)
    os.close(folder)
    assert reader.fill_once() == FILL_ERROR
    assert os.strerror(reader.error) == "Is a directory"
    reader.open(path)
    assert reader.error == 0
    assert drain(reader) == [b"a"]


def test_pipe(path: Path) -> None:
    """A pipe is read in order to its end, after its writers have closed it."""
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for piece in (b"a\nb", b"b\nc", b"cc"):
                file.write(piece)

    thread = threading.Thread(target=write)
    thread.start()
    reader = Reader(window=2)
    reader.open(path)
    with pytest.raises(ValueError, match="pipe"):
        reader.seek(1)
    assert drain(reader) == [b"a", b"bb"]
    assert reader.take_partial_line() == b"ccc"
    thread.join()
    with pytest.raises(ValueError, match="pipe"):
        reader.open("/dev/null", 1)


def test_open_descriptor(path: Path) -> None:
    """Reader duplicates a descriptor, and a regular file starts at the requested offset."""
    path.write_bytes(b"a\nb\n")
    reader = Reader()
    with path.open("rb") as file:
        file.seek(3)
        reader.open(file.fileno(), 2)
    assert drain(reader) == [b"b"]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader.open(ours.fileno())
        theirs.sendall(b"c\nd\n")
        theirs.shutdown(socket.SHUT_WR)
        assert drain(reader) == [b"c", b"d"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        reader.open(ours.fileno())
    assert reader.is_open


def test_bad_arguments() -> None:
    """A Reader whose construction failed closes no foreign descriptor, especially not 0."""
    state = os.fstat(0)
    for kwargs in ({"window": 0}, {"max_line": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            Reader(**kwargs)
    with pytest.raises(TypeError):
        Reader(window="big")  # type: ignore[arg-type]
    with pytest.raises(MemoryError):
        Reader(max_line=1 << 62)
    assert os.fstat(0) == state
    reader = Reader()
    for call in (reader.identity, reader.size, reader.stat):
        with pytest.raises(ValueError, match="no file"):
            call()
