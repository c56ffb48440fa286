"""`fasttail` with a stand-in for what the command line calls.

It writes the arguments of the call to the file ARGV[1] and does ARGV[2]: "log" writes to descriptor 1,
"print" prints one line, "much" prints more than standard output buffers. The rest is the command line.
"""

from __future__ import annotations

import io
import os
import sys
import types

import fasttail.cli

_, notes, action, *words = sys.argv


def called(settings: object, *more: object) -> int:
    openmp = os.environ.get("OMP_WAIT_POLICY") or "spins " + os.environ.get("GOMP_SPINCOUNT", "long")
    with open(notes, "w") as file:
        if action == "log":
            os.write(1, b"the log")
        for _ in range({"print": 1, "much": 10 * io.DEFAULT_BUFFER_SIZE // 100}.get(action, 0)):
            print("x" * 99)
        print(type(settings).__name__, openmp, file=file)
    return 3


for module, name in [
    ("app", "serve"), ("tail_command", "tail_folder"), ("parse_command", "parse_files"), ("demo", "run"),
]:  # fmt: skip
    sys.modules[f"fasttail.{module}"] = stand_in = types.ModuleType(module)
    setattr(stand_in, name, called)
sys.exit(fasttail.cli.main(words))
