"""SIGHUP: reads the settings again, and applies those that can change under connected clients."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from fasttail.config import ConfigError, ServeSettings, options
from fasttail.engine.filters import Selector
from fasttail.engine.pipeline import Pipeline
from fasttail.server.access import read_token
from fasttail.server.server import Server
from fasttail.server.tls import server_context

log = logging.getLogger(__name__)

AUTH_AND_TLS_SETTINGS = ("token_file", "allowed_origins", "tls_cert", "tls_key")
"""Settings that SIGHUP applies in addition to `symbols_config`."""


class SettingsReloader:
    """Applies changed settings to a running server.

    settings: the current ones. read: reads them again; raises ConfigError.
    """

    def __init__(
        self,
        settings: ServeSettings,
        read: Callable[[], ServeSettings],
        pipeline: Pipeline,
        server: Server,
    ) -> None:
        self.settings = settings
        self._read = read
        self._pipeline = pipeline
        self._server = server

    def reload(self) -> None:
        """Read the settings again and apply those that can change. Clients stay connected."""
        try:
            settings = self._read()
        except ConfigError as error:
            log.error("❌ settings not reloaded, keeping the current ones: %s", error)
            return
        reloaded = {"symbols_config": settings.symbols_config, **self._reload_auth_and_tls(settings)}
        self.settings = dataclasses.replace(self.settings, **reloaded)
        for option in options(ServeSettings):
            old, new = getattr(self.settings, option.dest), getattr(settings, option.dest)
            if old != new:
                shown = "-" if old is None else option.value_type.to_text(old)
                log.warning("%s changed, still using %s until the next restart", option.name, shown)
        self._pipeline.replace_selector(legacy_selector(settings))
        for notice in settings.notices:
            if notice not in self.settings.notices:
                log.warning("%s", notice)
        log.info("settings reloaded: %s", filter_text(settings))

    def _reload_auth_and_tls(self, settings: ServeSettings) -> dict[str, Any]:
        """Apply token, origins and certificate to new connections. Return the settings that were applied.

        Turning one on or off takes effect at the next start, so a line lost from the settings opens nothing.
        """
        for name in AUTH_AND_TLS_SETTINGS:
            old = getattr(self.settings, name)
            if bool(old) != bool(getattr(settings, name)):
                settings = dataclasses.replace(settings, **{name: old})
        try:
            auth_and_tls = load_auth_and_tls(settings)
        except ConfigError as error:
            log.warning("token, origins and certificate not reloaded, keeping the current ones: %s", error)
            return {}
        self._server.set_access_policy(**auth_and_tls)
        return {name: getattr(settings, name) for name in AUTH_AND_TLS_SETTINGS}

    def fault(self) -> str:
        """Describe why the next image could not use the current settings, or return ""."""
        try:
            load_auth_and_tls(self._read())
        except ConfigError as error:
            return f"its settings are invalid: {error}"
        return ""


def legacy_selector(settings: ServeSettings) -> Selector:
    """Return the filter of the old channels, which passes everything without `symbols_config`."""
    if not settings.symbols_config:
        return Selector()
    return Selector(coins={entry.symbol: entry.min_liquidity for entry in settings.symbols_config})


def filter_text(settings: ServeSettings) -> str:
    """Describe that filter for the log."""
    count = len(settings.symbols_config)
    return f"{count} symbols" if count else "no filter: all orders pass"


def load_auth_and_tls(settings: ServeSettings) -> dict[str, Any]:
    """Load token, origins and TLS for `Server.set_access_policy`. Raises ConfigError for an unusable file."""
    cert, key = settings.tls_cert, settings.tls_key
    try:
        return {
            "token": read_token(settings.token_file) if settings.token_file else None,
            "origins": settings.allowed_origins,
            "tls": server_context(cert, key) if cert and key else None,
        }
    except ValueError as error:
        raise ConfigError(str(error)) from None
