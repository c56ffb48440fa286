"""Settings: which exist (schema), how values are read (value_types, file), which one counts (loading)."""

from fasttail.config.schema import (
    COMMANDS,
    BundleSettings,
    ConfigError,
    DemoSettings,
    Option,
    ParseSettings,
    RelaySettings,
    ServeSettings,
    Settings,
    SynthSettings,
    TailSettings,
    VerifySettings,
    options,
)
from fasttail.config.value_types import SymbolFilter

__all__ = [
    "COMMANDS",
    "BundleSettings",
    "ConfigError",
    "DemoSettings",
    "Option",
    "ParseSettings",
    "RelaySettings",
    "ServeSettings",
    "Settings",
    "SymbolFilter",
    "SynthSettings",
    "TailSettings",
    "VerifySettings",
    "options",
]
