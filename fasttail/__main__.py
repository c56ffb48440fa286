"""The command `fasttail`, and `python -m fasttail`: sees to the signals, then imports the rest.

The imports take longer than a process manager may wait before it sends the first signal:

    serve        SIGTERM, SIGINT: the process ends with code 0; nothing has been begun yet
                 SIGHUP, SIGUSR1: held back by the kernel until the server answers them
    the others   SIGINT: the process ends by the signal, without a traceback

What comes before this module runs meets the interpreter: some 20 ms, more on a loaded machine.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    serving = sys.argv[1:2] == ["serve"]
    if serving:
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: os._exit(0))
        # Set as a whole: who started this process may have blocked others, and the mask outlives an execve.
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGHUP, signal.SIGUSR1})
    elif on_interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from fasttail import cli
    except (ImportError, OSError, MemoryError) as error:  # no descriptor or memory is left, say
        print(f"fasttail: cannot be loaded: {error or type(error).__name__}", file=sys.stderr)
        return 2
    if not serving:
        signal.signal(signal.SIGINT, on_interrupt)
    try:
        return cli.main()
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # the interpreter's end prints no traceback either


if __name__ == "__main__":
    sys.exit(main())
