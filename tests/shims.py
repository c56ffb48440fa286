"""C libraries of tests/shims: before libc in a server, they do what no test can ask of a kernel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def preload(folder: Path, name: str, **variables: object) -> dict[str, str]:
    """The environment for shims/NAME.c, compiled into `folder`; variables: what it reads itself."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = Path(__file__).parent / "shims" / f"{name}.c"
    library = folder / f"{name}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)} | {name: str(value) for name, value in variables.items()}
