"""Reports the version of fasttail and the commit that it was built from."""

from __future__ import annotations

import importlib

UNKNOWN = "unknown"


def version() -> str:
    """Return the version in the package's metadata, "unknown" if fasttail is neither built nor installed."""
    build_version = _build_info_value("VERSION")
    if build_version is not None:
        return build_version
    import importlib.metadata  # imported here because it is slow and rarely needed

    try:
        return importlib.metadata.version("fasttail")
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN


def commit() -> str:
    """Return the commit that fasttail was built from, "unknown" if it was built outside a repository."""
    return _build_info_value("COMMIT") or UNKNOWN


def _build_info_value(name: str) -> str | None:
    # Imported by name because the build writes this module and a bare checkout does not have it.
    try:
        info = importlib.import_module("fasttail._build_info")
    except ImportError:
        return None
    value = getattr(info, name, None)
    return value if isinstance(value, str) else None
