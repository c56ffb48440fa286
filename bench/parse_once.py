"""Parses FILE once for the benchmark `instructions`: `python -P parse_once.py FILE [--sums]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fasttail
from fasttail.streams import isa

batch = fasttail.parse(Path(sys.argv[1]).read_bytes())
answer = {"isa": isa.name(), "orders": len(batch), "rejected": len(batch.rejected)}
if "--sums" in sys.argv:
    answer["sums"] = batch.sums()
print(json.dumps(answer))
