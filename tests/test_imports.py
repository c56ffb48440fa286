"""The way of the data is the way of the imports: an import or cimport against it is a fault of the design.

Each unit (a folder of fasttail, or a module at its top) may import itself and what ALLOWED says. Lazy imports
inside functions and imports under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMANDS = {"app", "parse_command", "tail_command", "cli", "demo", "synth", "verify", "bundle"}
LIBRARY = {
    "tail",
    "parser",
    "publish",
    "watch",
    "observe",
    "pipeline",
    "pipeline_events",
    "convert",
    "resume",
    "replays",
    "checkpoint",
    "find",
}
LIBRARY |= {"handed_out", "histogram", "slices", "debugging"}
SETTINGS = {"config", "cores", "cgroup", "version"}
BASE = {"atomics", "checks", "clock"}  # inline C: any compiled module may use them
ALLOWED: dict[str, set[str]] = {
    # the way of the data
    "tail": {"observe.rate_limit"},
    "parser": set(),
    "publish": {"parser", "tail.layout", "observe.now_and_then"},
    "pipeline_events": {"publish.topics"},
    "ring": {"pipeline_events", "parser.rejects", "publish.buffer", "publish.topics"},
    "pipeline": {"pipeline_events", "ring", "tail", "parser", "histogram", "slices"}
    | {"publish.filters", "publish.topics", "publish.router", "publish.cursor"},
    "convert": {"tail", "parser", "publish.filters", "publish.encoders", "publish.buffer"},
    "reread": {"tail", "parser", "publish.buffer", "publish.topics", "publish.router", "publish.cursor"},
    "find": {"tail", "parser"},
    "resume": {"tail", "publish", "find"},
    "step_threads": {"reread", "slices"},
    "replay_scan": {"tail", "publish", "reread", "resume"},
    "replay_members": {"publish", "replay_scan"},
    "replay_threads": {"publish", "replay_scan", "reread", "step_threads"},
    "replay_runner": {"publish", "replay_members", "replay_scan", "replay_threads"},
    "replays": {"publish", "replay_members", "replay_scan", "replay_runner", "replay_threads", "reread"}
    | {"observe.now_and_then"},
    "checkpoint": {"tail", "observe.rate_limit"},
    "handed_out": {"tail", "pipeline_events"},
    # beside it
    **{name: set[str]() for name in BASE},
    "histogram": set(),
    "slices": set(),
    "watch": {"http_client"},
    "observe": set(),
    "synth": set(),
    "cgroup": set(),
    "cores": {"cgroup"},
    "config": {"cores", "tail.layout"},
    "version": {"_build_info"},
    "debugging": {"config", "pipeline", "watch.growth"},
    "_build_info": set(),
    # what puts it together
    "app": LIBRARY | SETTINGS,
    "text_output": {"config", "convert", "publish.filters"},
    "parse_command": {"config", "convert", "tail", "text_output"},
    "tail_command": {"config", "convert", "find", "tail", "text_output"},
    "container": set(),
    "http_client": set(),
    "endpoint": {"http_client"},
    "bundle": {"config", "container", "endpoint", "cgroup", "version", "tail.layout", "watch.stacks"},
    "verify": {"config", "container", "endpoint", "watch.growth"},
    "demo": {"config", "endpoint", "synth"},
    "cli": COMMANDS | SETTINGS | {"watch.stacks"},
    "__main__": {"cli"},
    "__init__": {"parser", "version"},  # the public names, loaded on first use
}

# `from A cimport b, c`, `from A import (b,\n c)`, `cimport a.b as c, d`, `import a`, at any indent.
NAMES = r"\([^)]*\)|[^\n#;]*"
FROM = re.compile(rf"^[ \t]*from[ \t]+([.\w]+)[ \t]+c?import[ \t]+({NAMES})", re.MULTILINE)
PLAIN = re.compile(r"^[ \t]*c?import[ \t]+([^\n#;(]+)", re.MULTILINE)
STRING = re.compile(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'')


def imported_by_python(text: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of each import; `from a import b` gives `a.b`, whatever b is."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = absolute("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            match node.args:
                case [ast.Constant(value=str(name)), *_]:
                    yield node.lineno, absolute(name, package)


def imported_by_cython(text: str, package: str) -> Iterator[tuple[int, str]]:
    """The same for .pyx, .pxd and .pxi, which Python's own parser does not read."""
    text = STRING.sub(lambda found: "\n" * found[0].count("\n"), text)  # an example in a docstring is none
    text = text.replace("\\\n", "  ")
    for found in FROM.finditer(text):
        base = absolute(found[1], package)
        for name in re.sub(r"#[^\n]*", "", found[2].strip("()")).split(","):
            if name.strip():
                yield text.count("\n", 0, found.start()) + 1, f"{base}.{name.split()[0]}"
    for found in PLAIN.finditer(text):
        for name in found[1].split(","):
            yield text.count("\n", 0, found.start()) + 1, name.split()[0]


def absolute(name: str, package: str) -> str:
    dots = len(name) - len(name.lstrip("."))
    if not dots:
        return name
    parents = package.split(".")
    return ".".join([*parents[: len(parents) - dots + 1], *filter(None, [name[dots:]])])


def violations(root: Path) -> list[str]:
    """Each import under root/fasttail that ALLOWED does not name, as `file:line: unit imports name`."""
    found = []
    for path in sorted((root / "fasttail").rglob("*")):
        if path.suffix not in {".py", ".pyi", ".pyx", ".pxd", ".pxi"}:
            continue
        inside = path.relative_to(root / "fasttail")
        unit = inside.parts[0].split(".")[0]
        where = path.relative_to(root)
        if unit not in ALLOWED:
            found.append(f"{where}: {unit} has no place in ALLOWED yet")
            continue
        package = ".".join(["fasttail", *inside.parts[:-1]])
        reader = imported_by_python if path.suffix in {".py", ".pyi"} else imported_by_cython
        for line, name in reader(path.read_text(), package):
            if name.split(".")[0] == "fasttail" and not is_allowed(unit, name):
                found.append(f"{where}:{line}: {unit} imports {name}")
    return found


def is_allowed(unit: str, name: str) -> bool:
    inside = name.removeprefix("fasttail").removeprefix(".")
    return any(inside == to or inside.startswith(f"{to}.") for to in {unit, *BASE, *ALLOWED[unit]})


def test_nothing_is_imported_against_the_direction(sources: Path) -> None:
    assert violations(sources) == []


def test_every_unit_is_there_to_be_read(sources: Path) -> None:
    names = {path.name.split(".")[0] for path in (sources / "fasttail").iterdir()}
    assert {"tail", "parser", "publish", "watch", "observe", "pipeline", "app", "cli"} <= names


@pytest.mark.parametrize(
    ("file", "text", "seen"),
    [
        ("parser/a.py", "from fasttail.publish import frames", "parser imports fasttail.publish.frames"),
        ("parser/a.py", "from ..publish.frames import x", "parser imports fasttail.publish.frames.x"),
        ("parser/a.py", "from .. import tail", "parser imports fasttail.tail"),
        ("parser/a.py", "def f():\n    import fasttail.tail.layout", "parser imports fasttail.tail.layout"),
        ("parser/a.py", "import_module('..publish', 'fasttail')", "parser imports fasttail.publish"),
        ("parser/a.pyi", "import fasttail", "parser imports fasttail"),
        ("tail/a.pyx", "from fasttail.parser.types cimport Row", "tail imports fasttail.parser.types.Row"),
        ("tail/a.pxd", "from ..parser cimport (\n    a,  # why\n    b)", "tail imports fasttail.parser.b"),
        ("tail/a.pyx", "cimport os, fasttail.parser.types as t", "tail imports fasttail.parser.types"),
        ("tail/a.pyx", "from fasttail.parser \\\n    cimport types", "tail imports fasttail.parser.types"),
        ("pipeline.pyx", "from .publish.server import S", "pipeline imports fasttail.publish.server.S"),
        ("config.py", "from fasttail import app", "config imports fasttail.app"),
        ("fees.py", "", "fees has no place in ALLOWED yet"),
    ],
)
def test_an_arrow_back_is_seen(tmp_path: Path, file: str, text: str, seen: str) -> None:
    path = tmp_path / "fasttail" / file
    path.parent.mkdir(parents=True)
    path.write_text(text + "\n")
    assert any(line.endswith(seen) for line in violations(tmp_path)), violations(tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("publish/a.pyx", "from ..parser.types cimport Row\nfrom .frames cimport f\nfrom libc cimport math"),
        ("publish/a.pyx", '"""An example:\nfrom fasttail.tail import x\n"""\n# import fasttail.tail'),
        ("pipeline.pyx", "from .publish.topics cimport (\n    a,\n    b,\n)\ncimport fasttail.tail.blocks"),
        ("cli.py", "def main():\n    from . import app, config"),
        ("__init__.py", "import_module('fasttail.parser.columns')"),
    ],
)
def test_the_right_direction_passes(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / "fasttail" / file
    path.parent.mkdir(parents=True)
    path.write_text(text + "\n")
    assert violations(tmp_path) == []
