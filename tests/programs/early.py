"""`fasttail` that reports when it has set up its signal handling.

It then writes "held" to standard error and continues DELAY seconds later. The time before is the
interpreter's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from fasttail.__main__ import main

held = False


def told(call: Callable[..., Any], first: tuple[object, object]) -> Callable[..., Any]:
    def instead(*given: object) -> Any:
        global held
        found = call(*given)
        if given[:2] == first and not held:
            held = True
            os.write(2, b"held")
            time.sleep(float(os.environ["DELAY"]))
        return found

    return instead


mask = (signal.SIG_SETMASK, {signal.SIGHUP, signal.SIGUSR1})
signal.pthread_sigmask = told(signal.pthread_sigmask, mask)
signal.signal = told(signal.signal, (signal.SIGINT, signal.SIG_DFL))
sys.argv[0] = "fasttail"
sys.exit(main())
