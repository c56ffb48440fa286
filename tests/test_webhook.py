"""Alerts over HTTP, against a real server that accepts, refuses, hangs, is slow, or sends nonsense."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from running import PATIENCE_S, wait_for

from fasttail.monitoring.webhook import Webhook

SECRET = "s3cret"


class Receiver(ThreadingHTTPServer):
    """Responds with `answers` in turn, then with 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Any] = []
        self.got: list[dict[str, Any]] = []
        self.seen: list[tuple[str, str | None]] = []
        self.at: list[float] = []
        self.free = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, rest: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{rest}"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        receiver = self.server
        receiver.at.append(time.monotonic())
        answer = receiver.answers.pop(0) if receiver.answers else 200
        body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver.seen.append((self.path, self.headers["Authorization"]))
        if answer == "hang":
            receiver.free.wait()
            return
        if answer == "dawdle":
            while not receiver.free.wait(0.05):
                try:
                    self.wfile.write(b"H")
                except OSError:
                    return
            return
        if answer == "nonsense":
            self.wfile.write(b"\x00\x01 nonsense\r\n\r\n")
            return
        assert self.headers["Content-Type"] == "application/json"
        if answer == 200:
            receiver.got.append(json.loads(body))
        self.send_response(answer)
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.free.set()
    server.shutdown()
    server.server_close()


def log_of(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def test_an_alert_arrives_with_the_secrets_that_the_url_holds(receiver: Receiver) -> None:
    url = receiver.url(f"/hook/{SECRET}?key=a%20b").replace("//", f"//me:{SECRET}%21@")
    hook = Webhook(url)
    hook.post({"kind": "memory", "text": "🚨 é"})
    wait_for("the alert", lambda: receiver.got)
    hook.close(5)
    assert receiver.got == [{"kind": "memory", "text": "🚨 é"}]
    assert receiver.seen == [(f"/hook/{SECRET}?key=a%20b", "Basic bWU6czNjcmV0IQ==")]
    assert (hook.sent, hook.failed) == (1, 0)


@pytest.mark.parametrize("fault", [500, 503, 429, "nonsense", "hang", "dawdle"])
def test_a_fault_is_tried_again(receiver: Receiver, fault: int | str) -> None:
    receiver.answers = [fault, fault]
    # Only these two end by the timeout, which otherwise must leave a busy machine time for a good response.
    timeout_s = 3.0 if fault in ("hang", "dawdle") else PATIENCE_S
    hook = Webhook(receiver.url(), timeout_s=timeout_s, backoff_s=0.1)
    hook.post({"n": 1})
    hook.post({"n": 2})
    wait_for("both", lambda: len(receiver.got) == 2)
    wait_for("the count", lambda: (hook.sent, hook.failed) == (2, 0))
    assert receiver.got == [{"n": 1}, {"n": 2}]
    hook.close(5)


def test_pauses_grow_and_attempts_end(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers = [500] * 4
    hook = Webhook(receiver.url(f"/{SECRET}"), attempts=4, backoff_s=0.1)
    hook.post({"n": 1})
    wait_for("the end", lambda: hook.failed == 1)
    pauses = [later - earlier for earlier, later in zip(receiver.at, receiver.at[1:], strict=False)]
    assert len(pauses) == 3
    assert [pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True)] == [True] * 3
    assert log_of(caplog) == "webhook 127.0.0.1: answered 500, given up after 4 attempts"
    hook.post({"n": 2})
    wait_for("the next one", lambda: receiver.got == [{"n": 2}])
    hook.close(5)


@pytest.mark.parametrize("answer", [404, 302])
def test_an_answer_that_will_not_change_ends_it(
    receiver: Receiver, answer: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A final error, including a redirect, is not retried; an alert must not be sent to another host."""
    receiver.answers = [answer]
    hook = Webhook(receiver.url())
    hook.post({"n": 1})
    wait_for("the end", lambda: hook.failed == 1)
    hook.close(5)
    assert len(receiver.at) == 1
    assert f"answered {answer}, given up after 1 attempts" in log_of(caplog)


def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    hook = Webhook(f"http://user:{SECRET}@127.0.0.1:{port}/{SECRET}", backoff_s=0.01)
    hook.post({"n": 1})
    wait_for("the end", lambda: hook.failed == 1)
    hook.close(5)
    assert log_of(caplog) == "webhook 127.0.0.1: Connection refused, given up after 4 attempts"


def test_tls_is_spoken_and_its_faults_told(caplog: pytest.LogCaptureFixture, receiver: Receiver) -> None:
    hook = Webhook(receiver.url(f"/{SECRET}").replace("http:", "https:"), attempts=1)
    hook.post({"n": 1})
    wait_for("the end", lambda: hook.failed == 1)
    hook.close(5)
    assert receiver.got == []
    assert "webhook 127.0.0.1: " in log_of(caplog)
    assert SECRET not in log_of(caplog)


def test_whoever_posts_never_waits(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answers = ["hang"] * 10
    hook = Webhook(receiver.url(f"/{SECRET}"), timeout_s=3600)
    hook.post({"n": 0})
    wait_for("the first attempt", lambda: receiver.at)
    for n in range(1, 1000):
        hook.post({"n": n})
    assert hook.failed == 899, "a hundred wait, the rest is counted: the attempt that hangs takes an hour"
    hook.close(0.2)
    assert SECRET not in log_of(caplog)


def test_a_stop_waits_for_what_is_on_its_way(receiver: Receiver) -> None:
    receiver.answers = [500]
    hook = Webhook(receiver.url(), backoff_s=60)
    hook.post({"n": 1})
    wait_for("the first attempt", lambda: receiver.at)
    hook.close(20)
    assert receiver.got == [{"n": 1}], "the second attempt was made at once"
