"""The bench runs on the installed package, checks its answers, and fails on a wrong one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.plain_build

ROOT = Path(__file__).resolve().parent.parent


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    """`python -m bench` as a user starts it: in the checkout, whose folder Python then puts on sys.path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "bench", *args]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def passes(tmp_path: Path, name: str, *args: str) -> tuple[str, dict[str, Any]]:
    """The table that `run NAME` prints, and the JSON that it writes."""
    result = bench("run", name, *args, "--results", str(tmp_path))
    assert result.returncode == 0, result.stderr
    (written,) = tmp_path.glob(f"{name}-*.json")
    report = json.loads(written.read_text())
    assert report["machine"]["commit"]
    return result.stdout, report


def test_list() -> None:
    result = bench("list")
    assert result.returncode == 0, result.stderr
    told, _, own = result.stdout.partition("\n\n")
    definitions = [line.split()[0] for line in told.splitlines()]
    assert {
        "split/lines", "parse/plain", "filter/orders", "encode/text", "fanout/100-clients",
        "end-to-end/catchup", "end-to-end/instead", "growth/all",
    } < set(definitions)  # fmt: skip
    assert [line.split()[0] for line in own.splitlines()[1:]] == [
        "parse", "layers", "shapes", "file", "instructions", "catchup", "sustained", "fanout", "delay",
        "beside", "instead", "growth", "soak", "backlog", "crowd",
    ]  # fmt: skip


def as_bench(code: str) -> None:
    """Run with the modules of bench, and the installed package."""
    begin = "from bench.__main__ import leave_checkout, modules\nleave_checkout()\n"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-c", begin + code]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_definitions_name_what_there_is() -> None:
    as_bench("""
from bench import definitions, figures, runner
benchmarks = modules()
for entry in definitions.load().entries.values():
    assert entry.module in figures.OF_MODULE, entry
    for quick in (False, True):
        given = entry.all_arguments(quick)
        options = [word for word in given if word.startswith("--")]
        assert len(set(options)) == len(options), given
        runner.parsed(benchmarks[entry.module], given)
    assert entry.shows.endswith(".") and entry.does_not_show.endswith("."), entry
given = ["--orders", "5", "--all"], ["--orders", "2"]
entry = definitions.Definition("a", "parse", "parse", "", "", "", *given)
assert entry.all_arguments(True) == ["--orders", "2", "--all"]
for wrong in (["--no-such"], ["--orders", "x"]):
    try:
        runner.parsed(benchmarks["parse"], wrong)
    except runner.CannotRun:
        continue
    raise SystemExit(f"{wrong} passed")
""")


def test_run_by_pattern(tmp_path: Path) -> None:
    """One file for all, also beside a benchmark whose count is not the expected one."""
    result = bench("run", "spl*", "filter/", "--quick", "--results", str(tmp_path))
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("run-*.json")
    run = json.loads(path.read_text())
    assert [entry["name"] for entry in run["entries"]] == ["split/lines", "filter/orders"]
    assert run["machine"]["commit"]
    assert run["versions"]["orjson"]
    assert f'"{socket.gethostname()}"' not in path.read_text()
    assert {"others", "average"} == run["entries"][0]["load"]["before"].keys()
    assert bench("run", "no-such").returncode == 2


def test_an_unexpected_count_fails_a_run() -> None:
    as_bench("""
from dataclasses import replace
from bench import definitions, runner
entry = definitions.load().entries["split/lines"]
run = lambda entry: runner.run_one(entry, modules()[entry.module], True)[0]
right = {"tables.0.expected.orders": 20000}
for expected in (right, {"tables.0.expected.orders": 19999}, {"tables.3.nothing": 1}):
    got = run(replace(entry, quick_expected=expected))
    assert bool(got["failed"]) == (expected is not right) == (not got["results"]), got
""")


def test_compare(tmp_path: Path) -> None:
    """By ratios within the run: a machine that is slower throughout changes nothing."""
    def written(name: str, ours: float, drift: float = 1.0, cpu: str = "a") -> str:
        def row(engine: str, seconds: float) -> dict[str, Any]:
            times = [seconds * drift * (1 + each / 50) for each in range(5)]
            return {"engine": engine, "seconds": times, "best": times[0], "lines_per_s": 100 / times[0],
                    "orders_per_s": 100 / times[0]}  # fmt: skip

        table = {"title": "split: x", "base": "theirs", "rows": [row("theirs", 1.0), row("ours", ours)]}
        entry = {"name": "split/lines", "module": "layers", "arguments": [], "busy": False,
                 "results": [{"tables": [table]}]}  # fmt: skip
        machine = {"cpu": cpu, "usable_cores": 4, "memory_gb": 8}
        path = tmp_path / name
        path.write_text(json.dumps({"machine": machine, "entries": [entry]}))
        return str(path)

    def verdict(*args: str) -> str:
        result = bench("compare", *args)
        assert result.returncode == 0, result.stderr
        (line,) = (line for line in result.stdout.splitlines() if ": ours" in line)
        return line

    usual = written("usual", 0.5)
    assert verdict(usual, usual).endswith("inside the noise")
    assert verdict(usual, written("drifted", 0.5, drift=1.6)).endswith("inside the noise")
    assert verdict(usual, written("slower", 0.6)).endswith("WORSE")
    assert verdict(usual, written("quicker", 0.4)).endswith("better")
    other = written("other", 0.5, cpu="b")
    refused = bench("compare", usual, other)
    assert refused.returncode == 2
    assert "other machines" in refused.stderr
    assert verdict(usual, other, "--anyway").endswith("inside the noise")


RECORDED = ROOT / "bench" / "results" / "recorded"


def test_the_page_is_what_the_recorded_results_give() -> None:
    as_bench("""
from pathlib import Path
from bench import definitions, plots, report
recorded = sorted(Path("bench/results/recorded").glob("*.json"))
known = definitions.load()
page = lambda sources: report.render(
    list(report.newest(sources, known, False).values()), known, report.costs()
)
right = page(recorded)
assert right == page(recorded[::-1])
assert Path("docs/benchmarks.md").read_text() == right, "run `python -m bench report`"
runs = report.newest(recorded, known, False)
entries = {entry["name"]: entry for run in runs.values() for entry in run["entries"]}
assert {path.name for path in Path("docs/benchmarks").iterdir()} == set(plots.planned(entries))
""")
    files = list(RECORDED.glob("*.json"))
    assert sum(path.stat().st_size for path in files) < 200_000
    assert all(str(Path.home()) not in path.read_text() for path in files)


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_reports_of_the_same_results_are_equal(tmp_path: Path) -> None:
    made = []
    for name in ("one", "other"):
        folder = tmp_path / name
        shutil.copytree(RECORDED, folder / "recorded")
        (folder / "docs").mkdir()
        result = bench("report", "--results", str(folder), "--docs", str(folder / "docs"))
        assert result.returncode == 0, result.stderr
        made.append({path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert made[0] == made[1]
    assert any(name.endswith(".svg") for name in made[0])
    assert all(made[0][path.name] == path.read_bytes() for path in RECORDED.glob("*.json"))


def test_run_growth(tmp_path: Path) -> None:
    args = ["--points", "2", "--orders", "500", "--rounds", "1", "--of", "lines", "workers", "filters"]
    table, report = passes(tmp_path, "growth", *args)
    assert "answers checked" in table
    assert [curve["name"] for curve in report["curves"]] == ["lines", "workers", "distinct filters"]
    assert all(curve["low"] <= curve["exponent"] <= curve["high"] for curve in report["curves"])


def test_an_exponent_and_its_interval() -> None:
    as_bench("""
import math, random
from bench.growth import exponent
xs = [math.log(2 ** index) for index in range(5) for _ in range(3)]
slope, low, high = exponent(xs, [1.5 * x + 2 for x in xs])
assert math.isclose(slope, 1.5) and high - low < 1e-6
chance = random.Random(1)
inside = 0
for _ in range(300):
    _, low, high = exponent(xs, [1.5 * x + chance.gauss(0, 0.3) for x in xs])
    inside += low < 1.5 < high
assert 275 < inside < 296, inside
""")


OTHERS = {
    "msgspec": {"msgspec, five fields", "msgspec, all fields"},
    "simdjson": {"pysimdjson"},
    "duckdb": {"duckdb, 1 t", "duckdb, 2 t"},
    "polars": {"polars, 1 t"},
}
BASES = {"orjson", "json"}
RIGHT = {"fasttail, 1 w", "fasttail, 2 w", "fasttail, 1 w, columns only", "fasttail, 2 w, columns only"}
BROKEN = {"orjson, rules checked", "json, rules checked", "fasttail, 1 w", "fasttail, 2 w"}


@pytest.mark.parametrize("layout", ["plain", "streaming", "by_block"])
def test_run_parse(tmp_path: Path, layout: str) -> None:
    args = ["--orders", "5000", "--rounds", "2", "--broken-rounds", "1", "--broken", "400"]
    args += ["--layout", layout, "--data", str(tmp_path)]
    table, report = passes(tmp_path, "parse", *args)
    assert "answers checked: 5000 orders" in table
    right, broken = report["tables"]
    installed = {name for package, names in OTHERS.items() if find_spec(package) for name in names}
    assert {row["engine"] for row in right["rows"]} == BASES | RIGHT | installed
    assert {len(row["seconds"]) for row in right["rows"]} == {2}
    assert right["expected"]["orders"] == 5000
    assert right["expected"]["rejected"] == 0
    assert {row["engine"] for row in broken["rows"]} == BROKEN
    assert broken["expected"]["rejected"] > (0 if layout == "by_block" else 200)
    assert len(report["notes"]) == sum(find_spec(package) is None for package in OTHERS)

    # A file with one order fewer than asked for is a wrong answer.
    (data,) = tmp_path.glob(f"{layout}-5000-*.jsonl")
    data.write_bytes(b"".join(data.read_bytes().splitlines(keepends=True)[:-1]))
    result = bench("run", "parse", *args)
    assert result.returncode == 1
    assert "WRONG ANSWER" in result.stderr


def test_a_missing_package_is_said_or_fails(tmp_path: Path) -> None:
    # None in sys.modules is what an import takes for not there.
    code = """
import runpy, sys
sys.modules["simdjson"] = None
runpy.run_module("bench", run_name="__main__", alter_sys=True)
"""
    args = ["run", "parse", "--orders", "100", "--rounds", "1", "--broken", "0"]
    args += ["--data", str(tmp_path), "--results", str(tmp_path)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    for more, status, where in (([], 0, "stdout"), (["--all"], 2, "stderr")):
        command = [sys.executable, "-c", code, *args, *more]
        result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert result.returncode == status, result.stderr
        if not more or all(find_spec(package) for package in OTHERS):
            assert "pysimdjson is not installed" in getattr(result, where)
        assert "not installed" in getattr(result, where)


def test_run_shapes(tmp_path: Path) -> None:
    table, report = passes(
        tmp_path, "shapes", "--orders", "300", "--rounds", "1", "--long-bytes", "100000"
    )  # fmt: skip
    assert "answers checked" in table
    shapes = {row["shape"] for row in report["speeds"]}
    assert {"plain", "by_block", "keys shuffled", "escapes", "all rejected"} <= shapes
    assert [row["workers"] for row in report["blocks"]] == [1, 2]
    costs = {row["shape"]: row for row in report["costs"]}
    assert {"string", "children", "unknown keys", "by_block"} <= costs.keys()
    assert all(50_000 < row["bytes"] < 200_000 and row["ratio"] > 0 for row in costs.values())


def test_run_file(tmp_path: Path) -> None:
    args = ["--orders", "2000", "--rounds", "1", "--data", str(tmp_path)]
    table, report = passes(tmp_path, "file", *args)
    assert "answers checked: 2000 orders" in table
    (rows,) = (table["rows"] for table in report["tables"])
    assert [row["engine"] for row in rows] == [
        "orjson by lines", "fasttail parse FILE, 1 w", "fasttail parse FILE, 2 w"
    ]  # fmt: skip
    assert all(peak > 1e6 for peak in report["settings"]["peak_rss"].values())


def test_run_fanout(tmp_path: Path) -> None:
    args = ["--orders", "20000", "--clients", "5", "--stalled", "1", "--rounds", "1", "--cores", "0"]
    table, report = passes(tmp_path, "fanout", *args, "--queue", "64M")
    assert "20,000 orders" in table
    assert "to 5 clients beside 1 stalled" in table
    assert report["rounds"][0]["bytes"] > 20_000 * 200


def test_run_delay(tmp_path: Path) -> None:
    table, report = passes(tmp_path, "delay", "--rate", "2000", "--seconds", "1", "--clients", "2")
    assert "2000 lines" in table
    assert 0 < report["p50"] <= report["p99"] <= report["most"]


def test_run_delay_at_several_rates(tmp_path: Path) -> None:
    _, report = passes(tmp_path, "delay", "--rate", "500,2000", "--seconds", "0.5")
    assert [each["lines"] for each in report["runs"]] == [250, 1000]
    assert all(0 < each["p50"] <= each["p99"] <= each["p999"] for each in report["runs"])


def test_run_beside(tmp_path: Path) -> None:
    args = ["--rate", "2000", "--seconds", "0.5", "--neighbours", "1", "--folder", str(tmp_path)]
    table, report = passes(tmp_path, "beside", *args)
    assert "each order received once and in order" in table
    assert report["alone"]["lines"] == report["busy"]["lines"] == 1000


def test_run_catchup(tmp_path: Path) -> None:
    args = ["--lines", "20000", "--rounds", "1", "--data", str(tmp_path)]
    table, report = passes(tmp_path, "catchup", *args)
    assert "compared with the file" in table
    assert [each["way"] for each in report["rounds"]] == ["live", "resumed"]
    assert 1800 < report["orders"] < 2200


def test_run_sustained(tmp_path: Path) -> None:
    """Over several hours: 4,000 lines of 1,500 each."""
    args = ["--from-rate", "4000", "--rate-limit", "4000", "--probe-seconds", "0.5", "--seconds", "1"]
    args += ["--hour-lines", "1500", "--bound", "2000", "--data", str(tmp_path), "--folder", str(tmp_path)]
    cores = min(2, len(os.sched_getaffinity(0)))
    args += ["--cores", str(cores)]
    table, report = passes(tmp_path, "sustained", *args)
    assert "each received once and in order" in table
    assert report["probes"][0]["lines"] == 2000
    assert report["probes"][-1]["orders"] > 100
    assert len(report["cores"]) == cores


def test_an_order_that_is_missing_or_moved_fails_a_run(tmp_path: Path) -> None:
    code = f"""
from bench.__main__ import leave_checkout
leave_checkout()
from pathlib import Path
import orjson
from bench import catchup, sustained
from bench.inputs import replay_file
from bench.measure import WrongAnswer
from bench.receiving import Message
from bench.replay import Replay
path = replay_file(Path({str(tmp_path)!r}), 300, "streaming", 1)
replay = Replay.of(path, ["BTC"])
lines = path.read_bytes().splitlines(keepends=True)
events = [orjson.loads(lines[number])["events"][0] for number in replay.chosen]
assert all(event["order"]["coin"] == "BTC" for event in events)
def message(events):
    return Message(1, 0, 0, 0, text=orjson.dumps({{"data": events}}))
catchup.check("right", [message(events[:5]), message(events[5:])], replay)
def fails(action, *args):
    try:
        action(*args)
    except WrongAnswer:
        return
    raise SystemExit(f"{{args}} passed")
changed = {{**events[0], "order": {{**events[0]["order"], "sz": "1.23"}}}}
for wrong in (events[:-1], events[:1] + events, events[1::-1] + events[2:], [changed] + events[1:]):
    fails(catchup.check, "wrong", [message(wrong)], replay)

# Two hours of the same lines; a message for each order.
orders = 2 * len(replay.chosen)
pieces = sustained.Pieces()
pieces.ends.append(450), pieces.ends.append(600)
pieces.times.append(10), pieces.times.append(20)
messages = [
    Message(110, replay.starts[number], 1, 9, hour)
    for hour in (2026060200, 2026060201) for number in replay.chosen
]
waits = sustained.delays(replay, messages, pieces, orders)
late = sum(number >= 150 for number in replay.chosen)
assert list(waits) == [100] * (orders - late) + [90] * late
for wrong in (messages[1:], messages[:-1], messages[:9] + messages[8:], messages[1::-1] + messages[2:]):
    fails(sustained.delays, replay, wrong, pieces, orders)
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)


OLD_WAY = ("fastapi", "pydantic", "uvicorn", "watchdog", "websockets")


def test_run_instead(tmp_path: Path) -> None:
    """The messages of each are compared with those that have to come."""
    args = ["--lines", "3000", "--rate", "2000", "--seconds", "0.5", "--change-lines", "1500"]
    args += ["--quiet", "1", "--only", "fasttail serve,old way mended"]
    table, report = passes(tmp_path, "instead", *args)
    names = [each["name"] for each in report["standings"]]
    assert names == [
        name
        for name in ("fasttail serve", "old way mended")
        if name not in report["left_out"]
    ]
    assert ("old way mended" in names) == all(find_spec(package) for package in OLD_WAY)
    fasttail = report["standings"][0]
    for phase in (fasttail["backlog"], fasttail["delay"], fasttail["change"]):
        assert phase["came"] == phase["expected"] > 50
        assert phase["lost"] == phase["twice"] == phase["late"] == phase["broken"] == 0
    for each in report["standings"]:
        assert each["backlog"]["lost"] == each["delay"]["lost"] == 0
        assert 0 < each["delay"]["p50"] <= each["delay"]["p99"]
        assert each["change"]["came"] + each["change"]["lost"] == each["change"]["expected"]
    assert all(name in table for name in names)


def test_what_a_rival_loses_doubles_or_changes_is_noticed(tmp_path: Path) -> None:
    code = f"""
from bench.__main__ import leave_checkout
leave_checkout()
import argparse, dataclasses
from pathlib import Path
from bench import instead
from bench.measure import CannotRun, WrongAnswer
from bench.rivals import starting
from bench.rivals.collecting import account
from bench.rivals.starting import RIVALS, Rival

right = {{number: str(number) for number in range(5)}}
def faults(*numbers):
    return account([(1, number, right.get(number, "?")) for number in numbers], right).faults()
assert faults(0, 1, 2, 3, 4) == ""
assert faults(0, 1, 3, 4) == "1 lost"
assert faults(0, 1, 2, 1, 3, 4) == "1 twice"
assert faults(0, 2, 1, 3, 4) == "1 out of order"
assert faults(0, 1, 2, 3, 9) == "1 lost, 1 broken"
assert account([(1, number, "4") for number in range(5)], right).faults() == "4 lost, 4 broken"

args = argparse.Namespace(
    lines=200, rate=2000.0, seconds=0.2, change_lines=90, change_rate=5000.0, quiet=0.6, patience=20.0,
    seed=1, folder=None,
)
starting.SETTLE_S = 0.1
def piped(change, **more):
    def command(place):
        names = " ".join(str(place.hour(name)) for name in starting.HOURS)
        return ["sh", "-c", f"tail -q -n +1 -F {{names}} | sed -u '{{change}}'"]
    return Rival("piped", "lines", command, **more)
assert instead._backlog(args, piped("")).faults() == ""
assert instead._backlog(args, piped("7d")).faults() == "1 lost"
assert instead._backlog(args, piped("7p")).faults() == "1 twice"
assert instead._backlog(args, piped("7s/limitPx/limitPX/")).faults() == "1 lost, 1 broken"
def fails(kind, action, *args):
    try:
        action(*args)
    except kind as error:
        return str(error)
    raise SystemExit(f"{{args}} passed")
assert "1 lost" in fails(WrongAnswer, instead.compare, args, [piped("7d", sound=True)])
assert "no-such" in fails(CannotRun, instead.compare, args, [piped("", needs=("no-such",))])

changed = Path({str(tmp_path)!r}, "changed.py")
changed.write_text((starting.HERE / "plain_asyncio.py").read_text().replace('["origSz"]', '["sz"]'))
(plain,) = (rival for rival in RIVALS if rival.name == "plain asyncio")
def command(place):
    return [str(changed) if word.endswith("plain_asyncio.py") else word for word in plain.command(place)]
args.lines = 2000
assert "not as expected" in fails(
    WrongAnswer, instead._backlog, args, dataclasses.replace(plain, command=command)
)
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)


def test_a_message_that_lacks_orders_fails_a_run() -> None:
    code = """
from bench.__main__ import leave_checkout
leave_checkout()
from bench import delay, fanout
from bench.measure import WrongAnswer
from bench.receiving import Message
first, second = Message(1, 0, 1, 300), Message(2, 200, 2, 600)
assert len(delay._delays([first, second], [0, 100, 200], [0] * 3)) == 3
fanout._check([[first, second]] * 2, 3)
def fails(action, *args):
    try:
        action(*args)
    except WrongAnswer:
        return
    raise SystemExit(f"{args} passed")
for wrong in ([first], [first, second._replace(orders=1)]):
    fails(delay._delays, wrong, [0, 100, 200], [0] * 3)
    fails(fanout._check, [wrong], 3)
fails(fanout._check, [[first, second], [first, second._replace(size=601)]], 3)
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_run_instructions(tmp_path: Path) -> None:
    args = ["--small", "50", "--large", "1000", "--shapes", "plain", "--sets", "portable"]
    table, report = passes(tmp_path, "instructions", *args, "--stages", "split 4 KiB", "encode ws")
    assert "instructions per order by valgrind" in table
    assert report["per_order"].keys() == {"plain", "split 4 KiB", "encode ws"}
    assert 100 < report["per_order"]["plain"]["portable"] < 20_000  # a sanitizer build takes more than others
    assert 10 < report["per_order"]["split 4 KiB"]["any"] < 1000
    assert 100 < report["per_order"]["encode ws"]["any"] < 20_000
    assert "gcc" in report["tools"]["compiler"] or "clang" in report["tools"]["compiler"]
    assert report["tools"]["valgrind"].startswith("valgrind-")


def test_instructions_over_budget() -> None:
    code = """
from bench.__main__ import leave_checkout
leave_checkout()
from bench.instructions import Instructions
def over(count, record):
    result = Instructions(
        per_order={"plain": {"avx2": count}}, bytes_per_order={"plain": 1.0}, sets=["avx2"], left_out=[],
        recorded=record, settings={}, tools={}, machine={},
    )
    return result.over_budget()
assert Instructions({}, {}, [], [], {}, {}, {"compiler": "a", "libc": "b", "python": "3.11"},
                    {"compiler": "a", "libc": "b", "python": "3.12"}).incomparable() is None
for theirs in ({}, {"compiler": "a", "libc": "c"}, {"compiler": "c", "libc": "b"}):
    assert Instructions({}, {}, [], [], {}, {}, {"compiler": "a", "libc": "b"}, theirs).incomparable()
record = {"plain": {"avx2": 100.0}}
assert over(50.0, record) == over(105.0, record) == over(500.0, {}) == []
assert over(105.1, record) == ["plain, avx2: 105.1, at most 105.0"]
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.parametrize(
    "what", [("--shapes", "plain"), ("--stages", "encode raw"), ("--stages", "split 4 KiB")]
)
def test_check_fails_over_budget(tmp_path: Path, what: tuple[str, str]) -> None:
    # A record of one instruction per order: whatever is built is over it.
    option, name = what
    other = {"--shapes": "--stages", "--stages": "--shapes"}[option]
    code = f"""
import json, sys
from pathlib import Path
from bench.__main__ import leave_checkout, main
leave_checkout()
from bench import instructions
instructions.RECORD = Path({str(tmp_path / "record.json")!r})
tools = instructions._tools()
if sys.argv.pop() == "other":
    tools["compiler"] = "another"
record = {{"tools": tools, "per_order": {{{name!r}: {{"portable": 1.0, "any": 1.0}}}}}}
instructions.RECORD.write_text(json.dumps(record))
sys.exit(main())
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    args = ["run", "instructions", "--small", "50", "--large", "250", "--results", str(tmp_path)]
    args += [option, name, other, "--sets", "portable"]
    for more, status in (([], 0), (["--check"], 1)):
        command = [sys.executable, "-c", code, *args, *more, "same"]
        result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert result.returncode == status, result.stderr
        assert ("over budget:" in result.stderr) == bool(more)
    if name == "encode raw":
        command = [sys.executable, "-c", code, *args, "--check", "other"]
        result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "not checked: built with " in result.stderr


def test_broken_lines_stay_lines() -> None:
    code = """
from bench.inputs import break_lines
from fasttail.synth import generate
data = generate(2000)
broken, count = break_lines(data, 500, seed=1)
assert count == 500
assert broken == break_lines(data, 500, seed=1)[0] != break_lines(data, 500, seed=2)[0]
pairs = list(zip(data.split(b"\\n"), broken.split(b"\\n"), strict=True))
assert sum(old != new for old, new in pairs) == 500
assert all(new.strip() for _, new in pairs[:-1])
assert break_lines(data, 5000, seed=1)[1] == 1000
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)


def test_answers_are_compared_exactly() -> None:
    code = """
from bench.measure import Answer, WrongAnswer, check
right = Answer(2, {"oid": 2**63 + 1, "sz": 1e6})
check("same", Answer(2, {"oid": 2**63 + 1, "sz": 1e6 * (1 + 1e-12)}), right)
for wrong in (
    Answer(3, right.sums),
    Answer(2, {"oid": 2**63, "sz": 1e6}),
    Answer(2, {"oid": float(2**63 + 1), "sz": 1e6}),
    Answer(2, {"oid": 2**63 + 1, "sz": 1e6 * (1 + 1e-8)}),
    Answer(2, {"oid": 2**63 + 1, "sz": float("nan")}),
    Answer(2, {"oid": 2**63 + 1}),
    Answer(2, right.sums, rejected=1),
):
    try:
        check("wrong", wrong, right)
    except WrongAnswer:
        continue
    raise SystemExit(f"{wrong} passed")
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)


def test_run_soak(tmp_path: Path) -> None:
    """Short, with hours of two seconds: the verdict is good, and no client lacks an order."""
    args = ["--minutes", "0.2", "--hour-seconds", "2", "--rate", "5000", "--burst-rate", "50000"]
    args += ["--burst-every", "4", "--slow", "500000", "--folder", str(tmp_path)]
    table, report = passes(tmp_path, "soak", *args)
    assert "verdict  GOOD" in table
    assert report["files"] == 6
    assert [each["missing"] for each in report["clients"]] == [0] * 11
    assert report["clients"][9]["connections"] > 1
    assert report["delays"]["p50"] < 1000


def test_run_backlog(tmp_path: Path) -> None:
    table, report = passes(tmp_path, "backlog", "--gb", "0.2", "--hours", "24", "--folder", str(tmp_path))
    assert "24 hours" in table
    assert all(each["orders"] + each["gap_orders"] == report["orders"] for each in report["clients"])
    assert any(each["gaps"] for each in report["clients"])


SOAK_SCRIPT = """
from bench import soak
from bench.soak_clients import Account
from bench.soak_node import Plan, Written

plan = Plan("", 600, 23500, 300000, 0, 0, 60, 1)


def verdict(change=lambda written, accounts, metrics: None, *, per_hour=0.0, fds=20, trouble=(),
            rss=None, used=lambda at: 12e6, blocks=lambda at: 134000, seconds=600):
    written = Written(orders=100, old_orders=40, crcs={0: 7})
    accounts = [Account("quick 0", orders=100), Account("slow 0", orders=60, gap_orders=40),
                Account("comes, goes", orders=100, crcs={0: 7}), Account("old channel", orders=40)]
    metrics = {"fasttail_lines_total": 100.0}
    change(written, accounts, metrics)
    rss = rss or (lambda at: 60e6 + per_hour * at / 3600 + at % 7 * 1e5)
    samples = [
        # What waits for clients was given out by malloc, too.
        soak.Sample(float(i), int(rss(i)), 20 if i < seconds / 2 else fds, 4, i / 5, i, i, i % 45 << 16,
                    int(used(i)) + (i % 45 << 16), 1 << 20, int(blocks(i)))
        for i in range(seconds)
    ]
    import argparse
    args = argparse.Namespace()
    judged = soak._judge(args, plan, float(seconds), 0.0, written, accounts, samples, metrics, list(trouble))
    return judged.failures


assert verdict() == [], verdict()
for change in (
    lambda written, accounts, metrics: setattr(accounts[0], "orders", 99),
    lambda written, accounts, metrics: setattr(accounts[0], "orders", 101),
    lambda written, accounts, metrics: setattr(accounts[1], "gap_orders", 39),
    lambda written, accounts, metrics: setattr(accounts[3], "orders", 39),
    lambda written, accounts, metrics: accounts[2].crcs.update({0: 8}),
    lambda written, accounts, metrics: accounts[2].fault("cursor"),
    lambda written, accounts, metrics: metrics.update(fasttail_lines_total=99.0),
):
    assert len(verdict(change)) == 1, verdict(change)
assert "memory grew" in verdict(per_hour=60e6)[0], verdict(per_hour=60e6)
assert verdict(per_hour=-60e6) == []
assert verdict(per_hour=60e6, seconds=500) == [], "too short to tell"
assert "malloc has given out grew" in verdict(used=lambda at: 12e6 + 5e3 * at)[0]
assert "Python's blocks grew" in verdict(blocks=lambda at: 134000 + 12 * at)[0]
import math, random
chance = random.Random(2)
noise, state = [], 0.0
for _ in range(3600):  # bursts and slow clients: up by megabytes for a while, never below what is kept
    state = 0.97 * state + chance.gauss(0, 4e5)
    noise.append(abs(state) + (5e6 if _ % 45 < 4 else 0))
calm = {
    "flat": lambda at: 50e6,
    "levels off": lambda at: 50e6 + 8e6 * (1 - math.exp(-at / 400)),
    "steps": lambda at: 50e6 + 2e6 * ((at > 700) + (at > 1500)),
}
for name, shape in calm.items():
    for leak in (0.0, 5.0 * 2**20):
        found = verdict(rss=lambda at: shape(at) + noise[at] + leak * at / 3600, seconds=3600)
        assert len(found) == (leak > 0), (name, leak, found)
        assert all("memory grew" in each for each in found), (name, found)
assert "open files" in verdict(fds=25)[0]
assert "in the log" in verdict(trouble=["ERROR"])[0]
chance = random.Random(1)
slope = soak.theil_sen([(i * 10.0, 1e6 + i * 10.0 + chance.gauss(0, 50)) for i in range(100)])
assert 3300 < slope.low < 3600 < slope.high < 3900, slope
print("right")
"""


def test_what_a_soak_calls_bad() -> None:
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{SOAK_SCRIPT}"]
    result = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert result.stdout == "right\n", result.stderr
