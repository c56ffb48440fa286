"""docs/faults.md names every fault and, for each, exactly the tests that carry its number."""

from __future__ import annotations

from fault_table import NONE, NUMBERS, TABLE, cell, marked, rows


def test_the_table_and_the_marks_agree() -> None:
    """To update the table, run python tests/fault_table.py."""
    tests = marked()
    assert rows(TABLE.read_text()) == {number: cell(tests.get(number, [])) for number in NUMBERS}
    assert set(tests) <= set(NUMBERS)


def test_every_promise_has_a_test() -> None:
    assert NONE not in rows(TABLE.read_text()).values()
