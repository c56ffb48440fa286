"""`fasttail synth` from outside: its options in real processes, and what they leave in files."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from exchange_checks import check
from exchange_compare import compare_layouts
from running import command, wait_for
from test_commands import ENVIRON, run

from fasttail.config import SynthSettings, loading
from fasttail.tools.exchange import STREAMS, ExchangeOptions, folder_name, read_truth
from fasttail.tools.exchange.command import node_options

pytestmark = pytest.mark.plain_build


def synth(*words: object) -> str:
    """Return what a run printed, which must succeed without messages."""
    done = run("synth", *words)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def refused(*words: object) -> str:
    done = run("synth", *words)
    assert (done.returncode, done.stdout) == (2, b"")
    return done.stderr.decode().removeprefix("fasttail synth: ").removesuffix("\n")


def test_by_default_it_writes_order_statuses_only(tmp_path: Path) -> None:
    assert re.fullmatch(
        r"700 lines, 700 orders, \d+ bytes, 1 files, \d+\.\d s\n", synth(tmp_path, "--lines", 700)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["node_order_statuses_streaming"]


def test_all_streams_with_their_truth(tmp_path: Path) -> None:
    node, truth = tmp_path / "node", tmp_path / "truth"
    synth(
        node, "--lines", 30_000, "--streams", "all", "--layout", "by_block", "--resting", 3000,
        "--rejected", 0.3, "--rate", "max", "--first-height", 5_000_000, "--truth", truth,
    )  # fmt: skip
    assert {path.name for path in node.iterdir()} == {folder_name(stream, "by_block") for stream in STREAMS}
    again, height = read_truth(truth / "chain.json")
    assert again.options.first_height == 5_000_000
    first, last = tmp_path / "first.json", truth / "l4_snapshot.json"
    first.write_bytes(again.snapshot(4_999_999))
    assert check(node, first, last, shapes=True).findings == []
    assert again.snapshot(height) + b"\n" == last.read_bytes()


def test_streams_sides_and_funding_as_asked(tmp_path: Path) -> None:
    synth(
        tmp_path, "--lines", 8000, "--streams", "bookDiffs,orders,miscEvents", "--long-sides",
        "--funding-deltas", 9000, "--layout", "plain",
    )  # fmt: skip
    names = {"node_raw_book_diffs", "node_order_statuses", "misc_events"}
    assert {path.name for path in tmp_path.iterdir()} == names
    (diffs,) = (tmp_path / "node_raw_book_diffs").glob("hourly/*/*")
    assert {json.loads(line)["side"] for line in diffs.read_bytes().splitlines()} == {"Bid", "Ask"}
    (misc,) = (tmp_path / "misc_events").glob("hourly/*/*")
    funding = json.loads(misc.read_bytes().splitlines()[0])
    assert len(funding["inner"]["Funding"]["deltas"]) >= 9000


def test_a_second_node_and_faults(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    printed = synth(
        one, "--lines", 60_000, "--streams", "orders,bookDiffs", "--layout", "by_block", "--second-node", two,
        "--fault", "missing-block@0.5", "--fault", "restart:3@1+0.1", "--fault", "torn-line@999",
    )  # fmt: skip
    for line in (
        r"fault missing-block: events are lost from block \d+ on",
        r"fault missing-block: \d+ events lost in blocks (\d+) to \1",
        r"fault restart: \d+ events repeated in blocks \d+ to \d+",
        "fault torn-line did not happen",
        r"second node: \d+ lines, \d+ orders, \d+ bytes, 2 files",
    ):
        assert re.search(f"^{line}$", printed, re.MULTILINE), line
    assert "number" in check(one).broken
    assert "number" not in check(two).broken, "faults befall the first node only"


def test_prepared_blocks_are_replayed(tmp_path: Path) -> None:
    prepared, streams = tmp_path / "blocks", ("--streams", "orders,bookDiffs,fills")
    arguments = ("--lines", 9000, "--seed", 4, *streams)
    printed = synth(tmp_path / "none", *arguments, "--prepare", prepared)
    assert printed == f"prepared 9000 orders in {prepared}\n"
    assert not (tmp_path / "none").exists()
    synth(tmp_path / "run", *arguments)
    synth(tmp_path / "replayed", "--replay", prepared, "--rate", "max", *streams)
    assert compare_layouts(tmp_path / "run", tmp_path / "replayed").same


def test_the_info_server_answers_during_the_run(tmp_path: Path) -> None:
    node, out = tmp_path / "node", tmp_path / "out.json"
    words = command("synth", node, "--info-port", 0, "--rate", 3000, "--streams", "orders,bookDiffs")
    with subprocess.Popen(words, env=ENVIRON, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        told = re.fullmatch(r"the info server answers on (http://127\.0\.0\.1:\d+/info)\n", line)
        assert told is not None
        wait_for("blocks", lambda: any(path.is_file() and path.stat().st_size for path in node.rglob("*")))
        inner = {"type": "l4Snapshots", "includeUsers": True, "includeTriggerOrders": True}
        question: dict[str, Any] = {"type": "fileSnapshot", "request": inner, "outPath": str(out)}
        question["includeHeightInOutput"] = True
        body = json.dumps(question).encode()
        with urllib.request.urlopen(urllib.request.Request(told[1], body), timeout=60) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert "orders" in process.stdout.read()
    assert process.returncode == 0
    height, books = json.loads(out.read_bytes())
    assert height > 0
    assert len(books) > 400


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--streams", "orders,depth"], f"streams must be of {', '.join(STREAMS)}, not depth"),
        (["--rejected", "2"], "rejected must be a share from 0 to 0.9, not 2.0"),
        (["--fault", "fire@3"], "fault must be one of .*, not fire"),
        (["--fault", "restart"], r"fault restart needs a time: restart@TIME\[\+DURATION\]"),
        (["--prepare", "x"], "--prepare needs --lines, the number of order statuses to prepare"),
        (["--prepare", "x", "--replay", "y"], "--prepare and --replay exclude each other"),
        (["--truth", "x", "--replay", "y"], "--truth has no effect with --replay"),
        (["--seed", "3", "--replay", "y"], "--seed has no effect with --replay"),
        (["--fault", "restart@1", "--prepare", "y"], "--fault has no effect with --prepare"),
        (["--rate", "1e9"], "rate must be from 0.01 to 10,000,000, not 1e\\+09"),
        (["--replay", "/no/such/file"], "cannot read /no/such/file: No such file or directory"),
        (["--lines", "3", "--streams", "fills"], "lines counts order statuses, so it needs .*"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, words: list[str], message: str) -> None:
    assert re.fullmatch(message, refused(tmp_path / "node", *words))
    assert not (tmp_path / "node").exists()


def test_the_settings_defaults_are_the_exchanges() -> None:
    settings = loading.load(SynthSettings, {"directory": "x"}, {})
    assert node_options(settings).market == ExchangeOptions()


def test_two_nodes_in_one_folder_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, "--second-node", tmp_path) == f"two nodes cannot share the folder {tmp_path}"
