"""Prints a hash of each column that fasttail.parse returns for FILE, to compare machines."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

import fasttail
from fasttail.engine.columns import COLUMNS

CODES = ("coin_code", "status_code", "orderType_code", "tif_code")

batch = fasttail.parse(Path(sys.argv[1]).read_bytes(), workers=3)
for name in (*COLUMNS, "time_ns", "flags", *CODES):
    column = batch.column(name)
    data = column.tobytes() if isinstance(column, memoryview) else repr(column).encode()
    print(name, sha256(data).hexdigest())
print(len(batch), batch.lines, batch.sums(), batch.coins, batch.rejected, sep="\n")
