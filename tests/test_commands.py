"""`fasttail parse` and `fasttail tail` from outside: real processes, files, pipes and terminals."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import orjson
import plain_reader
import pytest
from fill_lines import match
from fill_lines import render as render_fills
from lines import envelope, event, plain
from running import PATIENCE_S, command, hour_file, wait_for

from fasttail.tools.exchange import ExchangeOptions, generate

KEYS = [
    "time", "user", "hash", "builder", "status", "coin", "side", "limitPx", "sz", "oid", "timestamp",
    "triggerCondition", "isTrigger", "triggerPx", "children", "isPositionTpsl", "reduceOnly", "orderType",
    "origSz", "tif", "cloid", "block_number", "block_time", "local_time",
]  # fmt: skip
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("FASTTAIL_")}


def run(*words: object, stdin: Any = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command and capture its output. `stdin` is bytes for a pipe, or a file or descriptor."""
    given: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    return subprocess.run(
        command(*words), env=ENVIRON, capture_output=True, check=False, timeout=120, **given, **options
    )


def parsed(*words: object, stdin: Any = b"") -> bytes:
    """Return the output of `fasttail parse`, which must succeed without messages."""
    done = run("parse", *words, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def expected(data: bytes) -> bytes:
    """Return `--format json` made by the plain reader, for lines in the node's own compact form."""
    orders, rejected = plain_reader.read(data)
    assert rejected == []
    return b"".join(orjson.dumps(order) + b"\n" for order in orders)


def oids(output: bytes) -> list[int]:
    """Return the oids of `--format json` output."""
    return [json.loads(line)["oid"] for line in output.splitlines()]


def numbered(first: int, count: int, **changes: Any) -> list[dict[str, Any]]:
    return [event(oid=i, **changes) for i in range(first, first + count)]


# ---- output


def test_genuine_files_equal_the_plain_reader_byte_for_byte(real_data: Path) -> None:
    files = sorted(real_data.glob("node_order_statuses.*.jsonl"))
    assert len(files) >= 8
    output = parsed(*files)
    assert output == b"".join(expected(path.read_bytes()) for path in files)
    assert all(list(json.loads(line)) == KEYS for line in output.splitlines()[:100])


def test_the_twin_capture_is_equal_through_both_layouts(real_data: Path, tmp_path: Path) -> None:
    """Both layouts of the same capture give the node's plain lines, byte for byte."""
    by_block = real_data / "node_order_statuses.by_block.dz_20260505.jsonl"
    streaming = tmp_path / "streaming"
    blocks = {orjson.loads(line)["block_number"] for line in by_block.read_bytes().splitlines()}
    lines = (real_data / "node_order_statuses.streaming.dz_20260505.jsonl").read_bytes().splitlines(True)
    streaming.write_bytes(b"".join(line for line in lines if orjson.loads(line)["block_number"] in blocks))
    raw = parsed("--format", "raw", by_block)
    assert raw == parsed("--format", "raw", streaming)
    assert raw.count(b"\n") == 4906
    bare = {"block_number": None, "block_time": None, "local_time": None}
    again = [json.loads(line) for line in parsed("-", stdin=raw).splitlines()]
    assert again == [json.loads(line) | bare for line in parsed(by_block).splitlines()]


def test_raw_is_the_event_as_it_stood() -> None:
    events = [
        plain(event(coin="Ω", oid=1)).rstrip(b"\n"),
        plain(event(oid=2)).rstrip(b"\n").replace(b'":', b'" :\t'),
        plain(event(oid=3, coin="kPEPE")).rstrip(b"\n").replace(b"kPEPE", rb"k\u0050EPE"),
        plain(event(oid=4)).rstrip(b"\n").replace(b'"open"', b'"first", "status":"open"'),
    ]
    times = b'"local_time":"2026-05-05T17:39:16","block_time":"2026-05-05T17:39:14"'
    block = b"{" + times + b',"block_number":7,"events":[' + b" , ".join(events) + b" ] }\n"
    output = parsed("--format", "raw", "-", stdin=b" \r\n" + b"\r\n".join(events) + b"\n" + block)
    assert output == (b"\n".join(events) + b"\n") * 2


@pytest.mark.fault(18)
def test_json_keeps_the_text_of_the_node() -> None:
    """Decimals, escapes and nested JSON are copied verbatim, and missing fields become null."""
    line = plain(event(limitPx="1.50", builder={"b": "0x1", "f": 10}, children=[], tif=None, timestamp=-5))
    line = line.replace(b'"BTC"', rb'"B\u0054C"').replace(b'"f":10', b'"f" : 10')
    line = line.replace(b'"hash":null,', b"").replace(b'"oid":412036451268', b'"oid":18446744073709551615')
    (order,) = parsed("-", stdin=line).splitlines()
    assert rb'"coin":"B\u0054C"' in order
    assert b'"builder":{"b":"0x1","f" : 10},' in order
    values = json.loads(order)
    assert list(values) == KEYS
    assert values["limitPx"] == "1.50"
    assert (values["hash"], values["tif"], values["block_number"]) == (None, None, None)
    assert (values["oid"], values["timestamp"]) == (2**64 - 1, -5)


def test_none_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(plain(event()))
    assert parsed("--format", "none", tmp_path / "a") == b""


def test_all_layouts_of_a_seed_give_the_same_lines() -> None:
    first = parsed("--format", "raw", "-", stdin=generate(3000, "plain", 5))
    assert first == generate(3000, "plain", 5)
    for layout in ("streaming", "by_block"):
        assert parsed("--format", "raw", "-", stdin=generate(3000, layout, 5)) == first


def test_several_files_one_after_the_other(tmp_path: Path) -> None:
    """A last line without a newline is complete and is not joined with the next file."""
    (tmp_path / "a").write_bytes(plain(*numbered(0, 3))[:-1])
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / "c").write_bytes(envelope(numbered(5, 3))[:-1])
    output = parsed(tmp_path / "a", "-", tmp_path / "b", tmp_path / "c", stdin=plain(*numbered(3, 2))[:-1])
    assert oids(output) == list(range(8))
    assert output.endswith(b"}\n")


# ---- standard input


def test_standard_input_of_every_kind(tmp_path: Path) -> None:
    data = plain(*numbered(0, 500))
    (tmp_path / "a").write_bytes(data)
    with (tmp_path / "a").open("rb") as file:
        assert oids(parsed("-", stdin=file)) == list(range(500))
    with (tmp_path / "a").open("rb") as file:
        os.lseek(file.fileno(), len(plain(*numbered(0, 100))), os.SEEK_SET)
        assert oids(parsed("-", stdin=file)) == list(range(100, 500)), "from where the shell has left it"
    assert oids(parsed("-", stdin=data)) == list(range(500))
    assert parsed("-", stdin=subprocess.DEVNULL) == b""
    ours, theirs = socket.socketpair()  # as with ssh and inetd
    with ours, theirs:
        process = subprocess.Popen(command("parse", "-"), stdin=theirs.fileno(), stdout=subprocess.PIPE)
        theirs.close()
        ours.sendall(data)
        ours.close()
        assert oids(process.communicate(timeout=PATIENCE_S)[0]) == list(range(500))
    assert process.returncode == 0


def test_a_pipe_that_comes_in_pieces(tmp_path: Path) -> None:
    """Complete lines are printed at once, and a non-blocking pipe is waited for."""
    data = plain(*numbered(0, 3))
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    process = subprocess.Popen(command("parse", "-"), stdin=reading, stdout=subprocess.PIPE)
    os.close(reading)
    assert process.stdout is not None
    with process:
        time.sleep(0.3)
        os.write(writing, data[:-20])
        assert oids(process.stdout.readline() + process.stdout.readline()) == [0, 1]
        os.write(writing, data[-20:])
        assert oids(process.stdout.readline()) == [2]
        os.close(writing)
        assert process.stdout.read() == b""
    assert process.returncode == 0


# ---- statistics


def test_stats(tmp_path: Path) -> None:
    events = [
        event(oid=2**64 - 1 - i, timestamp=2**63 - 1 - i, limitPx=f"{i}.1", sz="0.3", origSz="1e3")
        for i in range(9)
    ]
    low = numbered(7, 2, timestamp=-(2**63))
    (tmp_path / "a").write_bytes(plain(*events[:4]) + b"\n{no\n" + envelope(events[4:]) + envelope([]))
    (tmp_path / "b").write_bytes(envelope(low)[:-1])
    began = time.monotonic()
    done = run("parse", "--format", "none", "--stats", "--workers", 2, tmp_path / "a", tmp_path / "b")
    ended = time.monotonic()
    assert (done.returncode, done.stdout) == (0, b"")
    *complaints, line = done.stderr.decode().splitlines()
    assert len(complaints) == 1
    stats = json.loads(line)
    assert list(stats) == ["lines", "orders", "rejected", "bytes", "seconds", "workers", "sums"]
    assert list(stats["sums"]) == ["oid", "timestamp", "limitPx", "sz", "origSz"]
    assert (stats["lines"], stats["orders"], stats["rejected"], stats["workers"]) == (9, 11, 1, 2)
    assert stats["bytes"] == sum((tmp_path / name).stat().st_size for name in "ab")
    assert 0 < stats["seconds"] < ended - began
    orders = [each["order"] for each in events + low]
    for name in ("oid", "timestamp"):
        assert stats["sums"][name] == sum(order[name] for order in orders), "exact, past 64 bits"
    assert stats["sums"]["oid"] > 2**67
    for name in ("limitPx", "sz", "origSz"):
        assert stats["sums"][name] == pytest.approx(sum(float(order[name]) for order in orders), rel=1e-12)


def test_stats_count_what_is_selected(tmp_path: Path) -> None:
    data = plain(*numbered(0, 10, coin="ETH"), *numbered(10, 5))
    done = run("parse", "--stats", "--coin", "BTC", "-", stdin=data)
    stats = json.loads(done.stderr)
    assert (stats["lines"], stats["orders"], stats["bytes"]) == (15, 5, len(data))
    assert stats["sums"]["oid"] == sum(range(10, 15))
    assert oids(done.stdout) == list(range(10, 15))


def test_an_empty_file_has_stats_too() -> None:
    stats = json.loads(run("parse", "--stats", "-").stderr)
    assert stats["sums"] == {"oid": 0, "timestamp": 0, "limitPx": 0.0, "sz": 0.0, "origSz": 0.0}
    assert (stats["lines"], stats["orders"], stats["rejected"], stats["bytes"]) == (0, 0, 0, 0)


# ---- filters

CHOICES = [
    {"coin": "BTC", "side": "A", "status": "open", "limitPx": "100.0", "origSz": "10.0"},
    {"coin": "ETH", "side": "B", "status": "filled", "limitPx": "100.0", "origSz": "9.99"},
    {"coin": "xyz:XYZ100", "side": "A", "status": "tickRejected", "sz": "99.0", "user": "0x" + "aB" * 20},
    {"coin": "ETH", "side": "A", "status": "brandNew", "limitPx": "1000.5", "user": "0x" + "ab" * 20},
]


@pytest.mark.parametrize(
    ("options", "passing"),
    [
        ("", [0, 1, 2, 3]),
        ("--coin BTC", [0]),
        ("--coin ETH,xyz:XYZ100", [1, 2, 3]),
        ("--coin BTC --coin ETH", [0, 1, 3]),
        ("--coin eth", []),
        ("--side B", [1]),
        ("--status open,filled", [0, 1]),
        ("--status brandNew", [3]),
        ("--status nobodyKnows", []),
        ("--user 0x" + "AB" * 20, [2, 3]),
        ("--min-notional 1000", [0]),
        ("--min-notional 999", [0, 1]),
        ("--min-notional 0", [0, 1, 2, 3]),
        ("--coin ETH --side B --status filled --min-notional 999", [1]),
        ("--coin ETH --side B --status filled --min-notional 999.1", []),
    ],
)
def test_filters(options: str, passing: list[int]) -> None:
    data = plain(*[event(oid=i, **change) for i, change in enumerate(CHOICES)])
    assert oids(parsed(*options.split(), "-", stdin=data)) == passing


# ---- errors


def test_a_file_that_cannot_be_read_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(plain(*numbered(0, 2)))
    missing = tmp_path / "gone"
    done = run("parse", tmp_path / "a", missing, tmp_path, tmp_path / "a", "--stats")
    assert done.returncode == 1
    assert oids(done.stdout) == [0, 1, 0, 1]
    first, second, stats = done.stderr.decode().splitlines()
    assert first == f"fasttail parse: {missing}: No such file or directory"
    assert second == f"fasttail parse: {tmp_path}: Is a directory"
    assert json.loads(stats)["orders"] == 4


def test_malformed_lines_are_told_and_spoil_no_neighbour(tmp_path: Path) -> None:
    good = plain(*numbered(0, 2))
    bad = [b"{broken\n", b"{}\n", plain(event(oid=-1)), plain(event(side="C")), b"\xff\n"]
    reasons = ["not valid JSON", "order: missing", "oid: out of range", "side: neither", "not valid JSON"]
    data, told = b"", []
    for line, reason in zip(bad, reasons, strict=True):
        data += good
        told.append((len(data), reason))
        data += line
    path = tmp_path / "a"
    path.write_bytes(data + good)
    for options in ([], ["--workers", "3"], ["--block-size", "100"]):
        done = run("parse", path, *options)
        assert done.returncode == 0
        assert oids(done.stdout) == [0, 1] * 6
        lines = done.stderr.decode().splitlines()
        assert len(lines) == len(bad)
        for complaint, (offset, reason) in zip(lines, told, strict=True):
            assert complaint.startswith(f"{path}: byte {offset}: rejected: {reason}")
    last = run("parse", "-", stdin=good + b"{torn")
    assert oids(last.stdout) == [0, 1]
    assert last.stderr.startswith(f"-: byte {len(good)}: rejected: ".encode())


def test_very_many_malformed_lines_are_told_in_short() -> None:
    done = run("parse", "--stats", "--workers", 3, "-", stdin=b"{}\n" * 5000 + plain(event(oid=5)))
    assert oids(done.stdout) == [5]
    *told, stats = done.stderr.decode().splitlines()
    assert json.loads(stats)["rejected"] == 5000
    rest = [int(found[1]) for line in told if (found := re.search(r"^-: (\d+) more lines rejected", line))]
    assert len(told) < 500
    assert len(told) - len(rest) + sum(rest) == 5000
    assert told[:3] == [f"-: byte {offset}: {told[0].split(': ', 2)[2]}" for offset in (0, 3, 6)]


def test_a_line_that_is_too_long_is_skipped_and_counted() -> None:
    data = plain(event(oid=1)) + plain(event(oid=2, coin="x" * 5000)) + plain(event(oid=3))
    done = run("parse", "--stats", "--max-line", "2K", "--block-size", 100, "-", stdin=data)
    assert oids(done.stdout) == [1, 3]
    stats = json.loads(done.stderr.splitlines()[-1])
    assert (stats["lines"], stats["orders"], stats["rejected"], stats["bytes"]) == (3, 2, 1, len(data))


# ---- standard output


@pytest.mark.parametrize("layout", ["plain", "by_block"])
def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(generate(20_000, layout, 3))
    with subprocess.Popen(
        command("parse", path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRON
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["oid"] > 0
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_head_in_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(generate(20_000, "streaming", 3))
    script = '"$@" | head -n 2; echo "${PIPESTATUS[0]}"'
    words = ["bash", "-c", script, "bash", *command("parse", path)]
    done = subprocess.run(words, capture_output=True, check=False, timeout=120, env=ENVIRON)
    *lines, code = done.stdout.splitlines()
    assert (len(lines), code, done.stderr) == (2, b"0", b"")


def test_a_full_disk_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(plain(event()))
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("parse", tmp_path / "a", tmp_path / "a"),
            env=ENVIRON, stdout=full, stderr=subprocess.PIPE, check=False, timeout=120,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"fasttail parse: No space left on device\n")


def test_a_limit_on_the_size_of_files_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(generate(2000))
    script = 'ulimit -f 100; exec "$@" >"$0"'
    words = ["bash", "-c", script, str(tmp_path / "out"), *command("parse", tmp_path / "a", tmp_path / "a")]
    done = subprocess.run(words, capture_output=True, check=False, timeout=120, env=ENVIRON)
    assert (done.returncode, done.stderr) == (1, b"fasttail parse: File too large\n")
    assert (tmp_path / "out").stat().st_size == 100 * 1024


def test_interrupted(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        command("parse", "-"), stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRON
    )
    os.close(reading)
    assert process.stdout is not None
    os.write(writing, plain(event(oid=1)))
    assert oids(process.stdout.readline()) == [1]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE_S) == (b"", b"")
    os.close(writing)
    assert process.returncode == 130


# ---- the output does not depend on workers and blocks


def first_lines(count: int, layout: str, seed: int, options: ExchangeOptions) -> bytes:
    """Return the first lines of many: the last hundred orders of what is generated are only simple ones."""
    return b"".join(generate(1000, layout, seed, options=options).splitlines(keepends=True)[:count])


def mixture() -> bytes:
    """Return all layouts, malformed lines, escapes, children, empty blocks and short times."""
    spoilt = plain(event(coin='a"b'), event(side="C"), event(oid="1")) + b"\n{}\n" + envelope([])
    parts = [
        first_lines(60, "plain", 8, ExchangeOptions(children=0.1, short_times=0.2, block_lines=10)),
        spoilt,
        first_lines(60, "streaming", 2, ExchangeOptions(children=0.1)),
        envelope([event(oid=1), event(status=None), event(oid=3)]),
        first_lines(5, "by_block", 5, ExchangeOptions(block_lines=40, children=0.1)),
        spoilt,
        plain(event(oid=7))[:-1],
    ]
    return b"".join(parts)


def test_any_workers_and_any_block_size_give_the_same(tmp_path: Path) -> None:
    data = mixture()
    (tmp_path / "a").write_bytes(data)
    orders, rejected = plain_reader.read(data)
    assert len(orders) > 250
    assert len(rejected) == 7
    first = run("parse", tmp_path / "a", "--workers", 1)
    assert [json.loads(line) for line in first.stdout.splitlines()] == orders
    told = re.findall(r"byte (\d+): rejected", first.stderr.decode())
    assert [int(offset) for offset in told] == rejected
    raw = run("parse", tmp_path / "a", "--workers", 1, "--format", "raw").stdout
    for workers in (1, 2, 3, 8):
        for size in (1, 7, 100, "512K"):
            done = run("parse", tmp_path / "a", "--workers", workers, "--block-size", size)
            assert done.stdout == first.stdout, (workers, size)
            assert done.stderr == first.stderr, (workers, size)
    done = run("parse", tmp_path / "a", "--workers", 3, "--block-size", 7, "--format", "raw")
    assert done.stdout == raw


def test_a_line_of_several_megabytes_gives_the_same(tmp_path: Path) -> None:
    """The output is the same however workers share one `by_block` line with thousands of events."""
    lines = generate(8000, "plain", 4, options=ExchangeOptions(children=0.01)).splitlines()
    events = [orjson.loads(line) for line in lines]
    data = plain(event(oid=1)) + envelope(events) + envelope([event(oid=2)])
    assert len(data) > 3 << 20
    (tmp_path / "a").write_bytes(data)
    want = expected(data)
    for workers in (1, 2, 3, 8):
        for size in (100, "512K", "64M"):
            assert parsed(tmp_path / "a", "--workers", workers, "--block-size", size) == want, (workers, size)


# ---- progress


def on_a_terminal(*words: object, pause_s: float = 0.0) -> tuple[int, bytes, bytes]:
    """Run on a terminal; return the exit code, standard output, and what the terminal shows.

    `pause_s` is how long standard output stays unread after its first bytes.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (25, 100))
    shown = b""
    with subprocess.Popen(
        command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs,
        env={**ENVIRON, "TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(theirs)
        assert process.stdout is not None
        select.select([process.stdout], [], [], PATIENCE_S)
        time.sleep(pause_s)
        output, fds = b"", [ours, process.stdout.fileno()]
        while fds:
            for fd in select.select(fds, [], [], PATIENCE_S)[0]:
                try:
                    data = os.read(fd, 1 << 16)
                except OSError:  # the other end of the terminal is closed
                    data = b""
                if not data:
                    fds.remove(fd)
                elif fd == ours:
                    shown += data
                else:
                    output += data
    os.close(ours)
    return process.returncode, output, shown


def test_long_runs_show_progress_on_a_terminal(tmp_path: Path) -> None:
    data = generate(10_000, "plain", 6)
    (tmp_path / "a").write_bytes(data)
    code, output, shown = on_a_terminal("parse", tmp_path / "a", "--block-size", "64K", pause_s=1.2)
    assert code == 0
    assert output.count(b"\n") == 10_000
    bars = [bar for bar in shown.decode().split("\r") if "%" in bar]
    assert bars, shown
    clock = r"\d\d:\d\d"
    pattern = rf"\d+%\|.*\| [\d.]+[kM]/[\d.]+M \[{clock}<{clock}, [\d.]+[kM]?B/s, [\d,]+ lines/s\]"
    assert re.search(pattern, bars[-1]), bars
    assert b"\n" not in shown, "one line, written over and over"
    assert shown.decode().rstrip("\r").split("\r")[-1].strip() == "", "and taken away at the end"


def test_short_runs_show_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(plain(event()) + b"{}\n")
    code, output, shown = on_a_terminal("parse", tmp_path / "a")
    assert (code, output.count(b"\n")) == (0, 1)
    assert re.fullmatch(rf"\r*{tmp_path}/a: byte \d+: rejected: order: missing\r\n", shown.decode())


# ---- tail


def test_tail_without_following_reads_all_there_is(tmp_path: Path) -> None:
    """Hours are read in numeric order across a date, and partial last lines are printed as they are."""
    for i, (date, hour) in enumerate([("20260505", 9), ("20260505", 10), ("20260506", 0), ("20260506", 1)]):
        text = plain(*numbered(i * 10, 10))
        hour_file(tmp_path, "plain", date, hour).write_bytes(text[:-1] if i in (1, 3) else text)
    done = run("tail", tmp_path, "--no-follow", "--from", "oldest")
    assert done.returncode == 0
    assert oids(done.stdout) == list(range(40))
    assert all(line.startswith(b"fasttail tail: ") for line in done.stderr.splitlines())
    done = run("tail", tmp_path, "--no-follow", "--from", "hour", "--format", "raw")
    assert done.stdout == plain(*numbered(30, 10))
    done = run("tail", tmp_path, "--no-follow", "--from", "oldest", "--block-size", 7, "--workers", 3)
    assert oids(done.stdout) == list(range(40))
    done = run("tail", tmp_path / "gone", "--no-follow")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == f"fasttail tail: {tmp_path}/gone: no such folder\n".encode()
    (tmp_path / "empty").mkdir()
    done = run("tail", tmp_path / "empty", "--no-follow")
    assert (done.returncode, done.stdout) == (0, b"")


def test_tail_of_fills(tmp_path: Path) -> None:
    data = render_fills([match(1, "0xa", "0xb"), match(2, "0xa", "0xc", coin="ETH")], "by_block")
    path = hour_file(tmp_path, "by_block", "20260505", 17, stream="node_fills")
    path.write_bytes(data)
    options = ("--stream", "fills", "--no-follow", "--from", "oldest", "--format", "raw")
    done = run("tail", tmp_path, *options)
    assert done.returncode == 0
    events = [event for line in data.splitlines() for event in orjson.loads(line)["events"]]
    assert [orjson.loads(line) for line in done.stdout.splitlines()] == events
    done = run("tail", tmp_path, *options, "--coin", "ETH", "--side", "A")
    assert [orjson.loads(line)[0] for line in done.stdout.splitlines()] == ["0xc"]
    raw = run("parse", path, "--format", "raw").stdout.splitlines()
    assert raw == [orjson.dumps(each) for each in events]
    done = run("tail", tmp_path, *options, "--status", "open")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"fasttail tail: statuses are those of orders, not of fills\n"


def test_tail_filters_and_tells_what_it_rejects(tmp_path: Path) -> None:
    path = hour_file(tmp_path, "streaming", "20260505", 9)
    good = envelope([event(oid=1, coin="ETH")]) + envelope([event(oid=2)])
    path.write_bytes(good + b"{\n" + envelope([event(oid=3, coin="ETH", status="filled")]) + b"{torn")
    options = ["--no-follow", "--from", "hour", "--coin", "ETH"]
    done = run("tail", tmp_path, *options)
    assert oids(done.stdout) == [1, 3]
    told = [line for line in done.stderr.decode().splitlines() if "rejected" in line]
    assert [line.rsplit(": ", 1)[0] for line in told] == [
        f"{path}: byte {offset}: rejected" for offset in (len(good), path.stat().st_size - 5)
    ]
    assert oids(run("tail", tmp_path, *options, "--status", "filled").stdout) == [3]


class Tail:
    """A running `fasttail tail` whose standard output is read line by line."""

    def __init__(self, *words: object) -> None:
        self.process = subprocess.Popen(
            command("tail", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRON
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout, self.stderr = self.process.stdout, self.process.stderr

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def wait_following(self, path: Path) -> None:
        while True:
            line = self.stderr.readline().decode()
            assert line.startswith("fasttail tail: "), line
            if f"following {path} " in line:
                return

    def orders(self, count: int) -> list[int]:
        """Return the oids of the next `count` lines; only the test's time limit bounds the wait."""
        return oids(b"".join(self.stdout.readline() for _ in range(count)))


@pytest.mark.parametrize("inotify", [[], ["--no-inotify"]], ids=["inotify", "polling"])
def test_tail_follows_until_it_is_interrupted(tmp_path: Path, inotify: list[str]) -> None:
    """Orders are printed as soon as they are written, also across an hour with a partial line."""
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.write_bytes(plain(*numbered(0, 10)))
    later = hour_file(tmp_path, "plain", "20260505", 10)
    with Tail(tmp_path, *inotify) as tail:
        tail.wait_following(path)
        text = plain(*numbered(10, 20))
        with path.open("ab", buffering=0) as file:
            file.write(text[:3000])
            first = text[:3000].count(b"\n")
            assert tail.orders(first) == list(range(10, 10 + first))
            file.write(text[3000:])
            assert tail.orders(20 - first) == list(range(10 + first, 30))
            last = plain(*numbered(30, 1))
            file.write(last[:50])
            later.write_bytes(plain(*numbered(31, 5)))
            time.sleep(0.1)
            file.write(last[50:])
        assert tail.orders(6) == list(range(30, 36))
        tail.process.send_signal(signal.SIGINT)
        rest, errors = tail.process.communicate(timeout=PATIENCE_S)
        assert (tail.process.returncode, rest) == (130, b"")
        assert b"Traceback" not in errors


def test_tail_waits_for_the_folder(tmp_path: Path) -> None:
    with Tail(tmp_path / "data", "--format", "raw", "--rescan-s", "0.1") as tail:
        assert b"waiting for a file" in tail.stderr.readline()
        text = envelope(numbered(0, 3))
        path = hour_file(tmp_path / "data", "by_block", "20260505", 9)
        path.write_bytes(text)
        assert b"".join(tail.stdout.readline() for _ in range(3)) == plain(*numbered(0, 3))


def test_tail_ends_quietly_when_its_reader_leaves(tmp_path: Path) -> None:
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.touch()
    with Tail(tmp_path) as tail:
        tail.wait_following(path)
        with path.open("ab", buffering=0) as file:
            file.write(plain(event(oid=1)))
            assert tail.orders(1) == [1]
            tail.stdout.close()
            file.write(plain(event(oid=2)))
        assert wait_for("its end", lambda: tail.process.poll() is not None)
        assert tail.process.returncode == 0
        assert b"Traceback" not in tail.stderr.read()
        tail.process.stdout = None  # closed by the test: __exit__ has nothing to read from it


def test_tail_on_a_full_disk(tmp_path: Path) -> None:
    hour_file(tmp_path, "plain", "20260505", 9).write_bytes(plain(event()))
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("tail", tmp_path, "--no-follow", "--from", "oldest"),
            env=ENVIRON, stdout=full, stderr=subprocess.PIPE, check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == b"fasttail tail: No space left on device"
