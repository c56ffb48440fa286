"""The documents against the code: settings and defaults, metrics, columns, modules, and links."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from all_metrics import everything

from fasttail.config import COMMANDS, Option, Settings, options
from fasttail.config.loading import env_name, flag
from fasttail.engine.columns import COLUMNS

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
NONE = "–"


class Row(NamedTuple):
    """A row of the tables of settings."""

    option: str
    environment: str
    key: str
    default: str
    commands: frozenset[str]
    meaning: str


def rows(text: str) -> list[Row]:
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == 6 and cells[0] != "option" and set(cells[0]) != {"-"}:
            option, environment, key, default, commands, meaning = (
                *(cell.strip("`") for cell in cells[:3]), *cells[3:],
            )  # fmt: skip
            found.append(Row(option, environment, key, default, frozenset(commands.split(", ")), meaning))
    return found


def expected_default(settings: type[Settings], option: Option) -> str:
    field = next(field for field in dataclasses.fields(settings) if field.name == option.dest)
    if field.default_factory is not dataclasses.MISSING:
        return {"workers": "usable cores − 1", "nats_node": "the host's name"}[option.name]
    if field.default is dataclasses.MISSING:
        return "required"
    return NONE if field.default in (None, ()) else option.value_type.to_text(field.default)


def faults(text: str) -> list[str]:
    """Return settings that configuration.md omits, states wrongly, or invents."""
    table = rows(text)
    said: list[str] = []
    known: set[tuple[str, str]] = set()
    for command, settings in COMMANDS.items():
        for option in options(settings):
            key = NONE if option.name == "config" else option.name
            known.add((command, key))
            found = [row for row in table if command in row.commands and row.key == key]
            if len(found) != 1:
                said.append(f"{command}: {option.name} has {len(found)} rows")
                continue
            row = found[0]
            name = option.value_type.metavar if option.positional else flag(option)
            right = {
                "option": NONE if option.file_only else name,
                "environment": NONE if option.file_only else env_name(option),
                "default": expected_default(settings, option),
            }
            for column, value in right.items():
                if getattr(row, column) != value:
                    said.append(f"{command}: {option.name}: {column} is {value}, not {getattr(row, column)}")
            if option.value_type.expected.startswith("one of "):
                for choice in option.value_type.expected.removeprefix("one of ").split(", "):
                    if not re.search(rf"\b{choice}\b", row.meaning):
                        said.append(f"{command}: {option.name}: the choice {choice} is not named")
    said += [
        f"{command}: {row.key} is no setting"
        for row in table
        for command in row.commands
        if (command, row.key) not in known
    ]
    return said


def test_every_setting_is_documented_as_it_is() -> None:
    assert faults(CONFIGURATION) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("| 1M | serve, tail, parse |", "| 256K | serve, tail, parse |", "default is 1M, not 256K"),
        ("`FASTTAIL_GRACE_S`", "`FASTTAIL_GRACE`", "environment is FASTTAIL_GRACE_S"),
        ("| 8000 | serve |", "| 8000 | tail |", "serve: port has 0 rows"),
        ("| `seed` |", "| `seeds` |", "synth: seeds is no setting"),
        ("parse also takes none", "", "parse: format: the choice none is not named"),
    ],
)
def test_a_difference_is_seen(old: str, new: str, fault: str) -> None:
    assert old in CONFIGURATION
    assert any(fault in each for each in faults(CONFIGURATION.replace(old, new)))


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    names = set(re.findall(r"^# TYPE (\S+) ", everything().decode(), re.MULTILINE))
    assert len(names) > 25
    documented = set(re.findall(r"^\| `(fasttail_\w+)", text, re.MULTILINE))
    assert documented == names


def test_every_column_is_documented() -> None:
    text = (ROOT / "docs" / "parsing.md").read_text()
    missing = [name for name in COLUMNS if f"| `{name}`" not in text]
    assert missing == []


def test_every_folder_is_in_the_architecture(sources: Path) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    folders = {path.parent.name for path in (sources / "fasttail").glob("*/__init__.py")}
    assert {"sources", "engine"} <= folders
    assert {name for name in folders if f"| `{name}/` |" not in text} == set()


RETIRED = re.compile(
    r"\b(handed out|hand(s|ed)? over|let go|goes? on|going on|looked after|cannot be had|hang(s|ing)? up|"
    r"frontier|setbacks?|oddit(y|ies)|untold|rereaders?|MOST_\w+|LEAST_\w+|LONGEST_\w+)\b"
)
"""Words of this project's past that a reader would have to guess. The field has words of its own for them."""


def test_retired_words_stay_away(sources: Path) -> None:
    texts = [ROOT / "README.md", ROOT / "docs" / "architecture.md"]
    for pattern in ("*.py", "*.pyx", "*.pxd", "*.pyi", "*.h"):
        texts += (sources / "fasttail").rglob(pattern)
    assert len(texts) > 100
    found = [
        f"{path.name}:{number}: {word[0]}"
        for path in texts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (word := RETIRED.search(line))
    ]
    assert found == []


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), target
