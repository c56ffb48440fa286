"""`fasttail synth`: writes the files of a simulated node until its end, and says what it wrote."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from fasttail.config import SynthSettings
from fasttail.tools.exchange.chain import ExchangeOptions
from fasttail.tools.exchange.constants import STREAMS, SynthError
from fasttail.tools.exchange.faults import Fault, FaultRecord, parse_fault
from fasttail.tools.exchange.info_server import InfoServer
from fasttail.tools.exchange.node import NodeOptions, Summary, run
from fasttail.tools.exchange.prepared import prepare, replay
from fasttail.tools.exchange.truth import Truth, make_folder, write_truth


def synth(settings: SynthSettings) -> int:
    """Run the command and return its exit code. Raises SynthError for what cannot be done."""
    options = node_options(settings)
    _refuse_conflicts(settings)
    if settings.prepare is not None:
        if settings.lines is None:
            raise SynthError("--prepare needs --lines, the number of order statuses to prepare")
        prepare(settings.prepare, options.exchange, lines=settings.lines)
        print(f"prepared {settings.lines} orders in {settings.prepare}")
        return 0
    teller = _FaultTeller()
    if settings.replay is not None:
        done = replay(settings.directory, settings.replay, options, on_fault=teller)
    else:
        done = _run(settings, options, teller)
    teller.tell_totals(options.faults)
    print(f"{_written(done)}, {done.seconds:.1f} s")
    if done.second is not None:
        print(f"second node: {_written(done.second)}")
    return 0


def _written(done: Summary) -> str:
    return f"{done.lines} lines, {done.orders} orders, {done.bytes} bytes, {done.files} files"


def node_options(settings: SynthSettings) -> NodeOptions:
    """Return what the settings ask for."""
    streams = tuple(STREAMS) if settings.streams == ("all",) else settings.streams
    return NodeOptions(
        rate=settings.rate,
        lines=settings.lines,
        seconds=settings.seconds,
        layout=settings.layout,
        streams=streams,
        hour_seconds=settings.hour_seconds,
        torn=settings.torn,
        faults=[parse_fault(text) for text in settings.fault],
        second_node=settings.second_node,
        market=ExchangeOptions(
            seed=settings.seed,
            first_height=settings.first_height,
            resting=settings.resting,
            rejected=settings.rejected,
            funding_deltas=settings.funding_deltas,
            long_sides=settings.long_sides,
        ),
    )


_NODE_ONLY = ("fault", "second_node", "seconds", "layout", "torn", "hour_seconds", "truth", "info_port")
_EXCHANGE_ONLY = (
    "seed",
    "resting",
    "rejected",
    "first_height",
    "funding_deltas",
    "long_sides",
    "truth",
    "info_port",
)


def _refuse_conflicts(settings: SynthSettings) -> None:
    """Raise SynthError for settings that would have no effect."""
    if settings.prepare is not None and settings.replay is not None:
        raise SynthError("--prepare and --replay exclude each other")
    for option, path, without_effect in (
        ("--prepare", settings.prepare, _NODE_ONLY),
        ("--replay", settings.replay, _EXCHANGE_ONLY),
    ):
        for name in without_effect:
            if path is not None and settings.sources[name] != "default":
                raise SynthError(f"--{name.replace('_', '-')} has no effect with {option}")


def _run(settings: SynthSettings, options: NodeOptions, teller: _FaultTeller) -> Summary:
    if settings.truth is None and settings.info_port is None:
        return run(settings.directory, options, on_fault=teller)
    if settings.truth is not None:
        make_folder(settings.truth)
    truth = Truth(options.exchange, history=settings.truth is not None)
    with contextlib.ExitStack() as stack:
        if settings.info_port is not None:
            server = InfoServer(truth, settings.info_port)
            stack.callback(server.close)
            print(f"the info server answers on http://127.0.0.1:{server.port}/info", flush=True)
        done = run(settings.directory, options, source=truth, on_fault=teller)
    if settings.truth is not None:
        write_truth(settings.truth, truth)
    return done


class _FaultTeller:
    """Prints when a fault begins to have an effect, and at the end what it did in all."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, str], list[int]] = {}  # (fault, effect) -> events, first and last block

    def __call__(self, record: FaultRecord) -> None:
        """Take the next record."""
        key = (record.name, record.effect)
        if key not in self._totals:
            print(f"fault {record.name}: events are {record.effect} from block {record.block} on", flush=True)
            self._totals[key] = [0, record.block, record.block]
        total = self._totals[key]
        total[0] += record.events
        total[1], total[2] = min(total[1], record.block), max(total[2], record.block)

    def tell_totals(self, asked: Sequence[Fault]) -> None:
        """Print the totals, and which faults did not happen."""
        for (name, effect), (events, first, last) in self._totals.items():
            print(f"fault {name}: {events} events {effect} in blocks {first} to {last}")
        happened = {name for name, _ in self._totals}
        for name in dict.fromkeys(fault.name for fault in asked if fault.name not in happened):
            print(f"fault {name} did not happen")
