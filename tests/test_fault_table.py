"""docs/faults.md names every fault and, for each, exactly the tests that carry its number."""

from __future__ import annotations

from fault_table import NONE, NUMBERS, TABLE, cell, marked, rows

# Nothing is promised for these yet.
OPEN = {26, 27, 41}


def test_the_table_and_the_marks_agree() -> None:
    """After a change: python tests/fault_table.py."""
    tests = marked()
    assert rows(TABLE.read_text()) == {number: cell(tests.get(number, [])) for number in NUMBERS}
    assert set(tests) <= set(NUMBERS)


def test_every_promise_has_a_test() -> None:
    without = {number for number, tests in rows(TABLE.read_text()).items() if tests == NONE}
    assert without == OPEN
