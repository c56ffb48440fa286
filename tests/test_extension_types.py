"""Extension types: what their __dealloc__ may touch, and that a garbage cycle costs no memory.

The garbage collector breaks a cycle by tp_clear, which replaces object fields by None; only then is the
object freed. A __dealloc__ that reads such a field reads None's memory as if it were the object's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

CLASS = re.compile(r"^((?:@[^\n]+\n)*)cdef class (\w+)[^\n]*:[^\n]*\n((?:[ \t]+[^\n]*\n|\n)*)", re.MULTILINE)
DEALLOC = re.compile(r"^    def __dealloc__\(self\):\n((?:        [^\n]*\n|\n)*)", re.MULTILINE)
FIELD = re.compile(r"^    cdef (?:readonly |public )?([^(#\n]+)(?:#.*)?$", re.MULTILINE)
IMPORT = re.compile(r"^(?:import|from \S+ import) (.+)$", re.MULTILINE)
PYTHON = {"object", "dict", "list", "tuple", "set", "bytes", "str", "type", "bytearray"}


def fields(body: str, classes: set[str]) -> dict[str, bool]:
    """The declared fields of a class: name -> whether it is a Python object."""
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
    """What the __dealloc__ methods of a module do that they must not."""
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
    """Module name -> its .pyx and its .pxd."""
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
    """The types that the compiled modules have are those that the test above finds in the sources."""
    for module, (pyx, _) in modules(sources).items():
        if module.endswith(".order_status"):
            continue  # built under other names, one for each instruction set; it has no types
        made = {
            name
            for name, each in vars(import_module(module)).items()
            if isinstance(each, type) and each.__module__ == module and not each.__flags__ & (1 << 9)
        }  # bit 9: a heap type, made by Python
        assert made == {name for _, name, _ in CLASS.findall(pyx)}, module


FAULTY = """
import os
cdef class Bad:
    cdef int fd
    cdef const char* text
    cdef Other other, another
    cdef readonly dict kept
    cdef int run(self) noexcept
    def __dealloc__(self):
        # self.kept in a comment is no fault
        if self.other.count and self.fd >= 0:
            os.close(self.fd)
        free(self.text)
        self.anything = 1

cdef class Other:
    cdef int count

@cython.no_gc_clear
cdef class Kept:
    cdef Other other
    def __dealloc__(self):
        free_all(self.other.count)
"""


def test_the_check_finds_them() -> None:
    assert faults(FAULTY, "", {"Bad", "Other", "Kept"}) == [
        "Bad: self.anything is no declared field",
        "Bad: self.other is an object, and may be None by then",
        "Bad: os is Python's, and may be gone when the interpreter ends",
    ]


# An object in a cycle with younger ones: the collector clears the oldest first. Prints how many more bytes
# malloc has given out, and how many more descriptors there are.
CYCLES = """
import gc, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from driving import Drive
from lines import event, plain
from fasttail import parse
from fasttail.publish.topics import Topic
from fasttail.reread import Rereader
from fasttail.watch.census import malloc_use

class Holder:
    pass

class Key(str):
    pass

folder = Path(sys.argv[2])
path = folder / "node_order_statuses" / "hourly" / "20260505" / "9"
path.parent.mkdir(parents=True)
path.write_bytes(plain(*(event(oid=i) for i in range(4000))))

def with_pipeline():
    drive = Drive(folder, workers=2, window=1 << 20, log_every_s=None)
    drive.pipeline.start()
    while not drive.pipeline.stats()["orders"]:
        drive.ready(0.01)              # nothing is drained: the messages stay in the ring
    drive.pipeline.stop()
    while not drive.pipeline.stopped:
        drive.ready(0.01)
    assert drive.pipeline.ring_bytes()[1] > 1 << 20
    # pipeline -> its topics -> the topic -> the key -> pipeline: all but the pipeline are younger
    key = Key()
    key.holder = drive.pipeline
    drive.pipeline.add_topic(Topic("orders", key=key))
    os.close(drive._wake_fd)

def with_batch():
    batch = parse(b"no order" * 100)
    holder = Holder()
    holder.held = batch
    batch.rejected.append(holder)

def with_rereader():
    key = Key()
    rereader = Rereader()
    rereader.add(Topic("orders", key=key))
    rereader.open(path, "plain", 0)
    rereader.read(path.stat().st_size)
    key.holder = rereader

make = {"Pipeline": with_pipeline, "Batch": with_batch, "Rereader": with_rereader}[sys.argv[3]]
for _ in range(3):
    make()
gc.collect()
gc.disable()
before, descriptors = malloc_use()[0], len(os.listdir("/proc/self/fd"))
for _ in range(8):
    make()
    assert gc.collect() > 0
print(malloc_use()[0] - before, len(os.listdir("/proc/self/fd")) - descriptors)
"""


@pytest.mark.plain_build
@pytest.mark.parametrize("name", ["Pipeline", "Batch", "Rereader"])
def test_a_garbage_cycle_leaves_nothing(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", CYCLES, str(Path(__file__).parent), str(tmp_path), name],
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    leaked, descriptors = map(int, done.stdout.split())
    assert leaked < 1 << 20, f"{leaked} bytes of eight"
    assert descriptors == 0
