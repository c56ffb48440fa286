"""Posts alerts to a web service, each as a JSON object, from a thread of its own.

    post() ─► queue (bounded) ─► thread: connect, POST, answer ─► 2xx: done
                                   ▲                          └─► refused, timeout, 5xx, 429: retry
                                   └── 1 s, 2 s, 4 s, … at most `attempts` times ──┘    else: given up

`post` never waits. The URL may contain a secret (a token in the path, a password), so log lines name only its
host and never quote an exception.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from fasttail.system.http_client import HTTPRequestError, request

_log = logging.getLogger(__name__)

_MAX_QUEUED = 100


class Webhook:
    """Posts to `url` (http or https), with exponential backoff.

    An attempt takes at most `timeout_s`, and attempt n + 1 follows backoff_s × 2^(n - 1) after attempt n.
    `sent` and `failed` count alerts that were delivered and given up.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 5.0, attempts: int = 4, backoff_s: float = 1.0
    ) -> None:
        self._url = parts = urlsplit(url)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", "User-Agent": "fasttail"}
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(secret).decode()}"
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._backoff_s = backoff_s
        self.sent = 0
        self.failed = 0
        self._queue: queue.Queue[bytes | None] = queue.Queue(_MAX_QUEUED)
        self._deadline = float("inf")  # set by close: when to give up
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fasttail-webhook", daemon=True)
        self._thread.start()

    def post(self, alert: Mapping[str, Any]) -> None:
        """Queue an alert without waiting. It is dropped and counted as failed if the queue is full."""
        try:
            self._queue.put_nowait(json.dumps(alert, ensure_ascii=False).encode())
        except queue.Full:
            self.failed += 1

    def close(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for pending alerts, which are not retried after that, then stop."""
        self._deadline = time.monotonic() + timeout_s
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(timeout_s)

    # The methods below run on the webhook thread only.

    def _run(self) -> None:
        while (body := self._queue.get()) is not None and time.monotonic() < self._deadline:
            try:
                self._deliver(body)
            except Exception as error:  # must not prevent the next alert
                self.failed += 1
                _log.error("webhook %s: failed: %s", self._url.hostname, type(error).__name__)

    def _deliver(self, body: bytes) -> None:
        for attempt in range(1, self._attempts + 1):
            fault, retryable = self._post(body)
            if fault is None:
                self.sent += 1
                return
            delay_s = self._backoff_s * 2 ** (attempt - 1)
            if not retryable or attempt == self._attempts or time.monotonic() > self._deadline:
                break
            self._closing.wait(delay_s)  # returns at once when closing, so the retry follows at once
        self.failed += 1
        _log.warning("webhook %s: %s, given up after %d attempts", self._url.hostname, fault, attempt)

    def _post(self, body: bytes) -> tuple[str | None, bool]:
        """Return the fault, or None, and whether a retry may help."""
        try:
            status, _ = request(
                "POST", self._url, self._target, headers=self._headers, timeout_s=self._timeout_s, body=body
            )
        except HTTPRequestError as error:
            return str(error), True
        except ValueError:  # a character in the URL that HTTP does not allow
            return "invalid URL", False
        if 200 <= status < 300:
            return None, False
        return f"answered {status}", status >= 500 or status == 429
