"""fasttail: from a Hyperliquid node's files to a trader's WebSocket.

    import fasttail
    batch = fasttail.parse(open(path, "rb").read(), workers=2)
    len(batch), batch.column("oid"), batch.rejected

Importing this package has no effect on its host. Compiled modules load on the first use of `parse`, `Batch`
or `Rejected`, and no environment variable, signal or thread is touched.
"""

from __future__ import annotations

TYPE_CHECKING = False  # avoids importing `typing`: the command cannot handle signals until this is imported
if TYPE_CHECKING:
    from typing import Any

    from fasttail.engine.columns import Batch
    from fasttail.engine.parse import parse
    from fasttail.engine.rejects import Rejected

__all__ = ["Batch", "Rejected", "__version__", "parse"]


def __getattr__(name: str) -> Any:
    if name in ("parse", "Batch", "Rejected"):
        try:
            from fasttail.engine import columns, parse, rejects
        except ModuleNotFoundError as error:
            if error.name != "fasttail.engine.columns":
                raise
            raise ImportError(
                f"fasttail is not compiled in {__path__[0]}: install it (pip install .), run outside of it"
            ) from error
        return getattr({"parse": parse, "Batch": columns, "Rejected": rejects}[name], name)
    if name == "__version__":
        from fasttail.version import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
