"""`fasttail serve`: puts the parts together, starts and stops them. Only this package knows them all.

start   log ─► state folder (lock, checkpoint) ─► pipeline thread looks at the folders ─► sockets (own or
        inherited) ─► timers
stop    pipeline ends its batch ─► its last frames go out ─► checkpoint ─► clients are closed (1001, or 1012
        before a restart) ─► log
"""

from fasttail.app.service import App, serve

__all__ = ["App", "serve"]
