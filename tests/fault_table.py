"""Maps docs/faults.md to the tests marked with `fault`; as a program, writes the tests into the table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "faults.md"
NUMBERS = range(1, 46)
NONE = "–"

_ROW = re.compile(r"\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|")


def marked(folder: Path = ROOT / "tests") -> dict[int, list[str]]:
    """Return the tests by the numbers in their marks, as `file: test`, ordered by file and line."""
    found: dict[int, list[str]] = {}
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                for number in _numbers(node):
                    found.setdefault(number, []).append(f"{path.stem}: {node.name}")
    return found


def _numbers(function: ast.FunctionDef) -> list[int]:
    return [
        int(ast.literal_eval(argument))
        for mark in function.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault"
        for argument in mark.args
    ]


def cell(tests: list[str]) -> str:
    """Format the names as in the table, each file once."""
    files: dict[str, list[str]] = {}
    for test in tests:
        file, _, name = test.partition(": ")
        files.setdefault(file, []).append(f"`{name.removeprefix('test_')}`")
    return (
        "; ".join(f"{file.removeprefix('test_')}: {', '.join(names)}" for file, names in files.items())
        or NONE
    )


def rows(text: str) -> dict[int, str]:
    """Return the table's cell with the tests of each number."""
    return {int(found[1]): found[4] for line in text.splitlines() if (found := _ROW.fullmatch(line))}


def main() -> None:
    tests = marked()
    lines = []
    for line in TABLE.read_text().splitlines():
        if found := _ROW.fullmatch(line):
            line = f"| {found[1]} | {found[2]} | {found[3]} | {cell(tests.get(int(found[1]), []))} |"
        lines.append(line)
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
