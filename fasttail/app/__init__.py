"""`fasttail serve`: builds the parts, connects them, starts and stops them. No other package knows them all.

start   log ─► state folder (lock, checkpoint) ─► pipeline thread scans the folders ─► sockets (own or
        inherited) ─► timers
stop    pipeline finishes its batch ─► its last frames are sent ─► checkpoint ─► clients are closed (1001,
        or 1012 before a restart) ─► log
"""

from fasttail.app.service import App, serve

__all__ = ["App", "serve"]
