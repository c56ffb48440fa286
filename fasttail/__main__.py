"""Entry point of `fasttail` and `python -m fasttail`: sets up signals, then imports the rest.

The imports may take longer than a process manager waits before it sends the first signal:

    serve         SIGTERM, SIGINT: exit with code 0, since nothing has started yet
                  SIGHUP, SIGUSR1: blocked until the server handles them
    the others    SIGINT: the process ends by the signal, without a traceback

Signals before this module runs, in the first 20 ms or more, get the interpreter's default handling.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run this process's command line and return the exit code."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    serving = sys.argv[1:2] == ["serve"]
    if serving:
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: os._exit(0))
        # Set the whole mask: the parent may have blocked other signals, and the mask survives an execve.
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGHUP, signal.SIGUSR1})
    elif on_interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from fasttail import cli
    except (ImportError, OSError, MemoryError) as error:  # no descriptors or memory left, for example
        print(f"fasttail: cannot be loaded: {error or type(error).__name__}", file=sys.stderr)
        return 2
    try:
        if not serving:
            signal.signal(signal.SIGINT, on_interrupt)
        return cli.main()
    except KeyboardInterrupt:  # before or after the part in which cli.main handles it
        return 130
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback at interpreter exit either


if __name__ == "__main__":
    sys.exit(main())
