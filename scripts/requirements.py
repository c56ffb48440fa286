"""Prints the requirements, one per line, of fasttail with EXTRA (of pyproject.toml), plus pip and wheel."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
print(*project["dependencies"], *project["optional-dependencies"][sys.argv[1]], "pip", "wheel", sep="\n")
