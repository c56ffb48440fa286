"""Checks the numbers, times and hashes of blocks and their events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exchange_fills import ZERO_HASH
from exchange_findings import Report
from exchange_folder import TIMED, Block, Lines


class Clock:
    """What the blocks before had.

    layout:     by it, whether lines have an envelope, and whether each block has one.
    hour_files: whether a file is named by the hour of its lines' local_time.
    """

    def __init__(self, report: Report, layout: str, hour_files: bool) -> None:
        self.report = report
        self.layout = layout
        self.hour_files = hour_files
        self.number: int | None = None
        self.time = ""
        self.numbers: dict[str, int] = {}
        self.local: dict[str, str] = {}

    def block(self, block: Block) -> None:
        self._follows(block)
        for stream, lines in block.streams.items():
            if self.layout != "plain":
                self._lines(block, stream, lines)
            if stream in TIMED:
                self._times(block, stream, lines)
        self._hashes(block)

    def _found(self, rule: str, block: Block, where: object, text: str) -> None:
        self.report.add(rule, block.number, str(where), text)

    def _follows(self, block: Block) -> None:
        where = next(iter(block.streams.values())).lines[0]
        if block.number is not None:
            if self.number is not None and block.number <= self.number:
                self._found("number", block, where, f"comes after block {self.number}")
            self.number = block.number
        if block.time is not None:
            if block.time <= self.time:
                self._found("block-time", block, where, f"{block.time} comes after {self.time}")
            self.time = block.time

    def _lines(self, block: Block, stream: str, lines: Lines) -> None:
        before = self.numbers.get(stream)
        if before is not None:
            one_each = self.layout == "by_block"
            if lines.key <= before or (one_each and lines.key != before + 1):
                self._found("number", block, lines.lines[0], f"{stream} has block {before} before it")
        self.numbers[stream] = lines.key
        if lines.time != block.time:
            self._found("block-time", block, lines.lines[0], f"{stream} has {lines.time}, not {block.time}")
        if self.layout == "by_block" and len(lines.lines) != 1:
            self._found("number", block, lines.lines[1], f"{stream} has {len(lines.lines)} lines")
        local = max(self.local.get(stream, ""), block.time or "")
        begun = lines.lines[0].local_time[:13]  # a node may change files at the end of a block only
        file, hour = None, ""
        for line in lines.lines:
            if line.file is not file:
                file, hour = line.file, _hour_of(line.file)
            if line.local_time <= local:
                self._found("local-time", block, line, f"{line.local_time} after {local}")
            local = line.local_time
            if hour not in (local[:13], begun) and self.hour_files:
                self._found("hour-file", block, line, f"written at {local}")
        self.local[stream] = local

    def _times(self, block: Block, stream: str, lines: Lines) -> None:
        if stream == "fills":
            for index, (_, fill) in enumerate(lines.events):
                if fill["time"] != block.time_ms:
                    self._found("event-time", block, lines.at[index], f"{fill['time']}, not {block.time_ms}")
            return
        for index, event in enumerate(lines.events):
            if event["time"] != block.time:
                self._found("event-time", block, lines.at[index], f"{event['time']}, not {block.time}")

    def _hashes(self, block: Block) -> None:
        mark = None if block.number is None else f"04{block.number:08x}"
        last = (0, 0)
        for stream, lines in block.streams.items():
            if stream not in TIMED or stream == "twapStatuses":
                continue
            for index, event in enumerate(lines.events):
                digest = event[1]["hash"] if stream == "fills" else event["hash"]
                if stream == "orders" and (digest is not None) != (event["status"] == "open"):
                    self._found(
                        "hash-open", block, lines.at[index], f"{event['status']} with the hash {digest}"
                    )
                if digest is None or digest == ZERO_HASH:
                    continue
                if digest[22:32] != mark:
                    self._found("hash-block", block, lines.at[index], f"hash {digest}")
                elif stream == "orders":
                    action = action_of(digest)
                    if action < last:
                        self._found("hash-order", block, lines.at[index], f"action {action} after {last}")
                    last = action


def _hour_of(file: Path) -> str:
    """Return the hour that a file's name means, as a local_time begins in it."""
    day, hour = file.parent.name, file.name
    return f"{day[:4]}-{day[4:6]}-{day[6:]}T{int(hour):02}"


def action_of(digest: str) -> tuple[int, int]:
    """Return the number of the action in its block, and of the part in the action, from a hash."""
    data: Any = bytes.fromhex(digest[32:])
    length = data[0]
    rest = data[1 + length :]
    return int.from_bytes(data[1 : 1 + length], "big"), int.from_bytes(rest[1 : 1 + rest[0]], "big")
