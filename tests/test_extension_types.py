"""Extension types: what their __dealloc__ may access, and that garbage cycles leak no memory.

The garbage collector breaks a cycle with tp_clear, which replaces object fields by None, and only then frees
the object. A __dealloc__ that reads such a field reads None's memory as if it were the object's.
"""

from __future__ import annotations

import os
import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
from running import program

TESTS = Path(__file__).parent
CLASS = re.compile(r"^((?:@[^\n]+\n)*)cdef class (\w+)[^\n]*:[^\n]*\n((?:[ \t]+[^\n]*\n|\n)*)", re.MULTILINE)
DEALLOC = re.compile(r"^    def __dealloc__\(self\):\n((?:        [^\n]*\n|\n)*)", re.MULTILINE)
FIELD = re.compile(r"^    cdef (?:readonly |public )?([^(#\n]+)(?:#.*)?$", re.MULTILINE)
IMPORT = re.compile(r"^(?:import|from \S+ import) (.+)$", re.MULTILINE)
PYTHON = {"object", "dict", "list", "tuple", "set", "bytes", "str", "type", "bytearray"}


def fields(body: str, classes: set[str]) -> dict[str, bool]:
    """Return the declared fields of a class, mapped to whether they are Python objects."""
    found = {}
    for declared in FIELD.findall(body):
        words = declared.replace("const ", "").strip()
        kind, _, names = words.partition(" ")
        if not names:  # `cdef x`: an object
            kind, names = "object", kind
        for name in names.split(","):
            pointer = kind.endswith("*") or name.strip().startswith("*")
            found[re.sub(r"[*\[].*|\W", "", name.strip().lstrip("*"))] = (
                not pointer and kind in PYTHON | classes
            )
    return found


def faults(pyx: str, pxd: str, classes: set[str]) -> list[str]:
    """Return what the __dealloc__ methods of a module access but must not."""
    found = []
    python_names = {
        name.split(" as ")[-1].strip() for names in IMPORT.findall(pyx) for name in names.split(",")
    }
    declared = {name: body for _, name, body in CLASS.findall(pxd)}
    for decorators, name, body in CLASS.findall(pyx):
        dealloc = DEALLOC.search(body)
        if dealloc is None:
            continue
        code = re.sub(r"#.*", "", dealloc[1])
        known = fields(declared.get(name, "") + body, classes)
        for each in sorted(set(re.findall(r"\bself\.(\w+)", code))):
            if each not in known:
                found.append(f"{name}: self.{each} is no declared field")
            elif known[each] and "no_gc_clear" not in decorators:
                found.append(f"{name}: self.{each} is an object, and may be None by then")
        for each in sorted(set(re.findall(r"(?<![.\w])([A-Za-z_]\w*)", code)) & python_names):
            found.append(f"{name}: {each} is Python's, and may be gone when the interpreter ends")
    return found


def modules(sources: Path) -> dict[str, tuple[str, str]]:
    """Map each module name to its .pyx and .pxd text."""
    return {
        ".".join(path.relative_to(sources).with_suffix("").parts): (
            path.read_text(),
            path.with_suffix(".pxd").read_text() if path.with_suffix(".pxd").exists() else "",
        )
        for path in sorted((sources / "fasttail").rglob("*.pyx"))
    }


def test_no_dealloc_reads_an_object(sources: Path) -> None:
    found = modules(sources)
    classes = {name for pyx, pxd in found.values() for _, name, _ in CLASS.findall(pyx + pxd)}
    assert [f"{module}.{fault}" for module, texts in found.items() for fault in faults(*texts, classes)] == []


def test_every_extension_type_is_looked_at(sources: Path) -> None:
    """The types of the compiled modules are those that the test above finds in the sources."""
    for module, (pyx, _) in modules(sources).items():
        if module.endswith(".order_status"):
            continue  # built under other names, one per instruction set; it has no types
        made = {
            name
            for name, each in vars(import_module(module)).items()
            if isinstance(each, type) and each.__module__ == module and not each.__flags__ & (1 << 9)
        }  # bit 9: a heap type, made by Python
        assert made == {name for _, name, _ in CLASS.findall(pyx)}, module


def test_the_check_finds_them() -> None:
    faulty = (TESTS / "samples" / "dealloc.pyx").read_text()
    assert faults(faulty, "", {"Bad", "Other", "Kept"}) == [
        "Bad: self.anything is no declared field",
        "Bad: self.other is an object, and may be None by then",
        "Bad: os is Python's, and may be gone when the interpreter ends",
    ]


@pytest.mark.plain_build
@pytest.mark.parametrize("name", ["Pipeline", "Batch", "ReplayReader"])
def test_a_garbage_cycle_leaves_nothing(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [*program("garbage_cycles"), tmp_path, name],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    leaked, descriptors = map(int, done.stdout.split())
    assert leaked < 1 << 20, f"{leaked} bytes of eight"
    assert descriptors == 0
