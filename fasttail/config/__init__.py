"""The settings: which there are (table), how values are read (values, file), and from where (sources)."""

from fasttail.config.schema import (
    COMMANDS,
    BundleSettings,
    ConfigError,
    DemoSettings,
    Option,
    ParseSettings,
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
    "ServeSettings",
    "Settings",
    "SymbolFilter",
    "SynthSettings",
    "TailSettings",
    "VerifySettings",
    "options",
]
