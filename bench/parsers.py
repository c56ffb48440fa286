"""Provides other parsers for the same lines, each in its fastest mode. All are optional (extra `bench`).

Each function returns the engines of one package or raises ModuleNotFoundError. None validates as much as
fasttail: msgspec checks types but not times and decimals; duckdb and polars turn what they cannot read into
null.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.measure import Answer, Engine
from bench.readers import answer


@dataclass(frozen=True)
class Input:
    path: Path
    data: bytes
    layout: str
    workers: list[int]


def msgspec_engines(input: Input) -> list[Engine]:
    """Decode line by line, faster than `decode_lines`: five fields with numbers converted, or all fields."""
    msgspec: Any = import_module("msgspec")
    text_or_none = (str | None, None)
    order_fields = {
        "five fields": [
            ("oid", int), ("timestamp", int), ("limitPx", float), ("sz", float), ("origSz", float)
        ],
        "all fields": [
            ("coin", str), ("side", str), ("limitPx", float), ("sz", float), ("oid", int), ("timestamp", int),
            ("triggerCondition", str), ("isTrigger", bool), ("triggerPx", float), ("children", msgspec.Raw),
            ("isPositionTpsl", bool), ("reduceOnly", bool), ("orderType", str), ("origSz", float),
            ("tif", *text_or_none), ("cloid", *text_or_none),
        ],
    }  # fmt: skip
    event_fields = {
        "five fields": [],
        "all fields": [
            ("time", str), ("user", str), ("status", str), ("hash", *text_or_none),
            ("builder", msgspec.Raw, msgspec.Raw()),
        ],
    }  # fmt: skip
    block_fields = {
        "five fields": [],
        "all fields": [("local_time", str), ("block_time", str), ("block_number", int)],
    }
    engines = []
    for name, fields in order_fields.items():
        order = msgspec.defstruct("Order", fields, gc=False)
        event: Any = msgspec.defstruct("Event", [("order", order), *event_fields[name]], gc=False)
        events: Any = list.__class_getitem__(event)
        block = msgspec.defstruct("Block", [("events", events), *block_fields[name]], gc=False)
        decoder = msgspec.json.Decoder(event if input.layout == "plain" else block, strict=False)
        engines.append(Engine(f"msgspec, {name}", partial(_msgspec_answer, decoder.decode, input)))
    return engines


def _msgspec_answer(decode: Callable[[bytes], Any], input: Input) -> Answer:
    count = oid = timestamp = 0
    limit_px = sz = orig_sz = 0.0
    for line in io.BytesIO(input.data):
        value = decode(line)
        for event in (value,) if input.layout == "plain" else value.events:
            order = event.order
            count += 1
            oid += order.oid
            timestamp += order.timestamp
            limit_px += order.limitPx
            sz += order.sz
            orig_sz += order.origSz
    return answer(count, (oid, timestamp, limit_px, sz, orig_sz))


def simdjson_engines(input: Input) -> list[Engine]:
    simdjson: Any = import_module("simdjson")
    parser = simdjson.Parser()

    def run() -> Answer:
        count = oid = timestamp = 0
        limit_px = sz = orig_sz = 0.0
        for line in io.BytesIO(input.data):
            document = parser.parse(line)
            for event in (document,) if input.layout == "plain" else document["events"]:
                order = event["order"]
                count += 1
                oid += order["oid"]
                timestamp += order["timestamp"]
                limit_px += float(order["limitPx"])
                sz += float(order["sz"])
                orig_sz += float(order["origSz"])
            # The parser refuses another document while any part of this one is alive.
            document = event = order = None
        return answer(count, (oid, timestamp, limit_px, sz, orig_sz))

    return [Engine("pysimdjson", run)]


def duckdb_engines(input: Input) -> list[Engine]:
    """Read the file from the page cache, since duckdb cannot read our memory."""
    duckdb: Any = import_module("duckdb")
    order = 'STRUCT(oid UBIGINT, "timestamp" BIGINT, limitPx DOUBLE, sz DOUBLE, origSz DOUBLE)'
    if input.layout == "plain":
        columns, source = {"order": order}, '"order"'
    else:
        columns, source = {"events": f'STRUCT("order" {order})[]'}, 'unnest(events)."order"'
    query = (
        'SELECT count(*), sum(o.oid), sum(o."timestamp"), sum(o.limitPx), sum(o.sz), sum(o.origSz) FROM '
        f"(SELECT {source} AS o FROM read_json($file, format='newline_delimited', columns={columns!r}))"
    )

    def run(threads: int) -> Answer:
        with duckdb.connect() as connection:
            connection.execute(f"SET threads={threads}")
            count, *sums = connection.execute(query, {"file": str(input.path)}).fetchone()
        return answer(count, sums)

    return [Engine(f"duckdb, {threads} t", partial(run, threads)) for threads in input.workers]


def polars_engines(input: Input) -> list[Engine]:
    """Use one thread or POLARS_MAX_THREADS; polars fixes the number at import."""
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    polars: Any = import_module("polars")
    text = polars.String
    order = polars.Struct(
        {"oid": polars.UInt64, "timestamp": polars.Int64, "limitPx": text, "sz": text, "origSz": text}
    )

    def run() -> Answer:
        lines = io.BytesIO(input.data)
        if input.layout == "plain":
            orders = polars.read_ndjson(lines, schema={"order": order})
        else:
            schema = {"events": polars.List(polars.Struct({"order": order}))}
            orders = polars.read_ndjson(lines, schema=schema).explode("events", empty_as_null=False)
            orders = orders.unnest("events")
        count, *sums = (
            orders.unnest("order")
            .select(
                polars.len(),
                polars.col("oid", "timestamp").cast(polars.Int128).sum(),  # the sum of oids exceeds 64 bits
                polars.col("limitPx", "sz", "origSz").cast(polars.Float64).sum(),
            )
            .row(0)
        )
        return answer(count, sums)

    return [Engine(f"polars, {polars.thread_pool_size()} t", run)]


PACKAGES: dict[str, Callable[[Input], list[Engine]]] = {
    "msgspec": msgspec_engines,
    "pysimdjson": simdjson_engines,
    "duckdb": duckdb_engines,
    "polars": polars_engines,
}
