"""Builds the C libraries of tests/shims, preloaded to produce what no test can make a kernel do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def preload(folder: Path, name: str, **variables: object) -> dict[str, str]:
    """Compile shims/NAME.c into `folder` and return the environment to use it; `variables` configure it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = Path(__file__).parent / "shims" / f"{name}.c"
    library = folder / f"{name}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)} | {name: str(value) for name, value in variables.items()}
