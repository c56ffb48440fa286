"""Each benchmark runs at its smallest size, and its check fails on a wrong answer."""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from plain_reader import time_ns

from bench import (
    catchup,
    definitions,
    delay,
    fanout,
    figures,
    instructions,
    plots,
    report,
    runner,
    soak,
    soak_node,
    sustained,
)
from bench.__main__ import modules
from bench.growth import exponent
from bench.inputs import break_lines, replay_file
from bench.instructions import Instructions
from bench.measure import Answer, CannotRun, OverBudget, WrongAnswer, check
from bench.receiving import Message
from bench.replay import Replay
from bench.rivals.client import account
from bench.soak_clients import Account
from bench.soak_node import LAG_NS, Ahead, Plan, Written
from fasttail.tools.exchange import generate

pytestmark = pytest.mark.plain_build

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "bench" / "results" / "recorded"
VALGRIND = pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m bench` as a user does: in the checkout, whose folder Python then puts on sys.path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "bench", *args]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


# ---- the command


def test_list() -> None:
    result = bench("list")
    assert result.returncode == 0, result.stderr
    told, _, own = result.stdout.partition("\n\n")
    assert "split/lines" in [line.split()[0] for line in told.splitlines()]
    assert [line.split()[0] for line in own.splitlines()[1:]] == list(modules())


def test_definitions_name_what_there_is() -> None:
    for entry in definitions.load().entries.values():
        assert entry.module in figures.OF_MODULE, entry
        for quick in (False, True):
            given = entry.all_arguments(quick)
            options = [word for word in given if word.startswith("--")]
            assert len(set(options)) == len(options), given
            runner.parsed(modules()[entry.module], given)
    for wrong in (["--no-such"], ["--orders", "x"]):
        with pytest.raises(CannotRun):
            runner.parsed(modules()["parse"], wrong)


def test_run_by_pattern(tmp_path: Path) -> None:
    """A run of several benchmarks writes one file."""
    result = bench("run", "spl*", "filter/", "--quick", "--results", str(tmp_path))
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("run-*.json")
    run = json.loads(path.read_text())
    assert [entry["name"] for entry in run["entries"]] == ["split/lines", "filter/orders"]
    assert run["machine"]["commit"]
    assert f'"{socket.gethostname()}"' not in path.read_text()
    assert bench("run", "no-such").returncode == 2


@pytest.mark.parametrize(
    ("expected", "failed"),
    [
        ({"tables.0.expected.orders": 20000}, False),
        ({"tables.0.expected.orders": 19999}, True),
        ({"tables.3.nothing": 1}, True),
    ],
)
def test_an_unexpected_count_fails_a_run(expected: dict[str, Any], failed: bool) -> None:
    entry = replace(definitions.load().entries["split/lines"], quick_expected=expected)
    got, _ = runner.run_one(entry, modules()[entry.module], True)
    assert bool(got["failed"]) == failed == (not got["results"])


def test_compare(tmp_path: Path) -> None:
    """Runs are compared by ratios within each run, so a machine that is slower throughout changes nothing."""

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
    assert verdict(usual, written("drifted", 0.5, drift=1.6)).endswith("inside the noise")
    assert verdict(usual, written("slower", 0.6)).endswith("WORSE")
    assert verdict(usual, written("quicker", 0.4)).endswith("better")
    other = written("other", 0.5, cpu="b")
    refused = bench("compare", usual, other)
    assert refused.returncode == 2
    assert "other machines" in refused.stderr
    assert verdict(usual, other, "--anyway").endswith("inside the noise")


def test_the_page_is_what_the_recorded_results_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recorded = sorted(RECORDED.glob("*.json"))
    known = definitions.load()
    runs = report.newest(recorded, known, False)
    page = report.render(list(runs.values()), known, report.costs())
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page, "run `python -m bench report`"
    entries = {entry["name"]: entry for run in runs.values() for entry in run["entries"]}
    drawn = {path.name for path in (ROOT / "docs" / "benchmarks").iterdir()}
    assert drawn == set(plots.planned(entries))
    assert all(str(Path.home()) not in path.read_text() for path in recorded)


# ---- each benchmark at its smallest size

SMALL: dict[str, tuple[str, str]] = {
    "parse": ("--orders 2000 --rounds 1 --broken-rounds 1 --broken 400 --data {folder}", "2000 orders"),
    "layers": ("--orders 2000 --rounds 1", ""),
    "shapes": ("--orders 300 --rounds 1 --long-bytes 100000", "answers checked"),
    "file": ("--orders 2000 --rounds 1 --data {folder}", "answers checked: 2000 orders"),
    "catchup": ("--lines 5000 --rounds 1 --data {folder}", "compared with the file"),
    "sustained": (
        "--from-rate 1000 --rate-limit 1000 --probe-seconds 0.5 --seconds 1 --hour-lines 400 --bound 60000 "
        "--cores 1 --data {folder} --folder {folder}",
        "each received once and in order",
    ),
    "fanout": ("--orders 5000 --clients 3 --stalled 1 --rounds 1 --cores 0 --queue 64M", "beside 1 stalled"),
    "nats": ("--rate 2000 --seconds 1", "an empty edge catches up"),
    "page": ("--rate 2000 --seconds 2 --pages 2 --rounds 1", "2 pages"),
    "delay": ("--rate 500,1000 --seconds 0.5 --clients 2", ""),
    "contention": (
        "--rate 1000 --seconds 0.5 --neighbours 1 --folder {folder}", "each order received once and in order"
    ),
    "alternatives": (
        "--lines 2000 --rate 1000 --seconds 0.5 --change-lines 900 --quiet 60 --only fasttail_serve "
        "--folder {folder}",
        "fasttail serve",
    ),
    "growth": ("--points 2 --orders 500 --rounds 1 --of lines filters", "answers checked"),
    "crowd": ("--clients 3 --subscriptions 5 --rate 500 --seconds 0.5", "admitted"),
    "replays": ("--case comeback --behind 0.5 --rate 2000", "each once and in order; 0 gaps"),
    "backlog": ("--gb 0.05 --hours 6 --folder {folder}", "6 hours"),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_runs(tmp_path: Path, name: str) -> None:
    options, told = SMALL[name]
    args = [word.replace("_", " ").format(folder=tmp_path) for word in options.split()]
    result = bench("run", name, *args, "--results", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert told in result.stdout
    (written,) = tmp_path.glob(f"{name}-*.json")
    assert json.loads(written.read_text())["machine"]["commit"]


def test_every_benchmark_is_run_here() -> None:
    assert {*SMALL, "instructions", "soak"} == set(modules())


def test_runs_a_soak(tmp_path: Path) -> None:
    """No client misses an order. The verdict may be bad, because a busy machine slows the server down."""
    args = ["--minutes", "0.1", "--hour-seconds", "2", "--rate", "2000", "--burst-rate", "20000"]
    args += ["--burst-every", "4", "--slow", "500000", "--folder", str(tmp_path)]
    result = bench("run", "soak", *args, "--results", str(tmp_path))
    assert "verdict" in result.stdout, result.stderr
    (written,) = tmp_path.glob("soak-*.json")
    found = json.loads(written.read_text())
    assert (result.returncode == 0) == (not found["failures"]), result.stderr
    assert [each["missing"] for each in found["clients"]] == [0] * 11


@VALGRIND
def test_instructions_over_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a record of one instruction per order, every build is over budget."""
    record = tmp_path / "record.json"
    monkeypatch.setattr(instructions, "RECORD", record)
    content = {"tools": instructions.tools(), "per_order": {"encode raw": {"any": 1.0}}}
    record.write_text(json.dumps(content))
    parser = argparse.ArgumentParser()
    instructions.add_arguments(parser)
    args = ["--small", "50", "--large", "250", "--shapes", "--stages", "encode raw", "--check"]
    with pytest.raises(OverBudget, match=r"encode raw, any: .*at most 1"):
        instructions.run(parser.parse_args(args))


@VALGRIND
def test_instructions_of_a_shape(tmp_path: Path) -> None:
    args = ["--small", "50", "--large", "250", "--shapes", "plain", "--sets", "portable", "--stages"]
    result = bench("run", "instructions", *args, "--results", str(tmp_path))
    assert result.returncode == 0, result.stderr
    (written,) = tmp_path.glob("instructions-*.json")
    assert 100 < json.loads(written.read_text())["per_order"]["plain"]["portable"] < 20_000


def test_what_is_over_budget_and_what_cannot_be_compared() -> None:
    def counted(count: float, record: float, **recorded_tools: str) -> Instructions:
        return Instructions(
            per_order={"plain": {"avx2": count}}, bytes_per_order={}, sets=["avx2"], left_out=[],
            recorded={"plain": {"avx2": record}}, settings={}, tools={"compiler": "a", "libc": "b"},
            recorded_tools=recorded_tools,
        )  # fmt: skip

    assert counted(105.0, 100.0).over_budget() == []
    assert counted(105.1, 100.0).over_budget() == ["plain, avx2: 105.1, at most 105.0"]
    assert counted(1, 1, compiler="a", libc="b", python="3.12").incomparable() is None
    assert counted(1, 1, compiler="c", libc="b").incomparable() is not None
    assert counted(1, 1).incomparable() is not None


# ---- wrong answers


def test_a_file_that_lacks_an_order_fails_a_run(tmp_path: Path) -> None:
    args = ["run", "parse", "--orders", "500", "--rounds", "1", "--broken", "0", "--data", str(tmp_path)]
    assert bench(*args, "--results", str(tmp_path)).returncode == 0
    (data,) = tmp_path.glob("plain-500-*.jsonl")
    data.write_bytes(b"".join(data.read_bytes().splitlines(keepends=True)[:-1]))
    result = bench(*args)
    assert result.returncode == 1
    assert "WRONG ANSWER" in result.stderr


def test_answers_are_compared_exactly() -> None:
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
        with pytest.raises(WrongAnswer):
            check("wrong", wrong, right)


def test_an_order_that_is_missing_or_moved_fails_a_run(tmp_path: Path) -> None:
    path = replay_file(tmp_path, 300, "streaming", 1)
    replay = Replay.of(path, ["BTC"])
    lines = path.read_bytes().splitlines(keepends=True)
    events = [orjson.loads(lines[number])["events"][0] for number in replay.chosen]

    def message(events: list[dict[str, Any]]) -> Message:
        return Message(1, 0, 0, 0, text=orjson.dumps({"data": events}))

    catchup.check("right", [message(events[:5]), message(events[5:])], replay)
    changed = {**events[0], "order": {**events[0]["order"], "sz": "1.23"}}
    for wrong in (events[:-1], events[:1] + events, events[1::-1] + events[2:], [changed, *events[1:]]):
        with pytest.raises(WrongAnswer):
            catchup.check("wrong", [message(wrong)], replay)

    # Two hours of the same lines, with one message per order.
    orders = 2 * len(replay.chosen)
    pieces = sustained.Pieces()
    pieces.ends.extend((450, 600))
    pieces.times.extend((10, 20))
    messages = [
        Message(110, replay.starts[number], 1, 9, hour)
        for hour in (2026060200, 2026060201)
        for number in replay.chosen
    ]
    late = sum(number >= 150 for number in replay.chosen)
    assert list(sustained.delays(replay, messages, pieces, orders)) == [100] * (orders - late) + [90] * late
    for some in (messages[1:], messages[:-1], messages[:9] + messages[8:], messages[1::-1] + messages[2:]):
        with pytest.raises(WrongAnswer):
            sustained.delays(replay, some, pieces, orders)


def test_a_message_that_lacks_orders_fails_a_run() -> None:
    first, second = Message(1, 0, 1, 300), Message(2, 200, 2, 600)
    assert len(delay.delays_of([first, second], [0, 100, 200], [0] * 3)) == 3
    fanout.check([[first, second]] * 2, 3)
    for wrong in ([first], [first, second._replace(orders=1)]):
        with pytest.raises(WrongAnswer):
            delay.delays_of(wrong, [0, 100, 200], [0] * 3)
        with pytest.raises(WrongAnswer):
            fanout.check([wrong], 3)
    with pytest.raises(WrongAnswer):
        fanout.check([[first, second], [first, second._replace(size=601)]], 3)


@pytest.mark.parametrize(
    ("numbers", "faults"),
    [
        ([0, 1, 2, 3, 4], ""),
        ([0, 1, 3, 4], "1 lost"),
        ([0, 1, 2, 1, 3, 4], "1 twice"),
        ([0, 2, 1, 3, 4], "1 out of order"),
        ([0, 1, 2, 3, 9], "1 lost, 1 broken"),
    ],
)
def test_what_a_rival_loses_doubles_or_changes_is_noticed(numbers: list[int], faults: str) -> None:
    right = {number: str(number) for number in range(5)}
    assert account([(1, number, right.get(number, "?")) for number in numbers], right).faults() == faults


def test_broken_lines_stay_lines() -> None:
    data = generate(2000)
    broken, count = break_lines(data, 500, seed=1)
    assert count == 500
    assert broken == break_lines(data, 500, seed=1)[0] != break_lines(data, 500, seed=2)[0]
    pairs = list(zip(data.split(b"\n"), broken.split(b"\n"), strict=True))
    assert sum(old != new for old, new in pairs) == 500
    assert all(new.strip() for _, new in pairs[:-1])


def test_an_exponent_and_its_interval() -> None:
    xs = [math.log(2**index) for index in range(5) for _ in range(3)]
    slope, low, high = exponent(xs, [1.5 * x + 2 for x in xs])
    assert math.isclose(slope, 1.5)
    assert high - low < 1e-6
    chance = random.Random(1)
    intervals = (exponent(xs, [1.5 * x + chance.gauss(0, 0.3) for x in xs])[1:] for _ in range(300))
    assert 275 < sum(low < 1.5 < high for low, high in intervals) < 296


# ---- the soak's node


def test_a_soak_follows_its_plan() -> None:
    """Each block is due when the one before ends, and has the time at which it is due or made."""
    plan = Plan("", 2.0, 5000, 20000, 1.0, 0.5, 0.5, 1)
    ahead = Ahead(plan)
    begin_ns = time.time_ns() + int((ahead.begin - time.monotonic()) * 1e9)
    blocks = []
    for made in ahead:
        lines = [orjson.loads(line) for line in made.data.splitlines()]
        due_ns = begin_ns + int(made.at * 1e9)
        at_ns = time_ns(lines[0]["block_time"]) + LAG_NS
        assert due_ns - 10**7 < at_ns < max(due_ns, time.time_ns()) + 10**7
        assert time_ns(lines[0]["local_time"]) >= at_ns - 10**7
        blocks.append((made, lines))
    ahead.close()
    for (before, _), (later, _) in pairwise(blocks):
        assert later.at == before.at + before.orders / before.rate
    assert all(made.rate == plan.pace(made.at) for made, _ in blocks)
    assert {made.rate for made, _ in blocks} == {5000, 20000}
    local = [time_ns(line["local_time"]) for _, lines in blocks for line in lines]
    assert local == sorted(local)
    crcs: dict[int, int] = {}
    for made, lines in blocks:
        assert len(lines) == made.orders
        assert made.hour == int(made.at / 0.5)
        text = b"".join(orjson.dumps(event) + b"\n" for line in lines for event in line["events"])
        crcs[made.hour] = zlib.crc32(text, crcs.get(made.hour, 0))
        assert made.crc == crcs[made.hour]


def test_a_soak_holds_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_node, "MOST_AHEAD_BYTES", 1)
    ahead = Ahead(Plan("", 1e6, 1e6, 1e6, 0, 0, 60, 1))
    for _ in range(3):
        next(iter(ahead))
        time.sleep(0.1)
        assert len(ahead._made) <= 1
    ahead.close()


def test_a_soak_whose_blocks_cannot_be_made_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> Any:
        raise ValueError("no block")

    monkeypatch.setattr(soak_node, "_make", fail)
    with pytest.raises(ValueError, match="no block"):
        list(Ahead(Plan("", 1, 1000, 1000, 0, 0, 60, 1)))


# ---- what a soak reports as bad

Change = Callable[[Written, list[Account], dict[str, float]], object]
ByTime = Callable[[float], float]


def verdict(
    change: Change = lambda written, accounts, metrics: None,
    *,
    rss: ByTime = lambda at: 60e6 + at % 7 * 1e5,
    used: ByTime = lambda at: 12e6,
    blocks: ByTime = lambda at: 134000,
    fds: int = 20,
    trouble: tuple[str, ...] = (),
    seconds: int = 600,
) -> list[str]:
    written = Written(orders=100, old_orders=40, crcs={0: 7})
    accounts = [
        Account("quick 0", orders=100), Account("slow 0", orders=60, gap_orders=40),
        Account("comes, goes", orders=100, crcs={0: 7}), Account("old channel", orders=40),
    ]  # fmt: skip
    metrics = {"fasttail_lines_total": 100.0}
    change(written, accounts, metrics)
    samples = [
        # Bytes queued for clients were allocated by malloc too.
        soak.Sample(
            float(at), int(rss(at)), 20 if at < seconds / 2 else fds, 4, at / 5, at, at, at % 45 << 16,
            int(used(at)) + (at % 45 << 16), 1 << 20, int(blocks(at)),
        )
        for at in range(seconds)
    ]  # fmt: skip
    plan = Plan("", 600, 23500, 300000, 0, 0, 60, 1)
    args = argparse.Namespace()
    return soak.judge(args, plan, seconds, 0.0, written, accounts, samples, metrics, list(trouble)).failures


def test_a_good_soak() -> None:
    assert verdict() == []
    assert verdict(rss=lambda at: 60e6 - 2e4 * at) == []
    assert verdict(rss=lambda at: 60e6 + 2e4 * at, seconds=500) == [], "too short to tell"


@pytest.mark.parametrize(
    "change",
    [
        lambda written, accounts, metrics: setattr(accounts[0], "orders", 99),
        lambda written, accounts, metrics: setattr(accounts[0], "orders", 101),
        lambda written, accounts, metrics: setattr(accounts[1], "gap_orders", 39),
        lambda written, accounts, metrics: setattr(accounts[3], "orders", 39),
        lambda written, accounts, metrics: accounts[2].crcs.update({0: 8}),
        lambda written, accounts, metrics: accounts[2].fault("cursor"),
        lambda written, accounts, metrics: metrics.update(fasttail_lines_total=99.0),
    ],
)
def test_a_soak_with_a_wrong_count_is_bad(change: Change) -> None:
    assert len(verdict(change)) == 1


def test_a_soak_whose_server_grows_is_bad() -> None:
    assert "memory grew" in verdict(rss=lambda at: 60e6 + 2e4 * at)[0]
    assert "malloc has given out grew" in verdict(used=lambda at: 12e6 + 5e3 * at)[0]
    assert "Python's blocks grew" in verdict(blocks=lambda at: 134000 + 12 * at)[0]
    assert "open files" in verdict(fds=25)[0]
    assert "in the log" in verdict(trouble=("ERROR",))[0]


@pytest.mark.parametrize(
    "shape",
    [
        lambda at: 50e6,
        lambda at: 50e6 + 8e6 * (1 - math.exp(-at / 400)),
        lambda at: 50e6 + 2e6 * ((at > 700) + (at > 1500)),
    ],
    ids=["flat", "levels off", "steps"],
)
def test_a_leak_in_the_noise_of_bursts(shape: ByTime) -> None:
    """A leak is found among bursts and slow clients, which never lower memory below its base."""
    chance = random.Random(2)
    noise, state = [], 0.0
    for at in range(3600):
        state = 0.97 * state + chance.gauss(0, 4e5)
        noise.append(abs(state) + (5e6 if at % 45 < 4 else 0))
    leak = 5.0 * 2**20 / 3600
    assert verdict(rss=lambda at: shape(at) + noise[int(at)], seconds=3600) == []
    (found,) = verdict(rss=lambda at: shape(at) + noise[int(at)] + leak * at, seconds=3600)
    assert "memory grew" in found
