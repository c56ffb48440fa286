"""Imports bench/ without putting its parent on sys.path, where the uncompiled fasttail is too."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench"

found = importlib.util.spec_from_file_location("bench", BENCH / "__init__.py")
assert found is not None
assert found.loader is not None
sys.modules["bench"] = importlib.util.module_from_spec(found)
found.loader.exec_module(sys.modules["bench"])
