"""Connections to web servers, for requests that must end in time whatever the server does."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def http_connection(
    host: str, port: int | None, tls: ssl.SSLContext | None, timeout_s: float
) -> Iterator[http.client.HTTPConnection]:
    """A connection that is shut down `timeout_s` after its begin, so that whatever waits for it fails.

    The timeout of a socket is that of each of its operations: a server that sends a byte a second would keep
    within it for ever.
    """
    if tls is None:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)
    timer = threading.Timer(timeout_s, _shut_down, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield connection
    finally:
        timer.cancel()
        connection.close()


def _shut_down(connection: http.client.HTTPConnection) -> None:
    with contextlib.suppress(OSError, AttributeError):  # not connected yet, or not any more
        connection.sock.shutdown(socket.SHUT_RDWR)
