"""Which version of fasttail runs, from which commit."""

from __future__ import annotations

import importlib

UNKNOWN = "unknown"


def version() -> str:
    """The version, as in the package's metadata; "unknown" when neither built nor installed."""
    build_version = _build_info_value("VERSION")
    if build_version is not None:
        return build_version
    import importlib.metadata  # slow to import, and hardly ever needed

    try:
        return importlib.metadata.version("fasttail")
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN


def commit() -> str:
    """The commit it was built from; "unknown" when the build had no repository."""
    return _build_info_value("COMMIT") or UNKNOWN


def _build_info_value(name: str) -> str | None:
    # Imported by name: the module is written by the build, so a bare checkout has none.
    try:
        info = importlib.import_module("fasttail._build_info")
    except ImportError:
        return None
    value = getattr(info, name, None)
    return value if isinstance(value, str) else None
