"""The old channels' messages from compiled code, against the operators' page in plain Python."""

from __future__ import annotations

import json
import random
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import plain_reader
import pytest
from driving import Drive, split_frames
from lines import BASE, envelope, event, plain
from running import hour_file, order

from fasttail.publish.legacy_api import OrderBatcher

DROPPED = ("badAloPxRejected", "marginCanceled", "scheduledCancel", "rejected", "newOne")


def sent(folder: Path, data: bytes, layout: str = "plain", **options: Any) -> Drive:
    """Run the pipeline on a file, with both old channels subscribed."""
    hour_file(folder, layout, "20260505", 9).write_bytes(data)
    with Drive(folder, **options) as drive:
        drive.until_lines(data.count(b"\n"))
    assert drive.pipeline.stats()["rejected"] == 0
    return drive


def check(folder: Path, data: bytes, layout: str = "plain", **options: Any) -> Drive:
    """Check that both channels carry the orders of `data`, in order."""
    flat, rejected = plain_reader.read(data)
    assert rejected == []
    expected = [order({**each, "order": each}) for each in flat if each["status"] in LEGACY]
    drive = sent(folder, data, layout, **options)
    assert drive.updates() == expected
    assert drive.batched() == expected
    assert sum(end.published for end in drive.ends) == len(expected)
    return drive


LEGACY = ("open", "filled", "triggered", "canceled", "cancelled", "vaultWithdrawalCanceled")


def test_a_message_byte_for_byte(tmp_path: Path) -> None:
    began = datetime.now(UTC).replace(tzinfo=None)
    drive = sent(tmp_path, plain(event(side="A", status="cancelled", time="2026-05-05T17:39:14")))
    ended = datetime.now(UTC).replace(tzinfo=None)
    (payload,) = drive.payloads()
    data = (
        b'{"id":"412036451268","symbol":"BTC","side":"Ask","price":65045.0,"size":0.0004,'
        b'"owner":"0x4f235c15474f984504b0f188755021ae45c2fa65","timestamp":"2026-05-05T17:39:14.000000",'
        b'"status":"canceled"}'
    )
    head = rb'{"type":"orderUpdate","channel":"orderUpdate","timestamp":"([-T:.0-9]{26})","data":'
    found = re.fullmatch(head + re.escape(data) + b"}", payload)
    assert found is not None, payload
    assert began <= datetime.fromisoformat(found[1].decode()) <= ended
    assert [(each.data, each.orders) for each in drive.messages(drive.old_batches)] == [(data, 1)]


@pytest.mark.parametrize("layout", ["plain", "streaming", "by_block"])
def test_every_status(tmp_path: Path, layout: str) -> None:
    """Statuses that are not an order's state are left out, whether the parser knows them or not."""
    names = [*LEGACY, *DROPPED]
    events = [event(oid=i, status=names[i % len(names)], side="AB"[i % 3 % 2]) for i in range(100)]
    if layout == "plain":
        data = plain(*events)
    elif layout == "streaming":
        data = b"".join(envelope([each]) for each in events)
    else:
        data = envelope(events[:60]) + envelope([]) + envelope(events[60:])
    drive = check(tmp_path, data, layout)
    assert {each["status"] for each in drive.updates()} == {"open", "filled", "triggered", "canceled"}
    stats = drive.pipeline.stats()
    assert (stats["orders"], stats["selected"]) == (100, 100)


def test_genuine_lines(tmp_path: Path, real_data: Path) -> None:
    data = b"".join(path.read_bytes() for path in sorted(real_data.glob("node_order_statuses.*.jsonl")))
    # The files are of several nodes and days, in no order.
    assert len(check(tmp_path, data, deliver_replayed=True).updates()) > 1000


FRACTIONS = {
    "": "000000",
    ".1": "100000",
    ".123": "123000",
    ".123456": "123456",
    ".123456789": "123456",
    ".999999999": "999999",
    ".000000001": "000000",
}


def test_times_have_six_digits(tmp_path: Path) -> None:
    second = "2026-12-31T23:59:59"
    data = plain(*[event(time=second + fraction) for fraction in FRACTIONS])
    drive = check(tmp_path, data)
    times = [each["timestamp"] for each in drive.updates()]
    assert times == [f"{second}.{six}" for six in FRACTIONS.values()]


@pytest.mark.parametrize(
    "change",
    [
        {"limitPx": "1e-7", "origSz": "1E+5"},
        {"limitPx": "-0.0", "origSz": "-12.5"},
        {"limitPx": "0", "origSz": "9559659.3399999999"},
        {"limitPx": "0." + "3" * 400, "origSz": "1" + "0" * 250 + ".0"},
        {"oid": 0},
        {"oid": 2**64 - 1},
        {"coin": "", "user": ""},
        {"coin": 'quo"te\\back/slash\n\t\x01\x7f', "user": "\U0001f600 ü \u2028"},
        {"children": [{**BASE["order"], "coin": "ETH", "oid": 7, "limitPx": "1.0", "origSz": "2.0"}]},
        {"triggerCondition": 'Price "above" 7', "limitPx": "7." + "0" * 300},
        {"triggerCondition": "\\", "origSz": "7." + "0" * 237},
        {"coin": "x" * 3000, "user": "y" * 3000},
    ],
    ids="-".join,
)  # fmt: skip
def test_odd_values(tmp_path: Path, change: dict[str, Any]) -> None:
    """Odd values are encoded correctly and do not affect their neighbours."""
    data = plain(event(oid=1), event(**change), event(oid=3))
    drive = check(tmp_path, data)
    if "limitPx" in change:
        number = change["limitPx"].encode()
        assert b'"price":%s,' % number in drive.payloads()[1], "the digits as the node wrote them"


def test_escapes_in_every_value(tmp_path: Path) -> None:
    line = plain(event(coin="kPEPE", side="A", status="filled", limitPx="-1.25", origSz="30.5"))
    escaped = line
    for plain_text in ("kPEPE", "A", "filled", "-1.25", "30.5", BASE["user"], BASE["time"]):
        every = "".join(f"\\u{ord(char):04{'xX'[i % 2]}}" for i, char in enumerate(plain_text))
        assert escaped.count(b'"%s"' % plain_text.encode()) == 1
        escaped = escaped.replace(b'"%s"' % plain_text.encode(), b'"%s"' % every.encode())
    short = line.replace(b":14.852711983", rb":14.85\u0032")
    none = line.replace(b":14.852711983", rb":1\u0034")
    drive = check(tmp_path, line + escaped + short + none + line)
    updates = drive.updates()
    assert updates[0] == updates[1] == updates[4]
    assert [each["timestamp"][-6:] for each in updates] == ["852711", "852711", "852000", "000000", "852711"]
    assert drive.payloads()[1].count(b'"price":-1.25,"size":30.5,') == 1, "a number needs no escapes"


@pytest.mark.parametrize("most", [1024, 64 << 10, 256 << 10])
def test_no_message_is_longer_than_allowed(tmp_path: Path, most: int) -> None:
    """An order that is too long for any message is counted and left out; its neighbours are not."""
    lengths = [1, 100, *range(most - 1000, most + 1000, 50), most * 3 // 2]
    lengths = [length for length in lengths if length > 0]
    events = []
    for i, length in enumerate(lengths):
        events += [event(oid=2 * i), event(oid=2 * i + 1, coin="c" * length, children=[{**BASE["order"]}])]
    drive = sent(tmp_path, plain(*events), max_message=most, window=1 << 20)
    want = [each for each in events if len(each["order"]["coin"]) <= most - 700]
    received = drive.updates()
    assert [each for each in received if len(each["symbol"]) <= most - 700] == [order(each) for each in want]
    assert drive.batched() == received
    sizes = [len(payload) for payload in drive.payloads()]
    assert max(sizes) <= most
    assert max(sizes) > most - 700
    assert drive.pipeline.stats()["oversize_orders"] == len(events) - len(received) > 10
    assert sum(end.published for end in drive.ends) == len(received)
    batcher = OrderBatcher(max_message=most)
    for piece in drive.messages(drive.old_batches):
        batcher.add_orders(piece.data, piece.orders)
    batches = [split_frames(frame.data) for frame in batcher.flush()]
    assert all(len(payload) <= most for payloads in batches for payload in payloads)
    batched = [each for (payload,) in batches for each in json.loads(payload)["data"]["orders"]]
    assert batched == received


def test_a_header_for_every_size(tmp_path: Path) -> None:
    """Frame headers are right for sizes that need two and eight bytes, and around the boundary."""
    overhead = len(sent(tmp_path / "a", plain(event(coin=""))).payloads()[0])
    sizes = [2**16 - 2, 2**16 - 1, 2**16, 2**16 + 1, 100_000]
    data = plain(*[event(coin="c" * (size - overhead)) for size in sizes], event())
    drive = check(tmp_path / "b", data)
    assert [len(payload) for payload in drive.payloads()] == [*sizes, overhead + 3]


@pytest.mark.parametrize("most", [2048, 64 << 10, 256 << 10])
def test_pieces_fill_messages_and_never_overfill_them(tmp_path: Path, most: int) -> None:
    events = [event(oid=i, coin="c" * (i * 37 % 190)) for i in range(3000)]
    drive = check(tmp_path, plain(*events), max_message=most, window=1 << 20)
    pieces = [(each.data, each.orders) for each in drive.messages(drive.old_batches)]
    limit = min(32 << 10, most // 2)
    assert max(len(piece) for piece, _ in pieces) <= limit
    assert sum(len(piece) for piece, _ in pieces) / len(pieces) > limit * 0.6
    batcher = OrderBatcher(max_message=most)
    for piece, orders in pieces:
        batcher.add_orders(piece, orders)
    frames = batcher.flush()
    payloads = [payload for frame in frames for payload in split_frames(frame.data)]
    assert all(most * 0.4 < len(payload) <= most for payload in payloads[:-1])
    received = []
    for frame, payload in zip(frames, payloads, strict=True):
        message = json.loads(payload)
        assert message["data"]["count"] == len(message["data"]["orders"]) == frame.orders
        received += message["data"]["orders"]
    assert received == [order(each) for each in events]


def test_integers_of_any_length(tmp_path: Path) -> None:
    """Integers around each power of ten, where a digit is added, are encoded correctly."""
    edges = {10**digits + more for digits in range(20) for more in (-1, 0, 1)}
    oids = sorted(each for each in edges | {2**32, 2**63 - 1, 2**63, 2**64 - 1} if each < 2**64)
    rng = random.Random(7)
    # eight digits are converted at once
    oids += [rng.randrange(10 ** rng.randint(1, 19)) for _ in range(3000)]
    drive = check(tmp_path, plain(*(event(oid=oid) for oid in oids)))
    assert [each["id"] for each in drive.updates()] == [str(oid) for oid in oids]
