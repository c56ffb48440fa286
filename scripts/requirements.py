"""Prints what pip has to install beside fasttail, a requirement a line: EXTRA (of pyproject.toml)."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
print(*project["dependencies"], *project["optional-dependencies"][sys.argv[1]], "pip", "wheel", sep="\n")
