"""`fasttail synth`: writes the files of a simulated node until its end, and says what it wrote."""

from __future__ import annotations

import contextlib

from fasttail.config import SynthSettings
from fasttail.tools.exchange.chain import ExchangeOptions
from fasttail.tools.exchange.constants import STREAMS, SynthError
from fasttail.tools.exchange.faults import FaultRecord, parse_fault
from fasttail.tools.exchange.info_server import InfoServer
from fasttail.tools.exchange.node import NodeOptions, Summary, run
from fasttail.tools.exchange.prepared import prepare, replay
from fasttail.tools.exchange.truth import Truth, write_truth


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
    if settings.replay is not None:
        done = replay(settings.directory, settings.replay, options, on_fault=_tell_fault)
    else:
        done = _run(settings, options)
    written = f"{done.lines} lines, {done.orders} orders, {done.bytes} bytes, {done.files} files"
    print(f"{written}, {done.seconds:.1f} s")
    return 0


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


def _refuse_conflicts(settings: SynthSettings) -> None:
    """Raise SynthError for settings of which one would have no effect."""
    if settings.prepare is not None and settings.replay is not None:
        raise SynthError("--prepare and --replay exclude each other")
    for name, value in {"--truth": settings.truth, "--info-port": settings.info_port}.items():
        for other, path in {"--prepare": settings.prepare, "--replay": settings.replay}.items():
            if value is not None and path is not None:
                raise SynthError(f"{name} needs an exchange, which {other} does not run beside the node")


def _run(settings: SynthSettings, options: NodeOptions) -> Summary:
    if settings.truth is None and settings.info_port is None:
        return run(settings.directory, options, on_fault=_tell_fault)
    truth = Truth(options.exchange)
    with contextlib.ExitStack() as stack:
        if settings.info_port is not None:
            server = InfoServer(truth, settings.info_port)
            stack.callback(server.close)
            print(f"the info server answers on http://127.0.0.1:{server.port}/info", flush=True)
        done = run(settings.directory, options, source=truth, on_fault=_tell_fault)
    if settings.truth is not None:
        write_truth(settings.truth, truth)
    return done


def _tell_fault(record: FaultRecord) -> None:
    what = f"{record.events} events of {record.stream} in block {record.block} {record.effect}"
    print(f"fault {record.name}: {what}", flush=True)
