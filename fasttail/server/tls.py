"""TLS for the listening sockets: certificate and key from files, TLS 1.2 or newer."""

from __future__ import annotations

import ssl
from pathlib import Path


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Return the TLS context for PEM files. Raises ValueError, in one line, if they cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    encrypted = False

    def no_password() -> str:
        nonlocal encrypted
        encrypted = True  # without this callback, OpenSSL would prompt on the terminal
        return ""

    for path in (cert, key):  # OpenSSL does not say which file it cannot read
        try:
            path.open("rb").close()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror or error}") from None
    try:
        context.load_cert_chain(cert, key, no_password)
    except OSError as error:  # includes ssl.SSLError
        if encrypted:
            raise ValueError(f"{key}: the key is encrypted: expected one without a password") from None
        # OpenSSL writes KEY_VALUES_MISMATCH, and some of its reasons contain the word that operators search
        # for.
        why = (getattr(error, "reason", None) or "not PEM").replace("_", " ").lower()
        raise ValueError(f"{cert}, {key}: certificate and key are invalid or do not match ({why})") from None
    return context
