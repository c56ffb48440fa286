"""`fasttail verify`: the log of a real server passes, and fails with each known fault injected into it."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from running import Serve, command, docker_in, hour_file, program, serve, wait_for

from fasttail.monitoring.log import Event, format_json, format_lines
from fasttail.tools.container import parse_size, server_url
from fasttail.tools.verify.checks import GRACE_S, Check, checklist, verdict
from fasttail.tools.verify.log_stats import LogStats, SizeHistory
from fasttail.tools.verify.observations import Observations

OPTIONS = ("--workers", 3, "--log-batches", "all", "--min-batch-us", 20_000)
BEGIN = datetime(2026, 5, 5, 17).timestamp()


Done = subprocess.CompletedProcess[str]


def run(*words: object, env: dict[str, str] | None = None, text: str = "") -> Done:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FASTTAIL_")}
    return subprocess.run(
        command("verify", *words),
        input=text,
        env=clean | (env or {}),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def statuses(done: Done) -> dict[str, str]:
    assert done.stderr == ""
    rows = json.loads(done.stdout)["checks"]
    return {row["name"]: row["status"] for row in rows}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a simulated node and return its growing folder."""
    folder = tmp_path_factory.mktemp("node")
    words = command("synth", folder, "--rate", 3000, "--seconds", 100)
    writer = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    wait_for("the node's file", lambda: list(folder.glob("*/hourly/*/*")))
    yield folder
    writer.kill()
    writer.wait()


@pytest.fixture(scope="module")
def good(node: Path) -> list[str]:
    """Return the log of a real server over its whole life."""
    with serve(node, *OPTIONS) as server:
        wait_for("batches", lambda: server.count("📡 WebSocket") >= 40)
        server.end()
    assert server.count("📦 Processing") >= 40
    return server.log


def checks_of(lines: list[str]) -> list[Check]:
    log_stats = LogStats()
    for line in lines:
        log_stats.feed(line.encode(), 0.0)
    return checklist(log_stats, Observations())


def judged(lines: list[str], now: float | None = None) -> tuple[dict[str, str], bool]:
    """Return the status of each check, and the verdict."""
    log_stats = LogStats()
    for line in lines:
        log_stats.feed(line.encode(), 0.0)
    checks = checklist(log_stats, Observations(), now)
    return {check.name: str(check.status) for check in checks}, verdict(checks)


START = "fasttail 0.1.0 (commit c0ffee): ws://127.0.0.1:8000/ws"


def logged(text: str, level: int = logging.INFO, after_s: float = 0.0) -> list[str]:
    """Return lines as the log writes them."""
    return format_lines(BEGIN + after_s, level, text).decode().splitlines()


def at(lines: list[str], words: str, which: int = 0) -> int:
    """Return the index of a line that contains these words."""
    return [number for number, line in enumerate(lines) if words in line][which]


def sized(lines: list[str], size: Callable[[int], int]) -> list[str]:
    """Give each batch the size `size(number)`, where `number` counts the batches."""
    numbers = itertools.count()
    return [
        re.sub(r"(snapshot: )\d+", lambda found: f"{found[1]}{size(next(numbers))}", line) for line in lines
    ]


def without(lines: list[str], *words: str) -> list[str]:
    return [line for line in lines if not any(word in line for word in words)]


def hanging(lines: list[str]) -> list[str]:
    """The twentieth batch never completes; the others do."""
    begin = at(lines, "⏳", 20)
    return lines[: begin + 1] + lines[at(lines, "📡", 20) + 1 :]


def hanging_last(lines: list[str]) -> list[str]:
    """The last batch never completes, and time passes."""
    begin = at(lines, "⏳", -1)
    return lines[: begin + 1] + [line.replace("2026-05-05", "2100-05-05") for line in logged("memory: RSS")]


def swapped(lines: list[str]) -> list[str]:
    first = at(lines, "🔄", 7)
    return [*lines[:first], lines[first + 1], lines[first], *lines[first + 2 :]]


def memory(mb: Callable[[int], float]) -> list[str]:
    """Return what the memory monitor logs once a minute, over half an hour."""
    text = "memory: RSS {:.1f} MB, slope not known yet"
    return [line for minute in range(30) for line in logged(text.format(mb(minute)), after_s=60 * minute)]


OLD_FAILURE = (12_000, 100_000, 200_000, 500_000, 1_000_000)

BAD: dict[str, tuple[Callable[[list[str]], list[str]], set[str]]] = {
    "the old failure: five batches": (
        lambda lines: sized(lines[: at(lines, "📦 Processing", 5)], lambda n: OLD_FAILURE[n]),
        {"sizes"},
    ),
    "sizes that grow by the same each time": (
        lambda lines: sized(lines, lambda n: 2000 + 1500 * n + n % 3 * 500),
        {"sizes"},
    ),
    "sizes that double": (lambda lines: sized(lines, lambda n: int(1000 * 1.4 ** (n % 100))), {"sizes"}),
    "three batches, each many times the one before": (
        lambda lines: sized(lines[: at(lines, "📦 Processing", 3)], lambda n: OLD_FAILURE[2 * n]),
        {"sizes"},
    ),
    "the old failure in stairs": (
        lambda lines: sized(lines[: at(lines, "📦 Processing", 10)], lambda n: OLD_FAILURE[n // 2]),
        {"sizes"},
    ),
    "the old failure, late": (
        lambda lines: sized(lines, lambda n: 1000 + max(0, n - 20) * 40_000),
        {"sizes"},
    ),
    "a batch that never ends": (hanging, {"completed"}),
    "a last batch that never ends": (hanging_last, {"completed"}),
    "the old service's last batch never ends": (
        lambda lines: [
            f"2025-07-23 06:{number // 60:02}:{number % 60:02},123 - parser - INFO - {line[34:]}"
            for number, line in enumerate([*lines[: at(lines, "⏳", 20) + 1], *["x" * 40] * 20])
        ],
        {"completed"},
    ),
    "no end at all": (lambda lines: without(lines, "✅", "📦 Combining", "📡"), {
        "completed", "order", "broadcasts",
    }),
    "a timeout": (
        lambda lines: lines + logged("⏰ Parallel batch timed out after 30 seconds", logging.ERROR),
        {"timeouts"},
    ),
    "a failed batch": (
        lambda lines: [
            *lines[: at(lines, "⏳", 9) + 1],
            *logged("❌ Parallel batch processing FAILED: memory is out", logging.ERROR),
            *lines[at(lines, "📡", 9) + 1 :],
        ],
        {"errors", "completed"},
    ),
    "an error": (lambda lines: lines + logged("the pipeline has failed", logging.ERROR), {"errors"}),
    "an alert": (
        lambda lines: lines + logged("🚨 memory: linear growth: RSS 301.2 MB, …", logging.WARNING),
        {"alerts"},
    ),
    "memory that grows linearly": (lambda lines: lines + memory(lambda m: 80 + 6.0 * m), {"memory"}),
    "the same, with docker's own timestamps": (
        lambda lines: [f"2026-05-05T17:39:14.123456789Z {line}" for line in memory(lambda m: 80 + 6.0 * m)],
        {"memory", "batches"},
    ),
    "more chunks than workers": (
        lambda lines: [line.replace("created: 3 chunks", "created: 5 chunks") for line in lines],
        {"chunks"},
    ),
    "fewer results than workers, once": (
        lambda lines: [
            line.replace("3 results", "2 results") if number == at(lines, "3 results", 4) else line
            for number, line in enumerate(lines)
        ],
        {"chunks"},
    ),
    "a failed chunk": (lambda lines: [line.replace("0 failed", "1 failed") for line in lines], {"chunks"}),
    "no 📡 lines": (lambda lines: without(lines, "📡"), {"broadcasts", "order"}),
    "one 📡 line is missing": (
        lambda lines: lines[: at(lines, "📡", 5)] + lines[at(lines, "📡", 5) + 1 :],
        {"order"},
    ),
    "no batch": (lambda lines: without(lines, *"📦🔄📊🚀⏳✅📡"), {"batches"}),
    "nothing": (lambda lines: [], {"batches"}),
    "only sums": (
        lambda lines: logged("Σ 1 s: 812 batches, largest 940 lines, 23514 lines → 1 orders (0 …"),
        {"batches"},
    ),
    "lines that changed places": (swapped, {"order"}),
    "one marker is never there": (lambda lines: without(lines, "🚀"), {"order"}),
    "an end twice": (
        lambda lines: lines[: at(lines, "✅ All", 3) + 1] + lines[at(lines, "✅ All", 3) :],
        {"order", "completed"},
    ),
    "killed and begun anew": (lambda lines: lines + logged(START), {"restarts"}),
    "a restart in place": (lambda lines: lines + logged("restart 1 in place, running since …"), {"restarts"}),
}  # fmt: skip


def test_a_good_log_passes(good: list[str]) -> None:
    found, passed = judged(good)
    assert passed
    others = {name for name, status in found.items() if status != "PASS"}
    assert others == {"memory", "health", "metrics"}, found


@pytest.mark.parametrize("name", BAD)
def test_a_bad_log_fails_where_it_should(name: str, good: list[str]) -> None:
    change, failing = BAD[name]
    found, passed = judged(change(good))
    assert {check for check, status in found.items() if status == "FAIL"} == failing
    assert not passed


WORKER = logged("🔧 Worker START: 1 of 3, 9 lines\n✅ Worker COMPLETED: 1 of 3, 9 orders", logging.DEBUG)
HARMLESS: dict[str, Callable[[list[str]], list[str]]] = {
    "it begins within a batch": lambda lines: lines[at(lines, "🚀") :],
    "it ends within a batch": lambda lines: lines[: at(lines, "⏳", -1) + 1],
    "it ends between the nine lines": lambda lines: lines[: at(lines, "✅ All", -1) + 1],
    "sizes that vary": lambda lines: sized(lines, lambda n: 1000 + n * 7919 % 29_000),
    "a busier market": lambda lines: sized(lines, lambda n: 1000 + 60 * n),
    "a catch-up, then the usual": lambda lines: sized(lines, lambda n: 30_000 if n < 15 else 900),
    "a step": lambda lines: sized(lines, lambda n: 1000 if n < 20 else 30_000),
    "memory that levels off": lambda lines: lines + memory(lambda m: 80 + min(m, 6) * 10),
    "without the line that combines": lambda lines: without(lines, "📦 Combining"),
    "docker's own timestamps": lambda lines: [f"2026-05-05T17:39:14.123456789Z {line}" for line in lines],
    "grep": lambda lines: [line for line in lines if re.search("📦|🔄|📊|🚀|⏳|✅ All|✅ Parallel|📡", line)],
    "the words in a file's name": lambda lines: (
        lines[: at(lines, "⏳", 3)]
        + logged("following /x/📦 Processing batch snapshot: 9 lines")
        + lines[at(lines, "⏳", 3) :]
    ),
    "lines of workers": lambda lines: [
        each
        for line in lines
        for each in ([line, *WORKER] if "⏳" in line else [line])
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_passes(name: str, good: list[str]) -> None:
    found, passed = judged(HARMLESS[name](good))
    assert passed, found
    assert "FAIL" not in found.values()


def test_a_failure_names_its_batch(good: list[str]) -> None:
    log_stats = LogStats()
    for line in hanging(swapped(good)):
        log_stats.feed(line.encode())
    figures = {check.name: check.figure for check in checklist(log_stats, Observations())}
    assert figures["completed"].endswith("; 1, the first: batch 21, not finished")
    assert re.fullmatch(r"2, the first: batch 8, line \d+: 📊 where 🔄 was due", figures["order"])


def test_rejected_lines_and_a_full_log_are_warnings(good: list[str]) -> None:
    more = logged("7 lines rejected; the first in /f at byte 3: no order", logging.WARNING)
    more += logged("log: 5 lines dropped, the output was too slow", logging.WARNING)
    found, passed = judged(good + more)
    assert passed
    assert (found["rejected"], found["log"]) == ("WARN", "WARN")


def test_batches_that_the_log_does_not_show_are_told() -> None:
    observations = Observations()
    observations.increased["fasttail_batches_total"] = 812
    (batches,) = (check for check in checklist(LogStats(), observations) if check.name == "batches")
    assert batches.status == "FAIL"
    assert batches.figure == "no 📦 in 0 lines, 812 batches by /metrics: log_level?"


def test_a_batch_that_runs_at_the_end_has_some_seconds(good: list[str]) -> None:
    lines = good[: at(good, "⏳", -1) + 1]
    assert judged(lines, now=GRACE_S - 1)[0]["completed"] == "PASS"
    assert judged(lines, now=GRACE_S + 1)[0]["completed"] == "FAIL"


def test_sizes_keep_few_points_of_any_number() -> None:
    sizes = SizeHistory()
    for number in range(100_000):
        sizes.add(number)
    points = sizes.points()
    assert 60 <= len(points) <= SizeHistory.POINTS
    assert (sizes.count, sizes.smallest, sizes.largest) == (100_000, 0, 99_999)
    each = points[1][0]
    assert all(size == pytest.approx(at + (each - 1) / 2) for at, size in points)


def test_any_bytes_are_a_log(good: list[str]) -> None:
    log_stats = LogStats()
    for line in (b"", b"\xff\xfe", b"2026-99-99T99:99:99.999Z INFO     memory: RSS 1 MB", b"\x00" * 9999):
        log_stats.feed(line)
    assert not verdict(checklist(log_stats, Observations()))


# ---- JSON logs


@pytest.fixture(scope="module")
def good_json(node: Path) -> list[str]:
    """Return the log of a server that logs JSON objects; otherwise the same as `good`."""
    with serve(node, *OPTIONS, "--log-format", "json") as server:
        wait_for("batches", lambda: server.count("📡 WebSocket") >= 40)
        server.end()
    return server.log


def as_text(lines: list[str]) -> list[str]:
    """Return what the same run would have logged as text."""
    return [
        f"{entry['time']} {entry['level']:<8} {text}"
        for entry in map(json.loads, lines)
        for text in entry["message"].split("\n")
    ]


def logged_json(name: str, text: str, level: int = logging.INFO, after_s: float = 0.0, **fields: Any) -> str:
    return format_json(BEGIN + after_s, level, Event(name, text, fields), "fasttail.test").decode().rstrip()


OTHERS = [
    logged_json("", "it failed\nTraceback (most recent call last):\nKeyError: 1", logging.ERROR),
    logged_json("", "🚨 memory: linear growth: RSS 301.2 MB, …", logging.WARNING),
    logged_json("batch_timed_out", "⏰ Parallel batch timed out after 30 seconds", logging.ERROR, seconds=30),
    logged_json("lines_rejected", "7 lines rejected; the first in /f at byte 3: no order", lines=7),
    logged_json("log_lines_dropped", "log: 5 lines dropped, the output was too slow", lines=5),
    logged_json("started", START, version="0.1.0", commit="c0ffee"),
    logged_json("restarted", "restart 1 in place, running since …", restarts=1),
    logged_json("batch_summary", "Σ 1 s: 812 batches, largest 9 lines", batches=812),
    *(
        logged_json(
            "memory", f"memory: RSS {80 + 6.0 * m:.1f} MB, slope not known yet",
            after_s=60 * m, rss_mb=80 + 6.0 * m,
        )
        for m in range(30)
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines,
        lambda lines: [f"2026-05-05T17:39:14.123456789Z {line}" for line in lines],
        lambda lines: [f"Nov 29 07:01:06 host fasttail[123]: {line}" for line in lines],
        lambda lines: hanging(swapped(lines)),
        lambda lines: without(lines, "📡"),
        lambda lines: lines[at(lines, "🚀") : at(lines, "✅ All", -1)],
        lambda lines: lines + OTHERS,
        lambda lines: [*lines[: at(lines, "⏳", 9)], *OTHERS, *lines[at(lines, "⏳", 9) :]],
    ],
)
def test_the_same_run_is_judged_the_same_from_both_formats(
    change: Callable[[list[str]], list[str]], good_json: list[str]
) -> None:
    lines = change(good_json)
    objects = [line[line.index("{") :] for line in lines]
    assert checks_of(lines) == checks_of(as_text(objects))


def test_numbers_of_objects_are_read_from_their_fields(good_json: list[str]) -> None:
    assert judged(good_json)[1]
    words = re.compile(r"(snapshot:|created:|Waiting for all) \d+")
    other_words = [words.sub(r"\1 many", line) for line in good_json]
    assert other_words != good_json
    assert judged(other_words) == judged(good_json)


@pytest.mark.parametrize("value", ['"9"', "9.5", "1e999", "null", "[9]", "99999999999999999999", '9,"a":{'])
def test_any_object_is_a_line(value: str) -> None:
    log_stats = LogStats()
    (good,) = [logged_json("batch_started", "x", lines=7)]
    log_stats.feed(good.replace("7}", f"{value}}}").encode())
    log_stats.feed(good.encode())
    assert (log_stats.lines, log_stats.started) == (2, 1)


# ---- the command


def test_a_finished_log_by_file_and_by_pipe(good: list[str], tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("\n".join(good))
    done = run("--log", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"^PASS +order +📦 🔄 📊 🚀 ⏳ ✅ All ✅ Parallel 📡, \d+ times$", done.stdout, re.MULTILINE
    )
    assert re.search(r"^SKIP +health +no server", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1].startswith("PASS: ")
    assert run("--log", "-", text="\n".join(good)).returncode == 0, "it ends with its input"
    bad = run("--log", "-", "--json", text="\n".join(without(good, "📡")))
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["verdict"] == "FAIL"
    assert statuses(bad)["broadcasts"] == "FAIL"


def test_a_running_server_by_its_url(node: Path) -> None:
    with serve(node, *OPTIONS) as server:
        done = run("--url", f"http://127.0.0.1:{server.port}", "--minutes", 0.1, "--json")
        pid = run("--pid", server.process.pid, "--minutes", 0.05, "--json")
    found = statuses(done)
    assert done.returncode == 0, found
    for name in ("version", "batches", "alerts", "memory", "health", "restarts", "rejected"):
        assert found[name] == "PASS", found
    assert found["order"] == "SKIP"
    assert found["metrics"] == "PASS"
    # With only a process, memory can be judged, but not whether batches complete.
    assert pid.returncode == 1
    assert (statuses(pid)["memory"], statuses(pid)["batches"]) == ("PASS", "FAIL")


def copied(server: Serve, verifier: subprocess.Popen[bytes]) -> None:
    """Copy the server's log into verify's pipe, which stays open as with `docker logs -f`."""
    assert verifier.stdin is not None
    done = 0
    while verifier.poll() is None:
        lines = server.log[done:]
        done += len(lines)
        try:
            verifier.stdin.write("".join(f"{line}\n" for line in lines).encode())
            verifier.stdin.flush()
        except OSError:
            return
        time.sleep(0.05)


def watched(server: Serve, minutes: float) -> dict[str, str]:
    """Return verify's verdicts on a running server, from its log and its URL."""
    words = command(
        "verify", "--log", "-", "--url", f"http://127.0.0.1:{server.port}", "--minutes", minutes, "--json"
    )
    verifier = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    copier = threading.Thread(target=copied, args=(server, verifier), daemon=True)
    copier.start()
    assert verifier.stdout is not None
    text = verifier.stdout.read()
    code = verifier.wait()
    copier.join()
    answer = json.loads(text)
    assert code == (0 if answer["verdict"] == "PASS" else 1)
    return {row["name"]: row["status"] for row in answer["checks"]}


def test_a_running_server_by_its_log_and_url(node: Path) -> None:
    with serve(node, *OPTIONS) as server:
        wait_for("a batch", lambda: server.count("📡"))
        found = watched(server, 0.1)
    assert set(found.values()) <= {"PASS", "SKIP"}, found  # a slow machine has too few batches for a trend
    assert list(found.values()).count("PASS") > len(found) - 2


def test_a_server_whose_batch_hangs_fails(node: Path) -> None:
    # More than GRACE_S, so that the batch counts as hung.
    with serve(node, *OPTIONS, "--debug-stall", 60, "--batch-timeout-s", 1, "--stall-after-s", 60) as server:
        server.wait_log("📦 Processing")
        found = watched(server, 0.15)
        server.process.kill()
    for name in ("completed", "timeouts", "health", "broadcasts"):
        assert found[name] == "FAIL", found


@pytest.mark.plain_build
def test_a_server_that_leaks_fails(node: Path) -> None:
    leaking = ("--debug-leak-c", 40, "--memory-warmup-s", 0, "--memory-window-s", 60)
    with serve(node, *OPTIONS, *leaking) as server:
        done = run("--url", f"http://127.0.0.1:{server.port}", "--minutes", 0.1, "--json")
    assert done.returncode == 1
    assert statuses(done)["memory"] == "FAIL"


def test_rejected_lines_are_told(tmp_path: Path) -> None:
    hour = hour_file(tmp_path, "plain", "20260505", 1)
    hour.touch()
    with serve(tmp_path, *OPTIONS) as server:
        url = f"http://127.0.0.1:{server.port}"
        words = [*program("talkative_verify"), "verify", "--url", url, "--minutes", "0.1", "--json"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as verifier:
            assert verifier.stderr is not None
            assert verifier.stderr.readline().startswith(b"watching: ")
            with hour.open("ab") as file:
                file.write(b"no order\n" * 7)
            assert verifier.stdout is not None
            rows = {row["name"]: row for row in json.loads(verifier.stdout.read())["checks"]}
    assert rows["rejected"]["status"] == "WARN"
    assert rows["rejected"]["figure"].startswith("7 lines more")
    assert verifier.returncode == 0


def test_the_token_opens_metrics_and_is_never_shown(node: Path, tmp_path: Path) -> None:
    secret = "s3cr3t-0f-verify"
    file = tmp_path / "token"
    file.write_text(secret + "\n")
    file.chmod(0o600)
    with serve(node, *OPTIONS, "--token-file", file) as server:
        url = f"http://127.0.0.1:{server.port}"
        shut = run("--url", url, "--minutes", 0)
        opened = [
            run("--url", url, "--minutes", 0, "--token-file", file),
            run("--url", url, "--minutes", 0, env={"FASTTAIL_TOKEN": secret}),
            run("--url", url, "--minutes", 0, env={"FASTTAIL_TOKEN": secret + " and more"}),
        ]
    assert shut.returncode == 1
    for status, name in (("SKIP", "version"), ("FAIL", "batches"), ("WARN", "metrics")):
        assert re.search(rf"^{status} +{name} .*/metrics answers 401", shut.stdout, re.MULTILINE), shut.stdout
    assert "since the server's start" in opened[0].stdout
    assert "since the server's start" in opened[1].stdout
    assert opened[2].returncode == 2
    assert all(secret not in done.stdout + done.stderr for done in opened)


def test_a_server_that_is_gone_fails() -> None:
    done = run("--url", "http://127.0.0.1:9", "--minutes", 0)
    assert done.returncode == 1
    assert "Connection refused" in done.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "fasttail verify: nothing to check: give --container, --log, --url or --pid"),
        (["--log", "gone"], "fasttail verify: gone: No such file or directory"),
        (["--log", "/"], "fasttail verify: /: Is a directory"),
        (["--log", "x", "--container", "c"], "fasttail verify: both --container and --log given: choose one"),
        (["--log", "x", "--since", "1h"], "fasttail verify: --since is for the log of a --container"),
        (["--url", "http://user:s3cret@h"], "fasttail verify: --url: expected a URL like http://127.0.0.1:8000"),
        (["--pid", "4194304"], "fasttail verify: no such process: 4194304"),
        (["--container=-x"], "fasttail verify: --container: expected a container's name or id"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(words: list[str], line: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
    assert "s3cret" not in done.stderr


def test_progress_is_told_where_there_is_no_terminal(node: Path) -> None:
    """Progress is printed even without a terminal, so that a deployment shows signs of life."""
    with serve(node, *OPTIONS) as server:
        words = ["verify", "--url", f"http://127.0.0.1:{server.port}", "--minutes", "0.03"]
        done = subprocess.run(
            [*program("talkative_verify"), *words], capture_output=True, encoding="utf-8", timeout=120
        )
    lines = done.stderr.splitlines()
    assert 2 <= len(lines) <= 4, done.stderr
    assert re.fullmatch(r"watching: 1 of 2 s, \d+ MB", lines[0]), done.stderr


# ---- a container, with a stand-in for the docker command


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """Create a folder with a `docker` command that knows one container, its log and the output of inspect."""
    docker_in(tmp_path)
    (tmp_path / "stats").write_text("84.1MiB / 7.6GiB\n")
    (tmp_path / "exec").write_text("fasttail 9.9.9 (commit c0ffee)\n")
    return tmp_path


def inspected(port: int, **state: Any) -> str:
    found = {
        "State": {"Running": True, "StartedAt": "2026-05-05T17:00:00Z", **state},
        "RestartCount": 0,
        "Config": {"Env": ["FASTTAIL_PORT=8000"]},
        "NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}},
    }
    return json.dumps([found])


def test_a_container(docker: Path, node: Path, good: list[str]) -> None:
    (docker / "log").write_text("\n".join(good) + "\n")
    env = {"PATH": f"{docker}:{os.environ['PATH']}"}
    with serve(node, *OPTIONS) as server:
        (docker / "inspect.json").write_text(inspected(server.port))
        done = run("--container", "hyperliquid-parser", "--minutes", 0.1, "--json", env=env)
    assert done.returncode == 0, done.stdout
    found = statuses(done)
    assert set(found.values()) <= {"PASS", "SKIP"}, found  # a slow machine has too few batches for a trend
    assert list(found.values()).count("PASS") > len(found) - 2
    figures = {row["name"]: row["figure"] for row in json.loads(done.stdout)["checks"]}
    assert "docker stats 84.1 MB" in figures["memory"]
    calls = (docker / "calls").read_text()
    assert '["logs", "-f", "--tail", "0", "hyperliquid-parser"]' in calls

    (docker / "inspect.json").write_text(inspected(9, Running=False, ExitCode=137, OOMKilled=True))
    done = run("--container", "x", "--since", "1h", "--minutes", 0, "--json", env=env)
    assert done.returncode == 1
    found = statuses(done)
    assert (found["restarts"], found["health"], found["completed"]) == ("FAIL", "FAIL", "PASS")
    assert '["logs", "--since", "1h", "x"]' in (docker / "calls").read_text()


@pytest.mark.parametrize(
    ("rss", "stats", "status"),
    [(0, 0, "PASS"), (0, 6, "WARN"), (6, 0, "FAIL"), (6, 6, "FAIL"), (None, 6, "FAIL")],
)
def test_whose_memory_grows(rss: int | None, stats: int, status: str) -> None:
    """RSS decides over docker's figure, which includes cached files; rates are MB per minute."""
    observations = Observations()
    for name, pace in (("docker stats", stats), ("RSS", rss)):
        if pace is not None:
            observations.memory[name] = [(5.0 * i, (80 + pace * i / 12) * 2**20) for i in range(60)]
    found = {check.name: check.status for check in checklist(None, observations)}
    assert found["memory"] == status


def test_no_such_container_and_no_docker(docker: Path) -> None:
    done = run("--container", "gone", env={"PATH": f"{docker}:{os.environ['PATH']}"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fasttail verify: no such container: gone\n"
    done = run("--container", "x", env={"PATH": "/nowhere"})
    assert done.returncode == 2
    assert done.stderr.startswith("fasttail verify: cannot run docker: No such file")


def test_where_a_container_answers() -> None:
    assert server_url(json.loads(inspected(8123))[0]) == "http://127.0.0.1:8123"
    anywhere = json.loads(inspected(8123).replace("127.0.0.1", "::"))[0]
    assert server_url(anywhere) == "http://127.0.0.1:8123"
    own = {"NetworkSettings": {"Ports": {}, "Networks": {"bridge": {"IPAddress": "172.17.0.2"}}}}
    assert server_url(own) == "http://172.17.0.2:8000"
    secure = own | {"Config": {"Env": ["FASTTAIL_PORT=9000", "FASTTAIL_TLS_CERT=/c"]}}
    assert server_url(secure) == "https://172.17.0.2:9000"
    assert server_url({"HostConfig": {"NetworkMode": "host"}}) == "http://127.0.0.1:8000"
    assert server_url({}) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("84.1MiB ", int(84.1 * 2**20)), ("12B", 12), ("3.5GB", 3_500_000_000), ("x", None), ("1.2.3MB", None)],
)
def test_sizes_as_docker_writes_them(text: str, size: int | None) -> None:
    assert parse_size(text) == size
