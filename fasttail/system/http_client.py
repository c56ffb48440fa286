"""One request by HTTP and its answer, with a limit on the time of the whole.

The timeout of a socket is that of each of its operations: a server that sends a byte a second keeps within it
for ever. So a timer shuts the socket down, and whatever waits for it ends. Redirections are not followed, so
that a secret goes to the host that was named and to no other.
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
    """There was no answer. Says why, and nothing of what was asked, which may hold secrets."""


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
    """Status, and at most `max_answer` bytes of the body. HTTPRequestError: there is no answer.

    tls: for a URL of https; by default certificates are checked. ValueError: a character that HTTP does not
    allow.
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
        # After the time it is over, whatever it looks like once the socket is shut down.
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
    with contextlib.suppress(OSError, AttributeError):  # not connected yet, or not any more
        connection.sock.shutdown(socket.SHUT_RDWR)
