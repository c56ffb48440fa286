"""The fuzzer's corpus and everything it ever found, with the same invariants, on the build under test."""

from __future__ import annotations

from pathlib import Path

import parser_invariants
import plain_reader
import pytest
from lines import event, plain

from fasttail.streams import isa

FUZZ = Path(__file__).resolve().parent.parent / "fuzz"
INPUTS = sorted(path for name in ("corpus", "findings") for path in (FUZZ / name).glob("*"))


@pytest.fixture(autouse=True)
def _same_isa_afterwards() -> object:
    before = isa.name()
    yield
    isa.use(before)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_replay(path: Path) -> None:
    parser_invariants.check(path.read_bytes())


def test_the_corpus_is_there() -> None:
    assert len(INPUTS) >= 20


def test_nothing_and_neighbours() -> None:
    for data in (b"", b"\n", b"\0", plain(event()), plain(event())[:-1], b"\n" + plain(event()) + b"\n"):
        parser_invariants.check(data)


def test_a_line_more_or_less_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = plain_reader.read
    monkeypatch.setattr(plain_reader, "read", lambda data: (right(data)[0][:-1], right(data)[1]))
    with pytest.raises(AssertionError):
        parser_invariants.check(plain(event()))


def test_the_huge_line_is_cut_inside() -> None:
    """The block is long enough to be cut inside a line; otherwise `by_block` would not test such cuts."""
    block = parser_invariants.by_block(plain(event()))
    assert len(block) > 2 * 4096 + 1000
    assert plain_reader.read(block)[1] == []
    assert len(plain_reader.read(block)[0]) == 19
