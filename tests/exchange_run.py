"""Runs a simulated exchange for long and checks that its streams agree: `scripts/exchange-check`.

In rounds of about a million events, a node writes all streams into a temporary folder. Each round begins and
ends with a snapshot of the books. `exchange_checks` then reads the folder, and knows nothing of the engine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from exchange_checks import check
from exchange_findings import Report

from fasttail.tools.exchange import LAYOUTS, STREAMS, ExchangeOptions, NodeOptions, Truth, run
from fasttail.tools.exchange.truth import snapshot_parts

ROUND_ORDERS = 600_000


def write_snapshot(path: Path, truth: Truth) -> Path:
    """Write the books as a node's `fileSnapshot` does."""
    with path.open("w", encoding="ascii") as file:
        file.writelines(snapshot_parts(truth.exchange))
    return path


def run_round(folder: Path, truth: Truth, layout: str, orders: int) -> tuple[Report, int, float]:
    """Write and check one round. Return the report, the events written, and the CPU seconds of that."""
    first = write_snapshot(folder / "first.json", truth)
    begin = time.process_time()
    options = NodeOptions(lines=orders, streams=tuple(STREAMS), layout=layout, live=False)
    done = run(folder / "node", options, source=truth)
    cpu = time.process_time() - begin
    last = write_snapshot(folder / "last.json", truth)
    return check(folder / "node", first, last, shapes=True), done.events, cpu


def main() -> int:
    """Run the rounds, and return 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="scripts/exchange-check", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10_000_000, help="default: 10,000,000")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resting", type=int, default=20_000, help="orders in the books (default: 20,000)")
    parser.add_argument("--layout", choices=tuple(LAYOUTS), help="default: by_block and streaming in turn")
    args = parser.parse_args()
    truth = Truth(ExchangeOptions(
        seed=args.seed, streams=tuple(STREAMS), resting=args.resting, rejected=0.34, children=0.0005,
        lifecycle=100,
    ))  # fmt: skip
    layouts = (args.layout,) if args.layout else ("by_block", "streaming")
    counts: Counter[str] = Counter()
    events, cpu, findings, rounds = 0, 0.0, 0, 0
    while events < args.events:
        orders = min(ROUND_ORDERS, max(3000, (args.events - events) * 6 // 10))
        with tempfile.TemporaryDirectory(prefix="fasttail-exchange-") as folder:
            layout = layouts[rounds % len(layouts)]
            report, written, seconds = run_round(Path(folder), truth, layout, orders)
        events, cpu, rounds = events + written, cpu + seconds, rounds + 1
        counts += report.counts
        findings += len(report.findings)
        print(f"round {rounds}, {layout}: {written:,} events, {len(report.findings)} findings", flush=True)
        for finding in report.findings:
            print(f"  {finding}")
    print("\n".join(f"{name:45}{count:14,}" for name, count in sorted(counts.items())))
    print(f"{events:,} events in {truth.exchange.height - truth.options.first_height + 1:,} blocks checked, "
          f"{findings} findings; written with {cpu / events * 1e6:.1f} µs of CPU an event")  # fmt: skip
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
