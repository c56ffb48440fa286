"""Provides benchmark inputs: files of `fasttail synth`, kept in bench/data, and broken copies of them."""

from __future__ import annotations

import hashlib
import os
import random
import re
import sys
from pathlib import Path

from fasttail.tools import exchange

LAYOUTS = ("plain", "streaming", "by_block")
DATA = Path(__file__).resolve().parent / "data"


def replay_file(folder: Path, orders: int, layout: str, seed: int) -> Path:
    """Return a generated file, made once.

    Its name holds a digest of the exchange's source, so a change makes a new one.
    """
    sources = sorted(Path(exchange.__file__).parent.rglob("*.py"))
    made_by = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]
    path = folder / f"{layout}-{orders}-{seed}-{made_by}.jsonl"
    if not path.exists():
        print(f"making {path} ...", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        write_lines(new, orders, layout, seed)
        new.replace(path)
    return path


def write_lines(path: Path, orders: int, layout: str, seed: int) -> None:
    """Write what `exchange.generate` returns to a file, block by block."""
    with path.open("wb") as file:
        for block in exchange.Exchange(exchange.ExchangeOptions(seed=seed)).blocks(orders):
            file.write(exchange.block_lines(block, layout))


# ---------------------------------------------------------------- broken lines
KEYS = (
    "time", "user", "hash", "builder", "status", "order", "coin", "side", "limitPx", "sz", "oid", "timestamp",
    "triggerCondition", "isTrigger", "triggerPx", "children", "isPositionTpsl", "reduceOnly", "orderType",
    "origSz", "tif", "cloid", "events", "block_time", "block_number", "local_time",
)  # fmt: skip
VALUES = (
    b"null", b"true", b"5", b"-5", b"5.0", b"1e5", b'"text"', b'""', b"[]", b"{}", b'"5"',
    b"18446744073709551616", b"NaN", b"Infinity", b"01", b"1.", b"nul", b"'text'", b'"\\ud800"', b'"\\x"',
    b'"\x01"', b'"\xc0\xaf"', b'"\xff"', b"[5,]", b"{5:5}", b'{"a":5,}', b"1e999", b"[" * 2000 + b"]" * 2000,
    b'"-0"', b'".5"', b'"1e5"', b'"2026-02-30T00:00:00"',
)  # fmt: skip


def break_lines(data: bytes, count: int, seed: int) -> tuple[bytes, int]:
    """Return a copy with up to `count` lines, at most half, broken at random, and how many were.

    A broken line is not always wrong: a letter of a string may have changed. No line becomes blank or is
    split in two.
    """
    rng = random.Random(f"broken {seed}")
    lines = data.removesuffix(b"\n").split(b"\n")
    count = min(count, len(lines) // 2)
    for index in rng.sample(range(len(lines)), count):
        lines[index] = _broken(lines[index], rng)
    return b"\n".join(lines) + b"\n", count


def _broken(line: bytes, rng: random.Random) -> bytes:
    while True:
        made = rng.choice((_flip, _cut, _delete, _double, _swap, _value, _value, _key, _more))(line, rng)
        if made != line and b"\n" not in made and made.strip(b"\0 \t\r"):
            return made


def _flip(line: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(line))
    return line[:at] + bytes([line[at] ^ 1 << rng.randrange(8)]) + line[at + 1 :]


def _cut(line: bytes, rng: random.Random) -> bytes:
    return line[: rng.randrange(1, len(line))]


def _delete(line: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(line))
    return line[:at] + line[at + 1 :]


def _double(line: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(line))
    return line[:at] + line[at : at + 1] + line[at:]


def _swap(line: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(line) - 1)
    return line[:at] + line[at + 1 : at + 2] + line[at : at + 1] + line[at + 2 :]


def _value(line: bytes, rng: random.Random) -> bytes:
    """Replace the first value of a key by one of another type or an invalid one."""
    pattern = rb'("%b":)("[^"]*"|\[[^]]*\]|\{[^}]*\}|[^],}]+)' % rng.choice(KEYS).encode()
    value = rng.choice(VALUES)
    return re.sub(pattern, lambda match: match[1] + value, line, count=1)


def _key(line: bytes, rng: random.Random) -> bytes:
    """Rename a key, so that it is missing."""
    return line.replace(b'"%b":' % rng.choice(KEYS).encode(), b'"other":', 1)


def _more(line: bytes, rng: random.Random) -> bytes:
    """Add something before or after the value."""
    more = rng.choice((b",", b"}", b"]", b"{}", b"x", b"\0", b"\x0c"))
    return more + line if rng.random() < 0.5 else line + more
