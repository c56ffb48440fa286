"""Sends one HTTP request and reads its response within a total time limit.

A socket's timeout applies to each operation, so a server that sends a byte per second would never exceed it.
A timer therefore shuts the socket down, which ends any pending operation. Redirects are not followed, so that
secrets go only to the named host.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from urllib.parse import SplitResult


class HTTPRequestError(Exception):
    """There was no response. The text says why, but nothing about the request, which may contain secrets."""


def request(
    method: str,
    url: SplitResult,
    target: str,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    body: bytes | None = None,
    max_answer: int = 0,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, bytes]:
    """Send a request and return the status and at most `max_answer` bytes of the response's body.

    tls: the context for an https URL; by default, certificates are verified.

    Raise HTTPRequestError if there is no response, ValueError for a character that HTTP does not allow.
    """
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=timeout_s)
    if url.scheme == "https":
        context = tls or ssl.create_default_context()
        connection = http.client.HTTPSConnection(
            url.hostname or "", url.port, timeout=timeout_s, context=context
        )
    started = time.monotonic()
    timer = threading.Timer(timeout_s, _shut_down, (connection,))
    timer.daemon = True
    timer.start()
    try:
        connection.request(method, target, body, {**headers, "Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read(max_answer) if max_answer else b""
    except (http.client.HTTPException, OSError) as error:
        # After the time limit it is a timeout, whatever error the shutdown of the socket caused.
        if isinstance(error, TimeoutError) or time.monotonic() >= started + timeout_s:
            reason = f"no answer within {timeout_s:g} s"
        elif isinstance(error, http.client.HTTPException):
            reason = f"invalid HTTP response ({type(error).__name__})"
        else:
            reason = error.strerror or type(error).__name__
        raise HTTPRequestError(reason) from None
    finally:
        timer.cancel()
        connection.close()


def _shut_down(connection: http.client.HTTPConnection) -> None:
    with contextlib.suppress(OSError, AttributeError):  # not connected yet, or no longer
        connection.sock.shutdown(socket.SHUT_RDWR)
