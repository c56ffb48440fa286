"""Imports follow the direction of the data: any import or cimport against it is a design error.

Each unit (a folder of fasttail or a module at its top) may import itself and what ALLOWED names. Lazy imports
inside functions and imports under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

# Each folder may import those before it in the data's direction, and what is named here of those beside it.
ALLOWED: dict[str, set[str]] = {
    # the data's direction
    "sources": {"monitoring.rate_limit"},
    "streams": set(),
    "engine": {"sources", "streams", "system.scheduling"},
    "connection": {"monitoring.rate_limited"},
    "publish": {"sources.cursor", "streams.vocabulary", "engine", "connection", "monitoring.rate_limited"},
    "replay": {"sources", "streams.registry", "engine", "connection", "publish"}
    | {"monitoring.rate_limited", "system.scheduling"},
    "server": {"connection"},
    "jetstream": {"sources", "engine", "replay.block_search", "system.tasks", "monitoring.rate_limit"},
    # beside it
    "state": {"sources", "engine.events", "monitoring.rate_limit"},
    "monitoring": {"state.restart", "system.http_client"},
    "config": {"system.cores", "sources.layout"},
    "system": set(),
    "version": {"_build_info"},
    "_build_info": set(),
    # composition
    "app": {"sources", "engine", "connection", "publish", "replay", "server", "jetstream"}
    | {"state", "monitoring", "config", "system", "version"},
    # separate commands
    "commands": {"sources", "streams", "engine", "replay.find", "config"}
    | {"jetstream", "monitoring.log", "system.tasks"},
    "tools": {"config", "monitoring.growth", "monitoring.stacks", "sources.layout", "version"}
    | {"system.cgroup", "system.http_client"},
    "cli": {"app", "commands", "tools", "config", "monitoring.stacks", "version"},
    "__main__": {"cli"},
    "__init__": {
        "engine.columns",
        "engine.parse",
        "engine.rejects",
        "version",
    },  # the public names, loaded on first use
}
BASE = {"system.atomics", "system.checks", "system.clock"}  # inline C: any compiled module may use them

# `from A cimport b, c`, `from A import (b,\n c)`, `cimport a.b as c, d`, `import a`, at any indent.
NAMES = r"\([^)]*\)|[^\n#;]*"
FROM = re.compile(rf"^[ \t]*from[ \t]+([.\w]+)[ \t]+c?import[ \t]+({NAMES})", re.MULTILINE)
PLAIN = re.compile(r"^[ \t]*c?import[ \t]+([^\n#;(]+)", re.MULTILINE)
STRING = re.compile(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'')


def imported_by_python(text: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of each import; `from a import b` gives `a.b`, whatever b is."""
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
    """Yield the same for .pyx, .pxd and .pxi, which Python's own parser cannot read."""
    # an example in a docstring is no import
    text = STRING.sub(lambda found: "\n" * found[0].count("\n"), text)
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
    """Return each import that ALLOWED does not name, as `file:line: unit imports name`."""
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
    assert {"sources", "streams", "engine", "publish", "server", "app", "cli"} <= names


@pytest.mark.parametrize(
    ("file", "text", "seen"),
    [
        ("streams/a.py", "from fasttail.publish import feeds", "streams imports fasttail.publish.feeds"),
        ("streams/a.py", "from ..publish.feeds import x", "streams imports fasttail.publish.feeds.x"),
        ("streams/a.py", "from .. import sources", "streams imports fasttail.sources"),
        (
            "streams/a.py",
            "def f():\n    import fasttail.sources.layout",
            "streams imports fasttail.sources.layout",
        ),
        ("streams/a.py", "import_module('..publish', 'fasttail')", "streams imports fasttail.publish"),
        ("streams/a.pyi", "import fasttail", "streams imports fasttail"),
        (
            "sources/a.pyx",
            "from fasttail.streams.types cimport Row",
            "sources imports fasttail.streams.types.Row",
        ),
        (
            "sources/a.pxd",
            "from ..streams cimport (\n    a,  # why\n    b)",
            "sources imports fasttail.streams.b",
        ),
        (
            "sources/a.pyx",
            "cimport os, fasttail.streams.types as t",
            "sources imports fasttail.streams.types",
        ),
        (
            "sources/a.pyx",
            "from fasttail.streams \\\n    cimport types",
            "sources imports fasttail.streams.types",
        ),
        ("engine/a.pyx", "from ..publish.server import S", "engine imports fasttail.publish.server.S"),
        ("config/a.py", "from fasttail import app", "config imports fasttail.app"),
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
        ("publish/a.pyx", "from ..engine.table cimport Row\nfrom .feeds cimport f\nfrom libc cimport math"),
        ("publish/a.pyx", '"""An example:\nfrom fasttail.sources import x\n"""\n# import fasttail.sources'),
        (
            "publish/a.pyx",
            "from ..engine.encoders cimport (\n    a,\n    b,\n)\ncimport fasttail.sources.cursor",
        ),
        ("cli.py", "def main():\n    from . import app, config"),
        ("__init__.py", "import_module('fasttail.engine.columns')"),
    ],
)
def test_the_right_direction_passes(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / "fasttail" / file
    path.parent.mkdir(parents=True)
    path.write_text(text + "\n")
    assert violations(tmp_path) == []
