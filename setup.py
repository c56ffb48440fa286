"""Builds the extensions; all metadata is in pyproject.toml.

FASTTAIL_BUILD=release|debug|asan|tsan|fuzz|coverage|profile selects one of KINDS below. A build fails if the
compiler has no OpenMP. With FASTTAIL_STRICT_BUILD=1, as in CI, it also fails on Cython's performance hints,
because an unintended exception check or GIL acquisition costs more than most optimisations gain. Users'
builds continue, because other versions of Cython may give other hints. All generated files go to build/KIND/;
only an editable installation puts its extensions into the source tree.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
JOBS = len(os.sched_getaffinity(0))


# ---------------------------------------------------------------- kinds of build
@dataclass(frozen=True)
class Kind:
    checks: bool  # enables Cython's run-time checks
    cflags: tuple[str, ...]
    macros: tuple[tuple[str, str | None], ...] = ()
    ldflags: tuple[str, ...] = ()
    names_pyx: bool = False  # debug information names lines of the .pyx, not of the C files
    traced: bool = False  # every line calls Python's trace function, also without the GIL


SANITIZED = ("-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer")
KINDS = {
    "release": Kind(
        checks=False,
        cflags=("-O3", "-g0"),
        macros=(("NDEBUG", None), ("CYTHON_WITHOUT_ASSERTIONS", None)),
    ),
    # Enables the assertions of fasttail/system/checks.h, which name lines of the .pyx.
    "debug": Kind(
        checks=True,
        cflags=("-O1", "-g", "-UNDEBUG"),
        macros=(("FASTTAIL_DEBUG", "1"),),
        names_pyx=True,
    ),
    # Without Cython's checks, which would raise before the sanitizer sees what the release build does.
    "asan": Kind(
        checks=False,
        cflags=(*SANITIZED, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
        ldflags=("-fsanitize=address,undefined",),
        names_pyx=True,
    ),
    # Needs clang: its OpenMP describes to the sanitizer, through Archer, how the team's threads wait for
    # each other; GCC's does not. The sanitizer's runtime is preloaded, not linked (scripts/tsan.sh).
    "tsan": Kind(
        checks=False,
        cflags=(*SANITIZED, "-fsanitize=thread"),
        names_pyx=True,
    ),
    # For scripts/fuzz; needs clang. The runtimes of the sanitizers and of libFuzzer are preloaded, not
    # linked. -fsanitize=function is off because CPython's method tables call through casts.
    "fuzz": Kind(
        checks=False,
        cflags=(
            *SANITIZED,
            "-fsanitize=fuzzer-no-link,address,undefined",
            "-fno-sanitize=function",
            "-fno-sanitize-recover=undefined",
        ),
        names_pyx=True,
    ),
    # Without sys.monitoring, which does not see code that runs without the GIL.
    "coverage": Kind(
        checks=False,
        cflags=("-O1", "-g0", "-UNDEBUG"),
        macros=(("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")),
        traced=True,
    ),
    # For scripts/profile: release code with debug information that names lines of the .pyx.
    "profile": Kind(
        checks=False,
        cflags=("-O3", "-g"),
        macros=(("NDEBUG", None), ("CYTHON_WITHOUT_ASSERTIONS", None)),
        names_pyx=True,
    ),
}
# No -march=native, because a wheel runs on other machines than its builder's: the code selects an instruction
# set at run time. The warnings are off because Cython's own output would cause them.
COMMON_CFLAGS = ("-fopenmp", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-sign-compare")


# `fasttail.streams.isa` selects one of these at run time, by the same names.
PER_ISA = {"fasttail.streams.order_status"}
ISAS: dict[str, tuple[str, ...]] = {"portable": ("-DFASTTAIL_PORTABLE",)}
if platform.machine() == "x86_64":
    ISAS |= {"sse2": (), "avx2": ("-mavx2", "-mbmi", "-mbmi2")}


def chosen_kind() -> str:
    name = os.environ.get("FASTTAIL_BUILD") or "release"
    if name not in KINDS:
        sys.exit(f"FASTTAIL_BUILD={name}: expected one of {', '.join(KINDS)}")
    return name


def directives(kind: Kind) -> dict[str, object]:
    return {
        "language_level": 3,
        "embedsignature": True,
        "show_performance_hints": True,
        # These two change the meaning of the code, so all builds have the same values.
        "wraparound": False,
        "cdivision": True,
        # No nonecheck: it raises, so attributes could not be read with the GIL released.
        "boundscheck": kind.checks,
        "initializedcheck": kind.checks,
        "linetrace": kind.traced,
    }


# ---------------------------------------------------------------- .pyx to C
def with_stderr_copied(work: Callable[[], list[Extension]]) -> tuple[list[Extension], str]:
    """Return the result of `work` and what it and its children wrote to file descriptor 2, also shown."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        os.dup2(file.fileno(), 2)
        try:
            result = work()
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            text = file.read()
            sys.stderr.write(text)
    return result, text


def sources(out: Path) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """Return each module's .pyx and the compiler flags that only this module gets, by module name.

    A module in PER_ISA is compiled once for each instruction set, from copies named after it.
    """
    found: dict[str, tuple[Path, tuple[str, ...]]] = {}
    for path in sorted(Path("fasttail").rglob("*.pyx")):
        module = ".".join(path.with_suffix("").parts)
        if module not in PER_ISA:
            found[module] = (path, ())
            continue
        for isa, flags in ISAS.items():
            copy = out / "per-isa" / path.with_stem(f"{path.stem}_{isa}")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)  # keeps the modification time, so that an unchanged copy is up to date
            found[f"{module}_{isa}"] = (copy, flags)
    return found


def extensions(name: str) -> list[Extension]:
    kind = KINDS[name]
    out = Path("build", name, f"c-cython{version('cython')}")
    headers = sorted(Path("fasttail").rglob("*.h"))
    found = [
        Extension(
            module,
            [str(path)],
            depends=["setup.py", *map(str, headers)],
            include_dirs=sorted({str(path.parent) for path in headers}),
            extra_compile_args=[*COMMON_CFLAGS, *kind.cflags, *flags],
            extra_link_args=["-fopenmp", *kind.ldflags],
            define_macros=list(kind.macros),
        )
        for module, (path, flags) in sources(out).items()
    ]
    # Cython compares the times of .pyx and .pxd only, but this file contains the directives.
    script_time = Path("setup.py").stat().st_mtime
    outdated = any(path.stat().st_mtime < script_time for path in out.rglob("*.c"))
    result, said = with_stderr_copied(
        lambda: cythonize(
            found,
            build_dir=str(out),
            compiler_directives=directives(kind),
            nthreads=JOBS if len(found) > 1 else 0,
            force=outdated,
            emit_linenums=kind.names_pyx,
        )
    )
    if "performance hint:" in said and os.environ.get("FASTTAIL_STRICT_BUILD") == "1":
        shutil.rmtree(out)  # otherwise the next build would find the C files and succeed
        sys.exit("the build stops at Cython's performance hints above")
    return result


# ---------------------------------------------------------------- C to .so
OPENMP_PROBE = """\
#ifndef _OPENMP
#error "the compiler ignored -fopenmp"
#endif
#include <omp.h>
int main(void) { return omp_get_max_threads() < 1; }
"""


class BuildExt(build_ext):
    def build_extensions(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "openmp.c")
            probe.write_text(OPENMP_PROBE)
            flags = ["-fopenmp"]
            try:
                objects = self.compiler.compile([str(probe)], output_dir="/", extra_postargs=flags)
                self.compiler.link_executable(objects, str(probe.with_suffix("")), extra_postargs=flags)
            except Exception as error:
                sys.exit(f"fasttail needs a C compiler with OpenMP (GCC with libgomp): {error}")
        super().build_extensions()


# ---------------------------------------------------------------- version and commit
def commit() -> str | None:
    """Return the checked-out commit, read without the git program, None outside a checkout."""
    git = ROOT / ".git"
    if git.is_file():  # a worktree: "gitdir: PATH"
        git = ROOT / git.read_text().removeprefix("gitdir:").strip()
    if not (git / "HEAD").is_file():
        return None
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return head if is_hash(head) else None
    ref = head.removeprefix("ref:").strip()
    common = git
    if (git / "commondir").is_file():  # a worktree's branches are in the main checkout
        common = git / (git / "commondir").read_text().strip()
    if (common / ref).is_file():
        value = (common / ref).read_text().strip()
        return value if is_hash(value) else None
    if (common / "packed-refs").is_file():
        for line in (common / "packed-refs").read_text().splitlines():
            value, _, packed = line.partition(" ")
            if packed == ref and is_hash(value):
                return value
    return None


def is_hash(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) is not None


def write_build_info(package: Path, release: str) -> None:
    """Write package/_build_info.py, but keep that of a source distribution if the commit is unknown."""
    target, known = package / "_build_info.py", commit()
    if known is None and target.is_file():
        return
    target.unlink(missing_ok=True)  # it may be a hard link
    target.write_text(
        f'"""Written by the build."""\n\nVERSION = "{release}"\nCOMMIT = "{known or "unknown"}"\n'
    )


class BuildPy(build_py):
    def run(self) -> None:
        if self.editable_mode:  # nothing is copied, and the checkout's commit changes without a build
            super().run()
            return
        self.remove_leftovers()
        super().run()
        write_build_info(Path(self.build_lib, "fasttail"), self.distribution.get_version())

    def remove_leftovers(self) -> None:
        """Delete earlier builds' files, so that a module removed from the source is not shipped."""
        to_ext = cast(BuildExt, self.get_finalized_command("build_ext"))
        keep = {Path(path) for path in to_ext.get_outputs()}
        for path in Path(self.build_lib).rglob("*"):
            if path.is_file() and path not in keep:
                path.unlink()


class Sdist(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        write_build_info(Path(base_dir, "fasttail"), self.distribution.get_version())


def main() -> None:
    os.chdir(ROOT)
    kind = chosen_kind()
    setup(
        ext_modules=extensions(kind),
        cmdclass={"build_ext": BuildExt, "build_py": BuildPy, "sdist": Sdist},
        options={"build": {"build_base": f"build/{kind}"}, "build_ext": {"parallel": str(JOBS)}},
    )


if __name__ == "__main__":
    main()
